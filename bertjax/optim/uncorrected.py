"""BERT's historical Adam."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.optim.addresses import Params


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
