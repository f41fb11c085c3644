"""``bertjax glue`` end to end on tiny data: what is finished is never run again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from disturbed import start
from etils import epath
from tiny import tiny_glue, tiny_model

from bertjax.cli import main as cli
from bertjax.glue import pool, runs
from bertjax.glue.devices import Slot
from bertjax.glue.folders import check_runs, folder_of, read_failure
from bertjax.glue.grid import Run
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train import finetune
from bertjax.train.config import FinetuneConfig
from bertjax.types import UserError

Given = Callable[..., list[str]]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """``bertjax glue`` on CoLA: the arguments for a workdir."""
    folder = tmp_path_factory.mktemp("given")
    model, glue = tiny_model(folder / "model", num_layers=1), tiny_glue(folder / "glue")
    fields = {"max_length": 16, "batch_size": 8, "steps": 6, "log_every": 1, "save_every": 2}
    fields |= {"pack": False, "eval_every": 6}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    base = ["glue", f"--model={model}", f"--data=files:{glue}", "--tasks=cola", *flags]
    return lambda workdir, *more: [*base, f"--workdir={workdir}", *more]


def finished(workdir: Path) -> dict[str, int]:
    """When each result was written, by run."""
    places = workdir.glob("runs/*/*/*/result.json")
    return {str(path.parent.relative_to(workdir)): path.stat().st_mtime_ns for path in places}


def test_a_changed_grid_adds_runs(
    given: Given,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """One diverges; the others go on, and only what is new is run."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])  # compiles faster than eight
    monkeypatch.setattr(finetune, "make_mesh", lambda config: mesh)
    assert cli.main(given(tmp_path, "--grid=learning_rate:1e-3,1e30", "--nosubmission")) == 0
    said = capsys.readouterr().out
    assert "[2 of 2] cola learning_rate=1e+30 seed=1: failed: the training has diverged" in said
    assert "mrpc" not in said
    before = finished(tmp_path)
    assert list(before) == ["runs/cola/learning_rate=0.001/seed=1"]
    [folder] = (tmp_path / path for path in before)
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "result.json", "metrics.jsonl", "tensorboard", "huggingface")
    }

    again = given(tmp_path, "--grid=learning_rate:1e-3,1e30", "--seeds=2", "--nosubmission")
    assert cli.main(again) == 0
    said = capsys.readouterr().out
    assert "2 of 4 runs are over already" in said
    assert "[3 of 4] cola learning_rate=0.001 seed=2: matthews" in said
    after = finished(tmp_path)
    assert {place: after[place] for place in before} == before
    assert len(after) == 2
    kept = list(tmp_path.glob("runs/*/*/*/huggingface"))
    assert len(kept) == 1
    report = (tmp_path / "report.md").read_text()
    assert "2 runs are finished and 2 have failed" in report
    assert "| learning_rate 0.001 |" in report or "**learning_rate 0.001**" in report
    assert f"--workdir={tmp_path}" in report

    assert cli.main([*again, "--config.epochs=9"]) == 2
    assert "another config (epochs: 3.0 there, 9.0 here)" in capsys.readouterr().err
    assert finished(tmp_path) == after


def test_what_is_wrong_with_all_runs_is_told_once(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [*given(tmp_path), "--model=./nothing"]
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("there is no folder './nothing'") == 1
    assert not list(tmp_path.rglob("*.failed.json"))
    (tmp_path / "file").touch()
    for flag, told in (
        ("--config.task=rte", "--tasks and --seeds"),
        ("--config.export=False", "which models stay by --keep"),
        ("--grid=dropout:[0.1]", "'[0.1]' is no value for 'dropout'"),
        (f"--workdir={tmp_path / 'file'}", "is a file; choose another --workdir"),
    ):
        assert cli.main([*given(tmp_path), flag]) == 2
        assert told in capsys.readouterr().err


def finished_run(workdir: epath.Path, run: Run) -> None:
    """Leaves what a finished run leaves."""
    folder = folder_of(workdir, run)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    document = {"experiment": dataclasses.asdict(run.config), "bertjax": "0"}
    (folder / "config.json").write_text(json.dumps({**document, "model": {}, "heads": {}}))


def test_runs_of_a_version_with_fewer_fields_go_on(tmp_path: Path):
    """What config.json lacks was as by default: numbers and mappings."""
    workdir, [run] = epath.Path(tmp_path), some_runs(1)
    finished_run(workdir, run)
    config = folder_of(workdir, run) / "config.json"
    document = json.loads(config.read_text())
    for name in ("options", "task_data", "layer_decay"):
        del document["experiment"][name]
    config.write_text(json.dumps(document))
    check_runs(workdir, [run])
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, layer_decay=0.9))
    with pytest.raises(UserError, match=r"layer_decay: 1\.0 there, 0\.9 here"):
        check_runs(workdir, [other])


