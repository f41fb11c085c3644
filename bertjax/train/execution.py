"""How a run's models are executed: what changes their speed and memory, and not their results."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

from jax.sharding import Mesh

from bertjax.models.attention import resolve_attention
from bertjax.train.run_config import DTYPES, RunConfig
from bertjax.types import ModelConfig

VOCAB_MULTIPLE = 128
"""Rows to which tables are filled up on accelerators: the width of a TPU's vector registers, and a
multiple of what a GPU's matrix units take."""

logger = logging.getLogger(__name__)


def execution(config: RunConfig, shape: ModelConfig, mesh: Mesh, length: int) -> dict[str, Any]:
    """Fields of :class:`~bertjax.models.Model` for the devices of ``mesh``, which need not be here.

    ``length`` is that of the longest rows, in tokens. What is not as the config asks is said.

    Raises:
      UserError: if the config asks for an attention that cannot do what the run needs.
    """
    device = mesh.devices.flat[0]
    attention, notice = resolve_attention(
        config.attention,
        device.platform,
        DTYPES[config.dtype],
        shape.head_dim,
        shape.attention_dropout if config.dropout is None else config.dropout,
        length,
        getattr(device, "compute_capability", None),
    )
    if notice:
        logger.info("%s", notice)
    # XLA merges what unrolled layers compute twice on a CPU, so that nothing would be saved.
    unrolls = device.platform == "cpu" and config.remat == "none"
    return {
        "dtype": DTYPES[config.dtype],
        "unroll": config.unroll or (shape.num_layers if unrolls else 1),
        "attention": attention,
        "remat": config.remat,
    }


def padded_vocabulary(
    config: RunConfig, shape: ModelConfig, mesh: Mesh, recorded: int | None = None
) -> ModelConfig:
    """``shape`` with ``vocab_padding`` for the devices of ``mesh``, between which tables are split.

    ``recorded`` is the padding of the checkpoints from which the run goes on; None: it begins.
    """
    if recorded is None:
        usual = 1 if mesh.devices.flat[0].platform == "cpu" else VOCAB_MULTIPLE
        multiple = math.lcm(config.vocab_multiple or usual, mesh.shape["tensor"])
        recorded = -shape.vocab_size % multiple
    return dataclasses.replace(shape, vocab_padding=recorded)
