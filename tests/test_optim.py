"""Schedules and optimizers against their formulas and against torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.optim import (
    NO_DECAY,
    OPTIMIZERS,
    SCHEDULES,
    OptimConfig,
    addresses,
    check_patterns,
    factors,
    layer_axes,
    optimizer,
    path_of,
    schedule,
    unmatched,
)
from bertjax.types import UserError

STEPS = 40
WARMUP = 10
COOLDOWN = 8


def some_params(seed: int = 0) -> Any:
    """A tree with stacked layers, biases and norms; nothing in it is zero."""
    rng = np.random.default_rng(seed)

    def leaf(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)

    return {
        "encoder": {
            "embeddings": {"word": leaf(5, 4), "norm": {"scale": leaf(4), "bias": leaf(4)}},
            "layers": {
                "attention": {"query": {"kernel": leaf(3, 4, 2, 2), "bias": leaf(3, 2, 2)}},
                "mlp": {"norm": {"scale": leaf(3, 4), "bias": leaf(3, 4)}},
            },
            "pooler": {"kernel": leaf(4, 4), "bias": leaf(4)},
        },
        "heads": {"task": {"kernel": leaf(4, 2), "bias": leaf(2)}},
    }


def gradients(count: int, size: float = 1.0) -> list[Any]:
    """One random gradient a step, so that every step moves everything."""
    return [jax.tree.map(lambda g: size * g, some_params(seed)) for seed in range(1, count + 1)]


def train(config: OptimConfig, grads: Sequence[Any], rates: Sequence[float] | float = 0.1) -> Any:
    """Parameters after one update for each gradient."""
    params = some_params()
    state = optimizer(config, 0.0, 0.0).init(params)

    @jax.jit
    def step(params: Any, state: Any, grad: Any, rate: jax.Array) -> Any:
        chain = optimizer(config, rate, config.weight_decay)
        updates, state = chain.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    each = rates if isinstance(rates, Sequence) else [rates] * len(grads)
    for grad, rate in zip(grads, each, strict=True):
        params, state = step(params, state, grad, jnp.float32(rate))
    return params


def named(tree: Any) -> dict[str, np.ndarray]:
    return {path_of(p): np.asarray(v) for p, v in jax.tree_util.tree_leaves_with_path(tree)}


def expected_multiplier(name: str, step: float, final: float) -> float:
    """The formulas, written out."""
    if step < WARMUP:
        return step / WARMUP
    done = min(1.0, (step - WARMUP) / (STEPS - WARMUP))
    left = {
        "linear": 1 - done,
        "polynomial": (1 - done) ** 3,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "constant": 1.0,
        "constant_with_cooldown": min(1.0, max(0.0, (STEPS - step) / COOLDOWN)),
    }[name]
    return final + (1 - final) * left


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: Any, final: float):
    """At whole steps and, for budgets of time, between them; plain numbers or traced ones."""
    config = OptimConfig(
        schedule=name,
        warmup_ratio=WARMUP / STEPS,
        cooldown_ratio=COOLDOWN / STEPS,
        final_ratio=final,
        power=3.0,
    )
    multiplier: Any = schedule(config, STEPS)
    whole = list(range(STEPS + 5))
    parts = np.arange(0, STEPS + 5, 0.25).tolist()
    for steps in (whole, parts):
        got = [float(multiplier(step)) for step in steps]
        want = [expected_multiplier(name, step, final) for step in steps]
        np.testing.assert_allclose(got, want, atol=1e-6)
        np.testing.assert_allclose(jax.jit(jax.vmap(multiplier))(jnp.array(steps)), got, atol=1e-6)
        assert got[0] == 0
        assert got[steps.index(WARMUP)] == 1
        assert max(got) == 1


def test_a_cooldown_of_nothing_is_constant():
    config = OptimConfig(schedule="constant_with_cooldown", cooldown_ratio=0.0, warmup_ratio=0.0)
    multiplier: Any = schedule(config, STEPS)
    assert [float(multiplier(step)) for step in (0, STEPS - 1, STEPS + 1)] == [1, 1, 1]


@pytest.mark.parametrize(("steps", "ratio", "warmup"), [(345, 0.1, 34), (5, 0.1, 0), (10, 0.0, 0)])
def test_warmup_steps_are_rounded_down(steps: int, ratio: float, warmup: int):
    multiplier: Any = schedule(OptimConfig(warmup_ratio=ratio), steps)
    assert int(np.argmax([float(multiplier(s)) for s in range(steps)])) == warmup
    assert float(multiplier(steps)) == 0
    assert float(multiplier(steps - 1)) == pytest.approx(1 / (steps - warmup), abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "liner"}, "unknown schedule 'liner'; did you mean 'linear'"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean 'adamw'"),
        ({"schedule": "constant_cooldown"}, "did you mean 'constant_with_cooldown'"),
        ({"optimizer": "lamp"}, "unknown optimizer 'lamp'; did you mean 'lamb'"),
        ({"optimizer": "moun"}, "unknown optimizer 'moun'; did you mean 'muon'"),
        ({"cooldown_ratio": 1.0}, "cooldown_ratio must be in"),
        ({"momentum": -0.1}, "momentum must be in"),
        ({"final_ratio": 1.1}, "final_ratio must be in"),
        ({"final_ratio": float("nan")}, "final_ratio must be in"),
        (
            {"schedule": "constant_with_cooldown", "warmup_ratio": 0.5, "cooldown_ratio": 0.6},
            "make their sum 1 or less",
        ),
        ({"warmup_ratio": 1.0}, "warmup_ratio must be in"),
        ({"warmup_ratio": -0.1}, "warmup_ratio must be in"),
    ],
)
def test_wrong_settings(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        OptimConfig(**fields)


def test_decay_leaves_out_biases_and_norms():
    mask = named(unmatched(some_params(), NO_DECAY))
    decayed = {path for path, value in mask.items() if value}
    assert decayed == {
        "encoder/embeddings/word",
        "encoder/layers/attention/query/kernel",
        "encoder/pooler/kernel",
        "heads/task/kernel",
    }


def test_decay_is_decoupled():
    """With no gradient a decayed parameter shrinks by (1 - rate * decay), the others stay."""
    zeros = jax.tree.map(jnp.zeros_like, some_params())
    before = named(some_params())
    after = named(train(OptimConfig(weight_decay=0.5), [zeros], rates=0.1))
    for path, value in before.items():
        kept = path.endswith(("bias", "scale"))
        np.testing.assert_allclose(after[path], value * (1 if kept else 0.95), rtol=1e-6)


def test_adam_without_bias_correction():
    """google-research/bert's AdamWeightDecayOptimizer, in numpy."""
    config = OptimConfig(optimizer="adamw_without_bias_correction", eps=1e-6, clip=0.0)
    grads = gradients(5)
    got = named(train(config, grads))
    for path, value in named(some_params()).items():
        m = v = np.zeros_like(value)
        decay = 0.0 if path.endswith(("bias", "scale")) else config.weight_decay
        for grad in map(named, grads):
            m = 0.9 * m + 0.1 * grad[path]
            v = 0.999 * v + 0.001 * grad[path] ** 2
            value = value - 0.1 * (m / (np.sqrt(v) + 1e-6) + decay * value)
        np.testing.assert_allclose(got[path], value, rtol=1e-5, atol=1e-5)
    corrected = named(train(dataclasses.replace(config, optimizer="adamw"), grads))
    assert np.abs(corrected["heads/task/kernel"] - got["heads/task/kernel"]).max() > 0.05


