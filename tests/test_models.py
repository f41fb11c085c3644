"""The encoder: its parameter tree, its execution, its dropout, and who attends whom."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models import PRESETS, Dropout, Model
from bertjax.models.layers import drop
from bertjax.models.model import example_batch
from bertjax.optim import path_of
from bertjax.types import HeadConfig, ModelConfig, UserError

TINY = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    max_positions=32,
)
HEADS = (
    ("classes", HeadConfig("classification", 3)),
    ("score", HeadConfig("regression", 1)),
    ("next", HeadConfig("next_sentence", 2)),
    ("masked", HeadConfig("masked_lm")),
)

# Shape and axis names of every parameter of BERT. V vocabulary, P positions, T types, D width,
# E width of the tables, N heads, H head width, F feed-forward width, S layers (stacked); a number
# is itself.
GOLDEN = {
    "encoder/embeddings/norm/bias": ("E", "norm"),
    "encoder/embeddings/norm/scale": ("E", "norm"),
    "encoder/embeddings/position": ("P E", "position embed"),
    "encoder/embeddings/type": ("T E", "type embed"),
    "encoder/embeddings/word": ("V E", "vocab embed"),
    "encoder/layers/attention/key/bias": ("S N H", "layers heads kv"),
    "encoder/layers/attention/key/kernel": ("S D N H", "layers embed heads kv"),
    "encoder/layers/attention/norm/bias": ("S D", "layers norm"),
    "encoder/layers/attention/norm/scale": ("S D", "layers norm"),
    "encoder/layers/attention/output/bias": ("S D", "layers embed"),
    "encoder/layers/attention/output/kernel": ("S N H D", "layers heads kv embed"),
    "encoder/layers/attention/query/bias": ("S N H", "layers heads kv"),
    "encoder/layers/attention/query/kernel": ("S D N H", "layers embed heads kv"),
    "encoder/layers/attention/value/bias": ("S N H", "layers heads kv"),
    "encoder/layers/attention/value/kernel": ("S D N H", "layers embed heads kv"),
    "encoder/layers/mlp/down/bias": ("S D", "layers embed"),
    "encoder/layers/mlp/down/kernel": ("S F D", "layers mlp embed"),
    "encoder/layers/mlp/norm/bias": ("S D", "layers norm"),
    "encoder/layers/mlp/norm/scale": ("S D", "layers norm"),
    "encoder/layers/mlp/up/bias": ("S F", "layers mlp"),
    "encoder/layers/mlp/up/kernel": ("S D F", "layers embed mlp"),
    "encoder/pooler/bias": ("D", "embed_out"),
    "encoder/pooler/kernel": ("D D", "embed embed_out"),
    "heads/classes/bias": ("3", "classes"),
    "heads/classes/kernel": ("D 3", "embed classes"),
    "heads/masked/bias": ("V", "vocab"),
    "heads/masked/dense/bias": ("E", "embed_out"),
    "heads/masked/dense/kernel": ("D E", "embed embed_out"),
    "heads/masked/norm/bias": ("E", "norm"),
    "heads/masked/norm/scale": ("E", "norm"),
    "heads/next/bias": ("2", "classes"),
    "heads/next/kernel": ("D 2", "embed classes"),
    "heads/score/bias": ("1", "classes"),
    "heads/score/kernel": ("D 1", "embed classes"),
}
PROJECTION = {
    "encoder/embeddings/projection/bias": ("D", "embed"),
    "encoder/embeddings/projection/kernel": ("E D", "embed_in embed"),
}
DENSE = {
    f"heads/{head}/dense/{name}": found
    for head in ("classes", "score")
    for name, found in (("bias", ("D", "embed_out")), ("kernel", ("D D", "embed embed_out")))
}
# Family: parameters that BERT does not have, and the beginnings of those that BERT alone has.
DIFFERENCES: dict[str, tuple[dict[str, tuple[str, str]], tuple[str, ...]]] = {
    "bert": ({}, ()),
    "roberta": (DENSE, ()),
    "xlm-roberta": (DENSE, ()),
    "camembert": (DENSE, ()),
    "albert": (PROJECTION, ()),
    "distilbert": (DENSE, ("encoder/pooler", "encoder/embeddings/type")),
    "electra": (DENSE | PROJECTION, ("encoder/pooler",)),
}
# As published: Devlin et al. 2019 and the model cards of Turc et al. 2019.
ENCODER_SIZES = {
    "bert_tiny": 4_385_920,
    "bert_mini": 11_170_560,
    "bert_small": 28_763_648,
    "bert_medium": 41_373_184,
    "bert_base": 109_482_240,
    "bert_base_cased": 108_310_272,
    "bert_large": 335_141_888,
}


def sizes(config: ModelConfig) -> dict[str, int]:
    """What the letters of GOLDEN stand for."""
    return {
        "V": config.vocab_size,
        "P": config.max_positions,
        "T": config.type_vocab_size,
        "D": config.hidden_size,
        "E": config.embedding_size or config.hidden_size,
        "N": config.num_heads,
        "H": config.hidden_size // config.num_heads,
        "F": config.intermediate_size,
        "S": 1 if config.model_type == "albert" else config.num_layers,
    }


def boxed_shapes(model: Model) -> dict[str, Any]:
    """Path to the boxed shape of each parameter; nothing is computed."""
    tree = jax.eval_shape(
        lambda: model.init(jax.random.key(0), example_batch(model.config), method="initialise")
    )["params"]
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
    return {path_of(path): leaf for path, leaf in leaves}


def some_batch(config: ModelConfig, segments: np.ndarray) -> dict[str, jax.Array]:
    """Random tokens laid out by ``segments [rows, length]``; each row an example."""
    rng = np.random.default_rng(1)
    rows, length = segments.shape
    prediction_row, prediction_position = np.nonzero(segments >= 0)
    batch = {
        "token_ids": rng.integers(1, config.vocab_size, segments.shape),
        "type_ids": rng.integers(0, config.type_vocab_size, segments.shape),
        "segment_ids": segments,
        "positions": np.broadcast_to(np.arange(length), segments.shape),
        "cls_row": np.arange(rows),
        "cls_position": np.zeros(rows, np.int64),
        "prediction_row": prediction_row,
        "prediction_position": prediction_position,
    }
    return {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}


def some_params(model: Model) -> Any:
    """Random parameters in which nothing is zero or one."""
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), example_batch(model.config), method="initialise")
    )["params"]
    rng = np.random.default_rng(0)

    def fill(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        centre = 1.0 if path_of(path).endswith("scale") else 0.0
        return jnp.asarray(rng.normal(centre, 0.2, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, nn.unbox(shapes))


@pytest.fixture(scope="module")
def params() -> Any:
    return some_params(Model(TINY, HEADS))


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_tree(name: str):
    config = PRESETS[name]
    letters = sizes(config)
    shapes = boxed_shapes(Model(config, HEADS))
    more, fewer = DIFFERENCES[config.model_type]
    if letters["E"] == letters["D"]:  # ELECTRA base and large
        more = {path: found for path, found in more.items() if path not in PROJECTION}
    expected = {
        path: (tuple(letters.get(x) or int(x) for x in shape.split()), tuple(axes.split()))
        for path, (shape, axes) in (GOLDEN | more).items()
        if not path.startswith(fewer)
    }
    assert {path: (leaf.value.shape, leaf.names) for path, leaf in shapes.items()} == expected
    assert {leaf.value.dtype for leaf in shapes.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", ENCODER_SIZES)
def test_presets_have_the_published_size(name: str):
    shapes = boxed_shapes(Model(PRESETS[name]))
    assert sum(leaf.value.size for leaf in shapes.values()) == ENCODER_SIZES[name]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_presets_run_in_shapes(name: str, dtype: Any):
    config = PRESETS[name]
    model = Model(config, HEADS, dtype)
    batch = example_batch(config, rows=2, length=512)
    shapes = nn.unbox(
        jax.eval_shape(lambda: model.init(jax.random.key(0), batch, method="initialise"))
    )
    hidden = jax.eval_shape(lambda v: model.apply(v, batch, method="encode"), shapes)
    assert (hidden.shape, hidden.dtype) == ((2, 512, config.hidden_size), jnp.float32)
    for head, width in (("classes", 3), ("score", 1), ("next", 2), ("masked", config.vocab_size)):
        logits = jax.eval_shape(lambda v, head=head: model.apply(v, batch, head), shapes)
        assert (logits.shape, logits.dtype) == ((2, width), jnp.float32)


def test_without_pooler_the_first_state_is_the_vector():
    config = dataclasses.replace(TINY, num_layers=1, pooler=False)
    model = Model(config, HEADS[:1])
    assert not [path for path in boxed_shapes(model) if "pooler" in path]
    tree = some_params(model)
    batch = some_batch(config, np.ones((2, 4), np.int32))
    hidden = jax.jit(lambda p: model.apply({"params": p}, batch, method="encode"))(tree)
    got = jax.jit(lambda p: model.apply({"params": p}, batch, "classes"))(tree)
    head = tree["heads"]["classes"]
    want = hidden[:, 0] @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_width_must_be_divisible_by_heads():
    with pytest.raises(UserError, match="hidden_size 16 is not divisible by num_heads 3"):
        dataclasses.replace(TINY, num_heads=3)


def loss_and_gradient(model: Model, params: Any) -> tuple[Any, Any]:
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    batch = some_batch(TINY, segments)

    def loss(params: Any) -> jax.Array:
        rngs, rates = {"dropout": jax.random.key(3)}, Dropout(0.2, 0.3, 0.1)
        logits: Any = model.apply({"params": params}, batch, "masked", rates, rngs=rngs)
        return logits.var()

    return jax.jit(jax.value_and_grad(loss))(params)


def test_unrolled_equals_scanned(params: Any):
    """The layout of the parameters and the random streams are the same."""
    scanned = loss_and_gradient(Model(TINY, HEADS, unroll=1), params)
    unrolled = loss_and_gradient(Model(TINY, HEADS, unroll=TINY.num_layers), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scanned, unrolled
    )


def test_every_layer_and_place_draws_its_own_dropout(params: Any):
    """A bias before dropout has gradient 0 exactly where its one token's unit was dropped."""
    model, batch = Model(TINY, HEADS), some_batch(TINY, np.ones((1, 1), np.int32))

    def loss(params: Any, seed: int) -> jax.Array:
        rngs, rates = {"dropout": jax.random.key(seed)}, Dropout(0.5, 0, 0)
        logits: Any = model.apply({"params": params}, batch, "masked", rates, rngs=rngs)
        return logits.var()

    patterns = set()
    gradients = jax.jit(jax.grad(loss))
    for seed in (0, 1):
        layers = gradients(params, seed)["encoder"]["layers"]
        for gradient in (layers["attention"]["output"]["bias"], layers["mlp"]["down"]["bias"]):
            patterns |= {tuple(unit == 0) for unit in np.asarray(gradient)}
    assert len(patterns) == 2 * 2 * TINY.num_layers
    assert 0.3 < np.mean(list(patterns)) < 0.7


