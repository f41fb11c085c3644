"""The pretraining step: the same on any mesh and in any number of micro-batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from test_step import assert_same_training
from tiny_pretraining import ARCHITECTURE, fields

from bertjax.models import Dropout
from bertjax.optim import OptimConfig
from bertjax.sharding import MeshConfig, make_mesh, on_mesh, shard_batch
from bertjax.train.pretrain import PretrainParts, assemble, batches
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.train.pretrain_models import make_objective
from bertjax.train.state import create_state
from bertjax.train.step import Hyper, make_train_step

STEPS = 3
SHAPE = ARCHITECTURE | {"initializer_range": 0.2}


def make_parts(data: Path, **changes: Any) -> PretrainParts:
    """Parts of a run of three steps of sixteen packed rows with a sentence task."""
    # As in test_step.py, the large eps keeps down what has no gradient but rounding.
    values = {"steps": STEPS, "batch_size": 16, "eps": 1e-2, "warmup_ratio": 0.0}
    values |= {"architecture": SHAPE, **changes}
    return assemble(PretrainConfig.from_mapping(fields(data, **values)))


def train(parts: PretrainParts, mesh: Mesh, dropout: Dropout | None) -> tuple[Any, list[Any]]:
    """Final parameters on the host, and the metrics of each step."""
    optim = parts.config.optim
    state = create_state(parts.trained, optim, mesh, seed=0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(make_objective(parts.config, parts.trained), optim, STEPS)
    jitted: Any = jax.jit(step, out_shardings=(shardings, None))
    metrics = []
    for batch in batches(parts, 0):
        with on_mesh(mesh):
            placed = shard_batch(batch, mesh, lead=1)
            state, values = jitted(state, placed, Hyper.of(optim, dropout), jax.random.key(1))
        metrics.append({name: float(value) for name, value in values.items()})
    return jax.device_get(state.params), metrics


@pytest.fixture(scope="module")
def one_device() -> Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "lamb"])
def test_every_mesh_equals_one_device(optimizer: str, tiny_prepared: Path, one_device: Mesh):
    """Rows are packed, dropout is on, and the devices' shares of masked tokens differ."""
    parts = make_parts(tiny_prepared, optimizer=optimizer)
    batch = next(batches(parts, 0))
    assert batch["segment_ids"].max() > 1
    shares = batch["prediction_weight"].reshape(8, -1).sum(axis=1)
    assert len(set(shares.tolist())) > 1
    dropout = Dropout(0.1, 0.2, 0.1)
    expected = train(parts, one_device, dropout)
    for shape in ((8, 1, 1), (2, 2, 2)):
        assert_same_training(train(parts, make_mesh(MeshConfig(*shape)), dropout), expected)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="packed"),
        pytest.param({"pack": False}, id="not packed", marks=pytest.mark.slow),
    ],
)
def test_micro_batches_equal_one_batch(
    changes: dict[str, Any], tiny_prepared: Path, one_device: Mesh
):
    """Each loss is divided by its weight in all micro-batches, though theirs differ."""
    parts = make_parts(tiny_prepared, accumulation=4, mesh={"data": 4, "tensor": 2}, **changes)
    batch = next(batches(parts, 0))
    counted = ["prediction_weight", *["example_weight"] * (not changes)]
    for name in counted:  # unpacked, every row is one pair
        weights = batch[name].reshape(4, -1).sum(axis=1)
        assert len(set(weights.tolist())) > 1, name
    whole = dataclasses.replace(parts, config=dataclasses.replace(parts.config, accumulation=1))
    assert_same_training(train(parts, one_device, None), train(whole, one_device, None))


def test_losses_are_means_over_what_counts(tiny_prepared: Path):
    """By hand: the mean over predicted tokens, plus the mean over labelled pairs."""
    parts = make_parts(tiny_prepared)
    model, batch = parts.model, jax.tree.map(lambda x: x[0], next(batches(parts, 0)))
    params = create_state(model, OptimConfig(), parts.mesh, seed=0).params
    objective = make_objective(parts.config, parts.trained)
    sums = objective(params, batch, None, jax.random.key(0))
    names = ("masked_lm", "next_sentence")
    logits: Any = model.apply({"params": params}, batch, names, method="all")
    for name, labels, weights in (
        ("masked_lm", "prediction_labels", "prediction_weight"),
        ("next_sentence", "labels", "example_weight"),
    ):
        scores = np.asarray(logits[name], np.float64)
        chances = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        losses, right = [], []
        for entry in np.flatnonzero(batch[weights].reshape(-1)):
            label = batch[labels].reshape(-1)[entry]
            losses.append(-np.log(chances[entry, label]))
            right.append(scores[entry].argmax() == label)
        total, weight = map(float, sums[f"{name}_loss"])
        assert weight == len(losses)
        assert total == pytest.approx(sum(losses), rel=1e-5)
        assert float(sums[f"{name}_accuracy"][0]) == sum(right)
    expected = sum(float(sums[f"{n}_loss"][0] / sums[f"{n}_loss"][1]) for n in names)
    assert float(objective.total(sums)) == pytest.approx(expected, rel=1e-6)
    scales = objective.scales(batch)  # what is differentiated
    minimised = sum(float(sums[name][0] * scale) for name, scale in scales.items())
    assert minimised == pytest.approx(expected, rel=1e-6)
