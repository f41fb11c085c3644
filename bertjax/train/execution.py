"""How a run's models are executed: what changes their speed and memory, and not their results."""

from __future__ import annotations

import logging
from typing import Any

from jax.sharding import Mesh

from bertjax.models.attention import resolve_attention
from bertjax.train.run_config import DTYPES, RunConfig
from bertjax.types import ModelConfig

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
    return {
        "dtype": DTYPES[config.dtype],
        "unroll": config.unroll or (shape.num_layers if device.platform == "cpu" else 1),
        "attention": attention,
        "remat": config.remat,
    }
