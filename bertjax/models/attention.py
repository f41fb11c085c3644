"""One attention function; padding and packing are both told by ``segment_ids``.

Einsum letters: B batch (rows), L query length, M key length, N heads, H head width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

MASKED = -1e9
"""Added to the score of a pair that may not attend; its softmax weight is exactly 0."""


def segment_bias(segment_ids: Array) -> Array:
    """Additive mask ``[B, 1, L, L]`` from segment ids ``[B, L]``.

    A token attends the tokens of its own segment only: packed examples never see one another, and
    padding (segment 0) attends padding alone.
    """
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jnp.where(same, 0.0, MASKED).astype(jnp.float32)


def attention(
    query: Array, key: Array, value: Array, bias: Array, drop: Callable[[Array], Array]
) -> Array:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) by plain einsum.

    Args:
      query: ``[B, L, N, H]``; ``key`` and ``value`` are ``[B, M, N, H]``.
      bias: additive mask ``[B, 1, L, M]``, float32.
      drop: dropout of the attention weights.

    Returns:
      ``[B, L, N, H]`` in the type of ``value``. Scores and softmax are float32.
    """
    query = query * (query.shape[-1] ** -0.5)
    scores = jnp.einsum("BLNH,BMNH->BNLM", query, key, preferred_element_type=jnp.float32)
    weights = softmax(scores + bias).astype(value.dtype)
    return jnp.einsum("BNLM,BMNH->BLNH", drop(weights), value)


@jax.custom_jvp
def softmax(scores: Array) -> Array:
    """Softmax over the last axis, of which only the result is kept for the backward pass.

    JAX's own keeps the exponentials beside it, which for attention weights is as much again.
    """
    return jax.nn.softmax(scores, axis=-1)


@softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = softmax(*primals)
    change = weights * tangents[0]
    return weights, change - weights * change.sum(axis=-1, keepdims=True)
