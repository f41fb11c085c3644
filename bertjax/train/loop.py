"""The one training loop, and the only place with side effects.

The order within a step is fixed:

1. take the next batch; 2. run the step; 3. log; 4. save, if due or asked to stop; 5. stop, if asked
to; 6. evaluate, if due; 7. stop, if the patience is spent or after the last step.

A step that is to be evaluated is saved first, so a run that is killed in its evaluation loses
nothing: the resumed run begins with that evaluation.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bertjax.checkpoint import Checkpoints
from bertjax.data.batching import Batch
from bertjax.distributed import Vote, compile_together, is_several
from bertjax.sharding import on_mesh, place, shard_batch
from bertjax.train.progress import Progress
from bertjax.train.state import TrainState, abstract_state
from bertjax.train.step import Hyper, Step
from bertjax.train.workdir import MetricWriter, Silence
from bertjax.types import Diverged, Interrupted

Evaluate = Callable[[Any], dict[str, float]]
Writer = MetricWriter | Silence


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """When the loop does what; all counts are steps."""

    steps: int
    seconds: float = 0
    """If not 0, the run ends when so much time has passed, whatever ``steps``."""
    log_every: int = 20
    eval_every: int = 0
    """0: only after the last step."""
    save_every: int = 1000
    patience: int = 0
    """Evaluations without a better main metric before the run ends; 0: never."""
    main_metric: str | None = None
    """Keeps the best checkpoint; larger is better."""
    peak_flops: float = 0
    """Operations a second that all devices together can do; 0: not known."""


@dataclasses.dataclass
class Position:
    """What the loop knows besides the state; saved with it."""

    best: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    stale: int = 0
    """Evaluations since the best one."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the last evaluation."""
    seconds: float = 0.0
    """Of the run so far, evaluations counted."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: TrainState
    position: Position
    stopped_early: bool
    seconds: float
    """Of the whole run, over all its resumptions."""


class Signals:
    """Notes SIGINT and SIGTERM instead of dying of them; a second SIGINT is immediate."""

    def __enter__(self) -> Signals:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def check_finite(step: int, metrics: Mapping[str, Array]) -> None:
    """Raises Diverged where a step's loss or gradient has become infinite or NaN."""
    wrong = [f"{name} is {float(value)}" for name, value in metrics.items() if not isfinite(value)]
    if wrong:
        raise Diverged(
            f"the training has diverged: at step {step} {' and '.join(wrong)}; "
            "begin a new workdir with a lower learning_rate"
        )


def _share(mine: Batch, whole: Mapping[str, Array]) -> float:
    """How much of a batch this process has."""
    return jax.tree.leaves(mine)[0].size / jax.tree.leaves(whole)[0].size


