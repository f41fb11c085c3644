"""Heads of tokens, spans, choices and several labels: packed equals padded, on any devices."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.data.batching import Batcher, Encoded
from bertjax.losses import mean
from bertjax.models import Model
from bertjax.models.model import example_batch
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh
from bertjax.train.evaluate import Forward, example_loss
from bertjax.train.objectives import OBJECTIVES
from bertjax.types import HeadConfig, HeadKind, ModelConfig

LENGTH, WORDS, COUNT = 48, 40, 13
HEADS = {
    "classification": HeadConfig("classification", 3),
    "regression": HeadConfig("regression", 1),
    "multi_label": HeadConfig("multi_label", 4),
    "multiple_choice": HeadConfig("multiple_choice", 1),
    "token_classification": HeadConfig("token_classification", 5),
    "span": HeadConfig("span", 2),
}
KINDS: list[HeadKind] = [
    "classification", "regression", "multi_label", "multiple_choice", "token_classification", "span"
]  # fmt: skip


def text(random: np.random.Generator) -> dict[str, Any]:
    length = int(random.integers(3, LENGTH))
    return {
        "token_ids": random.integers(5, WORDS, length).astype(np.int32),
        "type_ids": (np.arange(length) > length // 2).astype(np.int32),
    }


def labelled(kind: HeadKind, random: np.random.Generator) -> Encoded:
    """An example of random tokens; a choice has two to five options."""
    example = text(random)
    length = len(example["token_ids"])
    match kind:
        case "multiple_choice":
            options = [text(random) for _ in range(random.integers(2, 6))]
            return {"options": options, "label": int(random.integers(len(options)))}
        case "token_classification":
            return example | {"token_labels": random.integers(-1, 5, length).astype(np.int32)}
        case "span":
            return example | {"label": np.sort(random.integers(0, length, 2)).astype(np.int32)}
        case "multi_label":
            return example | {"label": random.integers(0, 2, 4).astype(np.float32)}
        case "regression":
            return example | {"label": float(random.normal())}
        case _:
            return example | {"label": int(random.integers(3)), "weight": random.uniform(0.5, 2)}


def examples_of(kind: HeadKind) -> list[Encoded]:
    random = np.random.default_rng(0)
    return [labelled(kind, random) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def model() -> Model:
    config = ModelConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_positions=LENGTH,
        initializer_range=0.3,
    )
    return Model(config, tuple(HEADS.items()))


@pytest.fixture(scope="module")
def params(model: Model) -> Any:
    init = jax.jit(lambda key: model.init(key, example_batch(model.config), method="initialise"))
    return nn.unbox(init(jax.random.key(0))["params"])


@pytest.fixture(scope="module")
def outputs(model: Model, params: Any) -> dict[str, list[np.ndarray]]:
    """Of each kind of head the outputs for its examples, one example at a time."""
    return {
        kind: list(forward(model, kind, 1, 1, pack=False)(params, examples_of(kind)))
        for kind in KINDS
    }


def forward(model: Model, kind: str, devices: int, batch_size: int, pack: bool) -> Forward:
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    batcher = Batcher(batch_size, LENGTH, pack=pack, multiple=batch_divisor(mesh))
    return Forward(model, kind, batcher, mesh)


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_once_and_in_order(
    kind: HeadKind, model: Model, params: Any, outputs: dict[str, list[np.ndarray]]
):
    """On one device and on eight, packed or one at a time, the outputs are the same."""
    examples = examples_of(kind)
    alone = outputs[kind]
    for example, logits in zip(examples, alone, strict=True):
        length = len(example.get("token_ids", ()))
        shape = {
            "multiple_choice": (len(example.get("options", ())),),
            "token_classification": (length, 5),
            "span": (length, 2),
        }
        assert logits.shape == shape.get(kind, (HEADS[kind].size,))
    for devices, batch_size in ((1, 4), (8, 64)):
        found = list(forward(model, kind, devices, batch_size, pack=True)(params, examples))
        assert len(found) == COUNT
        for logits, wanted in zip(found, alone, strict=True):
            np.testing.assert_allclose(logits, wanted, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_training_is_that_of_each_example(
    kind: HeadKind, model: Model, params: Any, outputs: dict[str, list[np.ndarray]]
):
    """Packed or padded, in one batch or in micro-batches; and so are the gradients."""
    examples = examples_of(kind)
    pairs = zip(outputs[kind], examples, strict=True)
    parts = [example_loss(kind, *pair) for pair in pairs]
    wanted = sum(loss for loss, _ in parts) / sum(weight for _, weight in parts)
    objective = OBJECTIVES[kind](model, kind)

    @jax.jit
    def loss(params: Any, batch: Any) -> Any:
        return mean(objective(params, batch, None, jax.random.key(0))["loss"])

    gradients = []
    for pack in (True, False):
        batch = Batcher(COUNT + 3, LENGTH, pack=pack)(examples)
        found, gradient = jax.value_and_grad(loss)(params, jax.tree.map(jnp.asarray, batch))
        assert float(found) == pytest.approx(wanted, rel=1e-5)
        gradients.append(gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *gradients)


def test_nothing_but_an_examples_own_tokens_is_read(model: Model, params: Any):
    """A span's loss does not see the neighbours in its row, nor the padding."""
    examples = examples_of("span")
    objective = OBJECTIVES["span"](model, "span")
    batch = Batcher(COUNT, LENGTH)(examples)
    sums = objective(params, jax.tree.map(jnp.asarray, batch), None, jax.random.key(0))
    longest = max(len(example["token_ids"]) for example in examples)
    assert batch["token_ids"].shape[0] < COUNT, "rows are shared"
    assert 0 < float(mean(sums["loss"])) < 5 * np.log(longest)


def test_micro_batches_of_choices_have_one_shape():
    examples = examples_of("multiple_choice")
    batch = Batcher(7, LENGTH).micro_batches(examples, 2)
    assert batch["option_mask"].shape[:2] == (2, 7)
    assert batch["option_mask"].sum() == sum(len(example["options"]) for example in examples)
    assert batch["labels"].shape == (2, 7)
    assert batch["example_weight"].sum() == COUNT
