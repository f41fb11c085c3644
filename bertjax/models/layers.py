"""The pieces of a layer: projections, LayerNorm, dropout, and the axis names they carry.

Parameters name their axes where they are made (``vocab``, ``embed``, ``mlp``, ``heads``, ``kv``,
``layers``); activations have names of their own (``activation_batch`` …). A rule table maps both
to the mesh (:mod:`bertjax.sharding`); nothing here knows a mesh.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.typing import DTypeLike

from bertjax.types import Activation, HeadKind, ModelConfig

HIDDEN_AXES = ("activation_batch", "activation_length", "activation_embed")


@struct.dataclass
class Dropout:
    """Dropout rates of one training step; arrays, so that a step need not be compiled anew."""

    hidden: Array | float
    attention: Array | float
    classifier: Array | float
    choice: Array | float | None = None
    """Of the multiple-choice head; None: as ``classifier``."""
    token: Array | float | None = None
    """Of the token-classification head; None: as ``classifier``."""
    span: Array | float | None = None
    """Of the span head; None: no dropout."""

    @classmethod
    def of(cls, config: ModelConfig) -> Dropout:
        """The rates that a model's own config states."""
        hidden, classifier, choice = (
            config.hidden_dropout,
            config.classifier_dropout,
            config.choice_dropout,
        )
        return cls(
            hidden=hidden,
            attention=config.attention_dropout,
            classifier=hidden if classifier is None else classifier,
            choice=hidden if choice == "hidden" else choice,
            token=hidden if config.token_dropout == "hidden" else None,
            span=config.span_dropout or None,
        )

    @classmethod
    def at(cls, rate: float, config: ModelConfig) -> Dropout:
        """One rate wherever the model of this config has dropout."""
        return cls(rate, rate, rate, span=rate if config.span_dropout else None)

    def of_head(self, kind: HeadKind) -> Array | float | None:
        """The rate before a head's last projection; None: no dropout."""
        match kind:
            case "multiple_choice":
                return self.classifier if self.choice is None else self.choice
            case "token_classification":
                return self.classifier if self.token is None else self.token
            case "span":
                return self.span
            case "classification" | "regression" | "multi_label" | "sentence_order":
                return self.classifier
            case _:
                return None


def drop(module: nn.Module, x: Array, rate: Array | float | None) -> Array:
    """Inverted dropout of ``x`` with the module's ``dropout`` random stream; None: no dropout.

    One 32-bit random number serves two elements: 16 bits resolve a rate to 1/65,536, and the bits
    are the costly part of dropout on a CPU. The survivors are scaled by the rate that is realised.
    """
    if rate is None:
        return x
    threshold = jnp.round(jnp.float32(rate) * 65536)
    kept = _at_least(threshold.astype(jnp.uint32), module.make_rng("dropout"), x.shape)
    scaled = (x.astype(jnp.float32) * (65536 / (65536 - threshold))).astype(x.dtype)
    return jnp.where(kept, scaled, jnp.zeros((), x.dtype))


def _at_least(threshold: Array, key: Array, shape: tuple[int, ...]) -> Array:
    """Whether uniform integers below 65,536 are at least ``threshold``: booleans ``shape``.

    They are compared before they are put together, which moves a byte an element and not four.
    """
    *lead, last = shape
    half = -(-last // 2)
    words = jax.random.bits(key, (*lead, half), jnp.uint32)
    low, high = (words & 0xFFFF) >= threshold, (words >> 16) >= threshold
    return jnp.concatenate([low, high], axis=-1)[..., :last]


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
) -> Array:
    """A float32 parameter of ``module`` that carries the names of its axes while it is made."""
    return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))


def activation_function(name: Activation, x: Array) -> Array:
    """``gelu`` is the exact one (erf), ``gelu_tanh`` its approximation; they are not the same.

    Of a GELU only its input is kept for the backward pass: what it would keep beside is three times
    as much and quickly computed again.
    """
    match name:
        case "gelu":
            return jax.checkpoint(partial(jax.nn.gelu, approximate=False))(x)
        case "gelu_tanh":
            return jax.checkpoint(partial(jax.nn.gelu, approximate=True))(x)
        case "relu":
            return jax.nn.relu(x)
        case "silu":
            return jax.nn.silu(x)
        case "tanh":
            return jnp.tanh(x)


class Dense(nn.Module):
    """A projection of the last ``contract`` axes of ``x`` to ``features`` axes, with bias.

    ``axes`` names the kernel's axes ``[*inputs, *features]``; the bias takes the names of the
    output axes.
    """

    features: tuple[int, ...]
    axes: tuple[str, ...]
    init_range: float
    dtype: DTypeLike
    contract: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = tuple(range(x.ndim - self.contract, x.ndim))
        shape = (*x.shape[inputs[0] :], *self.features)
        normal, zeros = nn.initializers.normal(self.init_range), nn.initializers.zeros
        kernel = parameter(self, "kernel", normal, self.axes, shape)
        bias = parameter(self, "bias", zeros, self.axes[self.contract :], self.features)
        contracted = (inputs, tuple(range(self.contract)))
        y = jax.lax.dot_general(
            x.astype(self.dtype), kernel.astype(self.dtype), (contracted, ((), ()))
        )
        return y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(inputs[0])))


class LayerNorm(nn.Module):
    """Layer normalisation of a sum over the last axis, in and to float32.

    Parameters ``scale`` and ``bias`` are ``[D]``. For the backward pass only what is normalised is
    kept. Source: Ba et al. 2016.
    """

    eps: float

    @nn.compact
    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        width = (x.shape[-1],)
        shape = (1,) * (x.ndim - 1) + width
        scale = parameter(self, "scale", nn.initializers.ones, ("norm",), width).reshape(shape)
        bias = parameter(self, "bias", nn.initializers.zeros, ("norm",), width).reshape(shape)
        x = x.astype(jnp.float32)
        if residual is not None:
            x = x + residual.astype(jnp.float32)
        return jax.checkpoint(partial(_normalise, eps=self.eps))(x, scale, bias)


def _normalise(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * scale + bias
