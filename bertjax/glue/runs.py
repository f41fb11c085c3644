"""Runs that are not over, one after the other in this process or side by side in others."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import jax
from etils import epath

from bertjax.glue.devices import Slot
from bertjax.glue.folders import (
    check_runs,
    folder_of,
    forget_failure,
    is_over,
    main_score,
    note_failure,
    read_failure,
    tidy,
)
from bertjax.glue.grid import Run
from bertjax.glue.pool import Pool
from bertjax.glue.words import duration
from bertjax.tasks import get_task
from bertjax.train.finetune import finetune
from bertjax.train.workdir import read_result
from bertjax.types import Diverged, Interrupted, UserError

COMPILED = "compiled"
"""The folder of the programs that runs of a task have in common."""
_SHORTEST_COMPILE = 0.3
"""Seconds; what compiles faster is not kept."""


class RunsInterrupted(Interrupted):
    """A signal ended the grid."""

    def __init__(self, number: int, tally: Tally):
        Exception.__init__(
            self,
            f"stopped with {tally.over} of {len(tally.runs)} runs over; "
            "run the same command again to go on",
        )
        self.signal = number


class Tally:
    """How many runs are over, and a line for each."""

    def __init__(
        self, workdir: epath.Path, runs: Sequence[Run], slots: int, after: Callable[[], object]
    ):
        self.workdir, self.runs, self.slots, self._after = workdir, runs, slots, after
        self.waiting = [run for run in runs if not is_over(folder_of(workdir, run))]
        self._left = {run.place: run for run in self.waiting}
        self._speeds: dict[str, list[float]] = {}
        self.any_finished = False
        for run in runs:
            if result := read_result(folder_of(workdir, run)):
                self._note(run, result)

    @property
    def over(self) -> int:
        """Runs that will not be run again."""
        return len(self.runs) - len(self._left)

    def finished(self, run: Run) -> None:
        """Tells the score of a run."""
        result = read_result(folder_of(self.workdir, run))
        assert result is not None
        self._note(run, result)
        metric, score = get_task(run.task).metrics[0], main_score(run.task, result)
        self._tell(run, f"{metric} {score:.4f} in {duration(result['seconds'])}")

    def failed(self, run: Run, sentence: str) -> None:
        """Tells why there is no score."""
        self._tell(run, f"failed: {sentence}")

    def _tell(self, run: Run, what: str) -> None:
        self._left.pop(run.place, None)
        line = f"[{self.over} of {len(self.runs)}] {run.name}: {what}"
        if self._left:
            line += f"; about {duration(self.seconds_left())} left"
        print(line, flush=True)
        self._after()

    def _note(self, run: Run, result: dict[str, Any]) -> None:
        self.any_finished = True
        self._speeds.setdefault(run.task, []).append(result["seconds"] / max(run.examples, 1))

    def seconds_left(self) -> float:
        """By the seconds an example of the same task, or of all where it has no finished run."""
        every = [speed for speeds in self._speeds.values() for speed in speeds] or [0.0]
        total = 0.0
        for run in self._left.values():
            speeds = self._speeds.get(run.task, every)
            total += run.examples * statistics.median(speeds)
        return total / self.slots


def run_grid(
    workdir: epath.Path,
    runs: Sequence[Run],
    slots: Sequence[Slot],
    keep: str,
    after: Callable[[], object],
) -> None:
    """Runs all that are not over; those that are stay as they are. Calls ``after`` each one.

    A run that fails is noted beside its folder and the others go on. One that has diverged is not
    tried again by the same command, any other failure is.

    Raises:
      UserError: where a folder holds a run of another config, or a run fails otherwise than by
        diverging before any is finished: what is wrong with it is most likely wrong with all.
      RunsInterrupted: after SIGINT or SIGTERM, with the runs in hand saved.
    """
    check_runs(workdir, runs)
    tally = Tally(workdir, runs, len(slots), after)
    for run in {run.place.rpartition("/")[0]: run for run in runs}.values():
        if folder_of(workdir, run).parent.exists():
            tidy(workdir, run, keep)
    if tally.over:
        print(f"{tally.over} of {len(runs)} runs are over already", flush=True)
    settings = _compiled(workdir)
    if len(slots) > 1 and tally.waiting:
        _side_by_side(tally, slots, settings, keep)
        return
    with _ending_at_once():
        for run in tally.waiting:
            _one(tally, run, keep)


def _one(tally: Tally, run: Run, keep: str) -> None:
    """Has this process do a run."""
    folder = folder_of(tally.workdir, run)
    forget_failure(folder)
    try:
        finetune(run.config, str(folder))
    except UserError as error:
        _failed(tally, run, str(error), isinstance(error, Diverged))
    except Interrupted as stop:
        raise RunsInterrupted(stop.signal, tally) from stop
    except jax.errors.JaxRuntimeError as error:  # Of the device, such as too little memory.
        _failed(tally, run, str(error).partition("\n")[0], final=False)
    else:
        tidy(tally.workdir, run, keep)
        tally.finished(run)
    finally:
        jax.clear_caches()


def _failed(tally: Tally, run: Run, sentence: str, final: bool) -> None:
    if not final and not tally.any_finished:
        raise UserError(f"{run.name}: {sentence}")
    note_failure(folder_of(tally.workdir, run), sentence, final)
    tally.failed(run, sentence)


def _side_by_side(tally: Tally, slots: Sequence[Slot], settings: dict[str, str], keep: str) -> None:
    """Has other processes do the runs."""
    with Pool(tally.workdir, slots, settings) as pool:
        for run in pool.go(tally.waiting):
            folder = folder_of(tally.workdir, run)
            if failure := read_failure(folder):
                forget_failure(folder)
                _failed(tally, run, failure["sentence"], failure["final"])
            else:
                tidy(tally.workdir, run, keep)
                tally.finished(run)
    if pool.signal:
        raise RunsInterrupted(pool.signal, tally)


def _compiled(workdir: epath.Path) -> dict[str, str]:
    """Keeps compiled programs in the workdir, unless the user keeps them elsewhere.

    Returns:
      The environment by which other processes do the same.
    """
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    if getattr(jax.config, names[0]) is None:
        for name, value in zip(names, (str(workdir / COMPILED), _SHORTEST_COMPILE), strict=True):
            jax.config.update(name, value)
    return {name.upper(): str(getattr(jax.config, name)) for name in names}


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """SIGTERM outside of a training loop ends the process: there is no state to save."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        sys.stdout.flush()
        os.write(2, b"bertjax: terminated; run the same command again to go on\n")
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
