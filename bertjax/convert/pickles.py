"""PyTorch's pickles, of which nothing is ever executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.convert.stored import PIECE_BYTES, gather
from bertjax.folders import first_line
from bertjax.types import UserError


class PickleFile:
    """One PyTorch pickle, read with ``weights_only=True``: nothing in it is ever executed.

    A file that torch wrote since version 1.6 is a zip archive, which is mapped and opened anew
    after every :data:`PIECE_BYTES` that were read, so that its pages leave the memory. A pickle
    from before that, or an archive that somebody compressed, cannot be mapped: it is held in
    memory as a whole.

    Raises:
      UserError: if torch is not installed, or if the file is damaged or wants more than weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = _records(path)
        self._state: dict[str, Any] = _load(path, self._records)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self._state.items()}
        self._read_bytes = 0

    def names(self) -> list[str]:
        """The names of its tensors."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._shapes[name]

    def read(self, name: str) -> np.ndarray:
        """The tensor, as float32 if it is a floating-point one.

        Raises:
          UserError: if it is not an ordinary tensor, or if the file was changed meanwhile.
        """
        try:
            if not self._tensor(name).is_floating_point():
                return self._tensor(name).numpy()
            return gather(self._pieces(name), self._shapes[name], np.dtype(np.float32))
        except UserError:
            raise
        except Exception as error:  # sparse, quantised and subclassed tensors fail variously
            raise UserError(
                f"tensor '{name}' in {self.path} cannot be read as numbers ({first_line(error)}); "
                "save the model in float32, float16 or bfloat16"
            ) from None

    def _tensor(self, name: str) -> Any:
        if not self._state:
            self._state = _load(self.path, self._records)
        return self._state[name].detach()

    def _pieces(self, name: str) -> Iterator[np.ndarray]:
        """The numbers of a tensor as flat float32 arrays, the file opened anew in between."""
        if not self._tensor(name).is_contiguous():
            yield self._tensor(name).float().reshape(-1).numpy()
            return
        total, width = self._tensor(name).numel(), self._tensor(name).element_size()
        step = PIECE_BYTES // width
        for start in range(0, total, step):
            piece = self._tensor(name).view(-1)[start : start + step]
            self._read_bytes += piece.numel() * width
            yield piece.float().numpy()
            del piece
            self._release()

    def _release(self) -> None:
        """Closes a mapped file of which a piece's worth was read."""
        if self._records and self._read_bytes >= PIECE_BYTES:
            self._state, self._read_bytes = {}, 0


def _records(path: Path) -> Counter[int]:
    """The sizes of the stretches of numbers in a zip archive; empty if it cannot be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    except (OSError, ValueError, zipfile.BadZipFile):
        return Counter()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return Counter()
    return Counter(entry.file_size for entry in entries)


def _load(path: Path, records: Counter[int]) -> dict[str, Any]:
    """The table of tensors that a pickle holds, mapped if it is an archive with ``records``."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {path} needs torch: pip install bertjax[torch], "
            "or save the model as safetensors"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=bool(records))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except Exception as error:  # a damaged pickle fails in whatever operation it reaches
        raise UserError(
            f"{path} is not a whole PyTorch file ({type(error).__name__}); get the file anew"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in state.items()
    ):
        raise UserError(
            f"{path} holds something else than a table of tensors; "
            "save the model's state_dict() itself"
        )
    # torch does not compare what it maps with the archive: numbers would be read from beyond it.
    dense = [t.untyped_storage() for t in state.values() if t.layout == torch.strided]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in dense}
    if records and Counter(size for size in sizes.values() if size) - records:
        raise UserError(
            f"{path} is not a whole PyTorch file (it promises more numbers than it holds); "
            "get the file anew"
        )
    return dict(state)


def _refusal(path: Path, message: str) -> str:
    wanted = re.search(r"GLOBAL ([\w.]+)", message)
    what = f" ({wanted.group(1)})" if wanted else ""
    return (
        f"{path} is refused: its pickle is damaged or wants more than weights{what}, which could "
        "run code; save the model as safetensors"
    )
