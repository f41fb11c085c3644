"""The files of a TensorFlow checkpoint, read and written with TensorFlow itself (the extra ``tf``).

A checkpoint ``NAME`` is the index ``NAME.index`` and the numbers in ``NAME.data-00000-of-00001``
and so on. TensorFlow keeps a checksum of every variable and compares it when the variable is read.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.convert.files import Weights
from bertjax.convert.stored import BFLOAT16
from bertjax.convert.writing import LazyTensor
from bertjax.folders import first_line
from bertjax.types import UserError

PART_BYTES = 32 * 2**20
"""How many numbers are handed to TensorFlow at a time, unless one variable is larger."""

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def import_tensorflow() -> Any:
    """TensorFlow, told to keep its notices for itself.

    Raises:
      UserError: if it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it is announced, whatever the level
    try:
        import tensorflow
    except ImportError:
        raise UserError(
            "TensorFlow checkpoints are read and written with TensorFlow, which is not installed; "
            "run pip install 'bertjax[tf]'"
        ) from None
    return tensorflow


def open_checkpoint(folder: Path) -> Weights:
    """Opens the checkpoint of a folder: the one that its file ``checkpoint`` names, or the only.

    Raises:
      UserError: if there is none, if there are several and nothing says which, if a file is missing
        or damaged, or if TensorFlow is not installed.
    """
    name = _find(folder)
    _check_shards(folder, name)
    file = CheckpointFile(folder / name)
    return Weights(dict.fromkeys(file.names(), file), file.path)


class CheckpointFile:
    """One checkpoint.

    Raises:
      UserError: if its index is damaged, or if TensorFlow is not installed.
    """

    def __init__(self, prefix: Path) -> None:
        self.path = prefix.with_name(prefix.name + ".index")
        if glob.escape(str(prefix)) != str(prefix):
            raise UserError(
                f"TensorFlow takes [, ? and * in {prefix} for wildcards; rename the folder or file"
            )
        tensorflow = import_tensorflow()
        try:
            self._reader = tensorflow.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
        except Exception as error:  # TensorFlow's own, RuntimeError, IndexError
            raise UserError(
                f"{self.path} is not a whole index of a TensorFlow checkpoint "
                f"({first_line(error)}); get the file anew"
            ) from None
        shapes.pop(_OBJECT_GRAPH, None)
        self._shapes = {name: tuple(shape) for name, shape in sorted(shapes.items())}

    def names(self) -> list[str]:
        """The names of its variables, sorted."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a variable, without reading it."""
        return self._shapes[name]

    def read(self, name: str) -> np.ndarray:
        """The variable, as float32 if it is a floating-point one.

        Raises:
          UserError: if its numbers are missing or damaged.
        """
        try:
            array = np.asarray(self._reader.get_tensor(name))
        except Exception as error:  # TensorFlow's own, RuntimeError, IndexError
            raise UserError(
                f"variable '{name}' of {self.path} cannot be read ({first_line(error)}); "
                "get the checkpoint's data files anew"
            ) from None
        if array.dtype.kind != "f" and array.dtype != BFLOAT16:
            return array
        with np.errstate(over="ignore"):  # a float64 that becomes infinite is found as such
            return array.astype(np.float32, copy=False)


def _find(folder: Path) -> str:
    """The name of the checkpoint of a folder."""
    found = sorted(path.name.removesuffix(".index") for path in folder.glob("*.index"))
    state = folder / "checkpoint"
    text = state.read_text(encoding="utf-8", errors="replace") if state.is_file() else ""
    named = re.search(r'^model_checkpoint_path:\s*"(?:.*[\\/])?(.+)"', text, re.MULTILINE)
    if named and named[1] in found:
        return named[1]
    if not found:
        raise UserError(
            f"{folder} has no TensorFlow checkpoint: no file *.index is there; name the folder "
            "that holds bert_model.ckpt.index and its data"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder} holds several checkpoints ({', '.join(found)}) and no file 'checkpoint' "
            "names one of them; copy the files of one into a folder of its own"
        )
    return found[0]


def _check_shards(folder: Path, name: str) -> None:
    """Finds a missing data file before anything is read."""
    shards = {path.name for path in folder.glob(glob.escape(name) + ".data-*")}
    counts = {int(shard.rpartition("-")[2]) for shard in shards if re.search(r"-\d{1,5}$", shard)}
    missing = f"{name}.data-00000-of-00001"
    for count in sorted(counts, reverse=True):
        wanted = [f"{name}.data-{shard:05d}-of-{count:05d}" for shard in range(count)]
        if shards.issuperset(wanted):
            return
        missing = next(shard for shard in wanted if shard not in shards)
    raise UserError(
        f"{folder / name}.index has no {missing} beside it; "
        "copy every file of the checkpoint into the folder"
    )


def write_checkpoint(prefix: Path, tensors: Sequence[LazyTensor]) -> None:
    """Writes the variables, in float32, as the checkpoint ``prefix``.

    A few variables at a time are made and written as a checkpoint of their own, and these are
    joined, which only renames their data files.

    Raises:
      UserError: if TensorFlow is not installed.
      OSError: if the disk refuses; the folder then holds part of the files.
    """
    tensorflow = import_tensorflow()
    with contextlib.suppress(RuntimeError):  # it is too late if TensorFlow has begun to compute
        tensorflow.config.set_visible_devices([], "GPU")  # whose memory it would take from JAX
    written = []
    try:
        with tensorflow.device("CPU:0"):
            for number, part in enumerate(_parts(tensors)):
                written.append(str(prefix.parent / "parts" / f"{number:05d}"))
                tensorflow.raw_ops.SaveV2(
                    prefix=written[-1],
                    tensor_names=[tensor.name for tensor in part],
                    shape_and_slices=[""] * len(part),
                    tensors=[_shared(tensorflow, tensor.read()) for tensor in part],
                )
            tensorflow.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=written, destination_prefix=str(prefix), delete_old_dirs=True
            )
    except tensorflow.errors.OpError as error:
        raise OSError(first_line(error)) from None


def _shared(tensorflow: Any, array: np.ndarray) -> Any:
    """A float32 tensor over the memory of the array; TensorFlow itself would copy it twice."""
    array = np.require(array, np.float32, ["C", "W"])  # what cannot be written is not shared
    return tensorflow.experimental.dlpack.from_dlpack(array.__dlpack__())


def _parts(tensors: Sequence[LazyTensor]) -> Iterator[list[LazyTensor]]:
    """The variables in their order, cut so that a part is one variable or below PART_BYTES."""
    part: list[LazyTensor] = []
    held = 0
    for tensor in tensors:
        size = 4 * math.prod(tensor.shape)
        if part and held + size > PART_BYTES:
            yield part
            part, held = [], 0
        part.append(tensor)
        held += size
    if part:
        yield part
