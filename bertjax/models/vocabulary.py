"""Vocabulary tables with rows of zeros at their end, so that their size suits the hardware.

Such a row is no token's: nothing looks it up, its logit is masked, so it has no gradient, and zeros
do not decay. What is exported, and what other runs begin with, is without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax.models.attention import MASKED
from bertjax.types import ModelConfig


def followed_by_zeros(
    init: nn.initializers.Initializer, padding: int
) -> nn.initializers.Initializer:
    """``init`` of all rows but the last ``padding``, which are zeros."""

    def make(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        del out_sharding
        real = init(key, (shape[0] - padding, *shape[1:]), dtype)
        return jnp.pad(real, [(0, padding)] + [(0, 0)] * (len(shape) - 1))

    return make if padding else init


def masked_logits(logits: Array, config: ModelConfig) -> Array:
    """Logits ``[P, vocab_rows]`` in which what is no token has probability 0."""
    if not config.vocab_padding:
        return logits
    is_token = jnp.arange(config.vocab_rows)[None, :] < config.vocab_size
    return jnp.where(is_token, logits, MASKED)


def with_rows(params: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    """(Partial) host parameters with ``after`` rows where vocabulary tables have ``before``.

    They are cut, or filled up with zeros; tables of any other size stay as they are. ELECTRA's
    generator, which has a bias of its own, is changed with them.
    """
    result = dict(params)
    if before == after:
        return result
    embeddings = params.get("encoder", {}).get("embeddings", {})
    if "word" in embeddings:
        embeddings = {**embeddings, "word": _fitted(embeddings["word"], before, after)}
        result["encoder"] = {**params["encoder"], "embeddings": embeddings}
    if "heads" in params:
        heads = params["heads"].items()
        result["heads"] = {name: _head(head, before, after) for name, head in heads}
    if "generator" in params:
        result["generator"] = with_rows(params["generator"], before, after)
    return result


def _head(head: Mapping[str, Any], before: int, after: int) -> Mapping[str, Any]:
    """A masked-LM head has a bias of the vocabulary and, being tied, no kernel beside it."""
    if "bias" not in head or "kernel" in head:
        return head
    return {**head, "bias": _fitted(head["bias"], before, after)}


def _fitted(table: Any, before: int, after: int) -> Any:
    if len(table) != before:
        return table
    rest = [(0, 0)] * (np.ndim(table) - 1)
    return np.pad(table, [(0, after - before), *rest]) if after > before else table[:after]
