"""The collectives of a compiled program: which devices talk, and how many bytes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from bertjax.analysis.hlo import Executed, Instruction, Program, numbers

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
"""Others, such as ``ragged-all-to-all``, are not made of our code."""
_BY_AXES = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(((?:[^()]|\([^()]*\))*)\))? \{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, as one device sees it."""

    kind: str
    bytes: int
    """Of the whole array: what an all-gather makes, and what any other kind is given."""
    groups: np.ndarray
    """Device numbers ``[groups, members]``; of a permutation ``[pairs, 2]``."""
    times: int
    hidden: bool
    """Whether it is in two parts, with other work between them."""

    @property
    def members(self) -> int:
        """Devices of a group."""
        return self.groups.shape[1]


def sent(kind: str, size: float, members: int) -> float:
    """Bytes that a device sends for an array of ``size`` bytes, by the ring algorithm.

    Source: Thakur, Rabenseifner and Gropp 2005, section 4.
    """
    share = (members - 1) / members
    match kind:
        case "all-reduce":
            return 2 * share * size
        case "collective-permute":
            return size
        case _:
            return share * size


def collectives(
    program: Program, item: Executed, devices: int
) -> list[tuple[tuple[str, str], Collective]]:
    """What an instruction sends, each with a key: parts of one collective have the same."""
    instruction = item.instruction
    scope, inside = item.computation, (instruction,)
    fused = instruction.opcode == "fusion"
    if fused:
        scope = program.computations[instruction.called("calls")[0]]
        inside = tuple(scope.instructions.values())
    result = []
    for one in inside:
        kind = one.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        groups = replica_groups(one, devices)
        size = sum(scope.instructions[name].bytes for name in one.operands)
        if kind == "all-gather":
            size *= groups.shape[1]
        elif fused and kind == "all-reduce" and "all-reduce-scatter" in scope.name:
            kind = "reduce-scatter"
        key = (one.attribute("channel_id") or one.name, kind)
        hidden = "async_collective" in scope.name or one.opcode.endswith("-start")
        result.append((key, Collective(kind, size, groups, item.times, hidden)))
    return result


def replica_groups(instruction: Instruction, devices: int) -> np.ndarray:
    """The devices of each group, ``[groups, members]``, in any of the forms that XLA writes.

    ``{{0,1},{2,3}}``, ``[2,4]<=[8]``, ``[4,2]<=[2,4]T(1,0)``, and by axes of a mesh:
    ``mesh['a'=2,'b'=4] {'b'}``, of which an axis can be a part (``'a':(1)2``).
    """
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{([\d{},]*)\}", text):
        return np.array(numbers(pairs[1])).reshape(-1, 2)
    if found := _BY_AXES.search(text):
        return _mesh_groups(found[1], found[2], found[3], devices)
    if found := re.search(r"replica_groups=(\[[\d,]+\]<=\S*?)(?:, |$)", text):
        rows, columns = numbers(found[1].split("<=")[0])
        return _iota(found[1]).reshape(rows, columns)
    found = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text)
    rows = re.findall(r"\{([\d,]+)\}", found[1]) if found else []
    return np.array([numbers(row) for row in rows]) if rows else np.arange(devices)[None]


def _iota(text: str) -> np.ndarray:
    """The numbers of ``[4,2]<=[2,4]T(1,0)`` in their order; the part before ``<=`` may lack."""
    source, _, order = text.split("<=")[-1].partition("T")
    dims = numbers(source)
    return np.arange(math.prod(dims)).reshape(dims).transpose(numbers(order) or None).reshape(-1)


def _mesh_groups(axes: str, order: str | None, chosen: str, devices: int) -> np.ndarray:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(devices)
    if order:
        ids = _iota(order) if order.startswith("[") else np.array(numbers(order))
    parts = _parts(chosen, sizes)
    cut = [size for name, size in sizes.items() for size in _cut(size, parts.get(name))]
    taken = [t for name, size in sizes.items() for t in _taken(size, parts.get(name))]
    kept = [axis for axis, take in enumerate(taken) if not take]
    inner = [axis for axis, take in enumerate(taken) if take]
    members = math.prod(cut[axis] for axis in inner)
    return ids.reshape(cut).transpose(kept + inner).reshape(-1, members)


def _parts(chosen: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Of each chosen axis the size of what stands before the part that is meant, and the part's."""
    result = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        result[name] = (int(before or 1), int(size or sizes[name]))
    return result


def _cut(size: int, part: tuple[int, int] | None) -> list[int]:
    return [size] if part is None else [part[0], part[1], size // (part[0] * part[1])]


def _taken(size: int, part: tuple[int, int] | None) -> list[bool]:
    del size
    return [False] if part is None else [False, True, False]
