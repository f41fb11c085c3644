"""Readers of weight files: safetensors and PyTorch pickles, whole or in shards.

A tensor is read when it is asked for, so that a large checkpoint is never twice in memory.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy, hence to safetensors)
import numpy as np
from safetensors import SafetensorError, safe_open

from bertjax.folders import read_json
from bertjax.types import UserError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which they are looked for."""

SAFETENSORS_PATTERNS = ("model*.safetensors", "model.safetensors.index.json")
PICKLE_PATTERNS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


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
        """The tensor, in the type in which it is stored."""
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
        if array.dtype.kind not in "fV":  # V: bfloat16
            raise UserError(
                f"tensor '{name}' in {self.where(name)} holds {array.dtype} where weights are "
                "floating-point numbers; quantised models must be converted first"
            )
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
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
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)


class SafetensorsFile:
    """One .safetensors file, mapped into memory.

    Raises:
      UserError: if the file is truncated or not of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = safe_open(str(path), framework="numpy")
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file ({error}); get the file anew"
            ) from None

    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """The tensor, in the type in which it is stored."""
        try:
            return self._file.get_tensor(name)
        except (SafetensorError, TypeError, AttributeError, KeyError) as error:
            raise UserError(
                f"tensor '{name}' in {self.path} has a type that cannot be read ({error}); "
                "save the model in float32, float16 or bfloat16"
            ) from None


class PickleFile:
    """One PyTorch pickle, read with ``weights_only=True``: nothing in it is ever executed.

    Raises:
      UserError: if torch is not installed, or if the file is damaged or wants more than weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            import torch
        except ImportError:
            raise UserError(
                f"reading {path} needs torch: pip install bertjax[torch], "
                "or save the model as safetensors"
            ) from None
        try:
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except pickle.UnpicklingError as error:
            raise UserError(_refusal(path, str(error))) from None
        except Exception as error:  # a damaged pickle fails in whatever operation it reaches
            raise UserError(
                f"{path} is not a whole PyTorch file ({type(error).__name__}); get the file anew"
            ) from None
        if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
            raise UserError(
                f"{path} holds something else than a table of tensors; "
                "save the model's state_dict() itself"
            )
        self._state = state

    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._state[name].shape)

    def read(self, name: str) -> np.ndarray:
        """The tensor, as float32 if it is a floating-point one."""
        tensor = self._state[name].detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _refusal(path: Path, message: str) -> str:
    wanted = re.search(r"GLOBAL ([\w.]+)", message)
    what = f" ({wanted.group(1)})" if wanted else ""
    return (
        f"{path} is refused: its pickle is damaged or wants more than weights{what}, which could "
        "run code; save the model as safetensors"
    )
