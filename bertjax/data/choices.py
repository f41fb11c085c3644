"""The sources of multiple-choice questions: ``files:``, ``tfds:`` and ``hf:``.

What a question looks like is told in :mod:`bertjax.data.questions`. Files are JSON lines, CSV, TSV,
or one JSON document (DREAM's list, or an article of RACE); a folder stands for all of its ``.txt``
and ``.json`` documents, as RACE lays them out, those of its folders (``middle``, ``high``) too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from bertjax.data.files import find_file
from bertjax.data.hub import HubSplit, open_split
from bertjax.data.json_text import parse_document
from bertjax.data.layout import Layout, may_lack_labels
from bertjax.data.questions import Placed, Question, documents, question_of
from bertjax.data.records import Record, Records
from bertjax.data.sources import split_source
from bertjax.data.tables import parse_rows, reading, table_format
from bertjax.types import UserError, nearest

FORMS = ("jsonl", "csv", "tsv", "json", "lines")
DOCUMENTS = (".txt", ".json")
TFDS_SPLITS = {"race": {"validation": "dev"}}
"""What TFDS calls a split of a data set, where it is something else."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReadQuestions(Records):
    """The questions of a split, in memory."""

    questions: Sequence[Question]

    def __len__(self) -> int:
        return len(self.questions)

    def read(self, row: int) -> Record:
        """The record at ``row``."""
        return record_of(self.questions[row], row)


@dataclasses.dataclass(frozen=True, eq=False)
class HubQuestions(Records):
    """The questions of a hub's split; one is read when it is asked for."""

    split: HubSplit
    labelled: bool

    def __len__(self) -> int:
        return len(self.split.rows)

    def read(self, row: int) -> Record:
        """The record at ``row``.

        Raises:
          UserError: where the row is not a question as it must be.
        """
        cells = _cells(self.split, row)
        question = question_of(cells, self.split.place(row), labelled=self.labelled)
        return record_of(question, row)


def open_questions(data: str, split: str, layout: Layout) -> Records:
    """Opens one split for random access.

    Args:
      data: ``files:DIR``, ``files:train=PATH,validation=PATH``, ``tfds:NAME`` or ``hf:NAME``.
      split: one of the layout's splits.
      layout: where the files lie.

    Raises:
      UserError: for a source, split, file or question that is not as it must be. Files are checked
        whole when they are opened, and so are articles of a hub with several questions each (RACE
        of TFDS); other questions of a hub are checked when they are read.
    """
    kind, location = split_source(data)
    if split not in layout.splits:
        raise UserError(f"there is no split '{split}'{nearest(split, layout.splits)}")
    labelled = not may_lack_labels(split)
    if kind != "files":
        return _of_hub(data, split, layout, labelled)
    path = find_file(location, split, layout)
    questions = list(_of_path(path, labelled))
    if not questions:
        raise UserError(f"{path} holds no questions")
    return ReadQuestions(questions)


def read_questions(
    stream: Iterable[bytes], name: str, form: str, *, labelled: bool
) -> Iterator[Question]:
    """The questions of a file, in order.

    Args:
      stream: lines of bytes.
      name: what messages call the stream.
      form: one of :data:`FORMS`; ``lines`` are JSON lines.
      labelled: whether each must tell its right option.

    Raises:
      UserError: for what is not UTF-8, JSON or CSV, and for a question that is not as it must be;
        the message names the line or the place in the JSON document.
    """
    if form not in FORMS:
        raise UserError(f"{name}: questions are not written as {form}{nearest(form, FORMS)}")
    rows = _json_rows if form == "json" else _table_rows
    for place, row in rows(stream, name, form):
        yield question_of(row, place, labelled=labelled)


def record_of(question: Question, row: int) -> Record:
    """A record: ``index``, ``context``, ``question``, ``options`` (a tuple) and ``label``."""
    return {"index": row, **vars(question)}


def _of_hub(data: str, split: str, layout: Layout, labelled: bool) -> Records:
    kind, name = split_source(data)
    splits = dict(layout.hub_splits)
    if kind == "tfds":
        splits |= TFDS_SPLITS.get(re.split("[/:]", name)[0], {})
    opened = open_split(data, splits.get(split, split))
    if "questions" not in opened.features:
        return HubQuestions(opened, labelled)
    questions = [
        question_of(cells, place, labelled=labelled)
        for row in range(len(opened.rows))
        for place, cells in documents(_cells(opened, row), opened.place(row))
    ]
    return ReadQuestions(questions)


def _cells(split: HubSplit, row: int) -> dict[str, Any]:
    return {name: _plain(value) for name, value in split.rows[row].items()}


def _of_path(path: str, labelled: bool) -> Iterator[Question]:
    for file in _files(path):
        form = "json" if file.suffix.lower() in DOCUMENTS else table_format(str(file))
        with reading(str(file)), file.open("rb") as stream:
            yield from read_questions(stream, str(file), form, labelled=labelled)


def _files(path: str) -> list[epath.Path]:
    """The file, or the documents in the folder and its folders, numbers in their order."""
    place = epath.Path(path)
    with reading(path):
        if not place.is_dir():
            return [place]
        folders = [place, *(folder for folder in place.iterdir() if folder.is_dir())]
        found = [
            file
            for folder in folders
            for file in folder.iterdir()
            if file.suffix.lower() in DOCUMENTS
        ]
    if not found:
        raise UserError(f"{path} holds no .txt or .json file; name the folder that does")
    return sorted(found, key=lambda file: (str(file.parent), len(file.name), file.name))


def _table_rows(stream: Iterable[bytes], name: str, form: str) -> Iterator[Placed]:
    for place, row in parse_rows(stream, name, "jsonl" if form == "lines" else form):
        yield from documents(row, place)


def _json_rows(stream: Iterable[bytes], name: str, form: str) -> Iterator[Placed]:
    """Rows of one JSON document: a list of questions or dialogues, or one article."""
    del form
    value = parse_document(stream, name, "the name of a file with one object a line ends in .jsonl")
    if not isinstance(value, list):
        yield from documents(value, name)
        return
    for index, entry in enumerate(value):
        yield from documents(entry, f"{name} at [{index}]")


def _plain(value: Any) -> Any:
    """Python's own text, numbers and lists; TFDS gives bytes and numpy arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value