def test_bfloat16_is_close(params: Any):
    batch = some_batch(TINY, np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]))
    exact, rough = (
        jax.jit(Model(TINY, HEADS, dtype).apply, static_argnums=2)(
            {"params": params}, batch, "masked"
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    difference = np.abs(exact - rough).max()
    assert 0 < difference < 0.03 * np.abs(exact).max()


def test_segments_attend_only_themselves(params: Any):
    """Changing the tokens of one segment, padding included, moves its own states and no others."""
    segments = np.array([[1, 1, 2, 2, 2, 0, 0, 1]])
    batch = some_batch(TINY, segments)
    model = Model(TINY, HEADS)
    encode = jax.jit(lambda batch: model.apply({"params": params}, batch, method="encode"))
    before = np.asarray(encode(batch))
    for changed in (0, 1, 2):
        others = (batch["token_ids"] % (TINY.vocab_size - 1)) + 1
        mine = jnp.asarray(segments == changed)
        tokens = jnp.where(mine, others, batch["token_ids"])
        after = np.asarray(encode(batch | {"token_ids": tokens}))
        moved = (before != after).any(axis=-1)
        np.testing.assert_array_equal(moved, segments == changed)


class Dropper(nn.Module):
    """Only dropout."""

    def __call__(self, x: jax.Array, rate: Any) -> jax.Array:
        return drop(self, x, rate)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("width", [7, 64])
def test_dropout_statistics(rate: float, width: int):
    """The share of zeros is the rate, the mean is kept; 5 standard errors of a fixed draw."""
    shape = (1 << 15, width)
    count = shape[0] * shape[1]
    rngs = {"dropout": jax.random.key(0)}
    y = np.asarray(Dropper().apply({}, jnp.ones(shape), rate, rngs=rngs), np.float64)
    assert abs((y == 0).mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / count) + 1e-5
    assert abs(y.mean() - 1) <= 5 * np.sqrt(rate / (1 - rate) / count) + 1e-6
    assert len(np.unique(y)) == (1 if rate == 0 else 2)
    for apart in (1, -(-width // 2)):  # neighbours, and the two halves of a random word
        together = np.mean((y[:, :-apart] == 0) & (y[:, apart:] == 0))
        assert abs(together - rate**2) <= 5 * np.sqrt(rate**2 / (count / 2)) + 1e-5


def test_dropout_needs_no_more_rows_than_it_has():
    """Rows added as padding leave the draw of the others as it is (so do devices, then)."""
    rngs = {"dropout": jax.random.key(0)}
    few = Dropper().apply({}, jnp.ones((3, 5, 8)), 0.5, rngs=rngs)
    many = Dropper().apply({}, jnp.ones((8, 5, 8)), 0.5, rngs=rngs)
    np.testing.assert_array_equal(few, many[:3])


def test_dropout_of_config():
    rates = Dropout.of(dataclasses.replace(TINY, hidden_dropout=0.2, attention_dropout=0.3))
    assert (rates.hidden, rates.attention, rates.classifier) == (0.2, 0.3, 0.2)
    rates = Dropout.of(dataclasses.replace(TINY, classifier_dropout=0.0))
    assert rates.classifier == 0.0
