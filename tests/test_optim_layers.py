"""LAMB and Muon on stacked layers equal optax's own on parameters that are not stacked."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.checkpoint import Checkpoints
from bertjax.models import PRESETS, Model
from bertjax.models.model import example_batch
from bertjax.optim import OPTIMIZERS, OptimConfig, matrix_axes, optimizer, path_of
from bertjax.optim.lamb import trust_ratio
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train.state import TrainState, abstract_state, create_state
from bertjax.types import HeadConfig, ModelConfig

BERT = ModelConfig(
    vocab_size=48,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    intermediate_size=32,
    max_positions=24,
    initializer_range=0.2,
)
ALBERT = dataclasses.replace(BERT, num_layers=4, embedding_size=8, layer_groups=2)
MODELS = {
    "bert": BERT,
    "albert": ALBERT,
    "albert with inner layers": dataclasses.replace(ALBERT, inner_layers=2),
}
HEADS = (("masked_lm", HeadConfig("masked_lm")), ("pairs", HeadConfig("next_sentence", 2)))
RATES = (0.02, 0.05, 0.01)
DECAY = 0.1

Flat = dict[str, np.ndarray]
Chain = Callable[[Any, Any], optax.GradientTransformation]
"""Of a learning rate and a decay."""


def real_params(config: ModelConfig) -> Any:
    """A model's, as a run begins with them: biases are 0, norms are 1."""
    model = Model(config, HEADS)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), example_batch(config), method="initialise")
    )
    rng = np.random.default_rng(0)

    def value(key_path: tuple[Any, ...], leaf: Any) -> jax.Array:
        start = {"bias": 0.0, "scale": 1.0}.get(key_path[-1].key)
        if start is not None:
            return jnp.full(leaf.shape, start, jnp.float32)
        return jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(value, nn.unbox(shapes["params"]))


def random_gradients(params: Any) -> list[Any]:
    """One a step; each layer's are of another size."""
    rng = np.random.default_rng(1)

    def gradient(leaf: Any) -> jax.Array:
        sizes = np.geomspace(0.1, 3.0, leaf.shape[0]).reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.asarray(rng.normal(0, 0.1, leaf.shape) * sizes, jnp.float32)

    return [jax.tree.map(gradient, params) for _ in RATES]


def train(chain: Chain, params: Any, gradients: list[Any]) -> Any:
    """The chain made anew in each step, with rate and decay traced; compiled once."""
    traces = 0

    def step(params: Any, state: Any, gradient: Any, rate: Any, decay: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = chain(rate, decay).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(chain(0.0, 0.0).init)(params)
    jitted = jax.jit(step)
    for gradient, rate in zip(gradients, RATES, strict=True):
        params, state = jitted(params, state, gradient, jnp.float32(rate), jnp.float32(DECAY))
    assert traces == 1
    return params


def ours(config: OptimConfig) -> Chain:
    """The chain under test."""
    return lambda rate, decay: optimizer(config, rate, decay)


def unstacked(tree: Any, config: ModelConfig) -> Flat:
    """Every tensor of every layer under a name of its own."""
    flat = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = path_of(key_path)
        if not path.startswith("encoder/layers/"):
            flat[path] = np.asarray(leaf)
            continue
        assert leaf.shape[: len(config.layer_stack)] == config.layer_stack
        for index in itertools.product(*map(range, config.layer_stack)):
            flat[f"{path} of {index}"] = np.asarray(leaf[index])
    return flat


def is_decayed(name: str) -> bool:
    """BERT's mask, by the names that unstacked tensors have."""
    path = name.partition(" of ")[0]
    return not path.endswith(("bias", "norm/scale"))


def assert_same(got: Flat, want: Flat) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("name", "masked"), [*((name, True) for name in MODELS), ("bert", False)])
def test_lamb_equals_lamb_on_unstacked_parameters(name: str, masked: bool):
    """Biases and norms have plain Adam, or are scaled too where the mask is empty."""
    model, config = MODELS[name], OptimConfig(optimizer="lamb", eps=1e-6, clip=0.5)
    if not masked:
        config = dataclasses.replace(config, no_decay=())
    params = real_params(model)
    gradients = random_gradients(params)
    flat = unstacked(params, model)

    def chain(rate: Any, decay: Any) -> optax.GradientTransformation:
        lamb = optax.lamb(rate, eps=1e-6, weight_decay=decay)
        parts: dict[Any, Any] = {True: lamb, False: optax.adam(rate, eps=1e-6)}
        labels = {path: is_decayed(path) or not masked for path in flat}
        return optax.chain(optax.clip_by_global_norm(0.5), optax.partition(parts, labels))

    got = unstacked(train(ours(config), params, gradients), model)
    assert_same(got, train(chain, flat, [unstacked(grad, model) for grad in gradients]))