def one_run(task: str, rate: float, seed: int, **fields: Any) -> Run:
    given = {"model": "m", "data": "files:d", **fields}
    config = FinetuneConfig(task=task, seed=seed, learning_rate=rate, **given)
    return Run(task, (("learning_rate", rate),), config, 10)


def test_results_of_another_config_are_not_mixed(tmp_path: Path):
    """Neither with another seed or point of the task, nor of the model with another task."""
    workdir = epath.Path(tmp_path)
    finished_run(workdir, one_run("rte", 1e-4, 1))
    check_runs(workdir, [one_run("rte", 1e-4, 2)])
    check_runs(workdir, [one_run("rte", 3e-4, 1)])
    check_runs(workdir, [one_run("cola", 3e-4, 1, epochs=5.0)])
    for others, told in (
        ([one_run("rte", 1e-4, 2, epochs=9.0)], r"epochs: 3\.0 there, 9\.0 here"),
        ([one_run("rte", 3e-4, 1, batch_size=8)], r"batch_size: 32 there, 8 here"),
        ([one_run("rte", 3e-4, 1, model="other")], "model: m there, other here"),
        ([one_run("cola", 1e-4, 1, model="other")], "model: m there, other here"),
    ):
        with pytest.raises(UserError, match=told):
            check_runs(workdir, others)


def test_of_too_little_memory_one_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Once any run is finished; before it, it is what is wrong with all."""
    workdir, [first, second] = epath.Path(tmp_path), some_runs(1, 2)

    def full(config: FinetuneConfig, folder: str) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmuch more")

    monkeypatch.setattr(runs, "finetune", full)
    with pytest.raises(UserError, match=r"^cola seed=1: RESOURCE_EXHAUSTED: Out of memory$"):
        runs.run_grid(workdir, [first], SLOTS[:1], "best", lambda: None)
    finished_run(workdir, first)
    result = {"metrics": {"validation/matthews": 0.5}, "seconds": 1.0}
    (folder_of(workdir, first) / "result.json").write_text(json.dumps(result))
    runs.run_grid(workdir, [first, second], SLOTS[:1], "best", lambda: None)
    assert "[2 of 2] cola seed=2: failed: RESOURCE_EXHAUSTED" in capsys.readouterr().out


WORKER = """
import json, os, pathlib, signal, sys, time
order = json.load(sys.stdin)
folder, seed = pathlib.Path(order["folder"]), order["experiment"]["seed"]
print("seen", os.environ["PLACE"], flush=True)
folder.mkdir(parents=True, exist_ok=True)
document = {"bertjax": "0", "experiment": order["experiment"], "model": {}, "heads": {}}
(folder / "config.json").write_text(json.dumps(document))
if seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 3:
    (folder.parent / "seed=3.failed.json").write_text('{"sentence": "no", "final": true}')
    sys.exit(2)
if seed >= 8:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder.parent / f"ready{seed}").touch()
    time.sleep(60)
