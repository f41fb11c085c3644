"""Weights from a Hugging Face folder into our parameters, and back."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bertjax.convert.config import FAMILIES, family_of, model_folder, read_config, write_config
from bertjax.convert.files import Weights, open_weights
from bertjax.convert.table import Family, Slot, slots
from bertjax.folders import first_line
from bertjax.tokenizers import Tokenizer
from bertjax.types import HeadConfig, ModelConfig, UserError

Params = dict[str, Any]
"""Nested dictionaries with arrays at the leaves."""


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What was found in a file and what was not."""

    path: Path
    loaded: int
    """Number of tensors read."""
    new: tuple[str, ...]
    """Parts that the file lacks, to be newly initialised: ``encoder/pooler``, ``heads/NAME``."""
    missing: tuple[str, ...]
    """Tensors of those parts, by their name in the table."""
    unused: tuple[str, ...]
    """Tensors of the file that no parameter takes."""

    def text(self) -> str:
        """The report in a few lines; layers of the same kind share one entry."""
        lines = [f"{self.path}: {self.loaded} tensors read"]
        if self.new:
            lines.append(f"  newly initialised: {', '.join(self.new)}")
        if self.missing:
            lines.append(f"  missing in the file: {_grouped(self.missing)}")
        if self.unused:
            lines.append(f"  unused in the file: {_grouped(self.unused)}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model read from a Hugging Face folder."""

    config: ModelConfig
    params: Params
    """Float32 arrays; only the parts that were found."""
    report: LoadReport
    raw: dict[str, Any]
    """All that ``config.json`` says."""


def load_huggingface(source: str | Path, heads: Mapping[str, HeadConfig] | None = None) -> Loaded:
    """Reads the encoder and the wanted heads of a local Hugging Face folder or a hub name.

    The pooler and the heads may be missing: they are left out of ``params`` and reported.

    Raises:
      UserError: if a file is missing, damaged or unsupported, if a tensor of the encoder is
        missing, or if one has another shape than the config or the head asks for.
    """
    folder = model_folder(source)
    config, raw = read_config(folder)
    family = family_of(raw, folder / "config.json")
    weights = open_weights(folder)
    params, report = read_params(family, config, heads or {}, weights)
    return Loaded(config, params, report, raw)


def read_params(
    family: Family, config: ModelConfig, heads: Mapping[str, HeadConfig], weights: Weights
) -> tuple[Params, LoadReport]:
    """Reads the parameters tensor by tensor, each into its place.

    Raises:
      UserError: as :func:`load_huggingface`.
    """
    wanted = list(slots(family, config, heads))
    tied = {c: o for head in heads.values() for c, o in family.tied.get(head.kind, {}).items()}
    names = _names(family, tied, weights)
    absent = _absent_parts(wanted, names, weights)
    params: Params = {}
    used = set()
    for slot in wanted:
        if slot.part not in absent:
            _fill(params, slot, names[slot.theirs], weights)
            used.add(names[slot.theirs])
    repeats = _check_tied(tied, names, used, weights)
    spare = {name for table_name, name in names.items() if table_name in family.ignored}
    report = LoadReport(
        path=weights.path,
        loaded=len(used),
        new=tuple(absent),
        missing=tuple(slot.theirs for slot in wanted if slot.part in absent),
        unused=tuple(sorted(set(names.values()) - used - repeats - spare)),
    )
    return params, report


def _names(family: Family, tied: Mapping[str, str], weights: Weights) -> dict[str, str]:
    """Table name to name in the file; a tied copy stands in where its original is missing."""
    names: dict[str, str] = {}
    for name in weights.names():
        table_name = family.canonical(name)
        if table_name in names:
            raise UserError(
                f"{weights.path} holds '{names[table_name]}' and '{name}', which are two names of "
                "one tensor; remove one of them"
            )
        names[table_name] = name
    for copy, original in tied.items():
        if copy in names and original not in names:
            names[original] = names.pop(copy)
    return names


def _absent_parts(wanted: Sequence[Slot], names: Mapping[str, str], weights: Weights) -> list[str]:
    """The parts of which the file has nothing; a part of which it has a piece is an error."""
    present = {slot.part for slot in wanted if slot.theirs in names}
    absent = {slot.part: None for slot in wanted if slot.part not in present}
    for slot in wanted:
        if slot.theirs not in names and (slot.part in present or slot.part == "encoder"):
            raise UserError(
                f"{weights.path} lacks the tensor '{slot.theirs}'; the file is not whole, or "
                "config.json is another model's: get both anew"
            )
    return list(absent)


def _fill(params: Params, slot: Slot, name: str, weights: Weights) -> None:
    """Reads one tensor into its place, which is made on the way."""
    shape = weights.shape(name)
    if shape != slot.their_shape:
        asks, remedy = "config.json asks", "use the config.json that belongs to these weights"
        if slot.part.startswith("heads/"):
            asks = f"the head '{slot.ours[1]}' asks"
            remedy = "give the labels of the checkpoint, or set new_head to begin with a new one"
        raise UserError(
            f"tensor '{name}' in {weights.where(name)} has shape {list(shape)}, but {asks} for "
            f"{list(slot.their_shape)}; {remedy}"
        )
    *branches, leaf = slot.ours
    for step in branches:
        params = params.setdefault(step, {})
    if leaf not in params:
        params[leaf] = np.empty(slot.our_shape, np.float32)
    params[leaf][... if slot.layer is None else slot.layer] = slot.to_ours(weights.read(name))


def _check_tied(
    tied: Mapping[str, str], names: Mapping[str, str], used: set[str], weights: Weights
) -> set[str]:
    """Names of tensors that repeat one that was read; a tied copy that differs is an error."""
    repeats = set()
    for copy, original in tied.items():
        if copy not in names or names.get(original) not in used:
            continue
        if not np.array_equal(weights.read(names[copy]), weights.read(names[original])):
            raise UserError(
                f"tensor '{names[copy]}' in {weights.where(names[copy])} differs from "
                f"'{names[original]}', and untied output embeddings are not supported; "
                "choose another checkpoint"
            )
        repeats.add(names[copy])
    return repeats


def _grouped(names: Iterable[str]) -> str:
    """Names in one line; those that differ only in the layer's number are counted together."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(f"{name} ({n}x)" if n > 1 else name for name, n in counts.items())


def write_params(
    family: Family, config: ModelConfig, params: Mapping[str, Any], heads: Mapping[str, HeadConfig]
) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face file, by their names there, as float32.

    Raises:
      UserError: if a parameter is missing or has another shape than the config asks for.
    """
    tensors = {}
    for slot in slots(family, config, heads, prefixed=bool(heads)):
        value = _leaf(params, slot)
        tensors[slot.theirs] = slot.to_theirs(value)
    return tensors


def _leaf(params: Mapping[str, Any], slot: Slot) -> np.ndarray:
    path = "/".join(slot.ours)
    node: Any = params
    for step in slot.ours:
        if not isinstance(node, Mapping) or step not in node:
            raise UserError(f"the parameters lack '{path}', which the model to be written has")
        node = node[step]
    value = np.asarray(node, np.float32)
    if value.shape != slot.our_shape:
        raise UserError(
            f"the parameter '{path}' has shape {list(value.shape)}, but the model to be written "
            f"asks for {list(slot.our_shape)}; give the config of the training run"
        )
    return value


def save_huggingface(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    heads: Mapping[str, HeadConfig] | None = None,
    *,
    labels: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    model_type: str = "bert",
) -> Path:
    """Writes a folder that transformers loads: weights, ``config.json`` and the tokenizer.

    ``heads`` are those to write: none (the bare encoder), one, or masked LM with next sentence.
    The files are written beside the folder first, so that it never holds half a file.

    Raises:
      UserError: if the parameters do not fit the config, or if the disk refuses.
    """
    folder = Path(folder).expanduser().absolute()
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        write_config(part, config, heads or {}, labels, model_type=model_type)
        tensors = write_params(FAMILIES[model_type], config, params, heads or {})
        _save_tensors(part / "model.safetensors", tensors)
        if tokenizer is not None:
            tokenizer.save(part)
        _move(part, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"cannot write the model to {folder}: {reason}; "
            "free space there, or name a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes safetensors with the permissions of any new file, not the library's private ones."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)


def _move(part: Path, folder: Path) -> None:
    """Puts the finished files in place: the folder at once, or each file where one exists."""
    if not folder.exists():
        part.rename(folder)
        return
    for file in sorted(part.iterdir(), key=lambda file: file.name == "model.safetensors"):
        file.replace(folder / file.name)
