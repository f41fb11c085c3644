"""The order of tasks is a function of (seed, step), and each task's stream goes on where it was."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from bertjax.data.mixture import BLOCK, MixedStream, Mixture
from bertjax.data.pipeline import Stream

SIZES = (4000, 250, 10)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_tasks_are_drawn_by_their_size(alpha: float):
    """Within five standard deviations of a binomial's mean; at 1 as often as they have examples."""
    mixture, steps = Mixture(SIZES, alpha, seed=3), 10 * BLOCK + 7
    want = np.array(SIZES) ** alpha / (np.array(SIZES) ** alpha).sum()
    np.testing.assert_allclose(mixture.shares, want, rtol=1e-12)
    spread = np.sqrt(steps * want * (1 - want))
    assert (np.abs(mixture.counts(steps) - steps * want) < 5 * spread).all()


@pytest.mark.parametrize("step", [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_draws_and_counts_from_any_step(step: int):
    """What is drawn does not depend on where one begins, and is counted at once."""
    mixture = Mixture(SIZES, 0.5, seed=1)
    whole = list(islice(mixture.draws(0), step + 20))
    assert list(islice(mixture.draws(step), 20)) == whole[step:]
    assert mixture.counts(step).tolist() == [whole[:step].count(task) for task in range(3)]
    assert set(islice(mixture.draws(0), 1000)) == {0, 1, 2}


def test_seeds_differ():
    first, second = (list(islice(Mixture(SIZES, 0.0, seed).draws(0), 50)) for seed in (0, 1))
    assert first != second


def mixed(alpha: float = 0.5) -> MixedStream:
    """Two tasks whose examples are the numbers below 7 and, from 100, 12 more."""

    def join(examples: Any) -> dict[str, np.ndarray]:
        return {"token_ids": np.stack([example["token_ids"] for example in examples])}

    examples = {
        "small": [{"token_ids": np.array([i])} for i in range(7)],
        "large": [{"token_ids": np.array([100 + i])} for i in range(12)],
    }
    streams = {name: Stream(each, join, 4, seed=0) for name, each in examples.items()}
    return MixedStream(streams, alpha, seed=0)


def test_each_tasks_batches_are_its_own_stream():
    """One task a step, and the batches of a task are those it has alone, in order."""
    stream = mixed()
    found: dict[str, list[Any]] = {"small": [], "large": []}
    for batch in islice(stream.starting_at(0), 30):
        ((name, fields),) = batch.items()
        found[name].append(fields["token_ids"])
    assert min(map(len, found.values())) > 5
    for name, batches in found.items():
        alone = list(islice(stream.streams[name].starting_at(0), len(batches)))
        np.testing.assert_array_equal(batches, [batch["token_ids"] for batch in alone])


def test_resuming_gives_the_same_batches():
    whole = list(islice(mixed().starting_at(0), 20))
    for step in (1, 7, 13):
        for got, want in zip(islice(mixed().starting_at(step), 7), whole[step:], strict=False):
            assert got.keys() == want.keys()
            name = next(iter(want))
            np.testing.assert_array_equal(got[name]["token_ids"], want[name]["token_ids"])
