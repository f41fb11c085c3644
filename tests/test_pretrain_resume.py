"""A pretraining that was killed or interrupted ends as the undisturbed one, to the last bit."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_resume import start, wait_for_step
from tiny_pretraining import command

from bertjax.cli import main as cli

pytestmark = pytest.mark.usefixtures("compile_cache")

STEPS = 30
SPEEDS = {"examples_per_second", "tokens_per_second", "steps_per_second", "flops_per_second"}
PHASES = "({'max_length': 16, 'share': 0.6}, {'max_length': 32, 'share': 0.4})"


@pytest.fixture(scope="module")
def arguments(tiny_prepared: Path) -> Callable[[Path], list[str]]:
    """``bertjax pretrain`` into a workdir: two lengths, a sentence task, dropout."""
    changes = {
        "steps": STEPS,
        "phases": PHASES,
        "dropout": 0.1,
        "warmup_ratio": 0.05,
        "eval_every": 9,
        "save_every": 4,
    }
    return lambda workdir: command(tiny_prepared, workdir, **changes)


@pytest.fixture(scope="module")
def undisturbed(arguments: Callable[[Path], list[str]], tmp_path_factory: Any) -> Path:
    """The workdir of a run from the first step to the last."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert cli.main(arguments(workdir)) == 0
    return workdir


def digests(workdir: Path, step: int) -> dict[str, int]:
    """Of every array of a checkpoint, the optimizer's too."""
    meta = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(meta.read_text())["digest"]


def lines(workdir: Path) -> list[dict[str, float]]:
    """``metrics.jsonl`` without the speeds."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in values.items() if k not in SPEEDS} for values in found]


def assert_same(workdir: Path, undisturbed: Path) -> None:
    assert digests(workdir, STEPS) == digests(undisturbed, STEPS)
    for name in ("model.safetensors", "config.json"):
        mine, theirs = (folder / "huggingface" / name for folder in (workdir, undisturbed))
        assert mine.read_bytes() == theirs.read_bytes()
    assert lines(workdir) == lines(undisturbed)
    result, expected = (
        json.loads((folder / "result.json").read_text()) for folder in (workdir, undisturbed)
    )
    for name in ("metrics", "best_step", "steps", "parameters"):
        assert result[name] == expected[name], name
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == [str(STEPS)]


def test_undisturbed_run(undisturbed: Path):
    """Every step is logged once, the loss moves, and both lengths are evaluated."""
    trained = [values for values in lines(undisturbed) if "train/loss" in values]
    assert [values["step"] for values in trained] == list(range(1, STEPS + 1))
    assert len({values["train/loss"] for values in trained}) == STEPS
    rates = [values["train/learning_rate"] for values in trained]  # one schedule for both phases
    expected = [0.0, *(1e-2 * (1 - step / (STEPS - 1)) for step in range(STEPS - 1))]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    for name in ("validation-16/masked_lm_loss", "validation-32/next_sentence_accuracy"):
        evaluated = [values["step"] for values in lines(undisturbed) if name in values]
        assert evaluated == [9, 18, 27, 30]


CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_disturbed_equals_undisturbed(
    number: signal.Signals,
    arguments: Callable[[Path], list[str]],
    undisturbed: Path,
    compile_cache: dict[str, str],
    repository: Path,
    tmp_path: Path,
):
    """Stopped at a random moment, in either phase; then the same command again."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # pytest shows it if the test fails
    moment, workdir, log = random.Random(seed), tmp_path / "run", tmp_path / "log"
    process = start(arguments(workdir), repository, log, compile_cache)
    wait_for_step(process, workdir, moment.randint(1, STEPS - 8))
    time.sleep(moment.uniform(0, 0.05))
    process.send_signal(number)
    assert process.wait(timeout=240) == CODES[number], log.read_text()
    assert not (workdir / "result.json").exists()
    assert ("run the same command again to go on" in log.read_text()) == (number != signal.SIGKILL)
    assert cli.main(arguments(workdir)) == 0
    assert_same(workdir, undisturbed)
