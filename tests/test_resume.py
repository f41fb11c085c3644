"""A run that was killed or interrupted ends as the undisturbed one, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from tiny import tiny_glue, tiny_model

from bertjax.cli import main as cli

pytestmark = pytest.mark.usefixtures("compile_cache")

STEPS = 30
SPEEDS = {"examples_per_second", "tokens_per_second", "steps_per_second"}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """``bertjax finetune`` into a workdir: dropout is on, and an epoch takes four steps."""
    folder = tmp_path_factory.mktemp("given")
    model, glue = tiny_model(folder / "model"), tiny_glue(folder / "glue")
    fields = {
        "model": model,
        "data": f"files:{glue}",
        "max_length": 32,
        "batch_size": 8,
        "steps": STEPS,
        "learning_rate": 1e-2,
        "eval_every": 9,
        "save_every": 4,
        "log_every": 1,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    config = "--config=configs/finetune.py:task=mrpc"
    return lambda workdir: ["finetune", config, f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def undisturbed(command: Callable[[Path], list[str]], tmp_path_factory: Any) -> Path:
    """The workdir of a run from the first step to the last."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert cli.main(command(workdir)) == 0
    return workdir


def start(
    arguments: list[str], repository: Path, log: Path, settings: dict[str, str]
) -> subprocess.Popen[bytes]:
    """The same command in a process of its own, with as many devices as this one."""
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    devices = {"PYTHONPATH": paths, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "bertjax", *arguments],
            cwd=repository,
            env=os.environ | devices | settings,
            stdout=output,
            stderr=output,
        )


def wait_for_step(process: subprocess.Popen[bytes], workdir: Path, step: int) -> None:
    """Returns when ``metrics.jsonl`` has that many lines."""
    path = workdir / "metrics.jsonl"
    until = time.monotonic() + 240
    while not path.exists() or path.read_bytes().count(b"\n") < step:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.001)


def digests(workdir: Path) -> dict[str, int]:
    """Of every array of the last checkpoint, the optimizer's too."""
    meta = workdir / "checkpoints" / str(STEPS) / "meta" / "metadata"
    return json.loads(meta.read_text())["digest"]


def lines(workdir: Path) -> list[dict[str, float]]:
    """``metrics.jsonl`` without the speeds."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in values.items() if k not in SPEEDS} for values in found]


def assert_same(workdir: Path, undisturbed: Path) -> None:
    assert digests(workdir) == digests(undisturbed)
    for name in ("model.safetensors", "config.json"):
        mine, theirs = (folder / "huggingface" / name for folder in (workdir, undisturbed))
        assert mine.read_bytes() == theirs.read_bytes()
    assert lines(workdir) == lines(undisturbed)
    result, expected = (
        json.loads((folder / "result.json").read_text()) for folder in (workdir, undisturbed)
    )
    for name in ("metrics", "last_metrics", "best_step", "steps", "parameters"):
        assert result[name] == expected[name], name
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert kept == {str(STEPS), str(result["best_step"])}


def test_undisturbed_run(undisturbed: Path):
    """Every step is logged once, the loss moves, and the last evaluation is of the last step."""
    found = lines(undisturbed)
    trained = [values for values in found if "train/loss" in values]
    assert [values["step"] for values in trained] == list(range(1, STEPS + 1))
    evaluated = [values["step"] for values in found if "validation/f1" in values]
    assert evaluated == [9, 18, 27, 30]
    assert len({values["train/loss"] for values in trained}) == STEPS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_disturbed_equals_undisturbed(
    number: signal.Signals,
    command: Callable[[Path], list[str]],
    undisturbed: Path,
    compile_cache: dict[str, str],
    repository: Path,
    tmp_path: Path,
):
    """Stopped at a random moment, in the middle of an epoch too; then the same command again."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # pytest shows it if the test fails
    moment, workdir, log = random.Random(seed), tmp_path / "run", tmp_path / "log"
    process = start(command(workdir), repository, log, compile_cache)
    wait_for_step(process, workdir, moment.randint(1, STEPS - 8))
    time.sleep(moment.uniform(0, 0.05))
    process.send_signal(number)
    code = process.wait(timeout=240)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL), log.read_text()
    assert not (workdir / "result.json").exists()
    if number == signal.SIGINT:
        assert "run the same command again to go on" in log.read_text()
    assert cli.main(command(workdir)) == 0
    assert_same(workdir, undisturbed)