def test_plain_lamb_on_stacked_parameters_is_another_thing():
    """Why the trust ratio is ours: one ratio for all layers moves them wrongly."""
    params = real_params(BERT)
    gradients = random_gradients(params)
    config = OptimConfig(optimizer="lamb", eps=1e-6, clip=0.0, no_decay=())
    got = unstacked(train(ours(config), params, gradients), BERT)
    plain = unstacked(
        train(lambda rate, decay: optax.lamb(rate, weight_decay=decay), params, gradients), BERT
    )
    for path, value in got.items():
        if " of " not in path:
            np.testing.assert_allclose(plain[path], value, atol=1e-6, err_msg=path)
    apart = [np.abs(plain[path] - value).max() for path, value in got.items() if " of " in path]
    assert max(apart) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trust_ratio(dtype: str):
    """1 where a norm is 0, layer by layer; exact for as many entries as bfloat16 cannot count."""
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(1, 1, (4, 300, 20)), dtype)
    update = jnp.asarray(rng.normal(0, 1, (4, 300, 20)), dtype)
    weights, update = weights.at[1].set(0), update.at[2].set(0)
    got = trust_ratio(weights, update, 1)
    assert got.shape == (4, 1, 1)
    exact = [np.linalg.norm(np.float64(x), axis=(1, 2)) for x in (weights, update)]
    want = [exact[0][0] / exact[1][0], 1, 1, exact[0][3] / exact[1][3]]
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-6)


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_parameters_and_gradients_of_zero(name: Any):
    """Nothing to take a norm of: the steps stay finite, and there are none without gradient."""
    params = jax.tree.map(jnp.zeros_like, real_params(BERT))
    config = OptimConfig(optimizer=name)
    still = train(ours(config), params, [params] * len(RATES))
    assert not any(leaf.any() for leaf in jax.tree.leaves(still))
    moved = train(ours(config), params, random_gradients(params))
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(moved))


def as_matrices(flat: Flat) -> Flat:
    """Muon's kernels with two axes, inputs and outputs, by the module that they belong to."""
    result = dict(flat)
    for name, value in flat.items():
        path = name.partition(" of ")[0]
        if path.endswith(("query/kernel", "key/kernel", "value/kernel")):
            result[name] = value.reshape(value.shape[0], -1)
        elif path.endswith("output/kernel"):
            result[name] = value.reshape(-1, value.shape[-1])
    return result


def is_matrix(name: str) -> bool:
    return name.startswith("encoder/") and name.partition(" of ")[0].endswith("/kernel")


@pytest.mark.parametrize("name", MODELS)
def test_muon_equals_muon_on_unstacked_matrices(name: str):
    """And the rest equals optax's AdamW with BERT's mask, step by step."""
    model, config = MODELS[name], OptimConfig(optimizer="muon", clip=0.5)
    params = real_params(model)
    gradients = random_gradients(params)
    flat = as_matrices(unstacked(params, model))

    def chain(rate: Any, decay: Any) -> optax.GradientTransformation:
        muon = optax.contrib.muon(rate, weight_decay=decay, consistent_rms=0.2)
        decayed = optax.adamw(rate, weight_decay=decay)
        parts: dict[Any, Any] = {"muon": muon, "decayed": decayed, "plain": optax.adam(rate)}
        labels = {
            path: "muon" if is_matrix(path) else "decayed" if is_decayed(path) else "plain"
            for path in flat
        }
        assert set(labels.values()) == set(parts)
        return optax.chain(optax.clip_by_global_norm(0.5), optax.partition(parts, labels))

    got = as_matrices(unstacked(train(ours(config), params, gradients), model))
    steps = [as_matrices(unstacked(gradient, model)) for gradient in gradients]
    assert_same(got, train(chain, flat, steps))


def one_update(config: OptimConfig, params: Any, gradient: Any) -> tuple[Any, Any]:
    """The first update at learning rate 1, decay included, and the optimizer's state after it."""

    def update(params: Any, gradient: Any) -> tuple[Any, Any]:
        chain = optimizer(config, 1.0, DECAY)
        return chain.update(gradient, chain.init(params), params)

    return jax.jit(update)(params, gradient)


@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_of_the_encoder_has_muons_step(name: str):
    """Orthogonal but for what was all but singular; an entry's root mean square is 0.2."""
    model = MODELS[name]
    params = real_params(model)
    updates = one_update(OptimConfig(optimizer="muon"), params, random_gradients(params)[0])[0]
    count = 0
    for path, update in as_matrices(unstacked(updates, model)).items():
        if is_matrix(path):
            singular = np.linalg.svd(update, compute_uv=False)
            singular /= 0.2 * math.sqrt(max(update.shape))
            assert np.quantile(singular, 0.25) > 0.6, (path, singular)
            assert singular.max() < 1.3, (path, singular)
            count += 1
    layers = math.prod(model.layer_stack)
    assert count == 6 * layers + 1 + model.projects_embeddings


