"""Splash attention, Pallas' fused kernel for TPUs, on the rows and heads of one device.

Letters: B batch (rows), L length, N heads, H head width.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

LANES = 128
"""The kernel takes lengths that are multiples of so many tokens."""
LONGEST_BLOCK = 512
"""A block's scores, float32, then take 1 MiB of a core's vector memory, of 16 MiB or more."""
KEPT = "attention"
"""The name of the kernel's results, which ``remat="dots"`` keeps."""


def splash(
    query: Array, key: Array, value: Array, segment_ids: Array, *, interpret: bool = False
) -> Array:
    """Attention within segments; the scale is in the queries already.

    Args:
      query: ``[B, L, N, H]``, as are ``key`` and ``value``; L is a multiple of :data:`LANES`.
      segment_ids: ``[B, L]``.
      interpret: whether to run the kernel in Pallas' interpreter, for tests on a CPU.

    Returns:
      ``[B, L, N, H]``.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    length, heads = query.shape[1:3]
    # No pair is masked by place; which pairs are, the segments say.
    everything = library.MultiHeadMask([library.FullMask((length, length))] * heads)
    kernel: Any = library.make_splash_mha_single_device(
        mask=everything,
        block_sizes=_block_sizes(length),
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )

    def row(query: Array, key: Array, value: Array, segment_ids: Array) -> Array:
        return kernel(query, key, value, library.SegmentIds(segment_ids, segment_ids))

    query, key, value = (array.swapaxes(1, 2) for array in (query, key, value))  # [B, N, L, H]
    return jax.vmap(row)(query, key, value, segment_ids).swapaxes(1, 2)


def _block_sizes(length: int) -> Any:
    """The largest blocks: BERT's rows are short, so that most are one block.

    One block of keys also costs the fused backward kernel no sum over blocks, and it makes the
    scores once where two kernels make them twice.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes

    block = max(size for size in range(LANES, LONGEST_BLOCK + 1, LANES) if length % size == 0)
    return BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
