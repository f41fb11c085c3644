"""Layers that are computed again in the backward pass: the same numbers with less memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import SEGMENTS, assert_close, model_gradients
from test_models import HEADS, TINY, loss_and_gradient, some_batch, some_params
from tiny_pretraining import fields

from bertjax.models import Dropout, Model
from bertjax.models.encoder import Remat
from bertjax.models.model import all_states
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train.execution import execution
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.types import ModelConfig, UserError

SHARED = dataclasses.replace(TINY, num_layers=4, layer_groups=2, inner_layers=2)
"""As ALBERT: two groups of two layers, each group run twice."""


@pytest.mark.parametrize(
    ("config", "cases"),
    [(TINY, [("full", 1), ("full", 2)]), (SHARED, [("dots", 1)])],
    ids=["own layers", "shared layers"],
)
def test_loss_and_gradient_are_the_same(config: ModelConfig, cases: list[tuple[Remat, int]]):
    """With dropout on: what is computed again draws the same random numbers."""
    params = some_params(Model(config, HEADS))
    want = loss_and_gradient(Model(config, HEADS), params)
    for remat, unroll in cases:
        got = loss_and_gradient(Model(config, HEADS, unroll=unroll, remat=remat), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_with_splash_the_same():
    config = dataclasses.replace(TINY, max_positions=128)
    params, batch = some_params(Model(config, HEADS)), some_batch(config, SEGMENTS[1:3, :128])
    rates = jax.tree.map(jnp.float32, Dropout(0.2, 0.0, 0.1))
    got, want = (
        model_gradients(Model(config, HEADS, attention="splash", remat=remat), params, batch, rates)
        for remat in ("dots", "none")
    )
    assert_close(got, want)


def test_memory_shrinks():
    """Temporaries of the compiled gradient."""
    config = dataclasses.replace(
        TINY, num_layers=4, hidden_size=32, intermediate_size=128, max_positions=128
    )
    batch = some_batch(config, np.ones((8, 128), np.int32))
    sizes = {remat: temporaries(config, batch, remat) for remat in ("none", "dots", "full")}
    assert sizes["full"] < 0.8 * sizes["dots"], sizes
    assert sizes["dots"] < 0.8 * sizes["none"], sizes


def temporaries(config: ModelConfig, batch: Any, remat: Remat) -> int:
    """Bytes that the compiled gradient of a loss takes beside its arguments and results."""
    model = Model(config, HEADS, remat=remat)

    def loss(params: Any) -> Any:
        hidden: Any = model.apply({"params": params}, batch, method="encode")
        return hidden.var()

    shapes = jax.eval_shape(lambda: some_params(Model(config, HEADS)))
    memory: Any = jax.jit(jax.grad(loss)).lower(shapes).compile().memory_analysis()
    return memory.temp_size_in_bytes


def test_states_are_captured_all_the_same():
    batch = some_batch(TINY, np.ones((1, 8), np.int32))
    params = some_params(Model(TINY, HEADS))
    got = all_states(Model(TINY, HEADS, remat="full"), params, batch)
    jax.tree.map(np.testing.assert_array_equal, got, all_states(Model(TINY, HEADS), params, batch))


def test_config_field():
    mesh = make_mesh(MeshConfig())
    config = PretrainConfig.from_mapping(fields("data", unroll=0, remat="dots"))
    assert config.unroll == 0
    how = execution(config, TINY, mesh, 128)
    assert (how["remat"], how["unroll"]) == ("dots", 1)  # unrolled on a CPU, it saves nothing
    with pytest.raises(UserError, match="'remat': unknown 'all'; known: dots, full, none"):
        PretrainConfig.from_mapping(fields("data", remat="all"))
