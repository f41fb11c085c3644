"""What a multiple-choice question looks like in files: SWAG's, RACE's, DREAM's, and one's own.

A question is a row: a JSON object, or a line of a CSV or TSV file. The column that holds the
context tells the published shapes apart:

* SWAG: ``sent1``, ``sent2``, ``ending0`` to ``ending3``, ``label``, a number from 0;
* RACE: ``article``, ``question``, ``options``, ``answer``, a letter; or one object with
  ``questions``, ``options`` and ``answers`` about one article, as RACE's own files have it;
* DREAM: ``dialogue``, ``question``, ``choice``, ``answer``, the option's text; or a list
  ``[turns, [questions], id]``, as DREAM's own files have it;
* one's own: ``context``, ``question`` (one of the two may be missing), ``options`` (in a table
  ``option0``, ``option1``, …, or ``optionA``, …, in any order; the last ones empty where a question
  has fewer), and ``label``: the number of the right option from 0, its letter, or its text.

Questions of one file may have different numbers of options, two at least.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from bertjax.types import UserError, nearest

Row = Mapping[str, Any]
Placed = tuple[str, Any]
"""Where something stands, for messages, and what stands there."""

LABELS_OF = {"sent1": "number", "article": "letter", "dialogue": "text"}
"""How the right option is named in each published shape, by the column of its context."""
CONTEXTS = (*LABELS_OF, "context")
QUESTIONS = ("question", "sent2")
OPTIONS = ("options", "choice", "choices", "endings")
ANSWERS = ("label", "answer")
HIDDEN = "-1"
"""The label of a question whose right option is kept back, as a number or a text."""
OPTION_COLUMN = re.compile(r"(option|ending|choice)[ _-]?(?:(\d{1,9})|([A-Za-z]))")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with its options, as it is written."""

    context: str
    question: str
    options: tuple[str, ...]
    label: int | None
    """The right option's index; None where it is not known."""


def question_of(row: Any, place: str, *, labelled: bool) -> Question:
    """The question that a row holds.

    Args:
      row: cells by column; see the module.
      place: where it stands, for messages.
      labelled: whether it must tell its right option; else the label may be missing, or -1.

    Raises:
      UserError: for columns that are missing or of another kind, fewer than two options, an empty
        option (RACE's own may be empty), or a label that is none of the options.
    """
    row = _object(row, place)
    context_column = _column(row, CONTEXTS)
    context = _text(row, context_column, place)
    question = _text(row, _column(row, QUESTIONS), place)
    if not context.strip() and not question.strip():
        raise UserError(f"{place}: there is neither a context nor a question; add one of the two")
    options = _options(row, place, may_be_empty=context_column == "article")
    answer = _cell(row, _column(row, ANSWERS))
    if isinstance(answer, str) and not answer.strip():
        answer = None
    if not labelled and str(answer).strip() == HIDDEN and answer not in options:
        answer = None
    if labelled and answer is None:
        hint = nearest(ANSWERS[0], row)
        raise UserError(f"{place}: there is no '{ANSWERS[0]}' that names the right option{hint}")
    kind = LABELS_OF.get(context_column, "any") if context_column else "any"
    label = None if answer is None else chosen(answer, options, kind, place)
    return Question(context, question, options, label)


def chosen(value: Any, options: Sequence[str], kind: str, place: str) -> int:
    """The index of the option that a label names.

    Args:
      value: as it is written.
      options: the texts of the question's options.
      kind: ``number`` from 0, ``letter`` from A, ``text`` of an option, or ``any`` of the three; a
        number that JSON tells from a text is a number.
      place: where it stands, for messages.

    Raises:
      UserError: where no option is meant, or more than one can be.
    """
    kinds = (kind,) if kind != "any" else tuple(_READINGS)
    if kind == "any" and not isinstance(value, str):
        kinds = ("number",)
    found = sorted({index for name in kinds for index in _READINGS[name](value, options)})
    if len(found) > 1:
        raise UserError(
            f"{place}: the label {value!r} can mean option {' or '.join(map(str, found))}, counted "
            "from 0; make the options differ, or name the right one in another way"
        )
    if not found:
        remedies = " or ".join(_REMEDIES[name].format(len(options) - 1) for name in kinds)
        raise UserError(
            f"{place}: the label {value!r} is none of the {len(options)} options; write {remedies}"
        )
    return found[0]


def documents(value: Any, place: str) -> Iterator[Placed]:
    """The rows that a JSON value holds: itself, or those of a document of RACE or DREAM.

    Raises:
      UserError: for a document of another shape.
    """
    if isinstance(value, list):
        yield from _of_dialogue(value, place)
    elif isinstance(value, Mapping) and "questions" in value:
        yield from _of_article(value, place)
    else:
        yield place, value