@dataclasses.dataclass
class Loop:
    """One run: what it computes with, and where it writes."""

    config: LoopConfig
    train_step: Step
    hyper: Hyper
    key: Array
    mesh: Mesh
    batches: Callable[[int], Iterator[Any]]
    """Training batches from a given step on, each with a leading axis of micro-batches; of several
    tasks ``{task: batch}``, whose structure the step is compiled for."""
    evaluate: Evaluate | None
    checkpoints: Checkpoints
    writer: Callable[[int], Writer]
    """Opens the metrics at the step where the run begins."""
    assemble: Callable[..., dict[str, Array]] = shard_batch
    """Makes the global batch of what ``batches`` gives in each process."""
    flops: Callable[[Batch], float] = lambda batch: 0.0
    """The model's operations in a step over what this process has of a batch; 0: not counted."""

    def run(self, state: TrainState) -> Outcome:
        """Trains from ``state``, or from the newest checkpoint if there is one.

        Raises:
          Interrupted: after a signal, with everything saved.
        """
        state, position = self._restore(state)
        start = int(state.step)
        writer = self.writer(start)
        began = time.perf_counter() - position.seconds
        try:
            total = None if self.config.seconds else self.config.steps
            with Signals() as signals, Progress(start, total) as progress:
                state = self._train(state, position, signals, progress, writer)
        except Exception as error:
            if is_several() and not isinstance(error, Interrupted):
                self.checkpoints.abandon()
            raise
        finally:
            writer.close()
            self.checkpoints.wait()
        seconds = time.perf_counter() - began
        stopped = not self._ended(int(state.step), position)
        return Outcome(state, position, stopped, seconds)

    def _restore(self, state: TrainState) -> tuple[TrainState, Position]:
        shapes = abstract_state(state)
        found = self.checkpoints.restore_latest(shapes.params, shapes.optimizer)
        if found is None:
            return state, Position()
        position = Position(**found.meta["position"])
        self.checkpoints.best = position.best_step
        step = place(np.array(found.step, np.int32), shapes.step.sharding)
        return TrainState(step, found.params, found.optimizer), position

    def _train(
        self,
        state: TrainState,
        position: Position,
        signals: Signals,
        progress: Progress,
        writer: Writer,
    ) -> TrainState:
        step, before = int(state.step), time.perf_counter() - position.seconds
        if self._evaluation_due(step, position):
            self._evaluate(step, state, position, progress, writer)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        jitted = jax.jit(self.train_step, donate_argnums=0, out_shardings=(shardings, None))
        start, batches, vote = step, self.batches(step), Vote()
        while not self._ended(step, position) and not self._out_of_patience(position):
            batch = next(batches)
            with on_mesh(self.mesh):
                placed = self.assemble(batch, self.mesh, lead=1)
                if step == start:
                    compile_together(jitted, state, placed, self._hyper(position), self.key)
                state, metrics = jitted(state, placed, self._hyper(position), self.key)
            step += 1
            progress.advance(batch, self.flops(batch), _share(batch, placed))
            stop = vote(signals.received or 0)
            position.seconds = time.perf_counter() - before
            if step % self.config.log_every == 0 or step == 1:
                self._log(step, metrics, progress, writer)
            due = self._evaluation_due(step, position)
            if due or self._save_due(step, position) or stop:
                check_finite(step, metrics)
                self._save(step, state, position)
            if stop:
                raise Interrupted(stop, step)
            if due:
                self._evaluate(step, state, position, progress, writer)
        return state

    def _log(
        self, step: int, metrics: Mapping[str, Array], progress: Progress, writer: Writer
    ) -> None:
        check_finite(step, metrics)
        values = {f"train/{name}": float(value) for name, value in metrics.items()}
        values |= progress.rates()
        if self.config.peak_flops and "flops_per_second" in values:
            values["utilisation"] = values["flops_per_second"] / self.config.peak_flops
        writer.write(step, values)
        progress.show(values)

    def _hyper(self, position: Position) -> Hyper:
        """The hyper-parameters of the next step; a clock's schedule follows the clock."""
        if not self.config.seconds:
            return self.hyper
        progress = jnp.float32(position.seconds / self.config.seconds)
        return dataclasses.replace(self.hyper, progress=progress)

    def _ended(self, step: int, position: Position) -> bool:
        if self.config.seconds:
            return position.seconds >= self.config.seconds
        return step >= self.config.steps

    def _evaluation_due(self, step: int, position: Position) -> bool:
        if self.evaluate is None or step == 0:
            return False
        every = self.config.eval_every
        return self._ended(step, position) or (every > 0 and step % every == 0)

    def _save_due(self, step: int, position: Position) -> bool:
        return self._ended(step, position) or step % self.config.save_every == 0

    def _out_of_patience(self, position: Position) -> bool:
        return 0 < self.config.patience <= position.stale

    def _evaluate(
        self,
        step: int,
        state: TrainState,
        position: Position,
        progress: Progress,
        writer: Writer,
    ) -> None:
        assert self.evaluate is not None
        with progress.paused():
            position.metrics = self.evaluate(state.params)
        if self.config.main_metric:
            main = position.metrics[self.config.main_metric]
            position.stale += 1
            if position.best is None or main > position.best:
                position.best, position.best_step, position.stale = main, step, 0
                position.best_metrics = position.metrics
                self.checkpoints.best = step
        writer.write(step, position.metrics)
        progress.report(step, position.metrics)

    def _save(self, step: int, state: TrainState, position: Position) -> None:
        meta = {"position": dataclasses.asdict(position)}
        self.checkpoints.save(step, state.params, state.optimizer, meta)
