"""Encoder and heads as one module: parameters ``{encoder, heads: {name: …}}``.

The batch is a mapping of arrays (rows × length, then one entry an example or a prediction):

``token_ids``, ``type_ids``, ``segment_ids``, ``positions``: ``[rows, length]``;
``cls_row``, ``cls_position``: ``[examples]``, where each example's [CLS] stands;
``prediction_row``, ``prediction_position``: ``[predictions]``, the masked tokens (masked LM only).
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from bertjax.models.encoder import Encoder
from bertjax.models.heads import Heads
from bertjax.models.layers import Dropout
from bertjax.types import HeadConfig, ModelConfig

Batch = Mapping[str, Array]


class Model(nn.Module):
    """One encoder under any number of heads.

    ``heads`` is a tuple of (name, config) pairs. ``apply(variables, batch, head=name)`` gives
    float32 logits: ``[examples, classes]``, or ``[predictions, vocabulary]`` for masked LM.
    """

    config: ModelConfig
    head_configs: tuple[tuple[str, HeadConfig], ...] = ()
    dtype: DTypeLike = jnp.float32
    unroll: int = 1

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype, self.unroll)
        self.heads = Heads(self.config, self.head_configs, self.dtype)

    def encode(self, batch: Batch, dropout: Dropout | None = None) -> Array:
        """Hidden states ``[rows, length, D]``."""
        return self.encoder(
            batch["token_ids"], batch["type_ids"], batch["segment_ids"], batch["positions"], dropout
        )

    def __call__(self, batch: Batch, head: str, dropout: Dropout | None = None) -> Array:
        """Logits of one head."""
        return self._head(head, self.encode(batch, dropout), batch, dropout)

    def initialise(self, batch: Batch) -> None:
        """Touches every parameter, for ``init(key, batch, method="initialise")``."""
        hidden = self.encode(batch)
        if self.config.pooler:
            self.encoder.pool(hidden[:, 0])
        for name, _ in self.head_configs:
            self._head(name, hidden, batch, None)

    def _head(self, name: str, hidden: Array, batch: Batch, dropout: Dropout | None) -> Array:
        if dict(self.head_configs)[name].kind == "masked_lm":
            features = hidden[batch["prediction_row"], batch["prediction_position"]]
        else:
            features = self.encoder.pool(hidden[batch["cls_row"], batch["cls_position"]])
        return self.heads(name, features, self.encoder.embeddings.attend, dropout)


def example_batch(config: ModelConfig, rows: int = 1, length: int = 8) -> dict[str, Array]:
    """A batch of zeros with every field, to make shapes from."""
    length = min(length, config.max_positions)
    grid = jnp.zeros((rows, length), jnp.int32)
    one = jnp.zeros((rows,), jnp.int32)
    batch: dict[str, Array] = {}
    batch |= dict.fromkeys(("token_ids", "type_ids", "segment_ids", "positions"), grid)
    batch |= dict.fromkeys(("cls_row", "cls_position"), one)
    return batch | dict.fromkeys(("prediction_row", "prediction_position"), one)
