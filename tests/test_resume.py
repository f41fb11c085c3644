"""A run that was killed or interrupted ends as the undisturbed one, to the last bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disturbed import assert_same, disturb, lines
from tiny import tiny_glue, tiny_model

from bertjax.cli import main as cli

STEPS = 30


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


def test_undisturbed_run(undisturbed: Path):
    """Every step is logged once, the loss moves, and the last evaluation is of the last step."""
    found = lines(undisturbed)
    trained = [values for values in found if "train/loss" in values]
    assert [values["step"] for values in trained] == list(range(1, STEPS + 1))
    evaluated = [values["step"] for values in found if "validation/f1" in values]
    assert evaluated == [9, 18, 27, 30]
    assert len({values["train/loss"] for values in trained}) == STEPS


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
    ids=lambda n: n.name,
)
def test_disturbed_equals_undisturbed(
    number: signal.Signals,
    command: Callable[[Path], list[str]],
    undisturbed: Path,
    repository: Path,
    tmp_path: Path,
):
    """Stopped at a random moment, in the middle of an epoch too; then the same command again."""
    workdir = tmp_path / "run"
    disturb(command(workdir), workdir, number, STEPS - 7, repository)
    assert cli.main(command(workdir)) == 0
    result = assert_same(workdir, undisturbed)
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert kept == {str(STEPS), str(result["best_step"])}
