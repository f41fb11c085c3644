"""Joining several processes: what is asked for, what the environment says, what is launched."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bertjax import distributed, launcher
from bertjax.cli import main as cli
from bertjax.clusters import in_cluster
from bertjax.distributed import Vote, everyone_comes, from_first, is_first, is_several, join
from bertjax.sharding import MeshConfig, join_rows, make_mesh, rows_here, shard_batch
from bertjax.types import UserError

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        (SLURM, True),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # srun of one task in a larger job
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, False),  # sbatch's script
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),  # Colab, and a single TPU VM
        ({"TPU_PROCESS_ADDRESSES": "local"}, False),  # Kaggle
        ({"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1", "JAX_PLATFORMS": "cpu"}, False),
    ],
)
def test_what_is_a_cluster(environment: dict[str, str], expected: bool):
    assert in_cluster(environment | {"TPU_SKIP_MDS_QUERY": "1"}) == expected


@pytest.mark.parametrize(
    ("endpoints", "environment_file", "expected"),
    [
        ("unknown:unknown:10.0.0.1", "", False),
        ("a:1:10.0.0.1,b:2:10.0.0.2", "", True),
        ("unknown:unknown:10.0.0.1", "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\n", True),
        ("unknown:unknown:10.0.0.1", "MEGASCALE_NUM_SLICES: '1'\n", False),
        ("", "", False),
    ],
)
def test_a_tpu_vm_is_asked_about_its_pod(
    endpoints: str, environment_file: str, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    answers = {"worker-network-endpoints": endpoints, "tpu-env": environment_file}
    monkeypatch.setattr("bertjax.clusters._metadata", answers.__getitem__)
    monkeypatch.setattr("bertjax.clusters.TPU_DEVICES", (os.devnull,))
    assert in_cluster({"PATH": ""}) == expected


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--processes=2", "--process=0"],
            "--coordinator is missing: a run of several processes needs "
            "--coordinator=HOST:PORT, --processes=N and --process=I",
        ),
        (["--coordinator=a:1"], "--processes and --process is missing: a run of"),
        (
            ["--coordinator=a:1", "--processes=2", "--process=2"],
            "--process=2 is out of range; with --processes=2 it is 0 to 1",
        ),
        (["--coordinator=a:1", "--processes=2", "--process=-1"], "--process=-1 is out of range"),
        (["--coordinator=a:1", "--processes=0", "--process=0"], "--processes=0 must be at least 1"),
        (
            ["--coordinator=localhost", "--processes=2", "--process=0"],
            "--coordinator=localhost is not HOST:PORT; add the port of process 0",
        ),
        (["--heartbeat_timeout=0"], "--heartbeat_timeout=0 must be at least 1 second"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate", "predict"])
def test_flags_that_do_not_fit(
    command: str, flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main([command, "--workdir=none", *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_the_environment_names_the_processes(monkeypatch: pytest.MonkeyPatch):
    joined: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: joined.update(how))
    monkeypatch.setattr(distributed, "_begin", lambda: None)
    monkeypatch.setattr(distributed, "wait_for", lambda *_: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    for name, value in (("COORDINATOR_ADDRESS", "a:1"), ("NUM_PROCESSES", "4")):
        monkeypatch.setenv(f"JAX_{name}", value)
    join()
    assert not joined
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    join(heartbeat_timeout=7)
    expected = {"coordinator_address": "a:1", "num_processes": 4, "process_id": 3}
    assert expected.items() <= joined.items()
    assert joined["heartbeat_timeout_seconds"] == 7
    monkeypatch.setenv("JAX_PROCESS_ID", "three")
    with pytest.raises(UserError, match="JAX_PROCESS_ID must be whole numbers"):
        join()


def test_a_coordinator_that_cannot_be_reached(repository: Path):
    """A sentence after the time that was given, and no traceback."""
    script = (
        "import sys; from bertjax.distributed import join; from bertjax.types import UserError\n"
        "try: join('localhost:1', 2, 1, join_timeout=1)\n"
        "except UserError as error: print(error); sys.exit(2)\n"
    )
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith(
        "cannot reach process 0 at localhost:1 within 1 s (Connection refused); see that it runs"
    )


def test_one_process_agrees_with_itself():
    assert is_first()
    assert not is_several()
    assert from_first(lambda: {"a": 1}) == {"a": 1}
    assert everyone_comes("anywhere")
    vote = Vote()
    assert [vote(number) for number in (0, 15, 2)] == [0, 15, 2]


@pytest.mark.parametrize(
    ("codes", "culprit"),
    [
        ({0: 0, 1: 0}, 0),
        ({1: 75, 0: 137, 2: 134}, 0),  # the others noticed first
        ({2: 2, 0: 2, 1: 2}, 2),
        ({1: 134, 0: 75}, 1),
        ({0: 0, 1: 1}, 1),
    ],
)
def test_who_ended_the_run(codes: dict[int, int], culprit: int):
    assert launcher._culprit(codes) == culprit


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--processes=0", "--", "pretrain"], "--processes=0 must be at least 1"),
        (["--processes=2"], "bertjax launch needs a command after --"),
        (["--", "vocab"], "'vocab' cannot be launched"),
    ],
)
def test_what_cannot_be_launched(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["launch", *flags]) == 2
    assert sentence in capsys.readouterr().err


def slices(count: int, devices: int) -> list[Any]:
    """TPU devices that stand in several slices."""
    return [
        types.SimpleNamespace(
            id=index,
            platform="tpu",
            device_kind="TPU v4",
            process_index=index // 4,
            slice_index=index % count,
            coords=(index // count // 4, index // count // 2 % 2, index // count % 2),
            core_on_chip=0,
        )
        for index in range(devices)
    ]


def test_the_data_axis_goes_across_slices(monkeypatch: pytest.MonkeyPatch):
    """The others stay within one, where the network is fast."""
    monkeypatch.setattr("bertjax.sharding.Mesh", lambda grid, *_, **__: grid)
    grid: Any = make_mesh(MeshConfig(data=4, fsdp=2, tensor=2), slices(2, 16))
    assert grid.shape == (4, 2, 2)
    for part in grid:
        assert len({device.slice_index for device in part.flat}) == 1
    assert [part.flat[0].slice_index for part in grid] == [0, 0, 1, 1]
    with pytest.raises(UserError, match="data=1 is not a multiple of the 2 slices"):
        make_mesh(MeshConfig(data=1, fsdp=16), slices(2, 16))
    machines = slices(2, 16)
    for device in machines:
        device.platform = "gpu"
    grid = make_mesh(MeshConfig(data=1, fsdp=16), machines)
    assert grid.reshape(-1).tolist() == machines


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_rows_of_a_process(shape: tuple[int, int, int]):
    """One process holds all rows, and joins them to what it would have made of a whole batch."""
    mesh = make_mesh(MeshConfig(*shape))
    np.testing.assert_array_equal(rows_here(mesh, 16), np.arange(16))
    batch = {"token_ids": np.arange(2 * 16 * 3).reshape(2, 16, 3)}
    whole, joined = (make(batch, mesh, 1)["token_ids"] for make in (shard_batch, join_rows))
    assert whole.sharding == joined.sharding
    assert whole.sharding == NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    np.testing.assert_array_equal(whole, batch["token_ids"])
    np.testing.assert_array_equal(joined, batch["token_ids"])
