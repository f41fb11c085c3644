"""Task heads, each a small module from features to logits.

Letters: E examples, P predicted tokens, D model width, C classes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from bertjax.models.layers import Dense, Dropout, LayerNorm, activation_function, drop, parameter
from bertjax.types import HeadConfig, ModelConfig


class Classifier(nn.Module):
    """Dropout and one projection of the pooled state: ``[E, D]`` to float32 logits ``[E, C]``.

    Serves classification, regression (C = 1) and next-sentence prediction (C = 2, no dropout).
    """

    config: ModelConfig
    size: int
    dropout: bool

    @nn.compact
    def __call__(self, pooled: Array, dropout: Dropout | None) -> Array:
        pooled = drop(self, pooled, dropout.classifier if dropout and self.dropout else None)
        spread, axes = self.config.initializer_range, ("embed", "classes")
        project = Dense((self.size,), axes, spread, jnp.float32)
        nn.share_scope(self, project)
        return project(pooled)


class MaskedLanguageModel(nn.Module):
    """BERT's prediction head with the tied decoder: ``[P, D]`` to float32 logits ``[P, V]``.

    Source: Devlin et al. 2019, appendix A; google-research/bert ``get_masked_lm_output``.
    """

    config: ModelConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: Array, attend: Callable[[Array], Array]) -> Array:
        config = self.config
        shape, axes = (config.hidden_size,), ("embed", "embed_out")
        x = Dense(shape, axes, config.initializer_range, self.dtype, name="dense")(features)
        x = activation_function(config.activation, x)
        x = LayerNorm(config.norm_eps, self.dtype, name="norm")(x)
        bias = parameter(self, "bias", nn.initializers.zeros, ("vocab",), (config.vocab_size,))
        return attend(x).astype(jnp.float32) + bias[None, :]


class Heads(nn.Module):
    """The heads of a model by name, so that parameters are ``heads/NAME/…``."""

    config: ModelConfig
    heads: tuple[tuple[str, HeadConfig], ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, name: str, features: Array, attend: Callable[[Array], Array], dropout: Dropout | None
    ) -> Array:
        head = dict(self.heads)[name]
        if head.kind == "masked_lm":
            module = MaskedLanguageModel(self.config, self.dtype, name=name)
            return module(features, attend)
        with_dropout = head.kind != "next_sentence"
        module = Classifier(self.config, head.size, with_dropout, name=name)
        return module(features, dropout)
