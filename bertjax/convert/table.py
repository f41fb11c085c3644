"""What a family's conversion table is made of, and the two directions that follow from it.

An :class:`Entry` joins the name of a tensor in another project's file with the path of a parameter
of ours and says by its axes how one becomes the other::

    "(heads kv) embed -> embed heads kv"

splits the first axis of their tensor [heads * kv, embed] and moves it behind the second. Shapes
on both sides, and the way back, follow from the same line.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertjax.types import HeadConfig, HeadKind, ModelConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table."""

    theirs: str
    """Name in the file; ``{layer}`` and ``{inner}`` stand for the indices of ours' first axes."""
    ours: str
    """Path of the parameter; ``{head}`` stands for the head's name."""
    axes: str
    """``their axes -> our axes``, or one list for both; an axis is a key of :func:`axis_sizes`."""
    when: str = ""
    """Property of ModelConfig that must be true for the parameter to exist."""


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a project names the tensors of a module, and which way round it stores a kernel."""

    kernel: str
    bias: str
    scale: str
    shift: str
    embedding: str
    transposed: bool
    """Kernels are stored [outputs, inputs]."""

    def dense(
        self, theirs: str, ours: str, inputs: str, outputs: str, when: str = ""
    ) -> tuple[Entry, ...]:
        """A projection: kernel and bias, between named axes such as ``embed`` and ``heads kv``."""
        sides = [_group(outputs), _group(inputs)]
        stored = " ".join(sides if self.transposed else reversed(sides))
        bias = f"{_group(outputs)} -> {outputs}"
        return (
            Entry(theirs + self.kernel, f"{ours}/kernel", f"{stored} -> {inputs} {outputs}", when),
            Entry(theirs + self.bias, f"{ours}/bias", bias, when),
        )

    def norm(self, theirs: str, ours: str, axis: str = "embed") -> tuple[Entry, ...]:
        """A LayerNorm: scale and bias."""
        return (
            Entry(theirs + self.scale, f"{ours}/scale", axis),
            Entry(theirs + self.shift, f"{ours}/bias", axis),
        )

    def table(self, theirs: str, ours: str, axes: str, when: str = "") -> tuple[Entry, ...]:
        """An embedding table."""
        return (Entry(theirs + self.embedding, ours, axes, when),)


PYTORCH = Naming(".weight", ".bias", ".weight", ".bias", ".weight", transposed=True)
TENSORFLOW = Naming("/kernel", "/bias", "/gamma", "/beta", "", transposed=False)


@dataclasses.dataclass(frozen=True)
class Table:
    """The tensors of a family as one project's files name them."""

    prefix: str
    """Before the encoder's names in files that also hold a head."""
    encoder: tuple[Entry, ...]
    heads: Mapping[HeadKind, tuple[Entry, ...]]
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expression and replacement, from older names to those of the table."""
    tied: Mapping[HeadKind, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Tensors of a head that repeat another one: name to the name of the tensor repeated."""
    ignored: str = r"(?!)"
    """Regular expression of what is no parameter: buffers, the state of an optimizer."""

    def canonical(self, name: str) -> str:
        """The table's name of a file's tensor: no prefix, no older spelling."""
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


@dataclasses.dataclass(frozen=True)
class Family:
    """All that conversion knows of a family of models."""

    model_type: str
    config_fields: Mapping[str, str]
    """Field of ModelConfig to field of config.json."""
    architectures: Mapping[frozenset[HeadKind], str]
    """transformers' class for each set of heads that a file may hold."""
    huggingface: Table
    allowed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """The values that are supported of fields of config.json that select an architecture."""

    def kinds(self, architecture: str) -> frozenset[HeadKind]:
        """The heads of a class of transformers; none for one that is not known."""
        named = (kinds for kinds, name in self.architectures.items() if name == architecture)
        return next(named, frozenset())


