"""Reads TSV, CSV and JSON-lines files into columns; every mistake names its file and line.

* ``.tsv`` and ``.txt``: tab-separated, first line is the header. Quote characters are text (GLUE's
  files hold unbalanced ones), so a cell cannot hold a tab or a line break.
* ``.csv``: comma-separated with double quotes, as RFC 4180; first line is the header.
* ``.jsonl``: one JSON object a line.

Text is UTF-8, with or without a byte-order mark. A row is never skipped: one with too few or too
many cells is an error, and only blank lines at the very end are ignored.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from bertjax.data.json_text import parse_json
from bertjax.types import UserError, nearest

NumberedRow = tuple[int, Any]
"""A line number (from 1) and what stands there; None for a blank line."""

FORMATS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "jsonl"}


class NoColumn(UserError):
    """The header of a file lacks a column."""

    def __init__(self, place: str, column: str, header: Sequence[str]):
        super().__init__(f"{place}: the header has no column '{column}'{nearest(column, header)}")
        self.place, self.header = place, header


@dataclasses.dataclass(frozen=True)
class Table:
    """Some columns of a file, all of one length, and the line where each row begins."""

    name: str
    """The file's name, for messages."""
    columns: dict[str, list[Any]]
    """Cells by column: ``str`` from TSV and CSV, any JSON value from JSON lines."""
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """``file:line`` of a row."""
        return f"{self.name}:{self.lines[row]}"

    def where(self, column: str, value: Any) -> Table:
        """The rows whose cell in ``column`` is ``value``.

        Raises:
          UserError: where there is none.
        """
        rows = [row for row, cell in enumerate(self.columns[column]) if cell == value]
        if not rows:
            known = dict.fromkeys(map(str, self.columns[column]))
            hint = nearest(str(value), known)
            raise UserError(f"{self.name} has no row whose {column} is '{value}'{hint}")
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return Table(self.name, columns, [self.lines[row] for row in rows])


def table_format(path: str) -> str:
    """The format that a file's ending stands for: ``tsv``, ``csv`` or ``jsonl``.

    Raises:
      UserError: for any other ending.
    """
    suffix = pathlib.PurePath(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f"{path} ends in '{suffix}': expected one of {', '.join(FORMATS)}; rename or convert it"
        )
    return FORMATS[suffix]


def read_table(
    path: str,
    wanted: Sequence[str],
    *,
    optional: Sequence[str] = (),
    header: Sequence[str] | None = None,
) -> Table:
    """Reads columns of a file whose format follows from its ending; see :func:`parse_table`.

    Args:
      path: a local path, or one of a remote file system that ``etils.epath`` knows (``gs://``).
      wanted: columns that must be there.
      optional: columns that are read if they are there.
      header: names of all columns, for a TSV or CSV file whose first line is already a row.

    Raises:
      UserError: where the file cannot be read, or is not what :func:`parse_table` accepts.
    """
    form = table_format(path)
    with reading(path), epath.Path(path).open("rb") as stream:
        return parse_table(stream, path, form, wanted, optional=optional, header=header)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what a file system raises within into a sentence that names the path.

    Raises:
      UserError: where there is no such file, it may not be read, or the library for its file
        system is not installed.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"cannot read {path}: {reason}") from error


def parse_table(
    stream: Iterable[bytes],
    name: str,
    form: str,
    wanted: Sequence[str],
    *,
    optional: Sequence[str] = (),
    header: Sequence[str] | None = None,
) -> Table:
    """Parses lines of bytes, as of a file open for binary reading or ``sys.stdin.buffer``.

    Args:
      stream: the lines, each with its line break.
      name: what messages call the stream.
      form: ``tsv``, ``csv`` or ``jsonl``.
      wanted: columns that must be there.
      optional: columns that are read if they are there.
      header: names of all columns, where the first line is already a row; not for ``jsonl``.

    Raises:
      UserError: for an empty file, a missing or repeated column, a row of the wrong width, a line
        that is not UTF-8, JSON or CSV, or a blank line before the last row.
    """
    split, collect = _READERS[form]
    rows = _without_blank_lines(split(_text_lines(stream, name), name), name)
    table = collect(rows, name, wanted, optional, header)
    if not table.lines:
        raise UserError(f"{name} holds no rows")
    return table


