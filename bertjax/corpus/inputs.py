"""Reads raw text as documents of paragraphs, in four forms, compressed or not.

* ``text``: a blank line between documents.
* ``file``: one document a file.
* ``extractor``: WikiExtractor's output, ``<doc id=... title=...>`` to ``</doc>``.
* ``jsonl``: one JSON object a line, with the text in a field; paragraphs end at line breaks.

``auto`` takes ``jsonl`` by the ending (``.jsonl``, ``.ndjson``, ``.json``) or a first line that
begins an object, ``extractor`` by a first line ``<doc ...>``, and else ``text``. Text is UTF-8,
with or without a byte-order mark; lines end in LF or CR LF. Files that end in ``.gz``, ``.bz2``,
``.xz`` or ``.zst`` are decompressed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from bertjax.corpus.files import (
    Block,
    TextFile,
    find_inputs,
    is_compressed,
    open_bytes,
    read_blocks,
    read_chunk,
    stem,
)
from bertjax.folders import first_line
from bertjax.types import UserError, nearest

__all__ = ["FORMS", "Reading", "TextFile", "detect_form", "find_inputs", "read_documents"]

FORMS = ("auto", "text", "file", "extractor", "jsonl")
MAX_DOCUMENT = 16 << 20

Document = list[str]
"""Paragraphs, stripped, none of them empty."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How raw text is read.

    Raises:
      UserError: for a form or an error handling that is unknown, or a line length below 1.
    """

    form: str = "auto"
    """One of ``FORMS``."""
    field: str = "text"
    """The field of a JSON object that holds the text."""
    errors: str = "strict"
    """What is done about bytes that are not UTF-8: ``strict`` refuses, ``replace`` puts U+FFFD."""
    max_line: int = 16 << 20
    """The longest line that is read, in bytes."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"there is no form '{self.form}'{nearest(self.form, FORMS)}")
        if self.errors not in ("strict", "replace"):
            known = nearest(self.errors, ("strict", "replace"))
            raise UserError(f"errors cannot be '{self.errors}'{known}")
        if self.max_line < 1:
            raise UserError(f"max_line={self.max_line} allows no line; give at least 1")


def read_documents(path: str, reading: Reading) -> Iterator[Document]:
    """The documents of a file, in order; those without any text are left out.

    A document of more than 16 MiB is cut between paragraphs, so that memory stays flat where a
    large file has no blank line.

    Raises:
      UserError: if the file cannot be read, is not UTF-8, or not what its form says.
    """
    form = detect_form(path) if reading.form == "auto" else reading.form
    return _READERS[form](path, reading)


def detect_form(path: str) -> str:
    """The form of a file by its ending and first line.

    Raises:
      UserError: if the file cannot be read.
    """
    if stem(path).lower().endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    with open_bytes(path) as file:
        head = read_chunk(file, path, 0, 4096)
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<doc "):
        return "extractor"
    return "jsonl" if re.match(rb'\{\s*"', head) else "text"


def _decoded(path: str, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """Lines, and the number of the first of them; the last of each list is what follows a break."""
    for block in read_blocks(path, reading.max_line):
        try:
            text = block.data.decode("utf-8", reading.errors)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, block, error.start) from None
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        yield block.line, lines


def _not_utf8(path: str, block: Block, start: int) -> UserError:
    line = block.line + block.data.count(b"\n", 0, start)
    where = " of its decompressed text" if is_compressed(path) else ""
    return UserError(
        f"{path}:{line} is not UTF-8 at byte {block.offset + start}{where}; save the file as "
        "UTF-8, or read it with --errors=replace"
    )


def _read_text(path: str, reading: Reading, whole: bool = False) -> Iterator[Document]:
    """Documents between blank lines, or the ``whole`` file as one."""
    document: Document = []
    size = 0
    for _, lines in _decoded(path, reading):
        for line in lines:
            if text := line.strip():
                size += len(text)
                document.append(text)
                if size <= MAX_DOCUMENT:
                    continue
            elif whole or not document:
                continue
            yield document
            document, size = [], 0
    if document:
        yield document


def _read_extractor(path: str, reading: Reading) -> Iterator[Document]:
    document: Document = []
    begun = size = 0
    for first, lines in _decoded(path, reading):
        for number, line in enumerate(lines, start=first):
            text = line.strip()
            if not text:
                continue
            is_begin = text.startswith("<doc ") and text.endswith(">")
            if is_begin and begun:
                raise _endless(path, begun)
            if not is_begin and not begun:
                raise _outside(path, number)
            if is_begin:
                begun = number
                continue
            is_end = text == "</doc>"
            if not is_end:
                document.append(text)
                size += len(text)
            if document and (is_end or size > MAX_DOCUMENT):
                yield document
                document, size = [], 0
            begun = 0 if is_end else begun
    if begun:
        raise _endless(path, begun)


def _outside(path: str, line: int) -> UserError:
    return UserError(
        f"{path}:{line} is outside of <doc ...> and </doc>; mend the file, or read it with "
        "--format=text"
    )


def _endless(path: str, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: the document that begins here has no </doc>; get the file anew, or add "
        "the line"
    )


def _read_jsonl(path: str, reading: Reading) -> Iterator[Document]:
    for first, lines in _decoded(path, reading):
        for number, line in enumerate(lines, start=first):
            if not line or line.isspace():
                continue
            text = _field(line, f"{path}:{number}", reading)
            document = [part for raw in text.split("\n") if (part := raw.strip())]
            if document:
                yield document


def _field(line: str, place: str, reading: Reading) -> str:
    """The text that a line's JSON object holds."""
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise _not_json(place, f"{error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise _not_json(place, first_line(error)) from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is not a JSON object with named fields; mend or remove the line")
    if reading.field not in row:
        hint = nearest(reading.field, row) if row else "; it is empty"
        raise UserError(f"{place} has no field '{reading.field}' (--field){hint}")
    text = row[reading.field]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        raise UserError(
            f"{place}: the field '{reading.field}' holds {kind}, not text; mend or remove the "
            "line, or name another field with --field"
        )
    return text if text.isascii() else _whole_characters(text, place, reading.errors)


def _not_json(place: str, reason: str) -> UserError:
    return UserError(f"{place} is not JSON ({reason}); mend or remove the line")


def _whole_characters(text: str, place: str, errors: str) -> str:
    r"""The text, which JSON's ``\ud800`` may fill with halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        if errors == "strict":
            raise UserError(
                f"{place} holds half of a character (a lone surrogate); mend the line, or read "
                "the file with --errors=replace"
            ) from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


_READERS: dict[str, Callable[[str, Reading], Iterator[Document]]] = {
    "text": _read_text,
    "file": functools.partial(_read_text, whole=True),
    "extractor": _read_extractor,
    "jsonl": _read_jsonl,
}
