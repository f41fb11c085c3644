"""Encoder and heads as one module: parameters ``{encoder, heads: {name: …}}``.

The batch is a mapping of arrays (rows × length, then one entry an example or a prediction):

``token_ids``, ``type_ids``, ``segment_ids``, ``positions``: ``[rows, length]``;
``cls_row``, ``cls_position``: ``[examples]``, where each example's [CLS] stands, or ``[examples,
options]``, each option's; ``option_mask`` of that shape is 1 where there is an option;
``prediction_row``, ``prediction_position``: ``[predictions]``, the masked tokens (masked LM only).

In pretraining every row has its own: ``cls_position [rows, examples]`` and ``prediction_position
[rows, predictions]`` without the row numbers, so that no device looks into another's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from bertjax.models.attention import Implementation
from bertjax.models.encoder import Encoder, Remat
from bertjax.models.heads import Heads
from bertjax.models.layers import Dropout
from bertjax.types import HeadConfig, ModelConfig

Batch = Mapping[str, Array]

TOKEN_HEADS = ("token_classification", "span", "replaced_token")
"""Heads that answer for every token of a row."""


class Model(nn.Module):
    """One encoder under any number of heads.

    ``heads`` is a tuple of (name, config) pairs. ``apply(variables, batch, head=name)`` gives
    float32 logits: ``[examples, classes]`` of a text, ``[examples, options, 1]`` of a choice (or
    ``[options, 1]``, as ``cls_row`` has it), ``[rows, length, classes]`` of tokens, ``[rows,
    length, 2]`` of starts and ends of spans, ``[rows, length, 1]`` of replaced tokens,
    ``[predictions, vocabulary]`` of masked LM.
    """

    config: ModelConfig
    head_configs: tuple[tuple[str, HeadConfig], ...] = ()
    dtype: DTypeLike = jnp.float32
    unroll: int = 1
    attention: Implementation = "xla"
    remat: Remat = "none"

    def setup(self) -> None:
        self.encoder = Encoder(
            self.config, self.dtype, self.with_pooler, self.unroll, self.attention, self.remat
        )
        self.heads = Heads(self.config, self.head_configs, self.dtype)

    @property
    def with_pooler(self) -> bool:
        """Whether the encoder has a pooler: one of the heads reads it, or there is no head."""
        return self.config.has_pooler(head for _, head in self.head_configs)

    def encode(self, batch: Batch, dropout: Dropout | None = None) -> Array:
        """Hidden states ``[rows, length, D]``."""
        return self.encoder(
            batch["token_ids"], batch["type_ids"], batch["segment_ids"], batch["positions"], dropout
        )

    def __call__(self, batch: Batch, head: str, dropout: Dropout | None = None) -> Array:
        """Logits of one head."""
        return self._head(head, self.encode(batch, dropout), batch, dropout)

    def all(
        self, batch: Batch, heads: tuple[str, ...], dropout: Dropout | None = None
    ) -> dict[str, Array]:
        """Logits of several heads over one reading of the batch, by name."""
        hidden = self.encode(batch, dropout)
        return {head: self._head(head, hidden, batch, dropout) for head in heads}

    def initialise(self, batch: Batch) -> None:
        """Touches every parameter, for ``init(key, batch, method="initialise")``."""
        hidden = self.encode(batch)
        if self.with_pooler:
            self.encoder.pool(hidden[:, 0])
        for name, _ in self.head_configs:
            self._head(name, hidden, batch, None)

    def _head(self, name: str, hidden: Array, batch: Batch, dropout: Dropout | None) -> Array:
        kind = dict(self.head_configs)[name].kind
        if kind == "masked_lm":
            features = _states(hidden, batch, "prediction")
        elif kind in TOKEN_HEADS:
            features = hidden
        else:
            features = _states(hidden, batch, "cls")
            if self.config.pools(kind):
                features = self.encoder.pool(features)
        return self.heads(name, features, self.encoder.embeddings.attend, dropout)


def _states(hidden: Array, batch: Batch, name: str) -> Array:
    """The states ``[..., D]`` at the positions called ``name``; without rows, row after row."""
    positions = batch[f"{name}_position"]
    if f"{name}_row" in batch:
        return hidden[batch[f"{name}_row"], positions]
    states = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)
    return states.reshape(-1, hidden.shape[-1])


def of_examples(values: Array, batch: Batch) -> tuple[Array, Array]:
    """What a row's tokens have, gathered by example, from its first token on.

    Args:
      values: ``[rows, length, C]``.
      batch: with ``cls_row``, ``cls_position`` ``[examples]`` and ``segment_ids``.

    Returns:
      ``[examples, length, C]``, and ``[examples, length]``: which of these are the example's.
    """
    length = values.shape[1]
    row = batch["cls_row"][:, None]
    position = batch["cls_position"][:, None] + jnp.arange(length)[None, :]
    inside = position < length
    position = jnp.minimum(position, length - 1)
    segments = batch["segment_ids"][row, position]
    return values[row, position], inside & (segments == segments[:, :1])


def all_states(model: Model, params: Any, batch: Batch) -> tuple[Array, Array]:
    """What every layer computes: hidden states and attention weights, for inspection.

    Returns:
      ``[layers + 1, rows, length, D]``, the embeddings first, and
      ``[layers, rows, heads, length, length]``.
    """
    _, variables = model.clone(attention="xla", remat="none").apply(
        {"params": params}, batch, method="encode", mutable=["intermediates"]
    )
    kept: Any = cast(Any, variables)["intermediates"]["encoder"]
    (embedded,), (states,) = kept["embedded"], kept["layers"]["hidden"]
    (weights,) = kept["layers"]["attention"]["attention"]
    states = states.reshape(-1, *embedded.shape)
    weights = weights.reshape(-1, *weights.shape[-4:])
    return jnp.concatenate([embedded[None], states]), weights


def example_batch(config: ModelConfig, rows: int = 1, length: int = 8) -> dict[str, Array]:
    """A batch of zeros with every field, to make shapes from."""
    length = min(length, config.max_length)
    grid = jnp.zeros((rows, length), jnp.int32)
    one = jnp.zeros((rows,), jnp.int32)
    batch: dict[str, Array] = {}
    batch |= dict.fromkeys(("token_ids", "type_ids", "segment_ids", "positions"), grid)
    batch |= dict.fromkeys(("cls_row", "cls_position"), one)
    return batch | dict.fromkeys(("prediction_row", "prediction_position"), one)
