"""Reads the text of a compiled program: computations, instructions, and how often each runs.

XLA's own cost analysis counts the body of a loop once, and a scanned model is a loop. Here every
instruction comes with the number of times that it is executed (:func:`executed`). The text is what
``compiled.as_text()`` gives, of any backend.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
"""Of types whose name does not end in their width."""
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"  (ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|branch_computations|true_computation|false_computation)="
    r"(?:\{([^{}]*)\}|%?([\w.\-]+))"
)
_UNCHANGED = ("copy", "bitcast", "convert", "reshape", "optimization-barrier", "copy-done")
"""Opcodes that hand a value on."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its type, its dimensions, and the number of its memory (0: the main one)."""

    dtype: str
    dims: tuple[int, ...]
    memory: int = 0

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        width = BITS.get(self.dtype)
        if width is None:
            width = int(found[0]) if (found := re.findall(r"\d+", self.dtype)) else 0
        return math.prod(self.dims) * width // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """Of the result; those of a tuple one after the other."""
    operands: tuple[str, ...]
    literal: str
    """What stands in the parentheses: operands, a constant's value, a parameter's number."""
    attributes: str

    def called(self, attribute: str) -> tuple[str, ...]:
        """The computations that an attribute names: ``calls``, ``body``, ``condition`` …."""
        for name, several, one in _CALLED.findall(self.attributes):
            if name == attribute:
                return tuple(part.strip().lstrip("%") for part in (several or one).split(","))
        return ()

    def attribute(self, name: str) -> str:
        """The value of an attribute such as ``dim_labels``; empty: it has none."""
        found = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]+)", self.attributes)
        return found[1] if found else ""

    @property
    def bytes(self) -> int:
        """Of the result."""
        return sum(shape.bytes for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return {int(i.literal): i for i in found}

    @functools.cached_property
    def users(self) -> dict[str, tuple[Instruction, ...]]:
        """Which instructions read each one."""
        result: dict[str, tuple[Instruction, ...]] = {}
        for instruction in self.instructions.values():
            for name in set(instruction.operands):
                result[name] = (*result.get(name, ()), instruction)
        return result


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations of a module."""

    computations: dict[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction, where it stands, and how often one run of the program runs it."""

    computation: Computation
    instruction: Instruction
    times: int


def parse(text: str) -> Program:
    """The program of a text such as ``compiled.as_text()``."""
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    lines: dict[str, Instruction] = {}
    for line in text.splitlines():
        if found := _HEADER.match(line):
            name, lines, root = found[2], {}, ""
            entry = name if found[1] else entry
        elif line == "}" and name:
            computations[name] = Computation(name, lines, root or list(lines)[-1])
            name = ""
        elif name and (found := _LINE.match(line)):
            lines[found[2]] = _instruction(found[2], line[found.end() :])
            root = found[2] if found[1] else root
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    """``f32[2]{0} add(%a, %b), attribute=…``."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing - 1]
    names = tuple(_NAME.findall(inside))
    return Instruction(name, rest[:opening], _shapes(kind), names, inside, rest[closing:])


def _closing(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one at ``start``."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return start + found.end()
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _shapes(text: str) -> tuple[Shape, ...]:
    result = []
    for dtype, dims, layout in _ARRAY.findall(text):
        memory = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        result.append(Shape(dtype, sizes, int(memory[1]) if memory else 0))
    return tuple(result)


def numbers(text: str) -> list[int]:
    """The whole numbers in a text."""
    return [int(number) for number in re.findall(r"-?\d+", text)]


def executed(program: Program) -> Iterator[Executed]:
    """Every instruction that runs by itself, those of fusions left out, with its number of runs.

    Loops and calls are followed. Of a conditional all branches are given.
    """
    yield from _executed(program, program.computations[program.entry], 1)


def _executed(program: Program, computation: Computation, times: int) -> Iterator[Executed]:
    for instruction in computation.instructions.values():
        yield Executed(computation, instruction, times)
        inner, runs = (), times
        match instruction.opcode:
            case "while":
                inner = instruction.called("body") + instruction.called("condition")
                runs = times * trip_count(program, computation, instruction)
            case "call":
                inner = instruction.called("to_apply") + instruction.called("calls")
            case "async-start":
                inner = instruction.called("calls")
            case "conditional":
                names = ("branch_computations", "true_computation", "false_computation")
                inner = tuple(part for name in names for part in instruction.called(name))
        for name in inner:
            yield from _executed(program, program.computations[name], runs)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int:
    """How often the body of a loop runs.

    As XLA states it, else from the loop itself: a counter that begins at a constant, is compared
    with one, and to which one is added.

    Raises:
      ValueError: where it is not written in the program.
    """
    stated = re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.attributes)
    if stated:
        return int(stated[1])
    (condition,), (body,) = loop.called("condition"), loop.called("body")
    test = _comparison(program, program.computations[condition])
    if test is None:
        raise ValueError(f"loop {loop.name}: no comparison with a constant ends it")
    index, limit, inclusive = test
    first = _initial(program, computation, loop, index)
    step = _step(program, program.computations[body], index)
    if first is None or not step:
        raise ValueError(f"loop {loop.name}: its counter is not plain")
    return max(0, -(-(limit - first + inclusive) // step))


def _comparison(program: Program, condition: Computation) -> tuple[int, int, int] | None:
    """Index of the counter in the loop's tuple, its limit, and 1 where the limit is included."""
    root = condition.instructions[condition.root]
    names, test = root.operands, root
    if root.opcode == "fusion":
        inner = program.computations[root.called("calls")[0]]
        test = inner.instructions[inner.root]
        places = {p.name: number for number, p in inner.parameters.items()}
        names = tuple(
            root.operands[places[name]] if name in places else name for name in test.operands
        )
        condition = Computation(
            "", {**inner.instructions, **condition.instructions}, condition.root
        )
    direction = test.attribute("direction")
    if test.opcode != "compare" or direction not in ("LT", "LE", "GT", "GE"):
        return None
    left, right = (condition.instructions[_source(condition, name)] for name in names)
    if direction in ("GT", "GE"):
        left, right = right, left
    if left.opcode != "get-tuple-element" or right.opcode != "constant":
        return None
    return int(left.attribute("index")), int(right.literal), int(direction in ("LE", "GE"))


def _initial(
    program: Program, computation: Computation, loop: Instruction, index: int
) -> int | None:
    """The constant with which an element of the loop's tuple begins."""
    given = computation.instructions[_source(computation, loop.operands[0])]
    if given.opcode != "tuple":
        return None
    value = computation.instructions[_source(computation, given.operands[index])]
    if value.opcode == "fusion":
        inner = program.computations[value.called("calls")[0]]
        value = inner.instructions[_source(inner, inner.root)]
    return int(value.literal) if value.opcode == "constant" else None


def _step(program: Program, body: Computation, index: int) -> int | None:
    """What an iteration adds to an element of the loop's tuple."""
    root = body.instructions[_source(body, body.root)]
    if root.opcode != "tuple":
        return None
    value = body.instructions[_source(body, root.operands[index])]
    scope, names = body, value.operands
    if value.opcode == "fusion":
        inner = program.computations[value.called("calls")[0]]
        places = {p.name: number for number, p in inner.parameters.items()}
        added = inner.instructions[_source(inner, inner.root)]
        sources = [_source(inner, name) for name in added.operands]
        names = tuple(value.operands[places[n]] if n in places else n for n in sources)
        scope = Computation("", {**inner.instructions, **body.instructions}, body.root)
        value = added
    if value.opcode != "add":
        return None
    sources = [scope.instructions[_source(scope, name)] for name in names]
    steps = [int(source.literal) for source in sources if source.opcode == "constant"]
    return steps[0] if len(steps) == 1 else None


def _source(computation: Computation, name: str) -> str:
    """The instruction that made a value, copies and conversions left out."""
    instruction = computation.instructions[name]
    while instruction.opcode in _UNCHANGED and len(instruction.operands) == 1:
        if instruction.operands[0] not in computation.instructions:
            break
        instruction = computation.instructions[instruction.operands[0]]
    return instruction.name