@pytest.mark.parametrize("preset", ["bert_tiny", "roberta_base", "albert_xlarge", "electra_small"])
def test_every_family_has_its_matrices(preset: str):
    """No kernel of the encoder is left out, and nothing else is taken for one."""
    config = PRESETS[preset]
    shapes = jax.eval_shape(
        lambda: Model(config, HEADS).init(
            jax.random.key(0), example_batch(config), method="initialise"
        )
    )
    params = nn.unbox(shapes["params"])
    leaves = jax.tree_util.tree_leaves_with_path(params)
    axes = jax.tree.structure(params).flatten_up_to(matrix_axes(params))
    for (key_path, leaf), found in zip(leaves, axes, strict=True):
        path = path_of(key_path)
        assert (found is not None) == is_matrix(path), path
        if found is not None:
            stacked = len(config.layer_stack) if path.startswith("encoder/layers/") else 0
            assert len(found.reduction_axis) + len(found.output_axis) == leaf.ndim - stacked, path


def test_a_new_kernel_is_not_passed_over():
    with pytest.raises(KeyError, match="layers/gate/kernel"):
        matrix_axes({"encoder": {"layers": {"gate": {"kernel": np.zeros((2, 4, 4))}}}})


def moments_of(state: Any) -> dict[str, Any]:
    """The moments by their parameters' paths, those of one kind in one list."""
    found: dict[str, list[Any]] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        keys = [key for key in key_path if isinstance(key, jax.tree_util.DictKey)]
        if keys:
            found.setdefault(path_of(tuple(keys)), []).append(leaf)
    return found


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_a_generator_is_a_model_too(name: Any):
    """ELECTRA's second encoder gets the very steps that it would get at the first one's place.

    In double precision, because Muon's iterations amplify how single precision rounds.
    """
    params = real_params(BERT)
    with jax.enable_x64(True):
        pair = [
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
            for tree in (params, random_gradients(params)[0])
        ]
        config = OptimConfig(optimizer=name, clip=0.0)
        alone, _ = one_update(config, *pair)
        both, _ = one_update(config, *(tree | {"generator": tree} for tree in pair))
    got = unstacked(both.pop("generator"), BERT)
    assert_same(got, unstacked(alone, BERT))
    assert_same(unstacked(both, BERT), got)


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_on_a_mesh(name: Any):
    """Moments lie like their parameters, and a step is the one on a single device."""
    config = OptimConfig(optimizer=name, eps=1e-6)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    state = create_state(Model(BERT, HEADS), config, mesh, seed=0)
    moments = moments_of(state.optimizer)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        path = path_of(key_path)
        assert len(moments[path]) == (1 if name == "muon" and is_matrix(path) else 2)
        assert all(moment.sharding == leaf.sharding for moment in moments[path]), path
        assert all(moment.shape == leaf.shape for moment in moments[path]), path

    def step(params: Any, moments: Any) -> Any:
        gradients = jax.tree.map(lambda leaf: jnp.sin(7 * leaf + 1), params)
        updates, moments = optimizer(config, 0.01, DECAY).update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments

    places = jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.optimizer))
    jitted = jax.jit(step, out_shardings=places)
    with jax.set_mesh(mesh):
        got, _ = jitted(state.params, state.optimizer)
    alone = jax.device_get((state.params, state.optimizer))
    want, _ = jax.jit(step)(*alone)
    assert_same(unstacked(got, BERT), unstacked(want, BERT))


def test_the_state_of_muon_can_be_saved(tmp_path: Path):
    """Masked leaves have no place in a checkpoint and are masked when it is read."""
    params = real_params(BERT)
    _, moved = one_update(OptimConfig(optimizer="muon"), params, random_gradients(params)[0])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, params, moved, {"position": {}})
    checkpoints.wait()
    shapes = abstract_state(TrainState(jnp.int32(3), params, moved))
    found = checkpoints.restore_latest(shapes.params, shapes.optimizer)
    checkpoints.close()
    assert found is not None
    assert jax.tree.structure(found.optimizer) == jax.tree.structure(moved)
    for got, want in zip(jax.tree.leaves(found.optimizer), jax.tree.leaves(moved), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_mask_of_decay_is_the_same(name: Any):
    """With no gradient the same parameters shrink under every optimizer; the others stay."""
    params = jax.tree.map(lambda leaf: leaf + 0.5, real_params(BERT))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates = unstacked(one_update(OptimConfig(optimizer=name), params, zeros)[0], BERT)
    shrunk = {path for path, value in updates.items() if value.any()}
    assert shrunk == {path for path in updates if is_decayed(path)}
