"""The input stream, a function of (seed, global example index) and of nothing else.

Grain shuffles and repeats the examples, which are batched in that order.
So the same batches come on any number of processes, and the state of the stream is one number: the
step. Every process encodes the whole batch, because how examples share rows follows from the
lengths of all of them; its devices then get their rows of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import grain

from bertjax.data.batching import Batch, Encoded


@dataclasses.dataclass(frozen=True)
class Stream:
    """An endless, shuffled stream of training batches.

    ``examples`` is anything with ``len`` and an index; ``batch`` makes a batch from the examples of
    a step.
    """

    examples: Sequence[Encoded]
    batch: Callable[[Sequence[Encoded]], Batch]
    batch_size: int
    seed: int

    def starting_at(self, step: int) -> Iterator[Batch]:
        """Batches from step ``step`` on, made ahead in threads."""
        source = grain.MapDataset.source(_Source(self.examples))
        examples = source.shuffle(seed=self.seed).repeat()
        batches = examples.batch(self.batch_size, batch_fn=self.batch)[step:]
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        return iter(batches.to_iter_dataset(options))


class _Source:
    """A sequence as Grain sees it."""

    def __init__(self, records: Sequence[Any]):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._records[int(index)]

    def __repr__(self) -> str:
        return f"{type(self._records).__name__}({len(self._records)})"


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items in order; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
