"""Muon on stacked parameters: momentum, orthogonalised matrix by matrix.

Sources: Jordan et al. 2024 (Muon, by ``optax.contrib``), Liu et al. 2025, "Muon is Scalable for LLM
Training" (the size of a step). The kernels of the encoder are matrices from one hidden vector to
another; Muon is for them. Embedding tables, heads, biases and norms are not, and keep Adam.

A kernel is the matrix it stands for, layer by layer: heads and their width are one axis, of the
outputs for query, key and value, of the inputs for the attention's output. ``optax.contrib.muon``
would skip every kernel of the stack, because none has two axes, and decay biases.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from bertjax.optim.addresses import Params, path_of

ENCODER = re.compile(r"^(?:generator/)?encoder/")
TO_HEADS = MuonDimensionNumbers(reduction_axis=(-3,), output_axis=(-2, -1))
FROM_HEADS = MuonDimensionNumbers(reduction_axis=(-3, -2), output_axis=(-1,))
DENSE = MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,))
MATRICES = {
    "layers/attention/query/kernel": TO_HEADS,
    "layers/attention/key/kernel": TO_HEADS,
    "layers/attention/value/kernel": TO_HEADS,
    "layers/attention/output/kernel": FROM_HEADS,
    "layers/mlp/up/kernel": DENSE,
    "layers/mlp/down/kernel": DENSE,
    "embeddings/projection/kernel": DENSE,
    "pooler/kernel": DENSE,
}
"""Inputs and outputs of every kernel of the encoder; what axes stand before them count layers."""
UPDATE_SIZE = 0.2
"""Root mean square of a step before the learning rate: about Adam's (Liu et al. 2025, 2.2)."""


def matrix_axes(params: Params) -> Params:
    """A tree with the ``MuonDimensionNumbers`` of the leaves that are Muon's, None at the others.

    Masked leaves stay masked. An encoder's kernel that :data:`MATRICES` lacks is a KeyError.
    """

    def axes(key_path: tuple[Any, ...], _: Array) -> MuonDimensionNumbers | None:
        path = ENCODER.sub("", path_of(key_path), count=1)
        is_kernel = path != path_of(key_path) and path.endswith("/kernel")
        return MATRICES[path] if is_kernel else None

    return jax.tree_util.tree_map_with_path(axes, params)


def scale_by_muon_or(
    other: optax.GradientTransformation, momentum: float, eps: float
) -> optax.GradientTransformation:
    """Muon for the matrices of the encoder, ``other`` for every other parameter.

    Nesterov momentum and five Newton-Schulz iterations. The steps are as large as Adam's, so that
    one learning rate and one decay, tuned for AdamW, serve both parts.
    """

    def chosen(params: Params) -> Params:
        return _map_axes(lambda _, axes: axes is not None, params)

    def rest(params: Params) -> Params:
        return _map_axes(lambda _, axes: axes is None, params)

    muon = scale_by_muon(beta=momentum, eps=eps, weight_dimension_numbers=matrix_axes)
    return optax.chain(
        optax.masked(optax.chain(muon, optax.stateless(_resize)), chosen),
        optax.masked(other, rest),
    )


def _resize(updates: Params, params: Params | None) -> Params:
    """Gives orthogonal matrices the size of Adam's steps: an entry's is sqrt(1 / longer side)."""
    del params

    def resize(update: Array, axes: Any) -> Array:
        sides = [math.prod(update.shape[axis] for axis in side) for side in axes]
        return update * (UPDATE_SIZE * math.sqrt(max(sides)))

    return _map_axes(resize, updates)


def _map_axes(function: Any, params: Params) -> Params:
    """``function(leaf, its axes)`` of each leaf; axes are None where they are not Muon's."""
    return jax.tree.map(function, params, matrix_axes(params))