def _of_dialogue(document: Sequence[Any], place: str) -> Iterator[Placed]:
    """DREAM's ``[turns, [{question, choice, answer}], id]``."""
    if len(document) < 2 or not isinstance(document[1], list):
        raise UserError(f"{place}: a dialogue must be written as [turns, [questions], id]")
    for index, question in enumerate(document[1]):
        where = _inside(place, f"[1][{index}]")
        yield where, {"dialogue": document[0], **_object(question, where)}


def _of_article(document: Row, place: str) -> Iterator[Placed]:
    """RACE's ``{article, questions, options, answers, id}``; test files may lack ``answers``."""
    columns = {"question": "questions", "options": "options"}
    if "answers" in document:
        columns["answer"] = "answers"
    questions = document["questions"]
    for column in columns.values():
        cells = document.get(column)
        if not isinstance(cells, list) or not cells or len(cells) != len(questions):
            raise UserError(f"{place}: '{column}' must be a list with one entry for each question")
    for index in range(len(questions)):
        row = {name: document[column][index] for name, column in columns.items()}
        where = _inside(place, f"questions[{index}]")
        yield where, {"article": document.get("article"), **row}


def _inside(place: str, path: str) -> str:
    """A place within a JSON document."""
    return place + path if " at " in place else f"{place} at {path}"


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, Mapping):
        raise UserError(
            f"{place}: a question must be an object with context, question and options, not "
            f"{value!r}"
        )
    return value


def _column(row: Row, names: Iterable[str]) -> str | None:
    """The first of these columns that the row has."""
    return next((name for name in names if name in row), None)


def _cell(row: Row, column: str | None) -> Any:
    """What stands in a column. SWAG's first one has no name, so that none is not an empty one."""
    return None if column is None else row.get(column)


def _text(row: Row, column: str | None, place: str) -> str:
    """A text; a list of texts (the turns of a dialogue) is joined by line breaks."""
    value = _cell(row, column)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise UserError(f"{place}: '{column}' holds {value!r}, not text")
    return value


def _options(row: Row, place: str, *, may_be_empty: bool) -> tuple[str, ...]:
    column = _column(row, OPTIONS)
    options = row[column] if column else _options_of_columns(row, place)
    if column is None and not options:
        raise UserError(f"{place}: there are no 'options'{nearest('options', row)}")
    if not isinstance(options, list | tuple) or not all(isinstance(o, str) for o in options):
        raise UserError(
            f"{place}: '{column or 'options'}' must be a list of texts, not {options!r}"
        )
    if len(options) < 2:
        count = "only one option" if options else "no option"
        raise UserError(f"{place}: there is {count} where two or more are needed; add the others")
    empty = next((i for i, option in enumerate(options) if not option.strip()), None)
    if empty is not None and not may_be_empty:
        raise UserError(
            f"{place}: option {empty}, counted from 0, is empty; write it, or remove it"
        )
    return tuple(options)


def _options_of_columns(row: Row, place: str) -> list[Any]:
    """The options of a row that has one column for each; the last may be left empty.

    They stand in the order of the columns' numbers, from 0 or 1, or of their letters, from A.
    """
    columns = [found for name in row if (found := OPTION_COLUMN.fullmatch(name))]
    ranked = sorted((_rank(found), found[0]) for found in columns)
    ranks = [rank for rank, _ in ranked]
    kinds = {(prefix, number is None) for prefix, number, _ in (c.groups() for c in columns)}
    first = 1 if ranks[:1] == [1] and not any(lettered for _, lettered in kinds) else 0
    if len(kinds) > 1 or ranks != [*range(first, first + len(ranks))]:
        raise UserError(
            f"{place}: the columns {', '.join(found[0] for found in columns)} do not tell the "
            "order of the options; name them option0, option1, … without a gap"
        )
    options = [row[name] for _, name in ranked]
    while len(options) > 1 and options[-1] in (None, ""):
        options.pop()
    return options


def _rank(column: re.Match[str]) -> int:
    """The number of an option's column, or that of its letter from A, which is 0."""
    _, number, letter = column.groups()
    return int(number) if number else ascii_uppercase.index(letter.upper())


def _numbered(value: Any, options: Sequence[str]) -> list[int]:
    written = "" if isinstance(value, bool) else str(value).strip()
    number = int(written) if written.isdecimal() and len(written) < 10 else len(options)
    return [number] if number < len(options) else []


def _lettered(value: Any, options: Sequence[str]) -> list[int]:
    letter = value.strip().upper() if isinstance(value, str) else ""
    return [index for index in range(min(len(options), 26)) if ascii_uppercase[index] == letter]


def _quoted(value: Any, options: Sequence[str]) -> list[int]:
    return [index for index, option in enumerate(options) if option == value]


_READINGS: dict[str, Callable[[Any, Sequence[str]], list[int]]] = {
    "number": _numbered,
    "letter": _lettered,
    "text": _quoted,
}
_REMEDIES = {
    "number": "a number from 0 to {}",
    "letter": "a letter from A on",
    "text": "the text of one of them",
}
