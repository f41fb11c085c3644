"""Schedules and optimizers from optax, and the one way to address parameters: regular expressions.

A parameter's address is its path, ``encoder/layers/3/attention/query/kernel``. Layers are stored
stacked, so what differs between layers (freezing now, learning-rate factors later) is an array
that broadcasts over the layer axis, not a label on a whole leaf.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from bertjax.types import UserError, nearest

Params = Any
STACKED = "encoder/layers/"
NO_DECAY = (r".*/bias", r".*/norm/scale")

ScheduleName = Literal["linear", "cosine", "constant", "polynomial"]
OptimizerName = Literal["adamw", "adamw_without_bias_correction"]
SCHEDULES = ("linear", "cosine", "constant", "polynomial")
OPTIMIZERS = ("adamw", "adamw_without_bias_correction")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer's choices. Learning rate and decay are arrays at run time (:func:`optimizer`).

    ``adamw`` corrects its bias, which fine-tuning needs (Mosbach et al. 2021, Zhang et al. 2021);
    ``adamw_without_bias_correction`` is the historical one of google-research/bert.
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float = 5e-5
    schedule: ScheduleName = "linear"
    warmup_ratio: float = 0.1
    power: float = 1.0
    """Of the polynomial schedule."""
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    freeze: tuple[str, ...] = ()
    """Regular expressions of whole paths that are not trained."""
    no_decay: tuple[str, ...] = NO_DECAY

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"unknown schedule '{self.schedule}'{nearest(self.schedule, SCHEDULES)}"
            )
        if self.optimizer not in OPTIMIZERS:
            hint = nearest(self.optimizer, OPTIMIZERS)
            raise UserError(f"unknown optimizer '{self.optimizer}'{hint}")
        for field in ("warmup_ratio", "b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(f"{field} must be in [0, 1), not {getattr(self, field)}")
        for field in ("learning_rate", "weight_decay", "clip", "eps", "power"):
            if not 0 <= getattr(self, field) < math.inf:
                raise UserError(f"{field} must be 0 or more, not {getattr(self, field)}")


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """The multiplier of the peak learning rate, from 0 up to 1 in the warm-up and then down.

    Step ``s`` of ``steps`` counts from 0. The warm-up takes ``int(steps * warmup_ratio)`` steps.
    """
    warmup = int(steps * config.warmup_ratio)
    rest = max(1, steps - warmup)
    match config.schedule:
        case "linear":
            after = optax.linear_schedule(1.0, 0.0, rest)
        case "polynomial":
            after = optax.polynomial_schedule(1.0, 0.0, config.power, rest)
        case "cosine":
            after = optax.cosine_decay_schedule(1.0, rest)
        case "constant":
            after = optax.constant_schedule(1.0)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), after], [warmup])


def optimizer(
    config: OptimConfig, learning_rate: Array | float, weight_decay: Array | float
) -> optax.GradientTransformation:
    """The optax chain at one learning rate and decay; both may be traced.

    The state's structure does not depend on them, so the chain can be built anew in every step.
    """
    if config.optimizer == "adamw":
        adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    else:
        adam = scale_by_uncorrected_adam(config.b1, config.b2, config.eps)
    return optax.chain(
        freeze(config.freeze),
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        adam,
        optax.add_decayed_weights(weight_decay, mask=lambda p: unmatched(p, config.no_decay)),
        freeze(config.freeze),
        optax.scale_by_learning_rate(learning_rate),
    )


class UncorrectedAdamState(NamedTuple):
    """First and second moments, shaped like the parameters."""

    mu: Params
    nu: Params


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction. Source: google-research/bert ``optimization.py``."""

    def init(params: Params) -> UncorrectedAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return UncorrectedAdamState(zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, UncorrectedAdamState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        scaled = jax.tree.map(lambda m, n: m / (jnp.sqrt(n) + eps), mu, nu)
        return scaled, UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def freeze(patterns: tuple[str, ...]) -> optax.GradientTransformation:
    """Zeroes the updates of every parameter whose whole path matches one of ``patterns``."""
    if not patterns:
        return optax.identity()
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, factor: u * factor, updates, factors(updates, patterns, matched=0.0)
        )
    )


def path_of(key_path: tuple[Any, ...]) -> str:
    """``encoder/layers/attention/query/kernel`` from a JAX key path."""
    return "/".join(str(getattr(key, "key", key)) for key in key_path)


def addresses(path: str, shape: tuple[int, ...]) -> list[str]:
    """The addresses a leaf stands for: one a layer where it is stacked, else its own path."""
    if not path.startswith(STACKED):
        return [path]
    return [f"{STACKED}{i}/{path.removeprefix(STACKED)}" for i in range(shape[0])]


def _matches(address: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, address) for pattern in patterns)


def factors(
    params: Params, patterns: tuple[str, ...], *, matched: float, otherwise: float = 1.0
) -> Params:
    """For each leaf an array that broadcasts against it: ``matched`` where a pattern matches."""

    def factor(key_path: tuple[Any, ...], leaf: Array) -> np.ndarray:
        names = addresses(path_of(key_path), leaf.shape)
        values = [matched if _matches(name, patterns) else otherwise for name in names]
        shape = (len(names) if len(names) > 1 else 1, *[1] * (leaf.ndim - 1))
        return np.array(values, np.float32).reshape(shape)

    return jax.tree_util.tree_map_with_path(factor, params)


def unmatched(params: Params, patterns: tuple[str, ...]) -> Params:
    """A tree of booleans, False for each leaf that a pattern matches as a whole."""
    return jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: not _matches(addresses(path_of(key_path), leaf.shape)[0], patterns),
        params,
    )


def check_patterns(params: Params, patterns: tuple[str, ...], field: str) -> None:
    """Raises UserError for a pattern that is no regular expression or matches no parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [name for path, leaf in leaves for name in addresses(path_of(path), leaf.shape)]
    for pattern in patterns:
        try:
            found = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise UserError(f"{field}: '{pattern}' is no regular expression: {error}") from error
        if not found:
            raise UserError(
                f"{field}: '{pattern}' matches no parameter; paths look like '{names[0]}'"
            )