def architectures(name: str, **more: tuple[HeadKind, ...]) -> dict[frozenset[HeadKind], str]:
    """The classes of transformers for a family: the usual ones, then ``suffix=kinds``."""
    classes: dict[str, tuple[HeadKind, ...]] = {
        "Model": (),
        "ForSequenceClassification": ("classification",),
        "ForTokenClassification": ("token_classification",),
        "ForQuestionAnswering": ("span",),
        "ForMultipleChoice": ("multiple_choice",),
        "ForMaskedLM": ("masked_lm",),
    }
    named = {frozenset(kinds): name + suffix for suffix, kinds in (classes | more).items()}
    other: tuple[HeadKind, ...] = ("regression", "multi_label")
    for kind in other:
        named[frozenset[HeadKind]({kind})] = f"{name}ForSequenceClassification"
    return named


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of a file and its place in our parameters."""

    theirs: str
    ours: tuple[str, ...]
    layer: tuple[int, ...] | None
    """Index on the parameter's first axes; None if the tensor is the whole parameter."""
    their_axes: tuple[tuple[str, ...], ...]
    our_axes: tuple[str, ...]
    sizes: Mapping[str, int]
    stack: tuple[int, ...]
    """Lengths of the parameter's first axes."""
    part: str
    """What stands or falls together: ``encoder``, ``encoder/pooler`` or ``heads/NAME``."""

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        return tuple(math.prod(self.sizes[a] for a in group) for group in self.their_axes)

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Shape of the whole parameter, the layer axis included."""
        return self.stack + tuple(self.sizes[axis] for axis in self.our_axes)

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Their tensor with our axes."""
        order = [axis for group in self.their_axes for axis in group]
        split = tensor.reshape([self.sizes[axis] for axis in order])
        return split.transpose([order.index(axis) for axis in self.our_axes])

    def to_theirs(self, parameter: np.ndarray) -> np.ndarray:
        """Their tensor, made from the whole parameter of ours."""
        value = parameter if self.layer is None else parameter[self.layer]
        order = [axis for group in self.their_axes for axis in group]
        moved = value.transpose([self.our_axes.index(axis) for axis in order])
        return np.ascontiguousarray(moved.reshape(self.their_shape))


def axis_sizes(config: ModelConfig, head: HeadConfig | None = None) -> dict[str, int]:
    """The length of every axis that a table may name."""
    return {
        "vocab": config.vocab_size,
        "positions": config.max_positions,
        "types": config.type_vocab_size,
        "width": config.embedding_width,
        "embed": config.hidden_size,
        "out": config.hidden_size,
        "mlp": config.intermediate_size,
        "heads": config.num_heads,
        "kv": config.head_dim,
        "classes": head.size if head else 0,
        "one": 1,
    }


def slots(
    table: Table, config: ModelConfig, heads: Mapping[str, HeadConfig], *, prefixed: bool = False
) -> Iterator[Slot]:
    """Every tensor of a model with these heads, in the order of the table.

    ``prefixed``: with the table's prefix before the encoder's names, as it is written beside a
    head; without, the names are the canonical ones.
    """
    prefix = table.prefix if prefixed else ""
    pooler = config.has_pooler(heads.values())
    for entry in table.encoder:
        if pooler if entry.when == "pooler" else not entry.when or getattr(config, entry.when):
            yield from _expand(entry, config, prefix=prefix)
    for name, head in heads.items():
        for entry in table.heads[head.kind]:
            yield from _expand(entry, config, head=(name, head))


def _expand(
    entry: Entry, config: ModelConfig, *, prefix: str = "", head: Any = ("", None)
) -> Iterator[Slot]:
    """The slots of an entry: one, or one for each layer that has parameters of its own."""
    name, head_config = head
    left, arrow, right = entry.axes.partition("->")
    theirs, ours = _axes(left), _axes(right if arrow else left)
    path = tuple(step.format(head=name) for step in entry.ours.split("/"))
    stack = config.layer_stack if "{layer}" in entry.theirs else ()
    for index in itertools.product(*map(range, stack)):
        layer, inner = (*index, 0, 0)[:2]
        yield Slot(
            theirs=prefix + entry.theirs.format(layer=layer, inner=inner),
            ours=path,
            layer=index or None,
            their_axes=theirs,
            our_axes=tuple(axis for group in ours for axis in group),
            sizes=axis_sizes(config, head_config),
            stack=stack,
            part="/".join(path[:2]) if name or path[1] == "pooler" else "encoder",
        )


def _group(axes: str) -> str:
    return f"({axes})" if " " in axes else axes


def _axes(side: str) -> tuple[tuple[str, ...], ...]:
    """``"(heads kv) embed"`` becomes ``(("heads", "kv"), ("embed",))``."""
    return tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\S+", side))
