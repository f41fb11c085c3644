"""A pretraining that was killed or interrupted ends as the undisturbed one, to the last bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disturbed import CODES, assert_same, disturb, lines, start, wait_for_step
from tiny_pretraining import command

from bertjax.cli import main as cli

STEPS = 30
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


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_disturbed_equals_undisturbed(
    number: signal.Signals,
    arguments: Callable[[Path], list[str]],
    undisturbed: Path,
    repository: Path,
    tmp_path: Path,
):
    """Stopped at a random moment, in either phase; then the same command again."""
    workdir = tmp_path / "run"
    disturb(arguments(workdir), workdir, number, STEPS - 7, repository)
    assert cli.main(arguments(workdir)) == 0
    assert_same(workdir, undisturbed)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == [str(STEPS)]


def test_workers_end_with_a_killed_run(
    arguments: Callable[[Path], list[str]],
    repository: Path,
    tmp_path: Path,
):
    """No process of the run's session is left."""
    flags = [*arguments(tmp_path / "run"), "--config.workers=2"]
    process = start(flags, repository, tmp_path / "log")
    wait_for_step(process, tmp_path / "run", 1)
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while is_alive(process.pid):
        assert time.monotonic() < until, "a worker goes on"
        time.sleep(0.1)


def is_alive(session: int) -> bool:
    """Whether a session has a process left."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True
