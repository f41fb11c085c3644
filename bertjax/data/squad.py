"""Questions about paragraphs: SQuAD's JSON of both versions, TFDS and Hugging Face.

A record is ``{"index", "id", "question", "context", "answers"}``: ``answers`` is a list of
``{"text": str, "start": int, "end": int}``, the characters of the context from ``start`` up to
``end``, most often the text itself. It is empty where the question has no answer, and None where
the answers are kept back.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.data.files import STEMS, data_folder, find_file
from bertjax.data.hub import HubSplit, open_split
from bertjax.data.json_text import parse_document
from bertjax.data.layout import SPLITS, Layout, may_lack_labels
from bertjax.data.records import Record, Records
from bertjax.data.sources import split_source
from bertjax.data.tables import reading
from bertjax.types import UserError, nearest

FOLDER = "squad"
NAMES: dict[type, str] = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


def open_questions(data: str, split: str, version: str) -> Sequence[Record]:
    """Opens one split for random access.

    Args:
      data: ``files:DIR`` (or the folder above a ``squad``), ``files:train=PATH,validation=PATH``,
        ``tfds:squad/v1.1`` or ``hf:rajpurkar/squad``.
      split: ``train``, ``validation`` or ``test``, whose answers may be kept back.
      version: ``1.1`` or ``2.0``: which of a folder's files is meant, and whether a question may
        be without an answer.

    Raises:
      UserError: for a source, split or file that is not there, and for a field, answer or id that
        is not as it must be; files are checked whole when they are opened, rows of TFDS and
        Hugging Face when they are read.
    """
    kind, location = split_source(data)
    if split not in SPLITS:
        raise UserError(f"there is no split '{split}'{nearest(split, SPLITS)}")
    if kind != "files":
        return _HubQuestions(open_split(data, split), may_lack_labels(split), version)
    path = _find_file(location, split, version)
    with reading(path), epath.Path(path).open("rb") as stream:
        records = read_json(stream, path)
    for record in records:
        check_answers(record, may_lack_labels(split), version, path)
    return records


def _find_file(location: str, split: str, version: str) -> str:
    if re.match(r"\w+=", location):
        return find_file(location, split, Layout())
    with reading(location):
        root = data_folder(location, split)
        names = [f"{stem}{end}.json" for stem in STEMS[split] for end in (f"-v{version}", "")]
        found = [path for path in (root / FOLDER / name for name in names) if path.exists()]
        found = [path for path in (root / name for name in names) if path.exists()] or found
    if not found:
        raise UserError(
            f"{location} holds no file for '{split}'; looked for {', '.join(names)}, there and in "
            f"{FOLDER}"
        )
    if len(found) > 1:
        raise UserError(
            f"{found[0].parent} holds both {found[0].name} and {found[1].name} for '{split}'; name "
            f"the one you mean, as in files:{split}=PATH"
        )
    return str(found[0])


def read_json(stream: Iterable[bytes], name: str) -> list[Record]:
    """The questions of a SQuAD file, in order.

    Args:
      stream: its bytes, in pieces.
      name: what messages call it.

    Raises:
      UserError: where it is not SQuAD's JSON, repeats an id, or has an answer that its context
        does not hold; the message names the path in the JSON.
    """
    records: list[Record] = []
    for place, context, question in _questions(parse_document(stream, name), name):
        text = _field(question, "question", str, place)
        answers = None
        if "answers" in question:
            given = _field(question, "answers", list, place)
            answers = [(f"{place}.answers[{i}]", answer) for i, answer in enumerate(given)]
        if question.get("is_impossible") is True:
            answers = []
        identity = _identity(_field(question, "id", None, place), place)
        records.append(_record(len(records), identity, text, context, answers, place))
    if not records:
        raise UserError(f"{name} holds no questions")
    _check_unique([record["id"] for record in records], name)
    return records


def _questions(document: Any, name: str) -> Iterator[tuple[str, str, Any]]:
    """The place, the context and the object of each question."""
    for a, article in enumerate(_field(document, "data", list, f"{name}: ")):
        place = f"{name}: data[{a}]"
        for p, paragraph in enumerate(_field(article, "paragraphs", list, place)):
            inner = f"{place}.paragraphs[{p}]"
            context = _field(paragraph, "context", str, inner)
            for q, question in enumerate(_field(paragraph, "qas", list, inner)):
                yield f"{inner}.qas[{q}]", context, question


def _field(node: Any, key: str, kind: type | None, place: str) -> Any:
    """One field of an object of the JSON; ``kind`` None takes any value."""
    if not isinstance(node, dict):
        where = place.removesuffix(": ")
        raise UserError(f"{where} is {_shown(node)}, not an object; SQuAD's JSON has one there")
    path = place + key if place.endswith(": ") else f"{place}.{key}"
    if key not in node:
        hint = nearest(key, node) if node else "; the object is empty"
        raise UserError(f"{path} is missing{hint}")
    value = node[key]
    if kind and (not isinstance(value, kind) or isinstance(value, bool)):
        raise UserError(f"{path} is {_shown(value)}, not {NAMES[kind]}; mend the file")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _identity(value: Any, place: str) -> str:
    """The id as text; some sets number their questions."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{place}.id is {_shown(value)}, not text; mend the file")
    return str(value)


