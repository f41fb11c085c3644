"""The train step: the same on any mesh, in any number of micro-batches, compiled once."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from bertjax.data.batching import Batch, Batcher, stack
from bertjax.losses import correct, cross_entropy, mean, squared_error
from bertjax.models import Dropout, Model
from bertjax.optim import OptimConfig, path_of
from bertjax.sharding import DEFAULT_RULES, MeshConfig, make_mesh, on_mesh, shard_batch
from bertjax.train.objectives import OBJECTIVES
from bertjax.train.state import TrainState, create_state, gradient_shardings
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import HeadConfig, ModelConfig, UserError

CONFIG = ModelConfig(
    vocab_size=48,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    intermediate_size=32,
    max_positions=32,
    initializer_range=0.2,
)
MODEL = Model(CONFIG, (("task", HeadConfig("classification", 3)),))
# A key's bias has no gradient but rounding (softmax ignores it), which Adam would blow up to the
# size of a step; the large eps keeps such noise small.
OPTIM = OptimConfig(learning_rate=1e-2, warmup_ratio=0.0, eps=1e-2)
DROPOUT = Dropout(0.1, 0.2, 0.3)
STEPS = 10
EXAMPLES = (16, 13, 3)
"""In each batch: the last ones leave whole devices without weight."""


def some_examples(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "token_ids": rng.integers(1, CONFIG.vocab_size, length).astype(np.int32),
            "type_ids": np.zeros(length, np.int32),
            "label": int(rng.integers(0, 3)),
        }
        for length in rng.integers(4, 17, count)
    ]


def batches(multiple: int, accumulation: int = 1, count: int = len(EXAMPLES)) -> list[Batch]:
    """All of one shape, so that each mesh compiles once."""
    sizes = [EXAMPLES[i % len(EXAMPLES)] for i in range(count)]
    batcher = Batcher(16 // accumulation, 32, multiple=multiple)
    stacked = stack(
        [
            batcher.micro_batches(some_examples(size, seed), accumulation)
            for seed, size in enumerate(sizes)
        ],
        pad_id=0,
    )
    return [{name: value[i] for name, value in stacked.items()} for i in range(count)]


@dataclasses.dataclass
class Runner:
    """The jitted step on one mesh."""

    mesh: Mesh
    rules: str = DEFAULT_RULES

    def __post_init__(self) -> None:
        self.start = create_state(MODEL, OPTIM, self.mesh, seed=0, rules=self.rules)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.start)
        objective = OBJECTIVES["classification"](MODEL, "task")
        gradients = gradient_shardings(MODEL, self.mesh, self.rules)
        step = make_train_step(objective, OPTIM, STEPS, gradient_shardings=gradients)
        self.step: Any = jax.jit(step, out_shardings=(shardings, None))

    def __call__(
        self, state: TrainState, batch: Batch, *, dropout: Dropout = DROPOUT, rate: float = 1e-2
    ) -> tuple[TrainState, dict[str, float]]:
        hyper = Hyper.of(dataclasses.replace(OPTIM, learning_rate=rate), dropout)
        with on_mesh(self.mesh):
            placed = shard_batch(batch, self.mesh, lead=1)
            state, metrics = self.step(state, placed, hyper, jax.random.key(1))
        return state, {name: float(value) for name, value in metrics.items()}

    def train(self, given: list[Batch], dropout: Dropout = DROPOUT) -> tuple[Any, list[Any]]:
        """Final parameters on the host, and the metrics of each step."""
        state, metrics = self.start, []
        for batch in given:
            state, values = self(state, batch, dropout=dropout)
            metrics.append(values)
        assert int(state.step) == len(given)
        return jax.device_get(state.params), metrics


@pytest.fixture(scope="module")
def single() -> Runner:
    """On one device."""
    return Runner(make_mesh(MeshConfig(), jax.devices()[:1]))


def assert_same_training(got: tuple[Any, list[Any]], want: tuple[Any, list[Any]]) -> None:
    """Losses, norms and parameters equal to 1e-5, relative to the largest of each array."""
    for values, expected in zip(got[1], want[1], strict=True):
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, rel=1e-5), name
    expected = dict(jax.tree_util.tree_leaves_with_path(want[0]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(got[0]):
        largest = np.abs(expected[path]).max()
        np.testing.assert_allclose(
            leaf, expected[path], rtol=0, atol=1e-5 * max(largest, 1e-2), err_msg=path_of(path)
        )


def test_micro_batches_equal_one_batch(single: Runner):
    """Their gradients are summed before the one division, though their weights differ."""
    off = Dropout(0.0, 0.0, 0.0)
    one, four = single.train(batches(1), off), single.train(batches(1, accumulation=4), off)
    assert_same_training(four, one)


def test_micro_batches_draw_different_dropout(single: Runner):
    batch = batches(1)[0]
    twice = {name: np.concatenate([value, value]) for name, value in batch.items()}
    _, once = single(single.start, batch)
    _, both = single(single.start, twice)
    assert once["loss"] != pytest.approx(both["loss"], rel=1e-5)
    off = Dropout(0.0, 0.0, 0.0)
    _, once = single(single.start, batch, dropout=off)
    _, both = single(single.start, twice, dropout=off)
    assert once["loss"] == pytest.approx(both["loss"], rel=1e-5)
    assert once["gradient_norm"] == pytest.approx(both["gradient_norm"], rel=1e-5)


def test_hyper_parameters_are_arrays(single: Runner):
    """Another learning rate or dropout has its effect without another compilation."""
    batch, off = batches(1)[0], Dropout(0.0, 0.0, 0.0)
    still, plain = single(single.start, batch, dropout=off, rate=0.0)
    compiled = single.step._cache_size()
    moved, dropped = single(single.start, batch, rate=1e-2)
    assert single.step._cache_size() == compiled
    assert plain["learning_rate"] == 0
    assert dropped["learning_rate"] == pytest.approx(1e-2)
    assert plain["loss"] != pytest.approx(dropped["loss"], rel=1e-4)
    unmoved = jax.tree.map(lambda a, b: bool((a == b).all()), still.params, single.start.params)
    assert all(jax.tree.leaves(unmoved))
    kernel = ("encoder", "layers", "mlp", "up", "kernel")
    before, after = single.start.params, moved.params
    for name in kernel:
        before, after = before[name], after[name]
    assert (np.asarray(before) != np.asarray(after)).mean() > 0.99


def test_each_step_draws_its_own_dropout(single: Runner):
    batch = batches(1)[0]
    first, one = single(single.start, batch, rate=0.0)
    _, two = single(first, batch, rate=0.0)
    _, again = single(single.start, batch, rate=0.0)
    assert one["loss"] == again["loss"]
    assert one["loss"] != pytest.approx(two["loss"], rel=1e-4)


def test_learning_rate_follows_the_schedule(single: Runner):
    _, metrics = single.train(batches(1))
    rates = [values["learning_rate"] for values in metrics]
    np.testing.assert_allclose(rates, [1e-2 * (1 - step / STEPS) for step in range(3)], rtol=1e-6)


def test_state_lies_on_the_mesh():
    """Parameters and their moments are split as the table says, the rest is whole."""
    state = create_state(MODEL, OPTIM, make_mesh(MeshConfig(2, 2, 2)), seed=0)
    specs = {
        path_of(tuple(key for key in path if isinstance(key, jax.tree_util.DictKey))): []
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        keys = tuple(key for key in path if isinstance(key, jax.tree_util.DictKey))
        specs[path_of(keys)].append(leaf.sharding.spec)
    expected = {
        "encoder/embeddings/word": PartitionSpec("tensor", "fsdp"),
        "encoder/embeddings/norm/scale": PartitionSpec(None),
        "encoder/layers/attention/query/kernel": PartitionSpec(None, "fsdp", "tensor", None),
        "encoder/layers/attention/output/kernel": PartitionSpec(None, "tensor", None, "fsdp"),
        "encoder/layers/mlp/down/kernel": PartitionSpec(None, "tensor", "fsdp"),
        "heads/task/kernel": PartitionSpec("fsdp", None),
    }
    for name, spec in expected.items():
        assert specs[name] == [spec] * 3, name  # parameter, first and second moment


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (8, 1, 2), (0, 1, 1)])
def test_impossible_meshes(shape: tuple[int, int, int]):
    with pytest.raises(UserError, match="does not multiply to the 8 devices here"):
        make_mesh(MeshConfig(*shape))


def test_losses_are_sums_and_weights(strict_dtypes: None):
    """Weight 0 does not count; nothing at all has mean 0."""
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    labels, weights = jnp.array([0, 0, 1]), jnp.array([1.0, 1.0, 0.0])
    total, weight = cross_entropy(logits, labels, weights)
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert float(weight) == 2
    assert tuple(map(float, correct(logits, labels, weights))) == (1, 2)
    pair = squared_error(jnp.array([1.0, 2.0, 9.0]), jnp.array([0.0, 4.0, 0.0]), weights)
    assert tuple(map(float, pair)) == (5, 2)
    assert float(mean(pair)) == 2.5
    assert float(mean((jnp.float32(0), jnp.float32(0)))) == 0
