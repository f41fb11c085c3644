"""Workdirs that are foreign or damaged, disks that are full, and signals: no work is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orbax.checkpoint as ocp
import pytest
from test_errors import refused
from tiny import tiny_glue, tiny_model

from bertjax.cli import main as cli
from bertjax.convert import huggingface
from bertjax.train import workdir as workdirs

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
STEPS = 4


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """``finetune`` without its workdir: a checkpoint each step, a score each second step."""
    folder = tmp_path_factory.mktemp("given")
    model, glue = tiny_model(folder / "model"), tiny_glue(folder / "glue")
    fields = {"model": model, "data": f"files:{glue}", "max_length": 32, "batch_size": 8}
    fields |= {"steps": STEPS, "eval_every": 2, "save_every": 1, "log_every": 1}
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["finetune", "--config=configs/finetune.py:task=cola", *given]


@pytest.fixture(scope="module")
def finished(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that keeps two checkpoints: step 2 was the best."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main([*arguments, f"--workdir={run}", "--config.learning_rate=1e-5"]) == 0
    assert json.loads((run / "result.json").read_text())["best_step"] == 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for a test to damage."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def again(arguments: list[str], run: Path) -> list[str]:
    """The command that made the run."""
    return [*arguments, f"--workdir={run}", "--config.learning_rate=1e-5"]


def change(run: Path, **fields: object) -> None:
    """Changes fields of ``config.json``; None removes one."""
    path = run / "config.json"
    document = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in document.items() if value}))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def damage(checkpoint: Path, how: Callable[[Path], None] = flip) -> None:
    """Damages every file with the numbers of the parameters."""
    files = [path for path in (checkpoint / "params").rglob("d/*") if path.is_file()]
    assert files
    for path in files:
        how(path)


def test_a_finished_run_tells_its_result(again: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(again) == 0
    told = capsys.readouterr()
    assert told.err.endswith("is finished; its result is read\n")
    assert "best at step 2 of 4" in told.out


def test_another_config_names_what_differs(
    again: list[str], run: Path, capsys: pytest.CaptureFixture[str]
):
    sentence = refused([*again, "--config.seed=3", "--config.max_length=16"], capsys)
    assert sentence.startswith(f"the workdir {run} holds a run with another config")
    assert "(max_length: 32 there, 16 here; seed: 0 there, 3 here); choose another" in sentence


def test_a_run_that_saved_nothing_may_be_changed(
    again: list[str], run: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "huggingface")
    (run / "result.json").unlink()
    assert cli.main([*again, "--config.seed=3", "--config.export=false"]) == 0
    assert workdirs.experiment_of(str(run))["seed"] == 3
    capsys.readouterr()


def test_a_workdir_of_something_else(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "photo.jpg").touch()
    taken = [*arguments, f"--workdir={tmp_path}"]
    assert "is not empty and holds no run; choose another --workdir" in refused(taken, capsys)
    (tmp_path / "config.json").write_text("{}")
    assert "holds a config.json that no run wrote" in refused(taken, capsys)
    file = [*arguments, f"--workdir={tmp_path / 'photo.jpg'}"]
    assert "photo.jpg is a file; choose another --workdir" in refused(file, capsys)


BROKEN_RUNS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut config": (lambda run: cut(run / "config.json"), "config.json is damaged: it is not JSON"),
    "list": (lambda run: (run / "config.json").write_text("[]"), "it is not a JSON obje"),
    "no heads": (lambda run: change(run, heads=None), "config.json is damaged: it lacks 'heads'"),
    "no task": (
        lambda run: change(run, experiment={"max_length": 24}),
        "no trained head to score; fine-tune it",
    ),
    "wrong type": (
        lambda run: change(run, model={"hidden_size": "wide"}),
        "config.json: model lacks a field or has one of the wrong type",
    ),
    "cut result": (lambda run: cut(run / "result.json"), "remove it and run the same command ag"),
    "no tokenizer": (lambda run: shutil.rmtree(run / "tokenizer"), "tokenizer'; check the path"),
    "no checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint yet"),
    "damaged best": (lambda run: damage(run / "checkpoints/2"), "checkpoints/2 is damaged (DATA"),
}


@pytest.mark.parametrize("name", BROKEN_RUNS)
def test_a_broken_run_cannot_be_scored(name: str, run: Path, capsys: pytest.CaptureFixture[str]):
    harm, words = BROKEN_RUNS[name]
    harm(run)
    assert words in refused(["evaluate", f"--workdir={run}"], capsys)


def lose_meta(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "meta")


HARM: dict[str, Callable[[Path], None]] = {
    "flipped": damage,
    "cut": lambda checkpoint: damage(checkpoint, cut),
    "deleted": lambda checkpoint: damage(checkpoint, Path.unlink),
    "no meta": lose_meta,
}


@pytest.mark.parametrize("name", HARM)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    name: str, run: Path, again: list[str], capsys: pytest.CaptureFixture[str]
):
    HARM[name](run / "checkpoints" / "4")
    before = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    shutil.copytree(run / "checkpoints/2", run / "checkpoints/9.orbax-checkpoint-tmp")
    assert cli.main(again) == 0
    told = capsys.readouterr().err
    assert told.count(f"checkpoint {run / 'checkpoints' / '4'} is damaged (") == 1
    assert told.count("Traceback") == 0
    assert "step 4: validation/loss" in told
    after = json.loads((run / "result.json").read_text())
    assert after["last_metrics"] == before["last_metrics"]


def test_nothing_but_damage(run: Path, again: list[str], capsys: pytest.CaptureFixture[str]):
    (run / "result.json").unlink()
    for checkpoint in (run / "checkpoints").iterdir():
        damage(checkpoint)
    sentence = refused(again, capsys)
    assert sentence.startswith(f"no checkpoint in {run / 'checkpoints'} can be read; remove")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]


def test_the_best_may_be_lost(run: Path, again: list[str], capsys: pytest.CaptureFixture[str]):
    """The sentence names it, and its remedy works."""
    (run / "result.json").unlink()
    damage(run / "checkpoints" / "2")
    assert "checkpoints/2 is damaged" in refused(again, capsys)
    shutil.rmtree(run / "checkpoints" / "2")
    assert cli.main(again) == 0
    result = json.loads((run / "result.json").read_text())
    assert (result["best_step"], result["metrics"]) == (4, result["last_metrics"])


def test_divergence_is_told_and_never_saved(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wild = ["--config.learning_rate=1e20", "--config.clip=0", "--config.warmup_ratio=0"]
    sentence = refused([*arguments, f"--workdir={tmp_path / 'run'}", *wild], capsys)
    assert sentence.startswith("the training has diverged: at step ")
    assert sentence.endswith("; begin a new workdir with a lower learning_rate")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    step = int(sentence.split("at step ")[1].split()[0])
    assert [json.loads(line)["step"] for line in lines][-1] == step - 1
    assert all(int(path.name) < step for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def once(patch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Makes the given call of a function fail for want of space; those after it succeed."""
    function, calls = getattr(owner, name), []

    def failing(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == call:
            raise FULL
        return function(*args, **kwargs)

    patch.setattr(owner, name, failing)


FULL_AT = {
    "checkpoint": (ocp.CheckpointManager, "save", 3, "cannot write a checkpoint to .*free some"),
    "metrics": (workdirs.MetricWriter, "write", 3, "No space left on device; free some space"),
    "weights": (
        huggingface,
        "write_safetensors",
        1,
        "cannot write the model to .*; free space there",
    ),
    "result": (workdirs, "write_json", 2, "No space left on device; free some space"),
}


@pytest.mark.parametrize("name", FULL_AT)
def test_a_full_disk_is_told_and_the_run_goes_on_later(
    name: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    owner, function, call, words = FULL_AT[name]
    once(monkeypatch, owner, function, call)
    command = [*arguments, f"--workdir={tmp_path / 'run'}"]
    sentence = refused(command, capsys)
    assert all(part in sentence for part in words.split(".*")), sentence
    assert cli.main(command) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == STEPS


def test_a_place_without_permission(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Simulated: who runs the tests as root may write anywhere."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(workdirs, "write_json", refuse)
    sentence = refused([*arguments, f"--workdir={tmp_path / 'run'}"], capsys)
    assert sentence == (
        f"cannot write to the workdir {tmp_path / 'run'} (Permission denied); "
        "choose another --workdir"
    )


def process(command: list[str]) -> subprocess.Popen[str]:
    """The command in a process of its own, with one device."""
    code = [sys.executable, "-m", "bertjax.cli.main", *command]
    return subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 150 KiB, in memory."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(tmp_path / "disk")]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of its own needs Linux and root")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_really_full_disk(arguments: list[str], small_disk: Path):
    """What tensorstore's and TensorBoard's threads meet stays off standard error too."""
    started = process([*arguments, f"--workdir={small_disk / 'run'}"])
    told = started.communicate(timeout=300)[1]
    assert started.returncode == 2, told
    assert told.splitlines()[-1].startswith("bertjax: error: cannot write a checkpoint to ")
    assert "(No space left on device); free some space and run the same" in told
    assert told.count("rror") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_saves_the_state(number: signal.Signals, arguments: list[str], tmp_path: Path):
    run = tmp_path / "run"
    fields = ["--config.steps=3000", "--config.eval_every=9999", "--config.save_every=9999"]
    command = [*arguments, f"--workdir={run}", *fields]
    started = process(command)
    while started.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(1)
    started.send_signal(number)
    told = started.communicate(timeout=300)[1]
    assert started.returncode == 128 + number, told
    last = told.splitlines()[-1]
    assert "Traceback" not in told
    (saved,) = [path.name for path in (run / "checkpoints").iterdir()]
    assert last == f"bertjax: stopped at step {saved}; run the same command again to go on"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_an_early_interruption_is_quiet(arguments: list[str], tmp_path: Path):
    """While libraries are imported and programs compiled, when there is nothing to save."""
    for seconds in (0.3, 1.0, 2.0):
        started = process([*arguments, f"--workdir={tmp_path / 'run'}"])
        time.sleep(seconds)
        started.send_signal(signal.SIGINT)
        told = started.communicate(timeout=300)[1]
        assert started.returncode == 130, told
        assert told.splitlines()[-1].startswith("bertjax: ")
        assert "Traceback" not in told
