"""The progress bar of a run: on a terminal only; elsewhere one line an evaluation."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

from jax import Array


class Progress:
    """Counts steps and examples, and shows them with ``tqdm`` where someone is watching."""

    def __init__(self, start: int, steps: int, name: str = "train"):
        from tqdm import tqdm

        self._bar = tqdm(
            initial=start, total=steps, desc=name, unit="step", disable=not sys.stderr.isatty()
        )
        self._mark()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _mark(self) -> None:
        self._examples, self._steps, self._since = 0, 0, time.perf_counter()

    def advance(self, batch: Mapping[str, Array]) -> None:
        """Counts one step; ``batch`` is ``[micro-batches, …]``."""
        self._examples += batch["cls_row"].size
        self._steps += 1
        self._bar.update()

    def rates(self) -> dict[str, float]:
        """Examples and steps a second since this was last asked."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "examples_per_second": self._examples / seconds,
            "steps_per_second": self._steps / seconds,
        }
        self._mark()
        return rates

    def show(self, values: Mapping[str, float]) -> None:
        """Puts the loss and the speed behind the bar."""
        self._bar.set_postfix_str(
            f"loss {values['train/loss']:.4f}, {values['examples_per_second']:.1f} examples/s"
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the rates."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints one line of evaluation results."""
        text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._bar.write(f"step {step}: {text}", file=sys.stderr)
