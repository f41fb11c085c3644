"""Which runs ``bertjax glue`` makes of its flags, and where they are shown a device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_glue

from bertjax.cli.experiment import load_config
from bertjax.glue import devices
from bertjax.glue.grid import (
    TRAINED,
    choose_tasks,
    parse_grid,
    parse_per_task,
    parse_seeds,
    plan_runs,
)
from bertjax.types import UserError


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CoLA, MRPC and STS-B, 32 training examples each."""
    return tiny_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    return load_config("configs/finetune.py").to_dict()


def test_seeds():
    assert parse_seeds("5") == (1, 2, 3, 4, 5)
    assert parse_seeds("1") == (1,)
    assert parse_seeds("2, 7") == (2, 7)
    assert parse_seeds("7,") == (7,)


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1,1", "1,,2", "1.5", ","])
def test_wrong_seeds(text: str):
    with pytest.raises(UserError, match="neither a count"):
        parse_seeds(text)


def test_grid(fields: dict[str, Any]):
    axes = parse_grid("learning_rate:2e-5,0.00003 ; batch_size:16,32;pack:true,false", fields)
    assert list(axes) == ["batch_size", "learning_rate", "pack"]
    assert axes["learning_rate"] == (2e-5, 3e-5)
    assert axes["batch_size"] == (16, 32)
    assert axes["pack"] == (True, False)
    assert parse_grid("schedule:linear,cosine", fields) == {"schedule": ("linear", "cosine")}
    [epochs] = parse_grid("epochs:3", fields)["epochs"]
    assert isinstance(epochs, float)
    assert parse_grid("dropout:0.1", fields) == {"dropout": (0.1,)}
    assert parse_grid("", fields) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learningrate:1", "no field 'learningrate'; did you mean 'learning_rate'"),
        ("learning_rate", "not written FIELD:VALUE,VALUE"),
        ("learning_rate:", "not written FIELD:VALUE,VALUE"),
        ("learning_rate:fast", "'fast' is no value for 'learning_rate'"),
        ("batch_size:1.5", "'1.5' is no value for 'batch_size'"),
        ("batch_size:true", "'true' is no value"),
        ("pack:2", "'2' is no value"),
        ("learning_rate:1e-5,0.00001", "a value twice"),
        ("learning_rate:1;learning_rate:2", "twice"),
        ("seed:1,2", "'seed' is set by --seeds"),
        ("freeze:a", "neither a number nor a word"),
    ],
)
def test_wrong_grid(text: str, says: str, fields: dict[str, Any]):
    with pytest.raises(UserError, match=says):
        parse_grid(text, fields)


def test_per_task(fields: dict[str, Any]):
    found = parse_per_task("sst2:seeds=1; rte:epochs=10,max_length=256", fields)
    assert found == {"sst2": {"seeds": (1,)}, "rte": {"epochs": 10.0, "max_length": 256}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sst:seeds=1", "no task 'sst'; did you mean 'sst2'"),
        ("ax:seeds=1", "the model of 'mnli' answers it"),
        ("sst2:seeds", "not written TASK:FIELD=VALUE"),
        ("sst2:seeds=1;sst2:epochs=1", "twice"),
        ("sst2:epoch=1", "did you mean 'epochs'"),
        ("sst2:seeds=no", "neither a count"),
    ],
)
def test_wrong_per_task(text: str, says: str, fields: dict[str, Any]):
    with pytest.raises(UserError, match=says):
        parse_per_task(text, fields)


def test_tasks_are_those_with_data(glue: Path, tmp_path: Path):
    chosen, missing = choose_tasks("all", f"files:{glue}")
    assert chosen == ("cola", "mrpc", "stsb")
    assert set(missing) == set(TRAINED) - set(chosen)
    assert "ax" not in TRAINED
    (tmp_path / "QNLI").mkdir()
    (tmp_path / "QNLI" / "dev.tsv").touch()
    with pytest.raises(UserError, match=r"'qnli' cannot be run: there is neither .*train\.tsv"):
        choose_tasks("qnli", f"files:{tmp_path}")
    with pytest.raises(UserError, match="no task's training and development data"):
        choose_tasks("all", f"files:{tmp_path}")
    with pytest.raises(UserError, match="the model of 'mnli' answers it"):
        choose_tasks("cola,ax", f"files:{glue}")


