"""The source ``files:``: records from TSV, CSV and JSON-lines files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data.labels import (
    LabelReader,
    LabelSetReader,
    flag,
    label_word,
    label_words,
    sorted_labels,
)
from bertjax.data.layout import Layout, may_lack_labels
from bertjax.data.records import Record, Records
from bertjax.data.tables import NoColumn, Table, read_table, reading
from bertjax.data.text_folders import read_text_folders
from bertjax.types import TextSchema, UserError, nearest

STEMS = {"train": ("train",), "validation": ("dev", "validation"), "test": ("test",)}
ENDINGS = (".csv", ".tsv", ".jsonl")


@dataclasses.dataclass(frozen=True, eq=False)
class FileRecords(Records):
    """The rows of one file, in memory."""

    texts: Mapping[str, list[str]]
    labels: Sequence[Any]
    """Of each row: a class id, a number, an array of 0 and 1, or None."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> Record:
        """The record at ``row``."""
        texts = {column: cells[row] for column, cells in self.texts.items()}
        return {"index": row, **texts, "label": self.labels[row]}


def open_files(location: str, split: str, schema: TextSchema, layout: Layout) -> FileRecords:
    """Reads one split; ``location`` is what follows ``files:``.

    Raises:
      UserError: where the file is missing or a row of it is not as the schema says.
    """
    layout = layout.of(split)
    path = find_file(location, split, layout)
    if layout.class_folders:
        texts, labels = read_text_folders(path, layout.class_folders)
        return FileRecords(dict.fromkeys(schema.text_columns, texts), labels)
    table = _read(path, split, schema, layout, schema.text_columns)
    columns = {column: _texts(table, layout.column(column)) for column in schema.text_columns}
    return FileRecords(columns, _labels(table, schema, layout))


def file_labels(location: str, schema: TextSchema, layout: Layout) -> tuple[str, ...]:
    """The class names found in the train file, sorted.

    Raises:
      UserError: as :func:`open_files`.
    """
    layout = layout.of("train")
    table = _read(find_file(location, "train", layout), "train", schema, layout, ())
    rows = enumerate(table.columns[layout.column(schema.label_column)])
    if layout.label_sets is None:
        return sorted_labels(label_word(cell, table.place(row)) for row, cell in rows)
    separator = layout.label_sets.separator
    found = (label_words(cell, separator, table.place(row)) for row, cell in rows)
    return sorted_labels(word for words in found for word in words)


def find_file(location: str, split: str, layout: Layout) -> str:
    """The path of one split's file.

    Args:
      location: a folder (the data set's own or the one above it), or ``train=PATH,test=PATH``.
      split: one of the layout's splits.
      layout: how the data set lies in files.

    Raises:
      UserError: where no file, or more than one, can be meant.
    """
    if re.match(r"\w+=", location):
        return _named_file(location, split, layout)
    with reading(location):
        folder = data_folder(location, split)
        if layout.files:
            return _expected_file(folder, layout.folder, layout.files[split])
        return _found_file(folder, split)


def data_folder(location: str, split: str) -> epath.Path:
    """The folder that follows ``files:``; ``split`` is the one that is looked for, for messages.

    Raises:
      UserError: if there is no such folder.
    """
    folder = epath.Path(location).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {location}; to name a file write files:{split}=PATH")
    return folder


def _named_file(location: str, split: str, layout: Layout) -> str:
    paths = {}
    for part in re.split(r",(?=\w+=)", location):
        name, _, path = part.partition("=")
        if name not in layout.splits:
            hint = nearest(name, layout.splits)
            raise UserError(f"data='files:{location}': there is no split '{name}'{hint}")
        paths[name] = str(epath.Path(path).expanduser())
    if split not in paths:
        raise UserError(f"data='files:{location}' names no file for '{split}'; add {split}=PATH")
    return paths[split]


def _expected_file(root: epath.Path, folder: str, name: str) -> str:
    candidates = [root / folder / name, root / name]
    for path in candidates:
        if path.exists():
            return str(path)
    raise UserError(
        f"there is neither {candidates[0]} nor {candidates[1]}; name the folder of the data set"
    )


def _found_file(folder: epath.Path, split: str) -> str:
    names = [stem + ending for stem in STEMS[split] for ending in ENDINGS]
    found = [name for name in names if (folder / name).exists()]
    if not found:
        raise UserError(f"{folder} holds no file for '{split}'; looked for {', '.join(names)}")
    if len(found) > 1:
        raise UserError(
            f"{folder} holds both {found[0]} and {found[1]} for '{split}'; "
            f"name the one you mean, as in files:{split}=PATH"
        )
    return str(folder / found[0])


def _read(path: str, split: str, schema: TextSchema, layout: Layout, texts: Sequence[str]) -> Table:
    wanted = [layout.column(column) for column in texts]
    language = layout.wanted_language
    if language:
        wanted.append("language")
    labels = [layout.column(column) for column in _label_columns(schema, layout)]
    optional = labels if may_lack_labels(split) else []
    wanted += [] if optional else labels
    try:
        table = read_table(path, wanted, optional=optional, header=layout.headers.get(split))
    except NoColumn as error:
        if layout.files or {*wanted, *optional} & {*error.header}:
            raise
        row = " | ".join(cell[:20] for cell in error.header[:4])
        raise UserError(
            f"{error.place}: the header has no column '{wanted[0]}'; if '{row}' is a row already, "
            "name the columns, as in --config.options.columns=\"('text','label')\""
        ) from None
    return table.where("language", language) if language else table


def _label_columns(schema: TextSchema, layout: Layout) -> Sequence[str]:
    sets = layout.label_sets
    return sets.columns if sets and sets.columns else (schema.label_column,)


def _texts(table: Table, column: str) -> list[str]:
    cells = table.columns[column]
    for row, cell in enumerate(cells):
        if not isinstance(cell, str):
            raise UserError(f"{table.place(row)}: column '{column}' holds {cell!r}, not text")
    return cells


def _labels(table: Table, schema: TextSchema, layout: Layout) -> Sequence[Any]:
    names = [layout.column(column) for column in _label_columns(schema, layout)]
    if not {*names} <= {*table.columns}:
        return [None] * len(table)
    if layout.label_sets and layout.label_sets.columns:
        return _flags(table, names)
    cells, written = table.columns[names[0]], schema.labels
    if layout.label_sets:
        read = LabelSetReader(written or (), layout.label_sets.separator)
    else:
        read = LabelReader(written and (layout.file_labels or written))
    return [read(cell, table.place(row)) for row, cell in enumerate(cells)]


def _flags(table: Table, columns: Sequence[str]) -> list[np.ndarray]:
    """0 and 1 of each column, float32 [columns], one array a row."""
    flags = [
        [flag(cell, column, table.place(row)) for row, cell in enumerate(table.columns[column])]
        for column in columns
    ]
    return list(np.array(flags, np.float32).T)
