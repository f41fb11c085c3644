"""JSON that users give: in every reader what cannot be read is told with its place."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax.data.choices import read_questions
from bertjax.data.json_text import check_characters, parse_document, parse_json
from bertjax.data.squad import open_questions
from bertjax.data.tables import parse_rows, parse_table
from bertjax.tasks import get_task
from bertjax.types import UserError

HALF = r'{"text": "hi \ud83d there"}'
DIGITS = f'{{"text": 1{"0" * 5000}}}'
DEEP = '{"text": ' + "[" * 100_000
READERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "table": lambda stream: parse_table(stream, "F", "jsonl", ["text"]),
    "rows": lambda stream: list(parse_rows(stream, "F", "jsonl")),
    "choices": lambda stream: list(read_questions(stream, "F", "jsonl", labelled=False)),
    "classification": lambda stream: list(
        get_task("classification", text_columns=["text"]).read(stream, "F", "jsonl")
    ),
    "ner": lambda stream: list(get_task("ner").read(stream, "F", "jsonl")),
    "squad": lambda stream: list(get_task("squad").read(stream, "F", "jsonl")),
}


def told(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value).encode().decode()  # a sentence that can be printed


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (HALF, r"F:1 holds half of a surrogate pair, \ud83d; write the whole character"),
        (DIGITS, "F:1 holds a number of more than 4300 digits; shorten it"),
        (DEEP, "F:1 nests lists or objects too deeply; mend or remove the line"),
        ('{"text": oops}', "F:1 is not JSON: Expecting value at column 10; mend or remove the"),
    ],
    ids=["half", "digits", "deep", "no JSON"],
)
def test_lines(reader: str, row: str, message: str) -> None:
    assert told(lambda: READERS[reader](io.BytesIO(row.encode()))).startswith(message)


def test_the_line_is_counted() -> None:
    lines = io.BytesIO(f'{{"text": "a"}}\n{HALF}\n'.encode())
    assert told(lambda: parse_table(lines, "F", "jsonl", ["text"])).startswith("F:2 holds half")


@pytest.mark.parametrize("form", ["choices", "squad"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[{{}},\n{{}},\n"\\n", {HALF}]', r":3 holds half of a surrogate pair, \ud83d; write"),
        (DIGITS, " holds a number of more than 4300 digits"),
        (DEEP, " nests lists or objects too deeply; "),
        ("[\n oops", ":2 is not JSON: Expecting value at column 2; "),
    ],
    ids=["half", "digits", "deep", "no JSON"],
)
def test_documents(form: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(text)
    if form == "squad":
        found = told(lambda: open_questions(f"files:{tmp_path}", "train", "1.1"))
    else:
        open_choices = get_task("multiple_choice").open
        found = told(lambda: open_choices(f"files:train={path}", "train"))
    assert found.startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\uD83D\uDE00\n"', "\U0001f600\n"),
        (r'"\\ud83d"', r"\ud83d"),  # a backslash, and five letters
        (r'"\\\ud83d\ude00"', "\\\U0001f600"),
        ('"\U0001f600"', "\U0001f600"),
        (r'"\ue000\u0041"', "\ue000A"),
    ],
)
def test_whole_characters(text: str, value: str) -> None:
    assert parse_json(text, "F") == value
    assert parse_document([b"\xef\xbb\xbf" + text.encode()], "F") == value
    check_characters([value], "F")


@pytest.mark.parametrize(
    ("text", "half"),
    [
        (r'"\ude00\ud83d"', r"\ude00"),
        (r'"\ud83d\ud83d\ude00"', r"\ud83d"),
        (r'"\ud83d\n"', r"\ud83d"),
        (r'"\\\ud83d \\ude00"', r"\ud83d"),
        (r'{"\uDFff": 1}', r"\uDFff"),
    ],
)
def test_halves(text: str, half: str) -> None:
    json.loads(text)  # Python takes it
    assert told(lambda: parse_json(text, "F")).startswith(
        f"F:1 holds half of a surrogate pair, {half}; write the whole character, or remove it"
    )


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("classification", "hi \ud83d there"),
        ("classification", ["hi", "\ud83d"]),
        ("classification", {"text": "\ud83d"}),
        ("multi_label", "hi \ud83d there"),
        ("mrpc", {"sentence1": "hi", "sentence2": "\ud83d"}),
        ("ner", "hi \ud83d there"),
        ("ner", {"tokens": ["hi", "\ud83d"]}),
        ("squad", ("Who?", "\ud83d")),
        ("squad", {"question": "\ud83d", "context": "c"}),
        ("squad", r'{"question": "\ud83d", "context": "c"}'),
        ("multiple_choice", {"context": "\ud83d", "options": ["a", "b"]}),
        ("multiple_choice", {"question": "\ud83d", "options": ["a", "b"]}),
        ("multiple_choice", {"context": "c", "options": ["a", "\ud83d"]}),
    ],
)
def test_inputs_from_python(task: str, given: Any) -> None:
    own = task in ("classification", "multi_label")
    made = get_task(task, text_columns=["text"] if own else None)
    assert r" input holds half of a surrogate pair, \ud83d" in told(lambda: made.record(given))


def test_a_line_of_a_question_is_text_or_json() -> None:
    """What only begins as JSON is a question, a TAB and its context."""
    record = get_task("squad").record(DEEP + "\tcontext")
    assert record["context"] == "context"