@pytest.mark.parametrize("size", [1e-3, 1.0], ids=["below the clip", "above the clip"])
def test_adamw_follows_torch(size: float):
    """Clipping, bias correction, decay and a schedule, over twenty steps."""
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    config = OptimConfig(weight_decay=0.1, clip=1.0)
    multiplier: Any = schedule(config, 20)
    rates = [0.05 * float(multiplier(step)) for step in range(20)]
    grads = gradients(20, size)
    theirs = {p: torch.nn.Parameter(torch.tensor(v)) for p, v in named(some_params()).items()}
    kept = [v for p, v in theirs.items() if p.endswith(("bias", "scale"))]
    decayed = [v for p, v in theirs.items() if not p.endswith(("bias", "scale"))]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
    for grad, rate in zip(map(named, grads), rates, strict=True):
        for path, parameter in theirs.items():
            parameter.grad = torch.tensor(grad[path])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
    got = named(train(config, grads, rates))
    for path, parameter in theirs.items():
        np.testing.assert_allclose(got[path], parameter.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_clipping_is_by_the_global_norm(clip: float):
    """Adam hardly feels the size of a gradient, its first moment does."""
    config = OptimConfig(clip=clip)
    chain, params, grad = optimizer(config, 0.1, 0.0), some_params(), some_params(1)
    _, state = chain.update(grad, chain.init(params), params)
    moments = next(
        s.mu for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    )
    norm = np.sqrt(sum(float(np.square(g).sum()) for g in named(grad).values()))
    scale = 0.1 * (clip / norm if clip else 1.0)
    for path, value in named(moments).items():
        np.testing.assert_allclose(value, scale * named(grad)[path], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_do_not_move(name: Any):
    """Bit by bit, and only those: one layer of a stack, decay included."""
    patterns = ("encoder/embeddings/.*", "encoder/layers/[02]/attention/.*", r".*/norm/bias")
    config = OptimConfig(optimizer=name, freeze=patterns, weight_decay=0.5)
    before, after = named(some_params()), named(train(config, gradients(3)))
    for path, value in before.items():
        same = (after[path] == value).reshape(len(value), -1)
        if path.startswith("encoder/embeddings/") or path.endswith("norm/bias"):
            assert same.all(), path
        elif path.startswith("encoder/layers/attention"):
            assert same.all(axis=1).tolist() == [True, False, True], path
            assert not same[1].any(), path
        else:
            assert not same.any(), path


def test_frozen_gradients_are_not_clipped_on():
    """A frozen parameter's gradient takes no share of the norm, as if it were not there."""
    frozen = OptimConfig(freeze=("encoder/.*",))
    grad = some_params(1)
    huge = grad | {"encoder": jax.tree.map(lambda g: 1e6 * g, grad["encoder"])}
    got, want = train(frozen, [huge]), train(frozen, [grad])
    np.testing.assert_array_equal(got["heads"]["task"]["kernel"], want["heads"]["task"]["kernel"])


def test_addresses():
    assert addresses("heads/task/kernel", (4, 2)) == ["heads/task/kernel"]
    assert addresses("encoder/layers/mlp/up/bias", (2, 5)) == [
        "encoder/layers/0/mlp/up/bias",
        "encoder/layers/1/mlp/up/bias",
    ]


def test_addresses_of_a_generator():
    """ELECTRA's generator is stacked too, and is not meant where the model's encoder is named."""
    path = "generator/encoder/layers/mlp/up/bias"
    assert addresses(path, (2, 5)) == [
        "generator/encoder/layers/0/mlp/up/bias",
        "generator/encoder/layers/1/mlp/up/bias",
    ]
    params = some_params() | {"generator": some_params()}
    found = named(factors(params, ("encoder/layers/1/.*",), matched=0.0))
    assert found["generator/encoder/layers/attention/query/kernel"].ravel().tolist() == [1, 1, 1]
    found = named(factors(params, ("generator/encoder/layers/1/.*",), matched=0.0))
    assert found["generator/encoder/layers/attention/query/kernel"].ravel().tolist() == [1, 0, 1]
    assert found["encoder/layers/attention/query/kernel"].ravel().tolist() == [1, 1, 1]


def test_factors_broadcast():
    params = some_params()
    found = factors(params, ("encoder/layers/1/.*",), matched=0.0)
    query = found["encoder"]["layers"]["attention"]["query"]["kernel"]
    assert query.shape == (3, 1, 1, 1)
    assert query.ravel().tolist() == [1, 0, 1]
    assert found["heads"]["task"]["bias"].tolist() == [1]


def test_layer_axes():
    """ALBERT's inner layers are a second axis of layers; what is not stacked has none."""
    params = some_params()
    found = named(layer_axes(params))
    assert {path: int(axes) for path, axes in found.items() if axes} == {
        path: 1 for path in found if path.startswith("encoder/layers/")
    }
    params["encoder"]["layers"] = jax.tree.map(lambda x: x[:, None], params["encoder"]["layers"])
    assert named(layer_axes(params))["encoder/layers/attention/query/kernel"] == 2
    assert named(layer_axes({"w": params["encoder"]["pooler"]["kernel"]})) == {"w": 0}


def test_patterns_must_match_something():
    params = some_params()
    check_patterns(params, ("encoder/layers/2/.*", "heads/.*"), "freeze")
    with pytest.raises(UserError, match=r"freeze: 'encoder/layers/3/\.\*' matches no parameter"):
        check_patterns(params, ("encoder/layers/3/.*",), "freeze")
    with pytest.raises(UserError, match=r"freeze: '\(' is no regular expression"):
        check_patterns(params, ("(",), "freeze")
