"""Rows that hold several examples mean the same as one example a row."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.data.pretraining import RowFormat, micro_batches
from bertjax.models import Model
from bertjax.models.model import example_batch
from bertjax.train.objectives import pretraining
from bertjax.types import HeadConfig, ModelConfig

CONFIG = ModelConfig(
    vocab_size=60,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_positions=64,
    initializer_range=0.3,
)
HEADS = (("masked_lm", HeadConfig("masked_lm")), ("next_sentence", HeadConfig("next_sentence", 2)))
LENGTHS = ((20, 25, 9), (40, 22), (64,))
LABELS = ((0, 1, -1), (1, 0), (1,))
FORM = RowFormat(length=64, predictions=12, examples=4, pad_id=0, cls_id=1, sep_id=2)


def an_example(length: int, label: int, generator: np.random.Generator) -> dict[str, Any]:
    """Random tokens, some of them to be predicted."""
    positions = np.sort(generator.choice(np.arange(1, length), 3, replace=False)).astype(np.int32)
    return {
        "token_ids": generator.integers(3, 60, length).astype(np.int32),
        "type_ids": (np.arange(length) > length // 2).astype(np.int32),
        "label": label,
        "prediction_positions": positions,
        "prediction_labels": generator.integers(3, 60, 3).astype(np.int32),
    }


def rows_of(groups: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """A batch with one row a group."""
    rows = []
    for group in groups:
        joined = FORM.join(group)
        starts = joined["starts"]
        places = [e["prediction_positions"] + s for e, s in zip(group, starts, strict=True)]
        labels = [e["prediction_labels"] for e in group]
        masked = {
            "prediction_positions": np.concatenate(places),
            "prediction_labels": np.concatenate(labels),
        }
        rows.append(FORM.finish({**joined, **masked}))
    return {name: value[0] for name, value in micro_batches(rows, 1).items()}


@pytest.fixture(scope="module")
def batches() -> tuple[dict[str, Any], dict[str, Any]]:
    """The same examples, sharing rows and each in its own."""
    generator = np.random.default_rng(0)
    groups = [
        [an_example(length, label, generator) for length, label in zip(*pair, strict=True)]
        for pair in zip(LENGTHS, LABELS, strict=True)
    ]
    return rows_of(groups), rows_of([[example] for group in groups for example in group])


def test_packed_rows_equal_single_ones(batches: tuple[dict[str, Any], dict[str, Any]]):
    """Every sum, every weight, and the gradient of the loss, dropout off."""
    packed, single = batches
    assert packed["segment_ids"].max() == 3
    assert single["segment_ids"].max() == 1
    model = Model(CONFIG, HEADS, unroll=2)
    variables: Any = model.init(jax.random.key(0), example_batch(CONFIG), method="initialise")
    params = nn.unbox(variables["params"])
    objective = pretraining(model)

    def loss(params: Any, batch: Any) -> Any:
        sums = objective(params, batch, None, jax.random.key(0))
        return objective.total(sums), sums

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (one, one_sums), one_gradient = step(params, jax.tree.map(jnp.asarray, packed))
    (two, two_sums), two_gradient = step(params, jax.tree.map(jnp.asarray, single))
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert float(one_sums["next_sentence_loss"][1]) == 5  # the unlabelled one weighs nothing
    assert float(one_sums["masked_lm_loss"][1]) == 18
    for name, pair in one_sums.items():
        np.testing.assert_allclose(pair, two_sums[name], rtol=1e-5, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(two_gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest),
        one_gradient,
        two_gradient,
    )


def test_another_example_in_the_row_does_not_matter(
    batches: tuple[dict[str, Any], dict[str, Any]],
):
    """The logits of the first example stay, whatever its neighbours hold."""
    packed = batches[0]
    changed = {**packed, "token_ids": packed["token_ids"].copy()}
    changed["token_ids"][0, LENGTHS[0][0] :] = 7
    model = Model(CONFIG, HEADS, unroll=2)
    variables: Any = model.init(jax.random.key(0), example_batch(CONFIG), method="initialise")
    params = {"params": nn.unbox(variables["params"])}
    first, second = (
        np.asarray(model.apply(params, jax.tree.map(jnp.asarray, batch), "next_sentence"))
        for batch in (packed, changed)
    )
    np.testing.assert_allclose(first[0], second[0], atol=1e-6)
    assert np.abs(first[1] - second[1]).max() > 1e-3
