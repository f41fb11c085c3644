"""LAMB's trust ratio on stacked parameters. Source: You et al. 2020, algorithm 2.

A step is Adam's (with bias correction), plus the decay, times the norm of the weights over the norm
of that step. The norms are those of one tensor of one layer: layers are stored stacked, so they are
taken over all axes but those that count layers. Query, key and value are parameters of their own
and so have each their own ratio, as in google-research/albert ``lamb_optimizer.py``.

As there, and in NVIDIA's LAMB unless ``use_nvlamb`` is asked for, the parameters that are not
decayed (biases and LayerNorm) are not scaled either: their ratio is 1. The paper's bounds of the
weights' norm are left out, as in all of these.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bertjax.optim.addresses import Params, layer_axes, unmatched


def scale_by_layer_trust_ratio(excluded: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Multiplies each tensor of each layer by |weights| / |update|; by 1 where either is 0.

    Paths that match one of ``excluded`` are left as they are. Norms are taken in float32.
    """

    def scale(updates: Params, params: Params) -> Params:
        return jax.tree.map(
            lambda update, param, axes, chosen: (
                (update * trust_ratio(param, update, axes)).astype(update.dtype)
                if chosen
                else update
            ),
            updates,
            params,
            layer_axes(params),
            unmatched(params, excluded),
        )

    return optax.stateless(scale)


def trust_ratio(param: Array, update: Array, layers: int) -> Array:
    """The ratios of the tensors stacked along the first ``layers`` axes; broadcasts to them."""

    def norm(x: Array) -> Array:
        squares = jnp.square(x.astype(jnp.float32))
        return jnp.sqrt(squares.sum(axis=tuple(range(layers, x.ndim)), keepdims=True))

    weights, step = norm(param), norm(update)
    usable = (weights > 0) & (step > 0)
    return jnp.where(usable, weights / jnp.where(usable, step, 1.0), 1.0)
