"""Readers of weight files: safetensors, PyTorch pickles and Flax msgpack, whole or in shards.

A tensor is read when it is asked for, and in pieces, so that a large checkpoint is never twice in
memory: beside the arrays that the caller keeps, reading takes a few tens of MiB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from bertjax.convert.flax_files import FlaxFile, torch_name
from bertjax.convert.pickles import PickleFile
from bertjax.convert.stored import BFLOAT16, Stored, all_finite, read_stored
from bertjax.folders import first_line, read_json
from bertjax.types import UserError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
"""In the order in which they are looked for."""

SAFETENSORS_PATTERNS = ("model*.safetensors", "model.safetensors.index.json")
PICKLE_PATTERNS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
FLAX_PATTERNS = ("flax_model*.msgpack", "flax_model.msgpack.index.json")

_SAFETENSORS_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class WeightFile(Protocol):
    """One file of named tensors."""

    path: Path

    def names(self) -> list[str]:
        """The names of its tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The tensor, as float32 if it is a floating-point one, else as it is stored."""
        ...


class Weights:
    """The tensors of a model, over one file or several."""

    def __init__(self, files: dict[str, WeightFile], path: Path) -> None:
        self._files = files
        self.path = path
        """The file that was opened: the weights, or the index of the shards."""

    def names(self) -> list[str]:
        """The names of every tensor."""
        return list(self._files)

    def where(self, name: str) -> Path:
        """The file in which a tensor lies."""
        return self._files[name].path

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._files[name].shape(name)

    def read(self, name: str) -> np.ndarray:
        """The tensor as float32.

        Raises:
          UserError: if it is not made of floating-point numbers, or not of finite ones.
        """
        array = self._files[name].read(name)
        if array.dtype != np.float32:
            raise UserError(
                f"tensor '{name}' in {self.where(name)} holds {array.dtype} where weights are "
                "floating-point numbers; quantised models must be converted first"
            )
        if not all_finite(array):
            raise UserError(
                f"tensor '{name}' in {self.where(name)} holds NaN or infinite numbers; "
                "the training that wrote it diverged, or the file is damaged: get another"
            )
        return array


def open_weights(folder: Path) -> Weights:
    """Opens the weights of a Hugging Face folder.

    Raises:
      UserError: if there are none, or if a file or shard is missing, damaged or refused.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            return _open_index(path) if name.endswith(".json") else _open_single(path)
    raise UserError(
        f"{folder} has no weights: none of {', '.join(WEIGHT_FILES)} is there; "
        "name a folder that transformers' save_pretrained wrote"
    )


def _open_single(path: Path) -> Weights:
    file = _open_file(path)
    return Weights(dict.fromkeys(file.names(), file), path)


def _open_index(index: Path) -> Weights:
    """Opens the shards that an index names, and checks that each holds its tensors."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) and Path(shard).name == shard for shard in weight_map.values()
    ):
        raise UserError(f"{index} has no 'weight_map' from tensors to files; get the file anew")
    if index.name.startswith("flax_model."):
        weight_map = {torch_name(name.split("/")): shard for name, shard in weight_map.items()}
    shards: dict[str, WeightFile] = {}
    for shard in sorted(set(weight_map.values())):
        if not (index.parent / shard).is_file():
            raise UserError(
                f"{index} names the shard {shard}, which is not there; "
                "copy every shard into the folder"
            )
        shards[shard] = _open_file(index.parent / shard)
    present = {shard: set(file.names()) for shard, file in shards.items()}
    for name, shard in weight_map.items():
        if name not in present[shard]:
            raise UserError(
                f"{index.parent / shard} lacks the tensor '{name}' that {index.name} promises; "
                "get both files anew"
            )
    return Weights({name: shards[shard] for name, shard in weight_map.items()}, index)


def _open_file(path: Path) -> WeightFile:
    readers = {".safetensors": SafetensorsFile, ".msgpack": FlaxFile}
    return readers.get(path.suffix, PickleFile)(path)


class SafetensorsFile:
    """One .safetensors file. The library checks its header; the numbers are read without it.

    Raises:
      UserError: if the file is truncated or not of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(str(path), framework="numpy"):
                self._start, self._header = _safetensors_header(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file ({first_line(error)}); get the file anew"
            ) from None

    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._header[name]["shape"])

    def read(self, name: str) -> np.ndarray:
        """The tensor, as float32 if it is a floating-point one.

        Raises:
          UserError: if NumPy has no such type, or if the file was changed meanwhile.
        """
        entry = self._header[name]
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise UserError(
                f"tensor '{name}' in {self.path} has a type that cannot be read "
                f"({entry['dtype']}); save the model in float32, float16 or bfloat16"
            )
        first, stop = entry["data_offsets"]
        spans = ((self._start + first, stop - first),)
        stored = Stored(_SAFETENSORS_TYPES[entry["dtype"]], self.shape(name), spans)
        try:
            return read_stored(self.path, stored)
        except (OSError, ValueError) as error:
            raise UserError(
                f"tensor '{name}' in {self.path} cannot be read ({first_line(error)}); "
                "get the file anew"
            ) from None


def _safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and the entry of each tensor, of a file that was found whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return 8 + length, header
