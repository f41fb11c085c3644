"""An integer digest of each array of a tree, by which a changed bit is noticed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bertjax.optim import path_of

DIGEST_PIECE = 1 << 20
"""So many elements of a host array are digested at once."""


@jax.jit
def digests(tree: Any) -> dict[str, Array]:
    """An integer digest of each array's bits, by path: the same on any mesh.

    The bits as 32-bit words, each times an odd number of its index, summed modulo 2^32: integer
    sums do not depend on their order, and any flipped bit changes the sum.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(path): _digest(leaf) for path, leaf in leaves}


def _digest(leaf: Array) -> Array:
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return jnp.sum(words * (index * jnp.uint32(2) + jnp.uint32(1)), dtype=jnp.uint32)


def _host_digest(leaf: np.ndarray) -> int:
    """What ``digests`` computes, of a host array, without another copy of it."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[leaf.dtype.itemsize]
    words = leaf.reshape(-1).view(kind)
    odd = np.arange(min(DIGEST_PIECE, words.size), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    total = 0
    for begin in range(0, words.size, DIGEST_PIECE):
        piece = words[begin : begin + DIGEST_PIECE].astype(np.uint32)
        piece *= odd[: piece.size] + np.uint32(2 * begin % 2**32)
        total += int(np.sum(piece, dtype=np.uint32))
    return total % 2**32


def digest_table(tree: Any) -> dict[str, int]:
    """The digests of a tree of host and device arrays, by path."""
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    host = {n: _host_digest(leaf) for n, leaf in leaves.items() if isinstance(leaf, np.ndarray)}
    device = jax.device_get(digests({n: leaf for n, leaf in leaves.items() if n not in host}))
    return host | {name: int(value) for name, value in device.items()}
