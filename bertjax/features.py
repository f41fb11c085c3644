"""What an encoder computes of a text: one vector, or the states of every layer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bertjax.convert.sentence import Pooling
from bertjax.data.batching import Batcher, Encoded
from bertjax.data.pipeline import chunks
from bertjax.models.model import Batch, Model, all_states
from bertjax.sharding import on_mesh, replicated, shard_batch


@dataclasses.dataclass(frozen=True)
class States:
    """What every layer computes of one text or pair, without padding."""

    tokens: list[str]
    """As the vocabulary writes them, the special tokens included."""
    hidden_states: np.ndarray
    """``[layers + 1, length, D]`` float32: the embeddings, then each layer's output."""
    attentions: np.ndarray | None
    """``[layers, heads, length, length]`` float32, each row summing to 1; None if not asked for."""


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Runs an encoder over encoded examples; each shape of a batch is compiled once."""

    model: Model
    params: Any
    mesh: Mesh

    def vectors(
        self, examples: Sequence[Encoded], pooling: Pooling, batcher: Batcher
    ) -> np.ndarray:
        """One vector an example, in order: ``[examples, D]`` float32.

        Batches are made of examples of like length, so that little of them is padding.
        """
        vectors = np.zeros((len(examples), self.model.config.hidden_size), np.float32)
        by_length = sorted(range(len(examples)), key=lambda i: -len(examples[i]["token_ids"]))
        for chosen in chunks(by_length, batcher.examples):
            batch = shard_batch(batcher([examples[index] for index in chosen]), self.mesh)
            with on_mesh(self.mesh):
                found = np.asarray(self._pooled(self.params, batch, pooling))
            vectors[chosen] = found[: len(chosen)]
        return vectors

    def states(
        self, examples: Sequence[Encoded], attentions: bool, batcher: Batcher
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Hidden states and attention weights of each example, as in :class:`States`."""
        for chunk in chunks(examples, batcher.examples):
            batch = shard_batch(batcher(chunk), self.mesh)
            with on_mesh(self.mesh):
                hidden, weights = jax.device_get(self._states(self.params, batch, attentions))
            for row, example in enumerate(chunk):
                stop = len(example["token_ids"])
                kept = _copied(weights[:, row, :, :stop, :stop]) if attentions else None
                yield _copied(hidden[:, row, :stop]), kept

    @functools.cached_property
    def _pooled(self) -> Any:
        def compute(params: Any, batch: Batch, pooling: Pooling) -> Any:
            return self.model.apply({"params": params}, batch, pooling, method=pooled)

        return jax.jit(compute, static_argnums=2, out_shardings=replicated(self.mesh))

    @functools.cached_property
    def _states(self) -> Any:
        def compute(params: Any, batch: Batch, attentions: bool) -> tuple[Array, Array | None]:
            hidden, weights = all_states(self.model, params, batch)
            return hidden, weights if attentions else None

        return jax.jit(compute, static_argnums=2, out_shardings=replicated(self.mesh))


def pooled(model: Model, batch: Batch, pooling: Pooling) -> Array:
    """One vector a row, ``[rows, D]``, of rows that hold one example each.

    ``cls`` is the first token's state, ``pooler`` that state through the model's pooler; ``mean``
    and ``max`` are taken over all tokens, the special ones included, and not over padding.
    """
    hidden = model.encode(batch)
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "pooler":
        return model.encoder.pool(hidden[:, 0])
    real = batch["segment_ids"][:, :, None] > 0
    if pooling == "max":
        return jnp.where(real, hidden, -jnp.inf).max(axis=1)
    count = jnp.maximum(real.sum(axis=1), 1).astype(hidden.dtype)
    return jnp.where(real, hidden, 0.0).sum(axis=1) / count


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``[N, D]`` scaled to length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _copied(values: np.ndarray) -> np.ndarray:
    """Float32 numbers of their own, which do not keep the batch they were cut from in memory."""
    return np.array(values, np.float32)
