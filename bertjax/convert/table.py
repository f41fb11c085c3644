"""What a family's conversion table is made of, and the two directions that follow from it.

An :class:`Entry` joins the name of a tensor in a Hugging Face file with the path of a parameter
of ours and says by its axes how one becomes the other::

    "(heads kv) embed -> embed heads kv"

splits the first axis of their tensor [heads * kv, embed] and moves it behind the second. Shapes
on both sides, and the way back, follow from the same line.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from bertjax.types import HeadConfig, HeadKind, ModelConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table."""

    theirs: str
    """Name in the file; ``{layer}`` stands for a layer's number, which is ours' first axis."""
    ours: str
    """Path of the parameter; ``{head}`` stands for the head's name."""
    axes: str
    """``their axes -> our axes``, or one list for both; an axis is a key of :func:`axis_sizes`."""
    when: str = ""
    """Field of ModelConfig that must be true for the parameter to exist."""


@dataclasses.dataclass(frozen=True)
class Family:
    """All that conversion knows of a family of models."""

    model_type: str
    prefix: str
    """Before the encoder's names in files that also hold a head."""
    encoder: tuple[Entry, ...]
    heads: Mapping[HeadKind, tuple[Entry, ...]]
    architectures: Mapping[frozenset[HeadKind], str]
    """transformers' class for each set of heads that a file may hold."""
    config_fields: Mapping[str, str]
    """Field of ModelConfig to field of config.json."""
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expression and replacement, from older names to those of the table."""
    tied: Mapping[HeadKind, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """Tensors of a head that repeat another one: name to the name of the tensor repeated."""
    ignored: tuple[str, ...] = ()
    """Buffers that are no parameters."""

    def canonical(self, name: str) -> str:
        """The table's name of a file's tensor: no prefix, no older spelling."""
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of a file and its place in our parameters."""

    theirs: str
    ours: tuple[str, ...]
    layer: int | None
    """Index on the parameter's first axis; None if the tensor is the whole parameter."""
    their_axes: tuple[tuple[str, ...], ...]
    our_axes: tuple[str, ...]
    sizes: Mapping[str, int]
    part: str
    """What stands or falls together: ``encoder``, ``encoder/pooler`` or ``heads/NAME``."""

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        return tuple(math.prod(self.sizes[a] for a in group) for group in self.their_axes)

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Shape of the whole parameter, the layer axis included."""
        layers = () if self.layer is None else (self.sizes["layers"],)
        return layers + tuple(self.sizes[axis] for axis in self.our_axes)

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
        "embed": config.hidden_size,
        "out": config.hidden_size,
        "mlp": config.intermediate_size,
        "heads": config.num_heads,
        "kv": config.head_dim,
        "layers": config.num_layers,
        "classes": head.size if head else 0,
    }


def slots(
    family: Family, config: ModelConfig, heads: Mapping[str, HeadConfig], *, prefixed: bool = False
) -> Iterator[Slot]:
    """Every tensor of a model with these heads, in the order of the table.

    ``prefixed``: with the family's prefix before the encoder's names, as it is written beside a
    head; without, the names are the canonical ones.
    """
    prefix = family.prefix if prefixed else ""
    sizes = axis_sizes(config)
    for entry in family.encoder:
        if not entry.when or getattr(config, entry.when):
            yield from _expand(entry, sizes, prefix=prefix)
    for name, head in heads.items():
        for entry in family.heads[head.kind]:
            yield from _expand(entry, axis_sizes(config, head), head=name)


def _expand(
    entry: Entry, sizes: Mapping[str, int], *, prefix: str = "", head: str = ""
) -> Iterator[Slot]:
    """The slots of an entry: one, or one for each layer."""
    left, arrow, right = entry.axes.partition("->")
    theirs, ours = _axes(left), _axes(right if arrow else left)
    path = tuple(step.format(head=head) for step in entry.ours.split("/"))
    stacked = "{layer}" in entry.theirs
    for layer in range(sizes["layers"]) if stacked else [None]:
        yield Slot(
            theirs=prefix + entry.theirs.format(layer=layer),
            ours=path,
            layer=layer,
            their_axes=theirs,
            our_axes=tuple(axis for group in ours for axis in group),
            sizes=sizes,
            part="/".join(path[:2]) if head or entry.when else "encoder",
        )


def _axes(side: str) -> tuple[tuple[str, ...], ...]:
    """``"(heads kv) embed"`` becomes ``(("heads", "kv"), ("embed",))``."""
    return tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\S+", side))
