"""A checkpoint of one mesh is restored on another, to the last bit, and trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from test_checkpoint import assert_bit_equal
from test_pretrain_step import make_parts

from bertjax.checkpoint import Checkpoints
from bertjax.models import Dropout
from bertjax.sharding import MeshConfig, make_mesh, on_mesh, place, shard_batch
from bertjax.train.pretrain import PretrainParts, batches
from bertjax.train.pretrain_models import make_objective
from bertjax.train.state import TrainState, abstract_state, create_state
from bertjax.train.step import Hyper, make_train_step


def step_on(parts: PretrainParts, mesh: Mesh, state: TrainState, batch: Any) -> tuple[Any, float]:
    """The state after a step with dropout, and its loss."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(make_objective(parts.config, parts.trained), parts.config.optim, 3)
    jitted: Any = jax.jit(step, out_shardings=(shardings, None))
    hyper = Hyper.of(parts.config.optim, Dropout(0.1, 0.1, 0.1))
    with on_mesh(mesh):
        state, metrics = jitted(state, shard_batch(batch, mesh, 1), hyper, jax.random.key(1))
    return state, float(metrics["loss"])


@pytest.fixture(scope="module")
def saved(
    tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PretrainParts, Checkpoints, TrainState, float]]:
    """A run on 8 x 1 x 1: its state after a step, saved, and the loss of the next."""
    parts, mesh = make_parts(tiny_prepared), make_mesh(MeshConfig(8, 1, 1))
    first, second = itertools.islice(batches(parts, 0), 2)
    state = create_state(parts.trained, parts.config.optim, mesh, seed=0)
    state, _ = step_on(parts, mesh, state, first)
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run"))
    checkpoints.save(1, state.params, state.optimizer, {"position": {}})
    checkpoints.wait()
    yield parts, checkpoints, state, step_on(parts, mesh, state, second)[1]
    checkpoints.close()


@pytest.mark.parametrize(("shape", "devices"), [((1, 4, 2), 8), ((2, 2, 2), 8), ((1, 1, 1), 1)])
def test_another_mesh(shape: tuple[int, int, int], devices: int, saved: Any):
    parts, checkpoints, state, loss = saved
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[:devices])
    empty = create_state(parts.trained, parts.config.optim, mesh, seed=7)
    shapes = abstract_state(empty)
    found = checkpoints.restore(1, shapes.params, shapes.optimizer)
    assert_bit_equal((found.params, found.optimizer), (state.params, state.optimizer))
    for got, want in zip(jax.tree.leaves(found.params), jax.tree.leaves(empty.params), strict=True):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)
    step = place(np.array(found.step, np.int32), shapes.step.sharding)
    restored = TrainState(step, found.params, found.optimizer)
    second = next(batches(parts, 1))
    assert step_on(parts, mesh, restored, second)[1] == pytest.approx(loss, rel=1e-6)
