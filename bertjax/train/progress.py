"""The progress bar of a run: on a terminal only; elsewhere one line an evaluation."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertjax.data.batching import Batch
from bertjax.distributed import is_first


class Progress:
    """Counts steps and examples, and shows them with ``tqdm`` where someone is watching."""

    def __init__(self, start: int, steps: int | None, name: str = "train"):
        from tqdm import tqdm

        quiet = not is_first() or not sys.stderr.isatty()
        self._bar = tqdm(initial=start, total=steps, desc=name, unit="step", disable=quiet)
        self._mark()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _mark(self) -> None:
        self._examples, self._tokens, self._steps, self._flops = 0, 0, 0, 0.0
        self._since = time.perf_counter()

    def advance(self, batch: Batch, flops: float = 0.0, share: float = 1.0) -> None:
        """Counts one step of a batch ``[micro-batches, …]``, or of one for each of several tasks.

        It has ``flops`` operations.

        ``share`` is the batch's, and so the operations', of what all processes have.
        """
        parts: list[Any] = list(batch.values())
        for part in parts if isinstance(parts[0], Mapping) else [batch]:
            entries = part["cls_row"] if "cls_row" in part else part["token_ids"][..., 0]
            self._examples += round(entries.size / share)
            if "segment_ids" in part:
                self._tokens += round(np.count_nonzero(part["segment_ids"]) / share)
        self._steps += 1
        self._flops += flops / share
        self._bar.update()

    def rates(self) -> dict[str, float]:
        """Examples (rows, in pretraining), tokens, steps and operations a second since asked."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "examples_per_second": self._examples / seconds,
            "tokens_per_second": self._tokens / seconds,
            "steps_per_second": self._steps / seconds,
        }
        if self._flops:
            rates["flops_per_second"] = self._flops / seconds
        self._mark()
        return rates

    def show(self, values: Mapping[str, float]) -> None:
        """Puts the loss and the speed behind the bar."""
        shown = f"loss {values['train/loss']:.4f}, {values['tokens_per_second']:,.0f} tokens/s"
        if "utilisation" in values:
            shown += f", {values['utilisation']:.1%} of peak"
        self._bar.set_postfix_str(shown)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the rates."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints one line of evaluation results."""
        if not is_first():
            return
        text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._bar.write(f"step {step}: {text}", file=sys.stderr)
