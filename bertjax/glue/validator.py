"""Checks a submission of GLUE by the format that https://gluebenchmark.com publishes.

It knows nothing of :mod:`bertjax.glue.submission`: names, counts and words stand here a second
time, so that a mistake in one of the two tables is found by the other.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Sequence

from etils import epath

from bertjax.data.tables import reading
from bertjax.types import UserError, nearest

_DIGITS = ("0", "1")
_TWO = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")

FORMAT: dict[str, tuple[int, tuple[str, ...]]] = {
    "AX.tsv": (1_104, _THREE),
    "CoLA.tsv": (1_063, _DIGITS),
    "MNLI-m.tsv": (9_796, _THREE),
    "MNLI-mm.tsv": (9_847, _THREE),
    "MRPC.tsv": (1_725, _DIGITS),
    "QNLI.tsv": (5_463, _TWO),
    "QQP.tsv": (390_965, _DIGITS),
    "RTE.tsv": (3_000, _TWO),
    "SST-2.tsv": (1_821, _DIGITS),
    "STS-B.tsv": (1_379, ()),
    "WNLI.tsv": (146, _DIGITS),
}
"""By file: its rows, and the words it may hold; no words: a number from 0 to 5."""

_HEADER = "index\tprediction"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # a password
)


def validate_submission(path: str) -> None:
    """Checks the zip at ``path``.

    Raises:
      UserError: naming the file and the line, for the first thing that the server would refuse.
    """
    try:
        with (
            reading(path),
            epath.Path(path).open("rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            _check_names(path, archive.namelist())
            for name in sorted(FORMAT):
                _check_file(name, archive.read(name))
    except _UNREADABLE as error:
        raise UserError(f"{path} is no zip that can be read: {error}") from error


def _check_names(path: str, names: Sequence[str]) -> None:
    for name in names:
        if "/" in name or "\\" in name:
            raise UserError(f"{path} holds {name}; its files must lie in no folder")
        if name not in FORMAT:
            raise UserError(f"{path} holds {name}, no file of GLUE{nearest(name, FORMAT)}")
        if names.count(name) > 1:
            raise UserError(f"{path} holds {name} more than once")
    if missing := sorted(set(FORMAT) - set(names)):
        raise UserError(f"{path} lacks {', '.join(missing)}; the server asks for all files")


def _check_file(name: str, content: bytes) -> None:
    rows, words = FORMAT[name]
    lines = _lines(name, content)
    if lines[0] != _HEADER:
        raise UserError(f"{name}, line 1: the header must be 'index TAB prediction'")
    for index, line in enumerate(lines[1:]):
        place = f"{name}, line {index + 2}"
        cells = line.split("\t")
        if len(cells) != 2:
            raise UserError(f"{place} has {len(cells)} columns, not an index and a prediction")
        if cells[0] != str(index):
            raise UserError(f"{place}: the index is '{cells[0]}', not {index}")
        _check_prediction(place, cells[1], words)
    if len(lines) - 1 != rows:
        raise UserError(f"{name} has {len(lines) - 1:,} predictions, not {rows:,}")


def _lines(name: str, content: bytes) -> list[str]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start}") from error
    if text.startswith("\ufeff"):
        raise UserError(f"{name}, line 1 begins with a byte-order mark; write it without one")
    if "\r" in text:
        line = text[: text.index("\r")].count("\n") + 1
        raise UserError(f"{name}, line {line} ends as on Windows; end lines with a line feed alone")
    return text.removesuffix("\n").split("\n")


def _check_prediction(place: str, prediction: str, words: Sequence[str]) -> None:
    if words:
        if prediction not in words:
            raise UserError(f"{place}: '{prediction}' is none of {', '.join(words)}")
        return
    score = float(prediction) if _NUMBER.fullmatch(prediction) else math.nan
    if not 0 <= score <= 5:
        raise UserError(f"{place}: '{prediction}' is not a number from 0 to 5")