def parse_rows(
    stream: Iterable[bytes], name: str, form: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with all its cells by column, and its place (``file:line``).

    Raises:
      UserError: as :func:`parse_table`.
    """
    split, _ = _READERS[form]
    rows = _without_blank_lines(split(_text_lines(stream, name), name), name)
    header = None
    for line, row in rows:
        place = f"{name}:{line}"
        if isinstance(row, dict):
            yield place, row
        elif header is None:
            header = row
            _check_header(header, place, header, ())
        elif len(row) != len(header):
            raise UserError(_wrong_width(place, len(row), len(header)))
        else:
            yield place, dict(zip(header, row, strict=True))


def _text_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    for line, raw in enumerate(stream, start=1):
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise UserError(f"{name}:{line} is not UTF-8; save the file as UTF-8") from None
        yield text.removeprefix("\ufeff") if line == 1 else text


def _without_blank_lines(rows: Iterable[NumberedRow], name: str) -> Iterator[NumberedRow]:
    first_blank = None
    for line, row in rows:
        if row is None:
            first_blank = first_blank or line
        elif first_blank:
            raise UserError(f"{name}:{first_blank} is blank; remove the line")
        else:
            yield line, row


def _tsv_rows(lines: Iterable[str], name: str) -> Iterator[NumberedRow]:
    del name
    for line, text in enumerate(lines, start=1):
        text = text.removesuffix("\n").removesuffix("\r")
        yield line, text.split("\t") if text else None


def _csv_rows(lines: Iterable[str], name: str) -> Iterator[NumberedRow]:
    reader = csv.reader(lines, strict=True)
    begin = 1
    try:
        for row in reader:
            yield begin, row or None
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}:{begin} is not CSV: {error}") from None


def _json_rows(lines: Iterable[str], name: str) -> Iterator[NumberedRow]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            yield line, None
            continue
        row = parse_json(text, name, line)
        if not isinstance(row, dict):
            raise UserError(f"{name}:{line} is not a JSON object with named columns")
        yield line, row


def _collect_cells(
    rows: Iterator[NumberedRow],
    name: str,
    wanted: Sequence[str],
    optional: Sequence[str],
    header: Sequence[str] | None,
) -> Table:
    """Columns of rows that are lists of cells; the first row is the header unless one is given."""
    if header is None:
        line, header = next(rows, (1, None))
        if header is None:
            raise UserError(f"{name} is empty; it needs a header line and rows")
        _check_header(header, f"{name}:{line}", wanted, optional)
    else:
        rows = _without_header(rows, name, header)
    table = Table(name, {c: [] for c in (*wanted, *optional) if c in header}, [])
    cells = [(table.columns[column].append, header.index(column)) for column in table.columns]
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(_wrong_width(f"{name}:{line}", len(row), len(header)))
        table.lines.append(line)
        for append, position in cells:
            append(row[position])
    return table


def _wrong_width(place: str, found: int, expected: int) -> str:
    return (
        f"{place} has {found} column{'s' * (found != 1)} where {expected} are expected; "
        "mend or remove the row"
    )


def _check_header(
    header: Sequence[str], place: str, wanted: Sequence[str], optional: Sequence[str]
) -> None:
    for column in wanted:
        if column not in header:
            raise NoColumn(place, column, header)
    for column in (*wanted, *optional):
        if header.count(column) > 1:
            raise UserError(f"{place}: the header has column '{column}' more than once; rename one")


def _without_header(
    rows: Iterator[NumberedRow], name: str, header: Sequence[str]
) -> Iterator[NumberedRow]:
    """The rows, if the first is not the header that a file with a given one must not have."""
    for number, (line, row) in enumerate(rows):
        if number == 0 and list(row) == list(header):
            raise UserError(
                f"{name}:{line} is a header line that names the same columns; "
                "leave the option 'columns' away"
            )
        yield line, row


def _collect_keys(
    rows: Iterator[NumberedRow],
    name: str,
    wanted: Sequence[str],
    optional: Sequence[str],
    header: Sequence[str] | None,
) -> Table:
    """Columns of rows that are JSON objects. An optional key stands in every row or in none."""
    if header is not None:
        raise UserError(f"{name}: JSON lines name their columns; leave the option 'columns' away")
    table = Table(name, {column: [] for column in wanted}, [])
    for line, row in rows:
        new = [column for column in optional if column in row and column not in table.columns]
        if new and table.lines:
            raise UserError(f"{name}:{line} has column '{new[0]}', which the rows before lack")
        table.columns.update({column: [] for column in new})
        for column, cells in table.columns.items():
            if column not in row:
                raise UserError(f"{name}:{line} has no column '{column}'{nearest(column, row)}")
            cells.append(row[column])
        table.lines.append(line)
    return table


_Split = Callable[[Iterable[str], str], Iterator[NumberedRow]]
_Collect = Callable[..., Table]
_READERS: dict[str, tuple[_Split, _Collect]] = {
    "tsv": (_tsv_rows, _collect_cells),
    "csv": (_csv_rows, _collect_cells),
    "jsonl": (_json_rows, _collect_keys),
}
