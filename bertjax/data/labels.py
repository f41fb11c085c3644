"""Turns what a data set writes as a label into what a model learns: a class id or a number."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from bertjax.types import UserError, nearest


@dataclasses.dataclass(frozen=True)
class LabelReader:
    """Reads labels that are written as words or numbers."""

    written: tuple[str, ...] | None
    """What the source writes for each class, in the order of the ids; None for numbers."""
    hidden: int | None = None
    """The number that stands for a label that is kept back (-1 in GLUE), if there is one."""

    def __call__(self, value: Any, place: str) -> int | float | None:
        """The class id or the number that ``value`` stands for; None where it is kept back.

        Args:
          value: a word or a number, as text or as it comes from JSON.
          place: where it stands (``file:line``), for messages.

        Raises:
          UserError: for an unknown class, or something that is not a finite number.
        """
        if self.hidden is not None and value == self.hidden:
            return None
        if self.written is None:
            return _finite(value, place)
        word = label_word(value, place)
        if word not in self._ids:
            raise UserError(f"{place}: unknown label '{word}'{nearest(word, self.written)}")
        return self._ids[word]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.written or ())}


@dataclasses.dataclass(frozen=True)
class ClassIds:
    """Reads labels that are already class ids, from the source's ids to the task's."""

    ids: Mapping[int, int]

    def __call__(self, value: Any, place: str) -> int | None:
        """The task's class id; None where the label is kept back (-1 or None)."""
        del place
        return self.ids.get(value)


@dataclasses.dataclass(frozen=True)
class LabelSetReader:
    """Reads any number of labels: a list of words, or words with a separator between them."""

    written: tuple[str, ...]
    """The labels, in the order of their ids."""
    separator: str
    names: tuple[str, ...] = ()
    """What class ids stand for, where the source has ids in place of words."""

    def __call__(self, value: Any, place: str) -> np.ndarray | None:
        """1 for each label that ``value`` has and 0 for each other, float32 [labels].

        None where class ids are kept back (None, -1, or a list of one of these).

        Raises:
          UserError: for an unknown label, or something that is neither words nor a list of them.
        """
        labels = np.zeros(len(self.written), np.float32)
        if self.names:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            if value in (None, -1, [None], [-1]):
                return None
            value = self._named(value, place)
        for word in label_words(value, self.separator, place):
            if word not in self._ids:
                raise UserError(f"{place}: unknown label '{word}'{nearest(word, self.written)}")
            labels[self._ids[word]] = 1.0
        return labels

    def _named(self, ids: Any, place: str) -> list[str]:
        """What the class ids of a list stand for."""
        known = range(len(self.names))
        if not isinstance(ids, list) or not all(
            isinstance(n, Integral) and n in known for n in ids
        ):
            raise UserError(f"{place}: labels {ids!r} are no list of class ids, 0 to {known[-1]}")
        return [self.names[number] for number in ids]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.written)}


def label_words(value: Any, separator: str, place: str) -> list[str]:
    """The labels of a cell: those of a list, or what stands between separators; maybe none.

    Raises:
      UserError: for what is neither; ``place`` says where.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return [label_word(_text(item), place) for item in value]
    if isinstance(value, str):
        return [word for part in value.split(separator) if (word := part.strip())]
    raise UserError(f"{place}: labels {value!r} are neither a list nor text")


def flag(value: Any, column: str, place: str) -> float:
    """1.0 or 0.0, of a cell that says whether a row has the label ``column``.

    Raises:
      UserError: for anything but 0 and 1; ``place`` says where.
    """
    if isinstance(value, bool | int | float) and value in (0, 1):
        return float(value)
    if isinstance(value, str) and value.strip() in ("0", "1"):
        return float(value)
    raise UserError(f"{place}: column '{column}' holds {value!r} where 0 or 1 is expected")


def label_word(value: Any, place: str) -> str:
    """The text of a class label; JSON numbers and booleans are written as in JSON.

    Raises:
      UserError: for null, a list or an object; ``place`` says where.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise UserError(f"{place}: label {value!r} is neither a word nor a number")


def sorted_labels(words: Iterable[str]) -> tuple[str, ...]:
    """The distinct words in the order of their ids: by number where all are whole numbers."""
    distinct = set(words)
    if all(word.removeprefix("-").isdecimal() for word in distinct):
        return tuple(sorted(distinct, key=lambda word: (int(word), word)))
    return tuple(sorted(distinct))


def _finite(value: Any, place: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: label {value!r} is not a finite number")
    return number


def _text(value: Any) -> Any:
    """TFDS gives words as bytes."""
    return value.decode() if isinstance(value, bytes) else value
