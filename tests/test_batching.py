"""Batches: packing loses nothing, shapes are few, and every example is there once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.data.batching import Batch, Batcher, bucket, first_fit, round_up, stack
from bertjax.losses import mean
from bertjax.models import Model
from bertjax.models.model import example_batch
from bertjax.train.objectives import OBJECTIVES
from bertjax.types import HeadConfig, ModelConfig

CONFIG = ModelConfig(
    vocab_size=50,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    max_positions=64,
    initializer_range=0.2,
)
PAD = 3


def some_examples(lengths: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
    """Encoded examples with random tokens, types and labels."""
    rng = np.random.default_rng(seed)
    examples = []
    for length in lengths:
        example: dict[str, Any] = {
            "token_ids": rng.integers(4, CONFIG.vocab_size, length).astype(np.int32),
            "type_ids": np.sort(rng.integers(0, 2, length)).astype(np.int32),
        }
        example["label"] = int(rng.integers(0, 3))
        examples.append(example)
    return examples


def unpacked(batch: Batch) -> list[dict[str, Any]]:
    """The examples that a batch holds, read back from its arrays by [CLS] and segment."""
    examples = []
    for entry in np.flatnonzero(batch["example_weight"]):
        row, start = batch["cls_row"][entry], batch["cls_position"][entry]
        mine = batch["segment_ids"][row] == batch["segment_ids"][row, start]
        assert batch["segment_ids"][row, start] > 0
        assert np.flatnonzero(mine)[0] == start
        np.testing.assert_array_equal(batch["positions"][row, mine], np.arange(mine.sum()))
        found = {name: batch[name][row, mine] for name in ("token_ids", "type_ids")}
        examples.append(found | {"label": batch["labels"][entry]})
    return examples


def assert_holds(batch: Batch, examples: Sequence[dict[str, Any]]) -> None:
    """The batch holds exactly these examples, in order, and padding elsewhere."""
    assert batch["example_weight"].sum() == len(examples)
    for got, want in zip(unpacked(batch), examples, strict=True):
        for name in ("token_ids", "type_ids", "label"):
            np.testing.assert_array_equal(got[name], want[name])
    padding = batch["segment_ids"] == 0
    assert (~padding).sum() == sum(len(example["token_ids"]) for example in examples)
    assert (batch["token_ids"][padding] == PAD).all()
    for name in ("type_ids", "positions"):
        assert (batch[name][padding] == 0).all()


@pytest.mark.parametrize(
    ("row_length", "seeds"), [(1, range(5)), (7, range(40)), (64, range(40)), (128, range(40))]
)
def test_first_fit_places_everything_once(row_length: int, seeds: range):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, row_length + 1, rng.integers(0, 50)).tolist()
        places, rows = first_fit(lengths, row_length)
        used = np.zeros((rows, row_length), np.int32)
        segments: list[list[int]] = [[] for _ in range(rows)]
        for (row, start, segment), length in zip(places, lengths, strict=True):
            assert start + length <= row_length
            used[row, start : start + length] += 1
            segments[row].append(segment)
        assert used.max(initial=0) <= 1
        assert used.sum() == sum(lengths)
        for found in segments:
            assert sorted(found) == list(range(1, len(found) + 1))
        # Any two rows hold more than one row's worth, or they would be one.
        filled = used.sum(axis=1)
        assert all(a + b > row_length for a, b in itertools.combinations(filled, 2))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("multiple", [1, 3, 8])
def test_batches_hold_what_was_given(pack: bool, multiple: int):
    batcher = Batcher(10, 64, PAD, pack, multiple)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        examples = some_examples(rng.integers(1, 65, rng.integers(1, 11)).tolist(), seed)
        batch = batcher(examples)
        assert_holds(batch, examples)
        assert {len(array) % multiple for array in batch.values()} == {0}
        entries = {len(batch[name]) for name in ("cls_row", "cls_position", "labels")}
        assert entries == {len(batch["example_weight"])} == {round_up(10, multiple)}


def test_labels_keep_their_kind():
    batcher = Batcher(3, 64, PAD)
    numbers = [{**example, "label": 2.5} for example in some_examples([3, 4])]
    batch = batcher(numbers)
    assert batch["labels"].dtype == np.float32
    assert batch["labels"].tolist() == [2.5, 2.5, 0]
    assert batcher(some_examples([3, 4]))["labels"].dtype == np.int32
    hidden = [{k: v for k, v in example.items() if k != "label"} for example in numbers]
    assert batcher(hidden)["labels"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("multiple", [1, 8])
def test_buckets_are_few_and_near(multiple: int):
    counts = range(1, 1025)
    found = [bucket(count, multiple) for count in counts]
    assert len(set(found)) <= 4 * 10 + 2
    for count, size in zip(counts, found, strict=True):
        assert size >= count
        assert size % multiple == 0
        assert size <= round_up(-(-count * 5 // 4), multiple)
    assert bucket(0, multiple) == multiple
    assert found == sorted(found)


def test_a_run_has_a_handful_of_shapes():
    """Batches of 32 sentence pairs as long as MRPC's: few shapes, and little padding in them."""
    rng = np.random.default_rng(0)
    batcher, shapes, tokens, room = Batcher(32, 128, PAD), set(), 0, 0
    for _ in range(200):
        lengths = np.clip(rng.normal(53, 14, 32), 8, 128).astype(int)
        batch = batcher(some_examples(lengths.tolist()))
        shapes.add(batch["token_ids"].shape)
        tokens, room = tokens + lengths.sum(), room + batch["token_ids"].size
    assert len(shapes) <= 4
    assert tokens / room > 0.75


