"""What ``predict`` reads (plain lines, or tables with named columns) and where it writes."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from etils import epath

from bertjax.data.tables import FORMATS, parse_rows, parse_table, reading
from bertjax.types import UserError

Texts = tuple[str, ...]
"""One text, or two."""

OTHER_FORMATS = {".txt": "lines", ".json": "json", ".conll": "conll", ".conllu": "conllu"}


def input_format(path: str) -> str:
    """By a file's ending ``tsv``, ``csv``, ``jsonl``, ``json``, ``conll`` or ``conllu``.

    Any other ending is ``lines``.
    """
    suffix = epath.Path(path).suffix.lower()
    return (FORMATS | OTHER_FORMATS).get(suffix, "lines")


@contextlib.contextmanager
def open_input(path: str) -> Iterator[IO[bytes]]:
    """A file, or standard input for ``-``, to be read as bytes.

    Raises:
      UserError: if it cannot be read.
    """
    if path == "-":
        yield sys.stdin.buffer
        return
    with reading(path), epath.Path(path).open("rb") as file:
        yield file


@contextlib.contextmanager
def open_output(path: str) -> Iterator[IO[str]]:
    """Standard output, or a file that is put in its place when it is whole.

    Raises:
      UserError: if no file can be made there.
    """
    if path == "-":
        yield sys.stdout
        return
    place = epath.Path(path)
    if place.is_dir():
        raise UserError(f"--output={path} is a folder; name a file in it")
    part = place.with_name(place.name + ".part")
    try:
        file = part.open("w")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"there is no folder {place.parent}; make it, or correct --output"
        ) from None
    with file:
        yield file
    part.replace(place)


def read_texts(
    stream: Iterable[bytes], name: str, form: str, columns: Sequence[str]
) -> Iterator[Texts]:
    """The texts of each input, in order.

    Plain lines are read as they are wanted, one input a line, empty ones too; with two columns the
    texts of a line are separated by one TAB.

    Args:
      stream: lines of bytes.
      name: what messages call the stream.
      form: ``lines``, ``tsv``, ``csv`` or ``jsonl``.
      columns: names of the one or two columns with text.

    Raises:
      UserError: for a line that is not UTF-8, lacks a text, or has one too many.
    """
    if form == "lines":
        yield from _texts_of_lines(stream, name, len(columns))
        return
    _check_form(form)
    table = parse_table(stream, name, form, columns)
    for row in range(len(table)):
        texts = tuple(table.columns[column][row] for column in columns)
        for column, text in zip(columns, texts, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{table.place(row)}: column '{column}' is not text")
        yield texts


def read_rows(
    stream: Iterable[bytes], name: str, form: str
) -> Iterator[tuple[str, str | dict[str, Any]]]:
    """What each input says, in order: the place (``file:line``) with a line of text or a row.

    Rows are mappings from the header's names (``tsv``, ``csv``) or JSON's (``jsonl``).

    Raises:
      UserError: for another form, or a line that is not of the form.
    """
    if form == "lines":
        for number, text in _lines(stream, name):
            yield f"{name}:{number}", text
        return
    _check_form(form)
    yield from parse_rows(stream, name, form)


def _check_form(form: str) -> None:
    if form not in FORMATS.values():
        raise UserError(f"this task does not read {form}; give a .jsonl, .csv, .tsv or .txt file")


def _lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(stream, start=1):
        try:
            text = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
        except UnicodeDecodeError:
            raise UserError(f"{name}:{number} is not UTF-8; save the input as UTF-8") from None
        yield number, text.removesuffix("\n").removesuffix("\r")


def _texts_of_lines(stream: Iterable[bytes], name: str, count: int) -> Iterator[Texts]:
    for number, text in _lines(stream, name):
        texts = (text,) if count == 1 else tuple(text.split("\t"))
        if len(texts) != count:
            raise UserError(
                f"{name}:{number} has {len(texts) - 1} TABs where the task takes {count} texts "
                "separated by one; mend the line"
            )
        yield texts
