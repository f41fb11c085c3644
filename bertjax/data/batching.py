"""Encoded examples to batches of fixed shapes, packed or padded.

Several examples can share a row: ``segment_ids`` keep their attention apart and ``positions``
restart, so a packed batch means the same as the padded one and carries far less padding. Either
way ``cls_row`` and ``cls_position`` say where each example begins. Row counts and lengths are
rounded up to a few sizes, because each new shape is a compilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Encoded = Mapping[str, Any]
"""One example: ``token_ids`` and ``type_ids`` int32 ``[length]``, or for a choice ``options``, a
list of mappings with these two. Where it is known, ``label`` (a class id, a number, the right
option, or an array: float32 ``[classes]`` of yes and no, int32 ``[2]`` the first and last token of
a span) or ``token_labels`` int32 ``[length]``, -1 where a token has none. ``weight``, 1 if it is
not there, is the example's in the loss. What else an example carries is its task's affair."""
Batch = dict[str, np.ndarray]

SHORTEST_ROW = 128
PADDED_STEP = 32


def round_up(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


def bucket(count: int, multiple: int) -> int:
    """``count`` rounded up to one of four sizes an octave, and to a multiple of ``multiple``."""
    step = max(1, 2 ** (max(count, 1).bit_length() - 1) // 4)
    return round_up(round_up(max(count, 1), step), multiple)


@dataclasses.dataclass(frozen=True)
class Batcher:
    """Makes a batch from a list of encoded examples.

    ``examples`` is the size of the arrays that hold one entry an example; a shorter list is filled
    up with weight 0. ``multiple`` divides every leading axis (the number of devices).
    """

    examples: int
    max_length: int
    pad_id: int = 0
    pack: bool = True
    multiple: int = 1

    def __call__(self, examples: Sequence[Encoded]) -> Batch:
        """One batch of at most ``self.examples`` examples; see :mod:`bertjax.models.model`."""
        parts = [example.get("options") or [example] for example in examples]
        texts = [text for options in parts for text in options]
        lengths = [len(text["token_ids"]) for text in texts]
        length = self._row_length(max(lengths, default=1))
        if self.pack:
            places, rows = first_fit(lengths, length)
            rows = bucket(rows, self.multiple)
        else:
            places = [(row, 0, 1) for row in range(len(texts))]
            most = max(map(len, parts), default=1)
            rows = round_up(self.examples * most, self.multiple)
        batch = _tokens(texts, places, rows, length, self.pad_id)
        size = round_up(self.examples, self.multiple)
        if any("options" in example for example in examples):
            batch |= _options(parts, places, size)
        else:
            batch |= _starts(places, size)
        return batch | _labels(examples, size)

    def _row_length(self, longest: int) -> int:
        if not self.pack:
            return min(self.max_length, round_up(longest, PADDED_STEP))
        length = SHORTEST_ROW
        while length < longest:
            length *= 2
        return min(self.max_length, length)

    def micro_batches(self, examples: Sequence[Encoded], count: int) -> Batch:
        """``count`` batches of one shape, stacked: ``[count, …]``, for gradient accumulation."""
        share = -(-len(examples) // count)
        batches = [self(examples[i * share : (i + 1) * share]) for i in range(count)]
        return stack(batches, self.pad_id)


def first_fit(lengths: Sequence[int], row_length: int) -> tuple[list[tuple[int, int, int]], int]:
    """Places examples into rows, longest first, each into the first row that has room.

    Returns:
      One (row, start, segment) an example, segments counted from 1 in each row, and the number of
      rows.
    """
    used: list[int] = []
    segments: list[int] = []
    places = [(0, 0, 0)] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        row = next((r for r, u in enumerate(used) if u + length <= row_length), len(used))
        if row == len(used):
            used.append(0)
            segments.append(0)
        segments[row] += 1
        places[index] = (row, used[row], segments[row])
        used[row] += length
    return places, len(used)


def _tokens(
    examples: Sequence[Encoded],
    places: Sequence[tuple[int, int, int]],
    rows: int,
    length: int,
    pad_id: int,
) -> Batch:
    batch: Batch = {}
    batch |= {name: np.zeros((rows, length), np.int32) for name in ("type_ids", "segment_ids")}
    batch["positions"] = np.zeros((rows, length), np.int32)
    batch["token_ids"] = np.full((rows, length), pad_id, np.int32)
    tagged = any("token_labels" in example for example in examples)
    if tagged:
        batch["token_labels"] = np.zeros((rows, length), np.int32)
        batch["token_weight"] = np.zeros((rows, length), np.float32)
    for example, (row, start, segment) in zip(examples, places, strict=True):
        span = slice(start, start + len(example["token_ids"]))
        batch["token_ids"][row, span] = example["token_ids"]
        batch["type_ids"][row, span] = example["type_ids"]
        batch["segment_ids"][row, span] = segment
        batch["positions"][row, span] = np.arange(span.stop - span.start)
        if tagged:
            labels = np.asarray(example["token_labels"])
            batch["token_labels"][row, span] = np.maximum(labels, 0)
            batch["token_weight"][row, span] = (labels >= 0) * example.get("weight", 1.0)
    return batch


def _starts(places: Sequence[tuple[int, int, int]], size: int) -> Batch:
    """Where each example begins: ``[examples]``."""
    batch = {name: np.zeros(size, np.int32) for name in ("cls_row", "cls_position")}
    for index, (row, start, _) in enumerate(places):
        batch["cls_row"][index], batch["cls_position"][index] = row, start
    return batch


def _options(
    parts: Sequence[Sequence[Encoded]], places: Sequence[tuple[int, int, int]], size: int
) -> Batch:
    """Where each option of each example begins, ``[examples, most options]``, and which exist."""
    shape = (size, max(map(len, parts)))
    batch: Batch = {name: np.zeros(shape, np.int32) for name in ("cls_row", "cls_position")}
    batch["option_mask"] = np.zeros(shape, np.float32)
    remaining = iter(places)
    for index, options in enumerate(parts):
        for option in range(len(options)):
            row, start, _ = next(remaining)
            batch["cls_row"][index, option], batch["cls_position"][index, option] = row, start
            batch["option_mask"][index, option] = 1.0
    return batch


def _labels(examples: Sequence[Encoded], size: int) -> Batch:
    """``labels [examples, ...]``, zeros where they are not known, and ``example_weight``."""
    known = [np.asarray(example["label"]) for example in examples if "label" in example]
    real = any(np.issubdtype(label.dtype, np.floating) for label in known)
    shape = known[0].shape if known else ()
    labels = np.zeros((size, *shape), np.float32 if real else np.int32)
    weights = np.zeros(size, np.float32)
    for index, example in enumerate(examples):
        labels[index] = example.get("label", 0)
        weights[index] = example.get("weight", 1.0)
    return {"labels": labels, "example_weight": weights}


def stack(batches: Sequence[Batch], pad_id: int) -> Batch:
    """Stacks batches after padding each field to the largest of its shapes."""
    stacked = {}
    for name in batches[0]:
        values = [batch[name] for batch in batches]
        shape = np.max([value.shape for value in values], axis=0)
        fill = pad_id if name == "token_ids" else 0
        stacked[name] = np.stack(
            [
                np.pad(
                    value,
                    [(0, want - have) for want, have in zip(shape, value.shape, strict=True)],
                    constant_values=fill,
                )
                for value in values
            ]
        )
    return stacked
