"""Writes safetensors tensor by tensor, in one file or in shards, as transformers lays them out.

The library's own writer wants every tensor in memory at once; here each is made when its turn
comes and written in pieces. The format is short: eight bytes with the length of the header, the
header in JSON (padded with spaces to a multiple of eight bytes), then the numbers in its order.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bertjax.convert.stored import BFLOAT16, PIECE_BYTES
from bertjax.folders import write_json
from bertjax.types import UserError, nearest

SHARD_BYTES = 5 * 10**9
"""The size above which weights are cut into several files."""

INDEX = "model.safetensors.index.json"

_TYPES = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", BFLOAT16),
}
"""The name of a type in the format's header, and the type."""


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is to be written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    """Gives the numbers, as an array of ``shape`` of any floating-point type."""


def write_safetensors(
    folder: Path,
    tensors: Sequence[LazyTensor],
    *,
    dtype: str = "float32",
    max_shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Writes ``model.safetensors``, or shards and their index; gives the names of the files.

    A shard holds at most ``max_shard_bytes`` of numbers, but at least one tensor. Numbers are
    rounded to the nearest of ``dtype``: float32, float16 or bfloat16.

    Raises:
      UserError: for another ``dtype`` or a shard size below one, or if a number is too large for
        ``dtype``.
      OSError: if the disk refuses; the folder then holds part of the files.
    """
    if dtype not in _TYPES:
        raise UserError(f"weights cannot be written as '{dtype}'{nearest(dtype, _TYPES)}")
    if max_shard_bytes < 1:
        raise UserError(f"the size of a shard must be at least one byte, not {max_shard_bytes}")
    repeated = len(tensors) - len({tensor.name for tensor in tensors})
    if repeated:
        raise ValueError(f"{repeated} tensors have the name of another one")
    shards = _shards(tensors, _TYPES[dtype][1].itemsize, max_shard_bytes)
    if len(shards) <= 1:
        _write_file(folder / "model.safetensors", tensors, dtype)
        return ["model.safetensors"]
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, dtype)
        weight_map |= {tensor.name: name for tensor in shard}
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    sizes = {"total_parameters": numbers, "total_size": numbers * _TYPES[dtype][1].itemsize}
    write_json(folder / INDEX, {"metadata": sizes, "weight_map": weight_map})
    return [*dict.fromkeys(weight_map.values()), INDEX]


def _shards(tensors: Sequence[LazyTensor], width: int, max_bytes: int) -> list[list[LazyTensor]]:
    """The tensors in their order, cut as transformers cuts them.

    A shard ends where the next tensor would pass ``max_bytes``; a tensor larger than that has a
    shard of its own.
    """
    shards: list[list[LazyTensor]] = []
    current: list[LazyTensor] = []
    held = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * width
        if size > max_bytes:
            shards.append([tensor])
            continue
        if held + size > max_bytes:
            shards.append(current)
            current, held = [], 0
        current.append(tensor)
        held += size
    return [*shards, current] if current else shards


def _write_file(path: Path, tensors: Sequence[LazyTensor], dtype: str) -> None:
    code, target = _TYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for tensor in tensors:
        start, stop = stop, stop + math.prod(tensor.shape) * target.itemsize
        header[tensor.name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            _write_tensor(file, tensor, target, dtype)


def _write_tensor(file: BinaryIO, tensor: LazyTensor, target: np.dtype, dtype: str) -> None:
    """Writes one tensor's numbers in pieces, so that no second copy of it is made."""
    array = np.asarray(tensor.read())
    if array.shape != tensor.shape:
        raise ValueError(f"tensor '{tensor.name}' has shape {array.shape}, not {tensor.shape}")
    flat = array.reshape(-1)
    step = PIECE_BYTES // target.itemsize
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        with np.errstate(over="ignore"):  # an overflow is told below, with the tensor's name
            rounded = piece.astype(target, copy=False)
        if rounded is not piece and not (np.isfinite(rounded) == np.isfinite(piece)).all():
            raise UserError(
                f"tensor '{tensor.name}' holds {abs(piece).max():.3g}, which is too large for "
                f"{dtype}; write the model in float32 or bfloat16"
            )
        file.write(np.ascontiguousarray(rounded).view(np.uint8).data)
