"""How a data set lies in each kind of source, where that differs from its schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class LabelSets:
    """How any number of labels stand in a row."""

    separator: str = ";"
    """Between the labels of a cell that is text. A cell of JSON may also be a list."""
    columns: tuple[str, ...] = ()
    """Columns of 0 and 1, one a label and named after it, in place of the label column."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The differences between a task's schema and what its sources hold.

    The default is the layout of a user's own files: ``train``, ``dev`` or ``validation``, and
    ``test``, with one of the endings ``.csv``, ``.tsv``, ``.jsonl``.
    """

    folder: str = ""
    """The data set's own folder under the root that ``files:`` names."""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """File by split; empty: found by name."""
    file_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What files call a column of the schema, where it is something else."""
    headers: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """By split: all columns of a file that has no header line."""
    file_labels: tuple[str, ...] | None = None
    """What files write for each class, in the order of the ids; None: the class names."""
    hub_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What TFDS and Hugging Face call a split, where it is something else."""
    hidden_label: int | None = None
    """The number by which TFDS and Hugging Face say that a label is kept back."""
    label_sets: LabelSets | None = None
    """None: a row has one label."""
    class_folders: tuple[str, ...] = ()
    """Folders of text files, one a class in the order of the ids, where ``files`` names the folder
    that holds them."""
    language: str | None = None
    """Of sources that hold several: rows of files whose column ``language`` says so, and that
    translation of TFDS's and Hugging Face's texts."""
    file_of_language: bool = False
    """Whether a file holds one language only, and so has no column ``language``."""
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What TFDS and Hugging Face call the data set that holds a split, where it is another."""
    by_split: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Fields of the layout that are different in one split."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the data set has."""
        return tuple(self.files) or SPLITS

    def of(self, split: str) -> Layout:
        """The layout of one split."""
        return dataclasses.replace(self, **self.by_split.get(split, {}))

    @property
    def wanted_language(self) -> str | None:
        """The language whose rows of a file are read; None: all rows."""
        return None if self.file_of_language else self.language

    def column(self, name: str) -> str:
        """What files call the schema's column ``name``."""
        return self.file_columns.get(name, name)


def may_lack_labels(split: str) -> bool:
    """Whether the split may come without a label column: only test splits may."""
    return split.startswith("test")
