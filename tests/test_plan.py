"""``bertjax plan``: what it counts, what it advises, and what it says to wrong input.

Most of it compiles for eight CPU devices in the place of chips; with libtpu a small step is
compiled for real ones.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bertjax.analysis import chips, plan_report
from bertjax.analysis.chips import CHIPS, Topology
from bertjax.analysis.hlo_collectives import Collective
from bertjax.analysis.hlo_costs import Costs, Work
from bertjax.analysis.plan import Plan, plan
from bertjax.analysis.plan_report import parse_mesh, recipe_costs
from bertjax.analysis.plan_search import flags
from bertjax.analysis.roofline import HOP, LINKS, MEMORY, PRODUCTS, estimate, transfers
from bertjax.analysis.subjects import subject
from bertjax.cli import main as cli
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.train.state import create_state
from bertjax.types import UserError

SMALL = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
RECIPE = PretrainConfig(
    data=("none",), model="preset:bert_tiny", architecture=SMALL, batch_size=64, steps=1000
)
COMMAND = [
    "plan",
    "--config=configs/pretrain.py:bert_mini",
    *(f"--config.architecture.{name}={value}" for name, value in SMALL.items()),
    *("--config.dtype=float32", "--config.optimizer=adamw"),
    *("--topology=v5e:2x4", "--length=128", "--global-batch=64"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch):
    """What the command sets for its own process is taken back."""
    for name, value in cli.WITHOUT_A_TPU.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch):
    """CPU devices stand for chips."""
    monkeypatch.setattr(chips, "devices", lambda topology: jax.devices()[: topology.chips])


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(RECIPE, 128, Topology.parse("v5e:2x4"), jax.devices())


@pytest.mark.parametrize(
    ("mesh", "rules"),
    [((8, 1, 1), "zero1"), ((1, 8, 1), "fsdp"), ((2, 2, 2), "fsdp_tensor")],
    ids=str,
)
def test_parameter_and_optimizer_bytes_are_those_of_a_run(mesh: tuple[int, int, int], rules: str):
    config = dataclasses.replace(RECIPE, mesh=MeshConfig(*mesh), rules=rules)
    made = make_mesh(config.mesh)
    found = subject(config, 128, made)
    state = create_state(found.trained, config.optim, made, seed=0, rules=rules)

    def held(tree: Any) -> set[int]:
        per_device = dict.fromkeys(jax.devices(), 0)
        for leaf in jax.tree.leaves(tree):
            for shard in leaf.addressable_shards:
                per_device[shard.device] += shard.data.nbytes
        return set(per_device.values())

    from bertjax.analysis.plan import shard_bytes
    from bertjax.train.state import abstract_train_state

    shapes = abstract_train_state(found.trained, config.optim, made, rules)
    assert held(state.params) == {shard_bytes(shapes.params)}
    assert held(state.optimizer) == {shard_bytes(shapes.optimizer)}
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), shapes)


def test_a_plan_adds_up(planned: Plan):
    memory = planned.memory
    assert memory.optimizer == 2 * memory.parameters + 4  # two moments and a counter
    parts = (memory.parameters, memory.optimizer, memory.batch, memory.temporaries, memory.program)
    assert memory.total == sum(parts) < memory.capacity
    assert planned.fits
    # 20 places for predictions in a row, of which 19.2 are filled on average:
    assert planned.compiled_flops is not None
    assert 1 <= planned.compiled_flops / planned.model_flops <= 1.08
    assert planned.transfers is not None
    assert [(moved.kind, moved.link) for moved in planned.transfers] == [("all-reduce", "ICI")]
    least = (
        2 * 7 / 8 * memory.parameters
    )  # the gradients; those of the tied table come in two parts
    assert least <= planned.transfers[0].bytes <= 2.1 * least


def test_dropout_rows_and_batch_are_those_of_the_recipe():
    found = subject(RECIPE, 128, make_mesh(MeshConfig()))
    assert found.batch["token_ids"] == ((1, 64, 128), np.int32)
    assert found.batch["prediction_position"] == ((1, 64, 20), np.int32)
    assert found.batch["cls_position"] == ((1, 64, 8), np.int32)
    assert found.dropout is not None


def test_what_does_not_fit_comes_with_a_setting_that_does(
    cpus: None,
    planned: Plan,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    room = planned.memory.total - planned.memory.temporaries // 2
    small = dataclasses.replace(CHIPS["v5e"], usable_hbm=room)
    monkeypatch.setitem(CHIPS, "v5e", small)
    assert cli.main([*COMMAND, "--json"]) == 3
    (flag,) = json.loads(capsys.readouterr().out)["suggestions"]
    assert flag.startswith("--config.accumulation=")
    assert cli.main([*COMMAND, *flag.split()]) == 0
    assert "fits" in capsys.readouterr().out


def test_nothing_fits(cpus: None, capsys: Any, monkeypatch: Any):
    monkeypatch.setattr("bertjax.analysis.plan_search.REMATS", ("none",))
    monkeypatch.setitem(CHIPS, "v5e", dataclasses.replace(CHIPS["v5e"], usable_hbm=1000))
    assert cli.main(COMMAND) == 3
    assert "take more chips" in capsys.readouterr().out


@pytest.mark.slow
def test_search_ranks_what_fits(cpus: None, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bertjax.analysis.plan_search.REMATS", ("none",))
    words = [*COMMAND, "--topology=v5e:1x2", "--search", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)["search"]
    seconds = [option["estimate"]["step_seconds"] for option in found]
    assert seconds == sorted(seconds)
    ways = {(*option["mesh"].values(), option["options"]["rules"]) for option in found}
    usual = "fsdp_tensor"
    assert ways == {(2, 1, 1, usual), (2, 1, 1, "zero1"), (1, 2, 1, usual), (1, 1, 2, usual)}


def test_fine_tuning_is_planned_too(cpus: None, capsys: Any):
    words = ["plan", "--config=configs/finetune.py:task=mnli", "--topology=v5e:1x1"]
    assert cli.main([*words, "--config.model=preset:bert_tiny", "--length=64"]) == 0
    out = capsys.readouterr().out
    assert "32 rows of 64 tokens a step" in out
    assert "nothing is sent between chips" in out
    assert "its steps: 36,816 steps" in out  # three epochs of 392,702 examples


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--topology=v9:2x2"], "unknown chip 'v9'; known: v4, v5e"),
        (["--topology=v4-8"], "write the chip and how many stand along each dimension"),
        (["--topology=v4:4x4"], "slices of v4 have 3 dimensions, as in v4:4x4x4"),
        (["--topology=v5e:64x64"], "a slice of v5e has at most 256 chips"),
        (["--slices=0"], "needs at least one slice"),
        (["--topology="], "bertjax plan needs --topology=TEXT"),
        (["--mesh=8x1"], "write sizes by name"),
        (["--mesh=datum:8"], "did you mean 'data'?"),
        (["--mesh=data:3"], "does not multiply to the 8 devices"),
        (["--global_batch=63"], "the next size that is: 64"),
        (["--global_batch=-1"], "must be 0 or more"),
        (["--config.model=bert-base-uncased"], "is no preset"),
        (["--config.model=preset:bert_bse"], "did you mean 'bert_base'?"),
        (["--length=1024"], "longer than the 512 positions"),
        (["--length=0", "--search"], "give --length=128, or another of 128, 512"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(
    cpus: None, changed: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main([*COMMAND, *changed]) == 2
    assert words in capsys.readouterr().err


def test_a_crash_of_the_compiler_is_told(repository: Path):
    crash = (
        "import os; from bertjax.cli import main, plan; plan._main = lambda argv: os.abort(); "
        "raise SystemExit(main.main(['plan', '--topology=v5e:1x1']))"
    )
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", crash],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "libtpu's compiler crashed on this step (SIGABRT)" in done.stderr
    assert "Traceback" not in done.stderr


def test_libtpu_is_asked_for(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name)
    )
    assert cli.main(COMMAND) == 2
    assert "pip install libtpu" in capsys.readouterr().err


def test_chips_and_slices():
    for chip in CHIPS.values():
        assert 100e12 < chip.peak < 1e15
        assert 0.9 * chip.hbm < chip.usable_hbm < 1.01 * chip.hbm
    pod = Topology.parse("v5e:16x16", 2)
    assert (pod.chips, pod.slice_chips, str(pod)) == (512, 256, "2 x v5e:16x16")
    assert pod.bandwidth(256) == 4 * 50e9  # two closed rings
    assert pod.bandwidth(16) == 2 * 50e9
    assert Topology.parse("v5e:2x4").bandwidth(8) == 2 * 50e9  # two lines
    assert Topology.parse("v4:4x4x8").bandwidth(128) == 6 * 50e9
    assert Topology.parse("v4:2x2x1").hops(4) == 2


def test_transfers_within_and_between_slices():
    """Eight chips in two slices of four: rings of four, then pairs with a quarter each."""
    topology = Topology.parse("v5e:2x2", 2)
    everybody = Collective("all-reduce", 8000, np.arange(8)[None], 3, hidden=False)
    found = {moved.link: moved for moved in transfers([everybody], topology, np.arange(8) // 4)}
    assert found["ICI"].bytes == 3 * 2 * 0.75 * 8000
    assert found["DCN"].bytes == 3 * 2 * 0.5 * 2000
    wait = 3 * 2 * 2 * HOP
    assert found["ICI"].seconds == pytest.approx(found["ICI"].bytes / (LINKS * 100e9) + wait)
    assert found["DCN"].seconds == pytest.approx(found["DCN"].bytes / (LINKS * 3.125e9))


def test_estimate_takes_the_longer_of_products_and_memory():
    topology = Topology.parse("v5e:2x4")
    chip = topology.chip
    work = (Work(int(chip.peak), 0, 1), Work(0, int(chip.hbm_bandwidth), 2), Work(1, 1, 1))
    near = Collective("all-gather", 8_000_000_000, np.arange(8)[None], 1, hidden=True)
    moved = transfers([near], topology, np.zeros(8, int))
    found = estimate(Costs(work, (near,), ()), moved, topology)
    assert found.compute_seconds == pytest.approx(1 / PRODUCTS + 2 / MEMORY)
    assert found.collective_seconds > 0
    assert found.exposed_seconds == 0  # it runs beside more computation than it takes
    later = dataclasses.replace(near, hidden=False)
    found = estimate(Costs(work, (), ()), transfers([later], topology, np.zeros(8, int)), topology)
    assert found.exposed_seconds == found.collective_seconds


def test_costs_of_a_recipe(planned: Plan):
    assert planned.estimate is not None
    seconds = planned.estimate.step_seconds
    (own,) = recipe_costs(RECIPE, [planned])
    assert (own.steps, own.seconds) == (1000, pytest.approx(1000 * seconds))
    assert own.chip_hours == pytest.approx(own.days * 24 * 8)
    by_rows = recipe_costs(dataclasses.replace(RECIPE, batch_size=32), [planned])
    assert [cost.steps for cost in by_rows] == [1000, 500]
    (clock,) = recipe_costs(dataclasses.replace(RECIPE, steps=0, minutes=30), [planned])
    assert (clock.seconds, clock.steps) == (1800, round(1800 / seconds))


def test_flags_lead_from_one_setting_to_another():
    changed = dataclasses.replace(RECIPE, accumulation=4, mesh=MeshConfig(1, -1, 2))
    words = flags(RECIPE, changed).split()
    assert words == ["--mesh=data:1,fsdp:-1,tensor:2", "--config.accumulation=4"]
    assert parse_mesh(words[0].partition("=")[2]) == changed.mesh


def test_two_lengths_are_two_plans(cpus: None, monkeypatch: pytest.MonkeyPatch, planned: Plan):
    asked: list[int] = []

    def pretended(experiment: Any, length: int, *_: Any) -> Plan:
        asked.append(length)
        return dataclasses.replace(planned, length=length, steps=10)

    monkeypatch.setattr("bertjax.analysis.plan_search.plan", pretended)
    phases = ({"max_length": 128, "share": 0.9}, {"max_length": 512, "share": 0.1})
    recipe = PretrainConfig.from_mapping({**vars(RECIPE), "phases": phases})
    found = plan_report.report(plan_report.Request(recipe, "v5e:2x4"), lambda text: None)
    assert asked == [128, 512]
    assert found.costs[0].steps == 20


def test_what_libtpu_refuses_is_told(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("libtpu", reason="libtpu is absent: pip install libtpu")

    def refuse(**_: Any):
        raise RuntimeError("no such\ntopology")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", refuse)
    with pytest.raises(UserError, match="does not know the topology v5e:2x4: no such topology"):
        chips.devices(Topology.parse("v5e:2x4"))


@pytest.mark.tpu_aot
def test_for_real_chips(repository: Path):
    """The command in a process of its own: quiet, and a step that fits."""
    pytest.importorskip("libtpu", reason="libtpu is absent: pip install libtpu")
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    quiet = ("--json", "--config.attention=xla")  # the default is told where it cannot be had
    done = subprocess.run(
        [sys.executable, "-m", "bertjax", *COMMAND, "--topology=v4:2x2x1", *quiet],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = json.loads(done.stdout)["plans"]
    assert found["topology"] == {"name": "v4:2x2x1", "chips": 4, "chip": "TPU v4"}
    assert 1 <= found["flops_ratio"] <= 1.08
    assert found["transfers"][0]["bytes"] >= 1.5 * found["memory"]["parameters"]
