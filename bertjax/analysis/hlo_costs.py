"""What a compiled program costs one device: operations, memory traffic, collectives.

Everything is counted as often as it runs (:func:`bertjax.analysis.hlo.executed`). Operations are
those of matrix products and convolutions, a multiply-add as two, as in :mod:`bertjax.flops`; a TPU
has no other products, and writes a batched product as a convolution with gaps, so what is padding
or falls into a gap is left out, as XLA's own analysis does.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import numpy as np

from bertjax.analysis.hlo import (
    Computation,
    Executed,
    Instruction,
    Program,
    Shape,
    executed,
    numbers,
)
from bertjax.analysis.hlo_collectives import Collective, collectives

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"),
    *("conditional", "after-all", "partition-id", "replica-id", "async-start", "opt-barrier"),
}
_NOTHING = ('"AllocateBuffer"', '"AssumeGatherIndicesInBound"', '"ConcatBitcast"')
"""Custom calls of the TPU's compiler that move no data."""
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Work:
    """An instruction that computes or moves: per run, and how often it runs."""

    flops: int
    traffic: int
    """Bytes read from and written to the device's main memory."""
    times: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """All that a program does on one device."""

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]
    unknown: tuple[str, ...]
    """Targets of custom calls whose operations nobody states."""

    @property
    def flops(self) -> int:
        """Operations of one run of the program."""
        return sum(work.flops * work.times for work in self.work)

    @property
    def traffic(self) -> int:
        """Bytes read and written in one run."""
        return sum(work.traffic * work.times for work in self.work)


def costs(program: Program, devices: int) -> Costs:
    """Counts a program that runs on so many devices.

    Raises:
      ValueError: for a loop without a known number of runs.
    """
    count = _Counter(program)
    work: list[Work] = []
    found: dict[tuple[str, str], Collective] = {}
    for item in executed(program):
        instruction = item.instruction
        for key, collective in collectives(program, item, devices):
            found.setdefault(key, collective)
        if instruction.opcode not in _FREE and not instruction.opcode.endswith(("-done", "update")):
            flops, traffic = count.flops(item.computation, instruction), count.traffic(item)
            if flops or traffic:
                work.append(Work(flops, traffic, item.times))
    return Costs(tuple(work), tuple(found.values()), tuple(sorted(count.unknown)))


class _Counter:
    """Counts instructions of one program; those of a computation are counted once."""

    def __init__(self, program: Program):
        self.program = program
        self.unknown: set[str] = set()
        self._inner: dict[str, int] = {}

    def flops(self, computation: Computation, instruction: Instruction) -> int:
        match instruction.opcode:
            case "dot":
                return _dot(computation, instruction)
            case "convolution":
                return _convolution(computation, instruction)
            case "fusion":
                return self._computation(instruction.called("calls")[0])
            case "custom-call":
                return self._custom(instruction)
        return 0

    def _computation(self, name: str) -> int:
        if name not in self._inner:
            inside = self.program.computations[name]
            self._inner[name] = sum(self.flops(inside, i) for i in inside.instructions.values())
        return self._inner[name]

    def _custom(self, instruction: Instruction) -> int:
        """A kernel says itself what it costs; XLA's own helpers have no products."""
        stated = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.attributes)
        if stated:
            return int(stated[1])
        if (target := instruction.attribute("custom_call_target").strip('"')) == "tpu_custom_call":
            self.unknown.add(target)
        return 0

    def traffic(self, item: Executed) -> int:
        """Bytes that one instruction reads and writes in the main memory.

        Where a fusion reads only a slice of an operand, or writes only a slice of its result, that
        is counted.
        """
        computation, instruction = item.computation, item.instruction
        if instruction.attribute("custom_call_target") in _NOTHING:
            return 0
        inside = None
        if instruction.opcode == "fusion":
            inside = self.program.computations[instruction.called("calls")[0]]
        read = 0
        for number, name in enumerate(instruction.operands):
            if (operand := computation.instructions.get(name)) is None:
                continue
            size = _main(operand.shapes)
            if inside and size:
                parameter = inside.parameters[number].name
                size = _read(self.program, inside, parameter, size)
            elif instruction.opcode in _SLICES and number == 0:
                size = min(size, instruction.bytes)
            elif instruction.opcode == "dynamic-update-slice" and number == 0:
                size = 0
            read += size
        return read + self._written(computation, instruction, inside)

    def _written(
        self, computation: Computation, instruction: Instruction, inside: Computation | None
    ) -> int:
        if instruction.opcode.endswith("-start"):  # its result names the operand again
            return _main(instruction.shapes[1:2])
        if instruction.opcode == "dynamic-update-slice":
            return _main(computation.instructions[instruction.operands[1]].shapes)
        if inside is None:
            return _main(instruction.shapes)
        root = inside.instructions[inside.root]
        names = root.operands if root.opcode == "tuple" else (inside.root,)
        if len(names) != len(instruction.shapes):
            return _main(instruction.shapes)
        return sum(
            min(_main((shape,)), _updated(self.program, inside, name, shape.bytes))
            for name, shape in zip(names, instruction.shapes, strict=True)
        )


