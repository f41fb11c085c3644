"""The source ``files:``: records from TSV, CSV and JSON-lines files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from etils import epath

from bertjax.data.labels import LabelReader, label_word, sorted_labels
from bertjax.data.layout import Layout, may_lack_labels
from bertjax.data.records import Record, Records
from bertjax.data.tables import Table, read_table, reading
from bertjax.types import TextSchema, UserError, nearest

STEMS = {"train": ("train",), "validation": ("dev", "validation"), "test": ("test",)}
ENDINGS = (".csv", ".tsv", ".jsonl")


@dataclasses.dataclass(frozen=True, eq=False)
class FileRecords(Records):
    """The rows of one file, in memory."""

    texts: Mapping[str, list[str]]
    labels: list[int | float | None]

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
    path = find_file(location, split, layout)
    table = _read(path, split, schema, layout, schema.text_columns)
    texts = {column: _texts(table, layout.column(column)) for column in schema.text_columns}
    written = schema.labels and (layout.file_labels or schema.labels)
    labels = _labels(table, layout.column(schema.label_column), LabelReader(written))
    return FileRecords(texts, labels)


def file_labels(location: str, schema: TextSchema, layout: Layout) -> tuple[str, ...]:
    """The class names found in the train file, sorted.

    Raises:
      UserError: as :func:`open_files`.
    """
    table = _read(find_file(location, "train", layout), "train", schema, layout, ())
    cells = table.columns[layout.column(schema.label_column)]
    return sorted_labels(label_word(cell, table.place(row)) for row, cell in enumerate(cells))


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
        folder = epath.Path(location).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {location}; to name a file write files:{split}=PATH"
            )
        if layout.files:
            return _expected_file(folder, layout.folder, layout.files[split])
        return _found_file(folder, split)


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
    label = [layout.column(schema.label_column)]
    header = layout.headers.get(split)
    if may_lack_labels(split):
        return read_table(path, wanted, optional=label, header=header)
    return read_table(path, [*wanted, *label], header=header)


def _texts(table: Table, column: str) -> list[str]:
    cells = table.columns[column]
    for row, cell in enumerate(cells):
        if not isinstance(cell, str):
            raise UserError(f"{table.place(row)}: column '{column}' holds {cell!r}, not text")
    return cells


def _labels(table: Table, column: str, read: LabelReader) -> list[int | float | None]:
    if column not in table.columns:
        return [None] * len(table)
    return [read(cell, table.place(row)) for row, cell in enumerate(table.columns[column])]
