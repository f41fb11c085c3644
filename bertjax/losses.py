"""Losses as (sum, weight) pairs, divided once and globally.

So a step on many devices equals the step on one, also where their weights differ.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax import Array

Sums = dict[str, tuple[Array, Array]]
"""Named (sum, weight) pairs, all scalars."""


def cross_entropy(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """Softmax cross entropy of ``logits [E, C]`` at ``labels [E]``, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses * weights), jnp.sum(weights)


def squared_error(scores: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """Squared error of ``scores [E]`` against ``labels [E]``."""
    return jnp.sum(jnp.square(scores - labels) * weights), jnp.sum(weights)


def binary_cross_entropy(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """Cross entropy of yes or no, ``labels`` 1 or 0, all of one shape; in nats."""
    losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return jnp.sum(losses * weights), jnp.sum(weights)


def agreeing(answers: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """How many of ``answers`` are their labels; all of one shape."""
    return jnp.sum((answers == (labels > 0)) * weights), jnp.sum(weights)


def correct(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """How many of ``logits [E, C]`` are largest at ``labels [E]``, and nowhere else.

    Not by ``argmax``, which takes XLA fifteen times as long on a CPU.
    """
    largest = logits.max(axis=-1)
    alone = jnp.sum(logits == largest[:, None], axis=-1) == 1
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    hits = ((chosen == largest) & alone).astype(jnp.float32)
    return jnp.sum(hits * weights), jnp.sum(weights)


def mean(pair: tuple[Array, Array]) -> Array:
    """The quotient of a pair; 0 where nothing carries weight."""
    total, weight = pair
    return total / jnp.maximum(weight, 1e-9)