def _main(shapes: tuple[Shape, ...]) -> int:
    """Bytes of the arrays that are in the main memory."""
    return sum(shape.bytes for shape in shapes if shape.memory == 0)


def _read(program: Program, inside: Computation, name: str, size: int) -> int:
    """Bytes of a value of ``size`` bytes that the instructions of a fused computation read."""
    total = 0
    for user in inside.users.get(name, ()):
        first = user.operands[0] == name
        if first and user.opcode in _SLICES:
            total += user.bytes
        elif user.opcode == "bitcast":
            total += _read(program, inside, user.name, size)
        elif user.opcode == "fusion":
            inner = program.computations[user.called("calls")[0]]
            places = [place for place, operand in enumerate(user.operands) if operand == name]
            total += sum(_read(program, inner, inner.parameters[p].name, size) for p in places)
        elif user.opcode != "tuple" and not (first and user.opcode == "dynamic-update-slice"):
            return size
    return min(size, total)


def _updated(program: Program, inside: Computation, name: str, size: int) -> int:
    """Bytes that a fused computation writes of one result of ``size`` bytes."""
    instruction = inside.instructions[name]
    match instruction.opcode:
        case "parameter":  # handed through
            return 0
        case "bitcast":
            return _updated(program, inside, instruction.operands[0], size)
        case "dynamic-update-slice":
            return inside.instructions[instruction.operands[1]].bytes
        case "fusion":
            inner = program.computations[instruction.called("calls")[0]]
            return _updated(program, inner, inner.root, size)
    return size


def _dot(computation: Computation, instruction: Instruction) -> int:
    left = computation.instructions[instruction.operands[0]].shapes[0]
    contracted = numbers(instruction.attribute("lhs_contracting_dims"))
    results = math.prod(instruction.shapes[0].dims)
    return 2 * results * math.prod(left.dims[axis] for axis in contracted)


def _convolution(computation: Computation, instruction: Instruction) -> int:
    """Multiply-adds with elements that exist, twice."""
    inputs, kernel = (computation.instructions[n].shapes[0].dims for n in instruction.operands[:2])
    result = instruction.shapes[0].dims
    found = re.fullmatch(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels"))
    assert found is not None
    in_labels, kernel_labels, out_labels = found.groups()
    window = _window(instruction.attribute("window"))
    products = 2
    for axis in (label for label in in_labels if label.isdigit()):
        place = int(axis)
        products *= _valid(
            inputs[in_labels.index(axis)],
            kernel[kernel_labels.index(axis)],
            result[out_labels.index(axis)],
            *(window[name][place] if name in window else default for name, default in _WINDOW),
        )
    groups = int(instruction.attribute("batch_group_count") or 1)
    batch = inputs[in_labels.index("b")] // groups
    # The kernel's inputs are those of one group of features.
    return products * batch * result[out_labels.index("f")] * kernel[kernel_labels.index("i")]


_WINDOW = (("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1))


def _window(text: str) -> dict[str, list[int]]:
    """The fields of ``{size=1x12 pad=0_0x11_11}``, a number a dimension: of ``pad`` the first."""
    fields = dict(part.split("=") for part in text.strip("{}").split())
    return {
        name: [int(value.split("_")[0]) for value in values.split("x")]
        for name, values in fields.items()
    }


@functools.lru_cache(maxsize=4096)
def _valid(
    size: int, kernel: int, result: int, stride: int, pad: int, gap: int, kernel_gap: int
) -> int:
    """Pairs of a result's place and a kernel's that meet an element of the input."""
    places = np.arange(result)[:, None] * stride + np.arange(kernel)[None, :] * kernel_gap - pad
    met = (places >= 0) & (places < (size - 1) * gap + 1) & (places % gap == 0)
    return int(met.sum())
