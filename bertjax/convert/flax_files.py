"""``flax_model.msgpack``, the weights of transformers' Flax models up to version 4.

The file is what ``flax.serialization.to_bytes`` writes: msgpack maps within maps, at whose leaves
lies an array: msgpack's extension type 1 around [shape, name of the dtype, bytes]. An array
beyond a gibibyte is a map of flat chunks. Only the heads of the objects are parsed, and the numbers
are left where they are until they are asked for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bertjax.convert.stored import BFLOAT16, Stored, read_stored
from bertjax.folders import first_line
from bertjax.types import UserError

_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
"""Flax's name of a leaf to PyTorch's."""
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY = 1
"""The extension type of an array."""
_DEEPEST = 64
"""Maps within maps; a model has about eight."""
_DTYPES = {name: np.dtype(name) for name in ("bool", "float16", "float32", "float64")}
_DTYPES |= {name: np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8")}
_DTYPES["bfloat16"] = BFLOAT16


def torch_name(path: Sequence[str]) -> str:
    """PyTorch's name of the parameter at a path of a Flax model."""
    *modules, leaf = path
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


class FlaxFile:
    """One file of a Flax model, presented with the names and the axes of PyTorch.

    A ``kernel`` of two axes is [in, out] in Flax and [out, in] in PyTorch: it is transposed.

    Raises:
      UserError: if the file is damaged, or holds something else than arrays by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored: dict[str, tuple[Stored, bool]] = {}
        try:
            with path.open("rb") as file:
                tree = _Heads(file).whole()
            for steps, stored in _leaves(tree, ()):
                name = torch_name(steps)
                if name in self._stored:
                    raise ValueError(f"two arrays are named {name}")
                transposed = steps[-1] == "kernel" and len(stored.shape) == 2
                self._stored[name] = (stored, transposed)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a whole msgpack file of a Flax model ({first_line(error)}); "
                "get the file anew"
            ) from None

    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        stored, transposed = self._stored[name]
        return stored.shape[::-1] if transposed else stored.shape

    def read(self, name: str) -> np.ndarray:
        """The tensor, as float32 if it is a floating-point one.

        Raises:
          UserError: if the file was changed meanwhile.
        """
        stored, transposed = self._stored[name]
        try:
            array = read_stored(self.path, stored)
        except (OSError, ValueError) as error:
            raise UserError(
                f"tensor '{name}' in {self.path} cannot be read ({first_line(error)}); "
                "get the file anew"
            ) from None
        return array.T if transposed else array


def _leaves(
    tree: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Stored]]:
    """The arrays under a map, with their paths."""
    for key, value in tree.items():
        steps = (*path, key)
        if isinstance(value, dict) and _CHUNKED in value:
            yield steps, _joined(value, "/".join(steps))
        elif isinstance(value, dict):
            yield from _leaves(value, steps)
        elif isinstance(value, Stored):
            yield steps, value
        else:
            raise ValueError(f"{'/'.join(steps)} is not an array")


def _joined(value: dict[str, Any], where: str) -> Stored:
    """The array that flat chunks make: ``{"shape": {"0": ...}, "chunks": {"0": ...}}``."""
    shape, chunks = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        raise ValueError(f"{where} is not a chunked array")
    sizes = [shape.get(str(axis)) for axis in range(len(shape))]
    axes = tuple(size for size in sizes if type(size) is int)
    arrays = [chunks.get(str(number)) for number in range(len(chunks))]
    parts = [part for part in arrays if isinstance(part, Stored)]
    complete = len(axes) == len(sizes) and len(parts) == len(arrays)
    if not complete or len({part.dtype for part in parts}) != 1:
        raise ValueError(f"{where} is not a chunked array")
    spans = tuple(span for part in parts for span in part.spans)
    if sum(size for _, size in spans) != math.prod(axes) * parts[0].dtype.itemsize:
        raise ValueError(f"the chunks of {where} do not make its shape")
    return Stored(parts[0].dtype, axes, spans)


_FIXED = (
    (0x00, 0x80, "int"),
    (0x80, 0x90, "map"),
    (0x90, 0xA0, "list"),
    (0xA0, 0xC0, "text"),
)
"""First and last + 1 of the bytes whose kind and number are one byte."""
_SIZED = {
    **{0xC4 + i: ("bytes", code) for i, code in enumerate("BHI")},
    **{0xC7 + i: ("extension", code) for i, code in enumerate("BHI")},
    **{0xCC + i: ("int", code) for i, code in enumerate("BHIQ")},
    **{0xD9 + i: ("text", code) for i, code in enumerate("BHI")},
    **{0xDC + i: ("list", code) for i, code in enumerate("HI")},
    **{0xDE + i: ("map", code) for i, code in enumerate("HI")},
}
"""Bytes that are followed by a number in struct's code: a length, or the integer itself."""


