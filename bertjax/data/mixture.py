"""Several streams in one: which task a step trains is a function of (seed, step).

A task is drawn with probability proportional to ``size ** alpha``, size being its number of
training examples: 1 is proportional to them, 0 is every task alike (Raffel et al. 2020, section
3.5.2, whose temperature is ``1 / alpha``; their limit of the sizes is left out).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from bertjax.data.batching import Batch
from bertjax.data.pipeline import Stream

BLOCK = 4096
"""Steps that are drawn at a time, from a generator of their own."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The order of tasks: an endless sequence of draws, any part of which is made at once."""

    sizes: tuple[int, ...]
    """Training examples of each task."""
    alpha: float
    seed: int

    @property
    def shares(self) -> np.ndarray:
        """The probability of each task, float64 ``[tasks]``."""
        weights = np.array(self.sizes, np.float64) ** self.alpha
        return weights / weights.sum()

    def draws(self, step: int) -> Iterator[int]:
        """The tasks, by number, of the steps from ``step`` on."""
        for block in count(step // BLOCK):
            first = max(step - block * BLOCK, 0)
            yield from self._block(block)[first:].tolist()

    def counts(self, step: int) -> np.ndarray:
        """How often each task was drawn before ``step``, int64 ``[tasks]``."""
        total = np.zeros(len(self.sizes), np.int64)
        for block in range(-(-step // BLOCK)):
            drawn = self._block(block)[: step - block * BLOCK]
            total += np.bincount(drawn, minlength=len(self.sizes))
        return total

    def _block(self, block: int) -> np.ndarray:
        uniform = np.random.default_rng([self.seed, block]).random(BLOCK)
        return np.searchsorted(np.cumsum(self.shares)[:-1], uniform, side="right")


@dataclasses.dataclass(frozen=True)
class MixedStream:
    """Batches of one task a step, as ``{task: batch}``.

    Each task's own stream goes on where it was when the task was last drawn, so the state is still
    one number: the step.
    """

    streams: Mapping[str, Stream]
    alpha: float
    seed: int

    @property
    def mixture(self) -> Mixture:
        """The order of the tasks."""
        sizes: Sequence[int] = [len(stream.examples) for stream in self.streams.values()]
        return Mixture(tuple(sizes), self.alpha, self.seed)

    def starting_at(self, step: int) -> Iterator[dict[str, Batch]]:
        """Batches from step ``step`` on; a task's are made ahead from its first draw on."""
        names, counts = list(self.streams), self.mixture.counts(step).tolist()
        opened: dict[str, Iterator[Batch]] = {}
        for task in self.mixture.draws(step):
            name = names[task]
            if name not in opened:
                opened[name] = self.streams[name].starting_at(counts[task])
            yield {name: next(opened[name])}
