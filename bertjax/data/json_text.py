r"""JSON as users give it: every mistake is told in a sentence that names its file and line.

JSON may write half of a character (a lone ``\ud83d``), which no tokenizer takes; so it is refused
where it is read, and :func:`check_characters` refuses it in what a Python program gives.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from bertjax.types import UserError

_HALF = re.compile("[\ud800-\udfff]")
_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    r"(?s)\\(?:u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<half>u[dD][89a-fA-F]\w\w)|.)"
)


def parse_json(text: str, name: str, line: int = 0, remedy: str = "mend or remove the line") -> Any:
    """The value of a JSON text.

    Args:
      text: one line, or a whole document.
      name: what messages call the file.
      line: the number of the line, from 1; 0: the text is the whole file.
      remedy: what to do about something that is not JSON.

    Raises:
      UserError: for what is not JSON, half of a surrogate pair, a number with more digits than
        Python reads, or lists and objects nested too deeply.
    """
    place = f"{name}:{line}" if line else name
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}:{line or error.lineno} is not JSON: {error.msg} at column {error.colno}; "
            f"{remedy}"
        ) from None
    except ValueError:  # That of integers, the only other one.
        digits = sys.get_int_max_str_digits()
        raise UserError(
            f"{place} holds a number of more than {digits} digits; shorten it, or write it as text"
        ) from None
    except RecursionError:
        raise UserError(f"{place} nests lists or objects too deeply; {remedy}") from None
    if _MAY_BE_HALF.search(text):
        _check_escapes(text, name, line)
    return value


def parse_document(stream: Iterable[bytes], name: str, remedy: str = "mend the file") -> Any:
    """The value of a file that is one JSON document, in UTF-8 with or without a byte-order mark.

    Args:
      stream: its bytes, in pieces.
      name: what messages call it.
      remedy: as in :func:`parse_json`.

    Raises:
      UserError: as :func:`parse_json`, and for what is not UTF-8.
    """
    try:
        text = b"".join(stream).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8; save the file as UTF-8") from None
    return parse_json(text, name, remedy=remedy)


def check_characters(texts: Iterable[str], place: str) -> None:
    """Raises UserError where a text that Python gives holds half of a surrogate pair."""
    for text in texts:
        if half := _HALF.search(text):
            raise UserError(_half_told(place, f"\\u{ord(half[0]):04x}"))


def _check_escapes(text: str, name: str, line: int) -> None:
    """Raises UserError where JSON writes half of a surrogate pair; it has backslashes in texts."""
    for escape in _ESCAPE.finditer(text):
        if half := escape["half"]:
            number = line or text.count("\n", 0, escape.start()) + 1
            raise UserError(_half_told(f"{name}:{number}", "\\" + half))


def _half_told(place: str, half: str) -> str:
    return (
        f"{place} holds half of a surrogate pair, {half}; write the whole character, or remove it"
    )