def _check_unique(identities: Sequence[str], name: str) -> None:
    seen = set()
    for identity in identities:
        if identity in seen:
            raise UserError(
                f"{name} has the question id '{identity}' twice; official predictions and scores "
                "go by the id, so give each question its own"
            )
        seen.add(identity)


def _record(
    index: int,
    identity: str,
    question: str,
    context: str,
    answers: Sequence[tuple[str, Any]] | None,
    place: str,
) -> Record:
    if not question.strip():
        raise UserError(f"{place}.question is empty (id '{identity}'); write the question")
    located = None
    if answers is not None:
        located = [_located(context, answer, where, identity) for where, answer in answers]
    return {
        "index": index,
        "id": identity,
        "question": question,
        "context": context,
        "answers": located,
    }


def _located(context: str, answer: Any, place: str, identity: str) -> dict[str, Any]:
    text = _field(answer, "text", str, place)
    if not text.strip():
        raise UserError(
            f"{place}.text is empty (id '{identity}'); a question without an answer has an empty "
            "list of answers"
        )
    start = _field(answer, "answer_start", int, place)
    found = locate(context, text, start)
    if found is None:
        raise UserError(
            f"{place}: the context does not hold the answer '{text}' of the question with the id "
            f"'{identity}'; correct the text or the context"
        )
    return {"text": text, "start": found[0], "end": found[1]}


def locate(context: str, text: str, start: int) -> tuple[int, int] | None:
    """Where an answer stands in its context, as characters from and up to.

    That is ``start`` if the text stands there, else the nearest place where it does; where it
    stands nowhere, the nearest that differs in the amount and kind of white space, or in how
    accents and syllables are encoded (composed or apart), alone. None where there is no such place.
    """
    if text and start >= 0 and context.startswith(text, start):
        return start, start + len(text)
    found = [(match.start(), match.end()) for match in re.finditer(re.escape(text), context)]
    if not found:
        pattern = r"\s+".join(map(_any_encoding, text.split()))
        found = [match.span() for match in re.finditer(pattern, context)]
    return min(found, key=lambda place: abs(place[0] - start), default=None)


def _any_encoding(word: str) -> str:
    """A pattern for the word as it is, apart, or with any of its characters composed or apart."""
    pairs = ((c, unicodedata.normalize("NFD", c)) for c in unicodedata.normalize("NFC", word))
    mixed = (re.escape(a) if a == b else f"(?:{re.escape(a)}|{re.escape(b)})" for a, b in pairs)
    whole = map(re.escape, (word, unicodedata.normalize("NFD", word)))
    return f"(?:{'|'.join(dict.fromkeys([*whole, ''.join(mixed)]))})"


def check_answers(record: Record, may_be_hidden: bool, version: str, place: str) -> None:
    """Checks that a record has the answers that its data set's version asks for.

    Raises:
      UserError: where the answers are missing although they may not be, or where a question of
        version 1.1 has none. Where they may be kept back, none is taken for that.
    """
    answers = record["answers"]
    if answers == [] and version == "1.1" and may_be_hidden:
        record["answers"] = None
    elif answers is None and not may_be_hidden:
        raise UserError(f"{place}: the question with the id '{record['id']}' has no field answers")
    elif answers == [] and version == "1.1":
        raise UserError(
            f"{place}: the question with the id '{record['id']}' has no answer, which SQuAD 1.1 "
            "does not know; use task 'squad2'"
        )


class _HubQuestions(Records):
    """The questions of one split of TFDS or Hugging Face, read when they are asked for."""

    def __init__(self, split: HubSplit, may_be_hidden: bool, version: str):
        for column in ("id", "question", "context"):
            split.check(column)
        if not may_be_hidden:
            split.check("answers")
        self.split, self.may_be_hidden, self.version = split, may_be_hidden, version

    def __len__(self) -> int:
        return len(self.split.rows)

    def read(self, row: int) -> Record:
        """The record at ``row``.

        Raises:
          UserError: where a column holds something else than it must.
        """
        place = self.split.place(row)
        cells = _plain(self.split.rows[row], place)
        question, context = (_field(cells, key, str, place) for key in ("question", "context"))
        answers = None
        if "answers" in cells:
            answers = [(f"{place}.answers", answer) for answer in _unzipped(cells["answers"])]
        identity = _identity(_field(cells, "id", None, place), place)
        record = _record(row, identity, question, context, answers, place)
        check_answers(record, self.may_be_hidden, self.version, place)
        return record


def _unzipped(answers: Any) -> list[Any]:
    """Answers one by one, from lists of texts and starts or from a list of answers."""
    if isinstance(answers, list):
        return answers
    pairs = zip(answers.get("text", ()), answers.get("answer_start", ()), strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def _plain(value: Any, place: str) -> Any:
    """Python's own values; TFDS gives bytes, and numpy numbers and arrays."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{place} holds text that is not UTF-8") from None
    if isinstance(value, Mapping):
        return {key: _plain(inner, place) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(inner, place) for inner in value] if isinstance(value, list) else value
