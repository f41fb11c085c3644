"""Numbers that lie in a file, brought into memory in pieces.

A tensor is filled piece by piece, so that reading one takes its own memory and no more than
:data:`PIECE_BYTES` beside it, whatever the precision in which it is stored. Nothing is mapped:
pages of a mapped file count as the process's memory for as long as the file is open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

PIECE_BYTES = 16 * 2**20
"""How much of a file is held beside the tensor that it fills."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: what it is, and where its bytes are, in row-major order."""

    dtype: np.dtype
    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Offset and number of bytes of each stretch of the file; together they are the tensor."""


def read_stored(path: Path, stored: Stored) -> np.ndarray:
    """The tensor, as float32 if it is made of floating-point numbers, else as it is stored.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it ends before the tensor does.
    """
    return gather(_pieces(path, stored), stored.shape, stored.dtype)


def gather(pieces: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array filled with flat pieces of it; float32 if ``dtype`` is a floating-point type.

    Raises:
      ValueError: if the pieces do not fill it.
    """
    floating = dtype.kind == "f" or dtype == BFLOAT16
    array = np.empty(shape, np.float32 if floating else dtype)
    flat, filled = array.reshape(-1), 0
    with np.errstate(over="ignore"):  # a float64 that becomes infinite is found as such
        for piece in pieces:
            flat[filled : filled + piece.size] = piece
            filled += piece.size
    if filled != flat.size:
        raise ValueError(f"the file holds {filled} of its {flat.size} numbers")
    return array


def _pieces(path: Path, stored: Stored) -> Iterator[np.ndarray]:
    """The numbers in the order in which they lie in the file."""
    most = PIECE_BYTES // stored.dtype.itemsize
    with path.open("rb") as file:
        for offset, size in stored.spans:
            file.seek(offset)
            left = size // stored.dtype.itemsize
            while left:
                piece = np.fromfile(file, stored.dtype, min(left, most))
                if not piece.size:
                    return
                left -= piece.size
                yield piece


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite, found without a second array of its size."""
    if array.ndim == 0:
        return bool(np.isfinite(array))
    rows = max(1, PIECE_BYTES // max(1, array[:1].nbytes))
    return all(np.isfinite(array[at : at + rows]).all() for at in range(0, len(array), rows))