def test_one_tasks_own_folder_is_not_the_data_of_all(glue: Path):
    with pytest.raises(UserError, match="no task's"):
        choose_tasks("all", f"files:{glue}/MRPC")
    assert choose_tasks("mrpc", f"files:{glue}/MRPC") == (("mrpc",), {})


def test_folders_named_by_task_or_by_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "rte" / "RTE"
    folder.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("index\tsentence1\tsentence2\tlabel\n")
    assert choose_tasks("all", f"files:{tmp_path}/{{task}}")[0] == ("rte",)
    assert choose_tasks("rte", "files:~/{task}")[0] == ("rte",)
    assert choose_tasks("all", "files:~/rte")[0] == ("rte",)


def test_other_sources_have_all_tasks():
    assert choose_tasks("all", "tfds:glue/{task}") == (TRAINED, {})


def test_runs(glue: Path, fields: dict[str, Any]):
    fields = fields | {"model": "m", "data": f"files:{glue}"}
    axes = parse_grid("learning_rate:2e-5,3e-5", fields)
    per_task = {"cola": {"seeds": (1,), "learning_rate": 1e-4, "epochs": 2.0}}
    runs = plan_runs(("cola", "mrpc"), axes, (1, 2), per_task, fields)
    assert [run.place for run in runs] == [
        "cola/learning_rate=0.0001/seed=1",
        "mrpc/learning_rate=2e-05/seed=1",
        "mrpc/learning_rate=3e-05/seed=1",
        "mrpc/learning_rate=2e-05/seed=2",
        "mrpc/learning_rate=3e-05/seed=2",
    ]
    assert [run.config.learning_rate for run in runs] == [1e-4, 2e-5, 3e-5, 2e-5, 3e-5]
    assert [run.config.task for run in runs] == ["cola", *["mrpc"] * 4]
    assert (runs[0].config.epochs, runs[1].config.epochs) == (2.0, 3.0)
    assert (runs[0].examples, runs[1].examples) == (64, 96)
    [bare] = plan_runs(("cola",), {}, (3,), {}, fields)
    assert bare.place == "cola/seed=3"


def test_wrong_data_is_told_before_anything_is_trained(
    glue: Path, fields: dict[str, Any], tmp_path: Path
):
    folder = tmp_path / "RTE"
    folder.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tperhaps\n")
    fields = fields | {"model": "m", "data": f"files:{tmp_path}"}
    with pytest.raises(UserError, match=r"train\.tsv:2"):
        plan_runs(("rte",), {}, (1,), {}, fields)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Sets what devices there are."""
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
        monkeypatch.delenv(name, raising=False)
    return lambda platform, count: monkeypatch.setattr(
        devices, "find_devices", lambda: (platform, count)
    )


def test_a_run_a_gpu(machine: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch):
    machine("gpu", 2)
    slots = devices.make_slots(0)
    assert [slot.environment for slot in slots] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    shared = devices.make_slots(3)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["5", "3", "5"]
    assert shared[0].environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_a_run_a_tpu_chip(machine: Callable[[str, int], None]):
    machine("tpu", 4)
    slots = devices.make_slots(0)
    assert [slot.environment["TPU_VISIBLE_CHIPS"] for slot in slots] == ["0", "1", "2", "3"]
    assert len({slot.environment["TPU_PROCESS_PORT"] for slot in slots}) == 4
    with pytest.raises(UserError, match="4 TPU chips"):
        devices.make_slots(5)


def test_cores_are_shared_out(machine: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch):
    machine("cpu", 1)
    assert devices.make_slots(0) == [devices.Slot({})]
    monkeypatch.setattr(
        devices.os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4}, raising=False
    )
    assert [slot.cores for slot in devices.make_slots(2)] == [(0, 2, 4), (1, 3)]
    assert [slot.cores for slot in devices.make_slots(6)] == [()] * 6
    with pytest.raises(UserError, match="--parallel=-1"):
        devices.make_slots(-1)
