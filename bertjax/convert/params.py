"""Parameters from named tensors and back, whatever the file: one table tells how.

Nothing is held twice: a tensor is read into its place in the parameters, and made from them when it
is written.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.convert.files import Weights
from bertjax.convert.table import Slot, Table, slots
from bertjax.convert.writing import LazyTensor
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


def read_params(
    table: Table,
    config: ModelConfig,
    heads: Mapping[str, HeadConfig],
    weights: Weights,
    *,
    new_heads: bool = False,
) -> tuple[Params, LoadReport]:
    """Reads the parameters tensor by tensor, each into its place.

    The pooler and the heads may be missing: they are left out and reported. ``new_heads``: the
    heads are not looked for.

    Raises:
      UserError: if a file is damaged, if a tensor of the encoder is missing, or if one has another
        shape than the config or the head asks for.
    """
    wanted = list(slots(table, config, heads))
    tied = {c: o for head in heads.values() for c, o in table.tied.get(head.kind, {}).items()}
    names = _names(table, tied, weights)
    if new_heads:
        ours = {slot.theirs for slot in wanted if slot.part.startswith("heads/")}
        names = {known: name for known, name in names.items() if known not in ours}
    absent = _absent_parts(wanted, names, weights)
    params: Params = {}
    used = set()
    for slot in wanted:
        if slot.part not in absent:
            _fill(params, slot, names[slot.theirs], weights)
            used.add(names[slot.theirs])
    read = {
        slot.theirs: functools.partial(slot.to_theirs, _leaf(params, slot))
        for slot in wanted
        if slot.theirs in tied.values() and slot.part not in absent
    }
    repeats = _check_tied(tied, names, read, weights)
    spare = {name for known, name in names.items() if re.fullmatch(table.ignored, known)}
    report = LoadReport(
        path=weights.path,
        loaded=len(used),
        new=tuple(absent),
        missing=tuple(slot.theirs for slot in wanted if slot.part in absent),
        unused=tuple(sorted(set(names.values()) - used - repeats - spare)),
    )
    return params, report


def heads_present(
    table: Table, config: ModelConfig, heads: Mapping[str, HeadConfig], weights: Weights
) -> dict[str, HeadConfig]:
    """Those of ``heads`` of which the file has every tensor."""
    tied = {c: o for head in heads.values() for c, o in table.tied.get(head.kind, {}).items()}
    names = _names(table, tied, weights)
    absent = {slot.part for slot in slots(table, config, heads) if slot.theirs not in names}
    return {name: head for name, head in heads.items() if f"heads/{name}" not in absent}


def _names(table: Table, tied: Mapping[str, str], weights: Weights) -> dict[str, str]:
    """Names in the table to names in the file; a tied copy stands in for a missing original."""
    names: dict[str, str] = {}
    for name in weights.names():
        known = table.canonical(name)
        if known in names:
            raise UserError(
                f"{weights.path} holds '{names[known]}' and '{name}', which are two names of "
                "one tensor; remove one of them"
            )
        names[known] = name
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
                "the config beside it is another model's: get both anew"
            )
    return list(absent)


def _fill(params: Params, slot: Slot, name: str, weights: Weights) -> None:
    """Reads one tensor into its place, which is made on the way."""
    shape = weights.shape(name)
    if shape != slot.their_shape:
        asks, remedy = "the config asks", "use the config that belongs to these weights"
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
    value = slot.to_ours(weights.read(name))
    if slot.layer is None:
        params[leaf] = np.ascontiguousarray(value)
        return
    if leaf not in params:
        params[leaf] = np.empty(slot.our_shape, np.float32)
    params[leaf][slot.layer] = value


def _check_tied(
    tied: Mapping[str, str], names: Mapping[str, str], read: Mapping[str, Any], weights: Weights
) -> set[str]:
    """Names of tensors that repeat one of those ``read``; a copy that differs is an error."""
    repeats = set()
    for copy, original in tied.items():
        if copy not in names or original not in read:
            continue
        if not np.array_equal(weights.read(names[copy]), read[original]()):
            raise UserError(
                f"tensor '{names[copy]}' in {weights.where(names[copy])} differs from "
                f"'{names[original]}', and untied output embeddings are not supported; "
                "choose another checkpoint"
            )
        repeats.add(names[copy])
    return repeats


def _grouped(names: Iterable[str]) -> str:
    """Names in one line; those that differ only in the layer's number are counted together."""
    counts = Counter(re.sub(r"(?<=[._])\d+(?=[./])", "*", name) for name in names)
    return ", ".join(f"{name} ({n}x)" if n > 1 else name for name, n in counts.items())


def write_params(
    table: Table, config: ModelConfig, params: Mapping[str, Any], heads: Mapping[str, HeadConfig]
) -> list[LazyTensor]:
    """The tensors of another project's file, each to be made when it is written.

    Raises:
      UserError: if a parameter is missing or has another shape than the config asks for.
    """
    return [
        LazyTensor(
            slot.theirs, slot.their_shape, functools.partial(slot.to_theirs, _leaf(params, slot))
        )
        for slot in slots(table, config, heads, prefixed=bool(heads))
    ]


def _leaf(params: Mapping[str, Any], slot: Slot) -> np.ndarray:
    path = "/".join(slot.ours)
    node: Any = params
    for step in slot.ours:
        if not isinstance(node, Mapping) or step not in node:
            raise UserError(f"the parameters lack '{path}', which the model to be written has")
        node = node[step]
    value = np.asarray(node)
    if value.shape != slot.our_shape:
        raise UserError(
            f"the parameter '{path}' has shape {list(value.shape)}, but the model to be written "
            f"asks for {list(slot.our_shape)}; give the config of the training run"
        )
    return value