@pytest.mark.parametrize(
    ("count", "given"), [(1, 8), (4, 8), (4, 7), (4, 2)], ids=lambda value: str(value)
)
def test_micro_batches(count: int, given: int):
    batcher = Batcher(8 // count, 64, PAD, multiple=2)
    examples = some_examples(np.random.default_rng(0).integers(1, 65, given).tolist())
    stacked = batcher.micro_batches(examples, count)
    assert {len(array) for array in stacked.values()} == {count}
    share, held = -(-given // count), []
    for i in range(count):
        micro = {name: array[i] for name, array in stacked.items()}
        assert_holds(micro, examples[i * share : (i + 1) * share])
        held += unpacked(micro)
    assert len(held) == given


def test_stacking_pads_to_the_largest():
    batcher = Batcher(2, 512, PAD)
    batches = [batcher(some_examples([300])), batcher(some_examples([100, 90]))]
    stacked = stack(batches, PAD)
    assert stacked["token_ids"].shape == (2, 2, 512)
    assert_holds({name: array[0] for name, array in stacked.items()}, some_examples([300]))
    assert_holds({name: array[1] for name, array in stacked.items()}, some_examples([100, 90]))


def test_packed_equals_padded():
    """Loss and gradient of the same examples, dropout off."""
    examples = some_examples([5, 30, 12, 64, 1, 9, 22])
    model = Model(CONFIG, (("classes", HeadConfig("classification", 3)),), unroll=2)
    init = jax.jit(
        lambda key: model.init(key, example_batch(CONFIG), method="initialise")["params"]
    )
    params = nn.unbox(init(jax.random.key(0)))
    objective = OBJECTIVES["classification"](model, "classes")

    @jax.jit
    def loss_and_gradient(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            sums = objective(params, batch, None, jax.random.key(0))
            return mean(sums["loss"]), sums

        return jax.value_and_grad(loss, has_aux=True)(params)

    results = []
    for pack in (True, False):
        batch = Batcher(8, 64, PAD, pack)(examples)
        results.append(loss_and_gradient(params, jax.tree.map(jnp.asarray, batch)))
        assert (batch["segment_ids"].max() > 1) == pack
    ((packed, packed_sums), packed_gradient), ((padded, padded_sums), padded_gradient) = results
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    assert packed_sums["loss"][1] == padded_sums["loss"][1] > 0
    assert packed_sums["accuracy"][0] == padded_sums["accuracy"][0]
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(padded_gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest),
        packed_gradient,
        padded_gradient,
    )
