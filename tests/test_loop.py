"""The loop's order of side effects, on a model of one number."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from bertjax.checkpoint import Checkpoints
from bertjax.models import Dropout
from bertjax.optim import OptimConfig
from bertjax.sharding import MeshConfig, make_mesh, replicated
from bertjax.train import workdir as workdirs
from bertjax.train.loop import Loop, LoopConfig, Outcome
from bertjax.train.state import TrainState
from bertjax.train.step import Hyper
from bertjax.train.workdir import MetricWriter
from bertjax.types import Interrupted, UserError

SCORES = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6, 10: 0.8}
MESH = make_mesh(MeshConfig())


class Crash(Exception):
    """Stands for a death of the process."""


def step(state: TrainState, batch: Any, hyper: Hyper, key: jax.Array) -> Any:
    """Adds the batch to the parameter."""
    del hyper, key
    value = state.params["w"] + batch["cls_row"].sum()
    return TrainState(state.step + 1, {"w": value}, state.optimizer), {"loss": value}


def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
    """The batch of step s holds 8 times s."""
    while True:
        yield {"cls_row": np.full((1, 8), start, np.float32)}
        start += 1


@dataclasses.dataclass
class Run:
    """One workdir; each call is a process that runs the command again."""

    folder: Path
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluated: list[int] = dataclasses.field(default_factory=list)

    def __call__(
        self,
        source: Callable[[int], Iterator[Any]] = batches,
        *,
        evaluate: bool = True,
        fail_at: int = 0,
    ) -> Outcome:
        def score(params: Any) -> dict[str, float]:
            at = next(n for n in range(99) if 8 * n * (n - 1) // 2 == int(params["w"]))
            self.evaluated.append(at)
            if at == fail_at:
                raise Crash
            return {"dev/score": SCORES[at]}

        checkpoints = Checkpoints(self.folder)
        fields = {"steps": 10, "log_every": 1, "eval_every": 2, "main_metric": "dev/score"}
        loop = Loop(
            config=LoopConfig(**(fields | self.fields)),
            train_step=step,
            hyper=Hyper.of(OptimConfig(), Dropout(0.0, 0.0, 0.0)),
            key=jax.random.key(0),
            mesh=MESH,
            batches=source,
            evaluate=score if evaluate else None,
            checkpoints=checkpoints,
            writer=lambda start: MetricWriter(checkpoints.folder.parent, start),
        )
        begin = TrainState(jnp.int32(0), {"w": jnp.float32(0)}, {"count": jnp.int32(0)})
        try:
            return loop.run(jax.device_put(begin, replicated(MESH)))
        finally:
            checkpoints.close()

    @property
    def saved(self) -> list[int]:
        return sorted(int(path.name) for path in (self.folder / "checkpoints").iterdir())

    def steps(self, name: str) -> list[int]:
        """The steps of the lines in metrics.jsonl that hold ``name``."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [values["step"] for values in map(json.loads, lines) if name in values]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def assert_whole(run: Run, outcome: Outcome) -> None:
    """As a run of ten steps that nothing disturbed."""
    assert float(outcome.state.params["w"]) == 8 * 45
    assert run.steps("train/loss") == list(range(1, 11))
    assert run.steps("dev/score") == [2, 4, 6, 8, 10]
    assert run.saved == [4, 10]
    position = outcome.position
    assert (position.best, position.best_step, position.stale) == (0.9, 4, 3)
    assert position.best_metrics == {"dev/score": 0.9}
    assert position.metrics == {"dev/score": 0.8}


def test_a_run_of_an_older_version_goes_on(tmp_path: Path):
    """Fields that it did not have count as unset; those that it had must be the same."""
    folder = epath.Path(tmp_path)
    workdirs.prepare(folder, {"experiment": {"seed": 1}})
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "1").mkdir()
    now = {"experiment": {"seed": 1, "alpha": 0.5}}
    workdirs.prepare(folder, now, defaults={"seed": 0, "alpha": 0.5})
    with pytest.raises(UserError, match=r"another config \(alpha: 0.7 there, 0.5 here\)"):
        workdirs.prepare(folder, now, defaults={"alpha": 0.7})
    with pytest.raises(UserError, match=r"another config \(seed: 1 there, 2 here\)"):
        workdirs.prepare(folder, {"experiment": {"seed": 2}}, defaults={"seed": 2})


def test_undisturbed(run: Run):
    outcome = run()
    assert_whole(run, outcome)
    assert not outcome.stopped_early
    assert run.evaluated == [2, 4, 6, 8, 10]
    again = run()  # only the last evaluation, which a crash may have cut short, is repeated
    assert_whole(run, again)
    assert run.evaluated[5:] == [10]


@pytest.mark.parametrize("crash", range(1, 10))
def test_a_crash_before_any_step_leaves_no_trace(crash: int, run: Run):
    def failing(start: int) -> Iterator[Any]:
        for number, batch in enumerate(batches(start), start):
            if number == crash:
                raise Crash
            yield batch

    with pytest.raises(Crash):
        run(failing)
    assert_whole(run, run())


@pytest.mark.parametrize("crash", [2, 4, 6, 10])
def test_a_crash_in_an_evaluation_leaves_no_trace(crash: int, run: Run):
    with pytest.raises(Crash):
        run(fail_at=crash)
    assert run.saved[-1] == crash
    assert_whole(run, run())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [3, 4])
def test_a_signal_saves_and_stops(number: signal.Signals, at: int, run: Run):
    def signalling(start: int) -> Iterator[Any]:
        for step, batch in enumerate(batches(start)):
            if step == at - 1:
                signal.raise_signal(number)
            yield batch

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped at step {at}; run the same") as stop:
        run(signalling)
    assert stop.value.signal == number
    assert signal.getsignal(number) is before
    assert run.saved[-1] == at
    assert_whole(run, run())


def test_a_second_interrupt_is_immediate(run: Run):
    def insisting(start: int) -> Iterator[Any]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield from batches(start)

    with pytest.raises(KeyboardInterrupt):
        run(insisting)


def test_patience(run: Run):
    run.fields = {"patience": 2}
    outcome = run()
    assert outcome.stopped_early
    assert run.evaluated == [2, 4, 6, 8]
    assert run.saved == [4, 8]
    again = run()
    assert again.stopped_early
    assert int(again.state.step) == 8
    assert again.position == outcome.position


@pytest.mark.parametrize("save_every", [3, 1000])
def test_the_last_step_is_saved_without_an_evaluation_too(save_every: int, run: Run):
    run.fields = {"save_every": save_every, "main_metric": None}
    run(evaluate=False)
    assert run.saved[-1] == 10
    assert run.steps("train/loss") == list(range(1, 11))


def test_logging_every_few_steps(run: Run):
    run.fields = {"log_every": 4, "eval_every": 0}
    run()
    assert run.steps("train/loss") == [1, 4, 8]
    assert run.steps("examples_per_second") == [1, 4, 8]
    assert run.evaluated == [10]