result = {"metrics": {"validation/matthews": seed / 10}, "seconds": 1.0}
(folder / "result.json").write_text(json.dumps(result))
"""


def some_runs(*seeds: int) -> list[Run]:
    return [
        Run("cola", (), FinetuneConfig(model="m", data="files:d", task="cola", seed=seed), 10)
        for seed in seeds
    ]


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that do as :data:`WORKER` does."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", WORKER))


SLOTS = [Slot({"PLACE": "left"}), Slot({"PLACE": "right"})]


@pytest.mark.usefixtures("pretending")
def test_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One is killed and one fails; all others are finished, each seeing its own place."""
    workdir, reports = epath.Path(tmp_path), []
    grid = some_runs(1, 4, 2, 3, 5)
    runs.run_grid(workdir, grid, SLOTS, "best", lambda: reports.append(1))
    assert len(reports) == 5
    said = capsys.readouterr().out
    assert "[5 of 5]" in said
    assert "seed=2: failed: its process ended with code -9 (killed by SIGKILL); see " in said
    assert "cola seed=3: failed: no" in said
    seen = {path.read_text().strip() for path in tmp_path.rglob("*.log")}
    assert seen == {"seen left", "seen right"}
    failures = [read_failure(folder_of(workdir, run)) for run in grid]
    assert [failure and failure["final"] for failure in failures] == [None, None, False, True, None]
    runs.run_grid(workdir, grid, SLOTS, "best", lambda: None)
    again = capsys.readouterr().out
    assert "4 of 5 runs are over already" in again
    assert "[5 of 5] cola seed=2: failed" in again
    shutil.rmtree(folder_of(workdir, grid[3]))
    runs.run_grid(workdir, grid, SLOTS, "best", lambda: None)
    assert "3 of 5 runs are over already" in capsys.readouterr().out, "what was removed runs anew"


@pytest.mark.usefixtures("pretending")
def test_a_first_run_that_cannot_be_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fails = WORKER.replace('"final": true', '"final": false')
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", fails))
    with pytest.raises(UserError, match="cola seed=3: no"):
        runs.run_grid(epath.Path(tmp_path), some_runs(3, 8, 9), SLOTS, "best", lambda: None)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.usefixtures("pretending")
def test_a_signal_while_a_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It reaches that process too, which would sleep for a minute."""
    begin = pool.Pool._start

    def start_and_stop(self: pool.Pool, run: Run, slot: Slot) -> Any:
        process = begin(self, run, slot)
        self._pass_on(signal.SIGTERM, None)
        return process

    monkeypatch.setattr(pool.Pool, "_start", start_and_stop)
    started = time.monotonic()
    with pool.Pool(epath.Path(tmp_path), SLOTS[:1], {}) as processes:
        assert list(processes.go(some_runs(8))) == []
    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("pretending")
def test_a_signal_is_passed_on(tmp_path: Path):
    """And all processes are waited for; no further run is begun."""
    code = (
        "import os, signal, sys, threading, time, pathlib; sys.path[:0] = sys.argv[2].split(':')\n"
        "import test_glue_command as t; from bertjax.glue import pool, runs\n"
        "from etils import epath\n"
        "pool.COMMAND = (sys.executable, '-c', t.WORKER); w = epath.Path(sys.argv[1])\n"
        "def stop():\n"
        "    while len(list(pathlib.Path(sys.argv[1]).rglob('ready*'))) < 2: time.sleep(0.02)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Thread(target=stop, daemon=True).start()\n"
        "try: runs.run_grid(w, t.some_runs(8, 9, 1), t.SLOTS, 'best', lambda: None)\n"
        "except runs.RunsInterrupted as stop: print(stop); sys.exit(128 + stop.signal)\n"
    )
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), paths],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 143, done.stderr
    assert "stopped with 0 of 3 runs over" in done.stdout
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("*.failed.json"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2])
def test_two_kills(
    parallel: int,
    given: Given,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Killed twice on the way: nothing finished is repeated, and all comes out the same."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))
    more = ("--grid=learning_rate:1e-3,1e-2", "--seeds=3", f"--parallel={parallel}")
    assert cli.main(given(tmp_path / "undisturbed", *more)) == 0
    workdir, log = tmp_path / "run", tmp_path / "log"
    before: dict[str, int] = {}
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start(given(workdir, *more), repository, log)
        until = time.monotonic() + 240
        while len(finished(workdir)) <= len(before):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, "the grid does not get on"
            time.sleep(0.01)
        process.send_signal(number)
        code = process.wait(timeout=240)
        assert code == (-9 if number == signal.SIGKILL else 143), log.read_text()
        time.sleep(3)  # processes of a killed pool save and end
        now = finished(workdir)
        assert before.items() <= now.items()
        before = now
    assert len(before) < 6
    assert cli.main(given(workdir, *more)) == 0
    assert before.items() <= finished(workdir).items()
    for place in finished(tmp_path / "undisturbed"):
        mine, theirs = (
            json.loads((folder / place / "result.json").read_text())["metrics"]
            for folder in (workdir, tmp_path / "undisturbed")
        )
        assert mine == theirs
