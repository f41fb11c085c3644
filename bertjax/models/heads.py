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
from bertjax.models.vocabulary import masked_logits
from bertjax.types import Activation, HeadConfig, ModelConfig

TEXT_HEADS = ("classification", "regression", "multi_label")
"""Heads that answer for a whole text."""


class Projection(nn.Module):
    """An optional dense layer, dropout and one projection: ``[..., D]`` to float32 ``[..., C]``.

    Serves every head but the masked language model: classes and numbers of a text, scores of a
    choice, classes of a token, spans, replaced tokens, and the sentence-pair objectives.
    """

    config: ModelConfig
    head: HeadConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: Array, dropout: Dropout | None) -> Array:
        config, kind = self.config, self.head.kind
        rate = dropout and dropout.of_head(kind)
        spread = config.initializer_range
        if dense := self._dense():
            if config.classification_input_dropout and kind in TEXT_HEADS:
                features = drop(self, features, rate)
            shape, axes = (config.hidden_size,), ("embed", "embed_out")
            features = Dense(shape, axes, spread, self.dtype, name="dense")(features)
            features = activation_function(dense, features)
        features = drop(self, features, rate)
        size = 1 if kind == "replaced_token" else self.head.size
        project = Dense((size,), ("embed", "classes"), spread, jnp.float32)
        nn.share_scope(self, project)
        return project(features)

    def _dense(self) -> Activation | None:
        """Activation of the head's own dense layer; None where it has none."""
        match self.head.kind:
            case "classification" | "regression" | "multi_label":
                return self.config.classification_dense
            case "multiple_choice":
                return self.config.choice_dense
            case "replaced_token":
                return self.config.activation
            case _:
                return None


class MaskedLanguageModel(nn.Module):
    """BERT's prediction head with the tied decoder: ``[P, D]`` to float32 logits ``[P, V]``.

    V counts the rows of the vocabulary's tables; those that are no token's are masked.

    Source: Devlin et al. 2019, appendix A; google-research/bert ``get_masked_lm_output``.
    """

    config: ModelConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: Array, attend: Callable[[Array], Array]) -> Array:
        config = self.config
        shape, axes = (config.embedding_width,), ("embed", "embed_out")
        x = Dense(shape, axes, config.initializer_range, self.dtype, name="dense")(features)
        x = activation_function(config.masked_lm_activation or config.activation, x)
        x = LayerNorm(config.norm_eps, name="norm")(x)
        bias = parameter(self, "bias", nn.initializers.zeros, ("vocab",), (config.vocab_rows,))
        # As a product: the gradient is one too, and a sum over rows is slow on a CPU.
        ones = jnp.ones((x.shape[0],), jnp.float32)
        logits = attend(x).astype(jnp.float32) + jnp.einsum("P,V->PV", ones, bias)
        return masked_logits(logits, config)


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
            return MaskedLanguageModel(self.config, self.dtype, name=name)(features, attend)
        return Projection(self.config, head, self.dtype, name=name)(features, dropout)
