"""The input stream is a function of (seed, step)."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from bertjax.data.pipeline import Stream, chunks

RECORDS = [f"record {i}" for i in range(21)]
BATCH = 8


def encode(record: str) -> dict[str, Any]:
    return {"token_ids": np.array([int(record.split()[1])])}


def join(examples: Any) -> dict[str, np.ndarray]:
    return {"token_ids": np.stack([example["token_ids"] for example in examples])}


def read(step: int, count: int, *, seed: int = 0) -> list[np.ndarray]:
    """``count`` batches from ``step`` on."""
    stream = Stream([encode(record) for record in RECORDS], join, BATCH, seed)
    return [batch["token_ids"] for batch in islice(stream.starting_at(step), count)]


def test_resuming_gives_the_same_batches():
    """At any step, in the middle of an epoch too."""
    whole = read(0, 12)
    for step in range(9):
        for got, want in zip(read(step, 3), whole[step:], strict=False):
            np.testing.assert_array_equal(got, want)


def test_far_steps_are_reached_at_once():
    """The position is an index, not a number of batches to skip."""
    far = 10_000_000
    np.testing.assert_array_equal(read(far, 2)[1], read(far + 1, 1)[0])


def test_epochs_are_permutations():
    """Each epoch holds every record once, in an order of its own; no example is dropped."""
    order = np.concatenate(read(0, 8))[:, 0][: 3 * len(RECORDS)]
    epochs = order.reshape(3, len(RECORDS))
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(RECORDS)))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert tuple(epochs[0]) != tuple(range(len(RECORDS)))


def test_the_seed_decides_the_order():
    assert not np.array_equal(read(0, 2, seed=0)[0], read(0, 2, seed=1)[0])
    np.testing.assert_array_equal(read(0, 1, seed=1)[0], read(0, 1, seed=1)[0])


def test_chunks():
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []
    taken: list[int] = []
    first = next(chunks((taken.append(i) or i for i in range(9)), 2))
    assert first == [0, 1]
    assert taken == [0, 1]  # no more is read than is wanted