class _Heads:
    """Walks over the objects of a msgpack file without reading its arrays.

    Raises ValueError for whatever does not belong into a tree of arrays.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)

    def whole(self) -> dict[str, Any]:
        """The one map that the file is."""
        kind, count = self._head()
        if kind != "map":
            raise ValueError("it does not begin with a map")
        tree = self._map(count, 1)
        if self._file.tell() != self._size:
            raise ValueError("more follows where it should end")
        return tree

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        """Names to maps, arrays (:class:`Stored`), numbers and True."""
        if depth > _DEEPEST:
            raise ValueError(f"its maps are nested deeper than {_DEEPEST}")
        values = {}
        for _ in range(count):
            name = self._text("a name")
            kind, number = self._head()
            if kind == "map":
                values[name] = self._map(number, depth + 1)
            elif kind == "extension":
                values[name] = self._array(number, name)
            elif kind in ("int", "true"):
                values[name] = number
            else:
                raise ValueError(f"'{name}' is neither a map nor an array")
        return values

    def _array(self, size: int, name: str) -> Stored:
        """The array in an extension of ``size`` bytes; the file is left behind it."""
        code = self._take(1)[0]
        if code != _ARRAY:
            raise ValueError(f"'{name}' is an object of extension type {code}, not an array")
        end = self._file.tell() + size
        if self._head() != ("list", 3):
            raise ValueError(f"'{name}' is not an array")
        shape = self._shape(name)
        dtype = self._text("a dtype")
        if dtype not in _DTYPES:
            raise ValueError(f"'{name}' holds {dtype}, which is not a type of weights")
        kind, length = self._head()
        start = self._file.tell()
        if kind != "bytes" or start + length != end:
            raise ValueError(f"'{name}' is not an array")
        if length != math.prod(shape) * _DTYPES[dtype].itemsize:
            raise ValueError(f"'{name}' does not have the numbers that its shape asks for")
        if end > self._size:
            raise ValueError(f"it ends within '{name}'")
        self._file.seek(end)
        return Stored(_DTYPES[dtype], shape, ((start, length),))

    def _shape(self, name: str) -> tuple[int, ...]:
        kind, count = self._head()
        sizes = [self._head() for _ in range(count)] if kind == "list" and count <= 32 else []
        if kind != "list" or len(sizes) != count or any(kind != "int" for kind, _ in sizes):
            raise ValueError(f"'{name}' has no shape")
        return tuple(size for _, size in sizes)

    def _text(self, what: str) -> str:
        kind, length = self._head()
        if kind != "text":
            raise ValueError(f"{what} is not text")
        return self._take(length).decode()

    def _head(self) -> tuple[str, Any]:
        """The kind of the next object, and its length or value."""
        byte = self._take(1)[0]
        for first, stop, kind in _FIXED:
            if first <= byte < stop:
                return kind, byte & (0x1F if kind == "text" else 0x7F if kind == "int" else 0x0F)
        if byte in _SIZED:
            kind, code = _SIZED[byte]
            return kind, struct.unpack(">" + code, self._take(struct.calcsize(">" + code)))[0]
        if 0xD4 <= byte <= 0xD8:
            return "extension", 1 << (byte - 0xD4)
        return ("true", True) if byte == 0xC3 else ("another", None)

    def _take(self, count: int) -> bytes:
        """The next bytes; a length beyond the file is found before they are asked for."""
        if self._file.tell() + count > self._size:
            raise ValueError("it ends too early")
        return self._file.read(count)
