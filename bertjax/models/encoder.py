"""The encoder: embeddings, post-norm layers stored stacked, and the pooler.

Source: Devlin et al. 2019, section 3, and google-research/bert ``modeling.py``. The layers are one
scanned module, so their parameters carry a leading ``layers`` axis whatever the execution.

Einsum letters: B batch (rows), L length, D model width, E width of the embedding tables, N heads,
H head width.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from bertjax.models.attention import Implementation, Mask, attention
from bertjax.models.layers import (
    HIDDEN_AXES,
    Dense,
    Dropout,
    LayerNorm,
    activation_function,
    drop,
    parameter,
)
from bertjax.models.splash import KEPT
from bertjax.models.vocabulary import followed_by_zeros
from bertjax.types import ModelConfig, UserError

Remat = Literal["none", "dots", "full"]
REMATS = get_args(Remat)
"""What of a layer is computed again in the backward pass: nothing, all but its projections, or all.
"""


class Embeddings(nn.Module):
    """Sum of word, position and type embeddings, normalised: ``[B, L]`` ids to ``[B, L, D]``.

    Where the tables are narrower than the layers a projection follows (Lan et al. 2020, 3.1).
    """

    config: ModelConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        self.word = self._table("word", config.vocab_rows, "vocab", config.vocab_padding)
        self.position = self._table("position", config.max_positions, "position")
        if config.embeds_types:
            self.type = self._table("type", config.type_vocab_size, "type")
        self.norm = LayerNorm(config.norm_eps)
        if config.projects_embeddings:
            shape, axes = (config.hidden_size,), ("embed_in", "embed")
            self.projection = Dense(shape, axes, config.initializer_range, self.dtype)

    def _table(self, name: str, rows: int, axis: str, padding: int = 0) -> Array:
        init = followed_by_zeros(nn.initializers.normal(self.config.initializer_range), padding)
        shape = (rows, self.config.embedding_width)
        return parameter(self, name, init, (axis, "embed"), shape)

    def __call__(
        self, token_ids: Array, type_ids: Array, positions: Array, dropout: Dropout | None
    ) -> Array:
        x = _rows(self.word, token_ids, "vocab")
        x = x + _rows(self.position, positions + self.config.position_offset, "position")
        if self.config.embeds_types:
            x = x + _rows(self.type, type_ids, "type")
        x = drop(self, self.norm(x), dropout and dropout.hidden)
        return self.projection(x).astype(jnp.float32) if self.config.projects_embeddings else x

    def attend(self, x: Array) -> Array:
        """Scores ``[P, E]`` against the word embeddings: ``[P, V]`` (the tied decoder)."""
        x, word = x.astype(self.dtype), self.word.astype(self.dtype)
        return jnp.einsum("PE,VE->PV", x, word)


def _rows(table: Array, ids: Array, axis: str) -> Array:
    """The rows ``[B, L, D]`` of ``table`` at ``ids [B, L]``.

    The table's width is gathered first: rows split by width could reach the sharding of the
    activations only by way of a copy of all of them on every device.
    """
    table = nn.with_logical_constraint(table, (axis, "activation_embed"))
    return nn.with_logical_constraint(table[ids], HIDDEN_AXES)


class SelfAttention(nn.Module):
    """Multi-head self-attention with its output projection, residual and norm."""

    config: ModelConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, mask: Mask, dropout: Dropout | None) -> Array:
        config = self.config

        def project(name: str) -> Array:
            shape, axes = (config.num_heads, config.head_dim), ("embed", "heads", "kv")
            y = Dense(shape, axes, config.initializer_range, self.dtype, name=name)(x)
            names = ("activation_batch", "activation_length", "activation_heads", "activation_kv")
            return nn.with_logical_constraint(y, names)

        def dropped(weights: Array) -> Array:
            self.sow("intermediates", "attention", weights)
            return drop(self, weights, dropout and dropout.attention)

        mixed = attention(project("query"), project("key"), project("value"), mask, dropped)
        if mask.implementation != "xla" and dropout is not None:
            self.make_rng("dropout")  # not used: so that all that follows draws as on the xla path
        shape, axes = (config.hidden_size,), ("heads", "kv", "embed")
        output = Dense(shape, axes, config.initializer_range, self.dtype, contract=2, name="output")
        y = output(mixed)
        if config.attention_output_dropout:
            y = drop(self, y, dropout and dropout.hidden)
        return LayerNorm(config.norm_eps, name="norm")(x, y)


class FeedForward(nn.Module):
    """Two projections around the activation, with residual and norm."""

    config: ModelConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, dropout: Dropout | None) -> Array:
        config = self.config
        spread = config.initializer_range
        wide, narrow = (config.intermediate_size,), (config.hidden_size,)
        up = Dense(wide, ("embed", "mlp"), spread, self.dtype, name="up")
        down = Dense(narrow, ("mlp", "embed"), spread, self.dtype, name="down")
        y = activation_function(config.activation, up(x))
        y = nn.with_logical_constraint(
            y, ("activation_batch", "activation_length", "activation_mlp")
        )
        y = down(y)
        if config.mlp_output_dropout:
            y = drop(self, y, dropout and dropout.hidden)
        return LayerNorm(config.norm_eps, name="norm")(x, y)


class Layer(nn.Module):
    """One post-norm layer, in the carry-and-output form that ``nn.scan`` wants."""

    config: ModelConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, mask: Mask, dropout: Dropout | None) -> tuple[Array, None]:
        x = nn.with_logical_constraint(x, HIDDEN_AXES)
        x = SelfAttention(self.config, self.dtype, name="attention")(x, mask, dropout)
        x = FeedForward(self.config, self.dtype, name="mlp")(x, dropout)
        self.sow("intermediates", "hidden", x)
        return x, None


def layer_stack(config: ModelConfig, unroll: int, remat: Remat) -> Any:
    """The class of all layers as one: scans of :class:`Layer`, with its call.

    Parameters have the leading axes of ``config.layer_stack``. In ALBERT (Lan et al. 2020, 3.1) a
    group's parameters serve every one of its repetitions.
    """
    if config.layer_groups is None:
        scans: list[tuple[int, str | None]] = [(config.num_layers, "layers")]
    else:
        repetitions = config.num_layers // config.layer_groups
        inner = [(config.inner_layers, "inner_layers")] * (config.inner_layers > 1)
        scans = [*inner, (repetitions, None), (config.layer_groups, "layers")]
    stack = _remat(Layer, remat, in_loop=any(length > unroll for length, _ in scans))
    for length, axis in scans:  # from the innermost
        stack = _scan(stack, length, unroll, axis)
    return stack


def _remat(module: Any, remat: Remat, in_loop: bool) -> Any:
    """A module of which a part is computed again in the backward pass.

    "dots" keeps the projections, which are most of a layer's work and grow with the length, and not
    the attention scores, which grow with its square: they are products with batch axes. It keeps
    splash's result too, which is as small and no product. In a loop the backward pass is another
    loop, whose work XLA cannot merge with that of the forward pass; only without one must that be
    prevented, which costs fusions (and which XLA ignores on a CPU: nothing is saved there).
    """
    if remat == "none":
        return module
    policies = jax.checkpoint_policies
    kept = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(KEPT)
    )
    policy = kept if remat == "dots" else None
    return nn.remat(module, policy=policy, prevent_cse=not in_loop)


def _scan(module: Any, length: int, unroll: int, axis: str | None) -> Any:
    """``length`` runs of a module: with its parameters stacked along ``axis``, or None: shared."""
    stacked: dict[Any, Any] = {"intermediates": 0}
    if axis is not None:
        stacked["params"] = 0
    return nn.scan(
        module,
        variable_axes=stacked,
        variable_broadcast=False if axis else "params",
        split_rngs={"params": axis is not None, "dropout": True},
        in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
        length=length,
        unroll=min(unroll, length),
        metadata_params={nn.PARTITION_NAME: axis} if axis else {},
    )


class Encoder(nn.Module):
    """Token ids to hidden states; :meth:`pool` makes the sentence vector of BERT's heads."""

    config: ModelConfig
    dtype: DTypeLike = jnp.float32
    with_pooler: bool = True
    unroll: int = 1
    """Layers run in one iteration of the scan; changes speed and compile time, not the result."""
    attention: Implementation = "xla"
    """Only ``xla`` drops attention weights and keeps them for inspection."""
    remat: Remat = "none"

    def setup(self) -> None:
        config = self.config
        self.embeddings = Embeddings(config, self.dtype)
        self.layers = layer_stack(config, self.unroll, self.remat)(config, self.dtype)
        if self.with_pooler:
            shape, axes = (config.hidden_size,), ("embed", "embed_out")
            self.pooler = Dense(shape, axes, config.initializer_range, self.dtype)

    def __call__(
        self,
        token_ids: Array,
        type_ids: Array,
        segment_ids: Array,
        positions: Array,
        dropout: Dropout | None = None,
    ) -> Array:
        """Hidden states of the last layer.

        Args:
          token_ids: ``[B, L]``.
          type_ids: ``[B, L]``, 0 for sentence A and 1 for sentence B.
          segment_ids: ``[B, L]``, which example of the row a token belongs to; 0 is padding.
          positions: ``[B, L]``, counted from 0 in every example.
          dropout: the rates; None for inference.

        Returns:
          ``[B, L, D]``, float32 whatever the compute type: what is carried from layer to layer, and
          added to, is not rounded.
        """
        x = self.embeddings(token_ids, type_ids, positions, dropout)
        self.sow("intermediates", "embedded", x)
        x, _ = self.layers(x, self._mask(segment_ids, dropout), dropout)
        return x

    def _mask(self, segment_ids: Array, dropout: Dropout | None) -> Mask:
        rate = dropout and dropout.attention
        if self.attention != "xla" and isinstance(rate, int | float) and rate:
            raise UserError(f"{self.attention} attention cannot drop attention weights; use xla")
        # Parameters do not depend on it, and the batch they are made with is too short for some.
        return Mask.of(segment_ids, "xla" if self.is_initializing() else self.attention)

    def pool(self, first: Array) -> Array:
        """The [CLS] states ``[E, D]`` through the tanh pooler, or unchanged without one."""
        return jnp.tanh(self.pooler(first)) if self.with_pooler else first
