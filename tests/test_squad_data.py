"""SQuAD's JSON and what the hubs give: what is read, and every mistake."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data import hub
from bertjax.data.squad import locate, open_questions
from bertjax.tasks import get_task
from bertjax.types import UserError

CONTEXT = "The dog sleeps. A dog runs."


def document() -> dict[str, Any]:
    first = {
        "id": "q1",
        "question": "Who runs?",
        "answers": [{"text": "dog", "answer_start": 18}, {"text": "A dog", "answer_start": 16}],
    }
    second = {"id": 2, "question": "Who sings?", "answers": [], "is_impossible": True}
    paragraph = {"context": CONTEXT, "qas": [first, second]}
    return {"version": "v2.0", "data": [{"title": "Dogs", "paragraphs": [paragraph]}]}


FIRST = {
    "index": 0,
    "id": "q1",
    "question": "Who runs?",
    "context": CONTEXT,
    "answers": [
        {"text": "dog", "start": 18, "end": 21},
        {"text": "A dog", "start": 16, "end": 21},
    ],
}
SECOND = {
    "index": 1,
    "id": "2",
    "question": "Who sings?",
    "context": CONTEXT,
    "answers": [],
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_file_of_version_2(tmp_path: Path):
    write(tmp_path / "dev-v2.0.json", document())
    records = open_questions(f"files:{tmp_path}", "validation", "2.0")
    assert list(records) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-v1.1.json", "train"),
        ("train.json", "train"),
        ("dev-v1.1.json", "validation"),
        ("dev.json", "validation"),
        ("validation.json", "validation"),
        ("test.json", "test"),
    ],
)
def test_files_are_found_by_name(name: str, split: str, tmp_path: Path):
    given = document()
    del given["data"][0]["paragraphs"][0]["qas"][1]
    write(tmp_path / "squad" / name, given)
    write(tmp_path / "squad" / name.replace("v1.1", "v2.0").replace(".json", "-v2.0.json"), {})
    for data in (tmp_path, tmp_path / "squad"):
        assert list(open_questions(f"files:{data}", split, "1.1")) == [FIRST]
    path = tmp_path / "squad" / name
    assert list(get_task("squad").open(f"files:{split}={path}", split)) == [FIRST]


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="there is no folder"):
        open_questions(f"files:{tmp_path}/none", "train", "1.1")
    with pytest.raises(UserError, match=r"no file for 'train'; looked for train-v1.1.json, train"):
        open_questions(f"files:{tmp_path}", "train", "1.1")
    for name in ("dev.json", "dev-v1.1.json"):
        write(tmp_path / name, document())
    with pytest.raises(UserError, match=r"holds both dev-v1.1.json and dev.json for 'validation'"):
        open_questions(f"files:{tmp_path}", "validation", "1.1")
    with pytest.raises(UserError, match="there is no split 'dev'"):
        open_questions(f"files:{tmp_path}", "dev", "1.1")
    with pytest.raises(UserError, match="there is no file"):
        open_questions(f"files:train={tmp_path}/none.json", "train", "1.1")


Change = Callable[[dict[str, Any]], Any]


def question(given: dict[str, Any]) -> dict[str, Any]:
    return given["data"][0]["paragraphs"][0]["qas"][0]


MISTAKES: dict[str, tuple[Change, str]] = {
    "no data": (lambda d: d.pop("data"), r"train.json: data is missing"),
    "data no list": (lambda d: d.update(data={}), r"data is \{\}, not a list"),
    "article": (lambda d: d.update(data=[5]), r"data\[0\] is 5, not an object"),
    "paragraphs": (lambda d: d["data"][0].pop("paragraphs"), r"data\[0\].paragraphs is missing"),
    "misspelt": (
        lambda d: d["data"][0]["paragraphs"][0].update(qas=[{"id": "a", "qestion": "?"}]),
        r"paragraphs\[0\].qas\[0\].question is missing; did you mean 'qestion'",
    ),
    "context": (
        lambda d: d["data"][0]["paragraphs"][0].update(context=None),
        r"data\[0\].paragraphs\[0\].context is null, not text",
    ),
    "question": (lambda d: question(d).update(question=["?"]), r"qas\[0\].question is \[\"\?\"\]"),
    "empty": (lambda d: question(d).update(question=" "), r"question is empty \(id 'q1'\)"),
    "id": (lambda d: question(d).update(id=None), r"qas\[0\].id is null, not text"),
    "twice": (lambda d: question(d).update(id="2"), r"has the question id '2' twice"),
    "answers": (lambda d: question(d).update(answers="dog"), r"answers is \"dog\", not a list"),
    "no answers": (lambda d: question(d).pop("answers"), r"id 'q1' has no field answers"),
    "answer": (lambda d: question(d).update(answers=["dog"]), r"answers\[0\] is \"dog\", not an"),
    "start": (
        lambda d: question(d)["answers"][1].update(answer_start="16"),
        r"qas\[0\].answers\[1\].answer_start is \"16\", not a whole number",
    ),
    "no text": (
        lambda d: question(d)["answers"][0].update(text=""),
        r"answers\[0\].text is empty \(id 'q1'\); a question without an answer has an empty list",
    ),
    "not there": (
        lambda d: question(d)["answers"][0].update(text="cat"),
        r"answers\[0\]: the context does not hold the answer 'cat' of .* id 'q1'",
    ),
    "nothing": (lambda d: d.update(data=[]), r"train.json holds no questions"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_place(mistake: str, tmp_path: Path):
    change, message = MISTAKES[mistake]
    given = copy.deepcopy(document())
    change(given)
    path = write(tmp_path / "train.json", given)
    with pytest.raises(UserError, match=message) as error:
        open_questions(f"files:{tmp_path}", "train", "2.0")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_what_is_not_json(tmp_path: Path):
    path = tmp_path / "train.json"
    path.write_text('{"data": [\n oops', encoding="utf-8")
    with pytest.raises(UserError, match=r"train.json:2 is not JSON: .* at column 2; mend"):
        open_questions(f"files:{tmp_path}", "train", "2.0")
    path.write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(UserError, match="is not UTF-8"):
        open_questions(f"files:{tmp_path}", "train", "2.0")
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"train.json is \[1\], not an object"):
        open_questions(f"files:{tmp_path}", "train", "2.0")


def test_version_1_has_an_answer_to_every_question(tmp_path: Path):
    write(tmp_path / "train.json", document())
    with pytest.raises(
        UserError, match=r"id '2' has no answer, which SQuAD 1.1 .* use task 'squad2'"
    ):
        open_questions(f"files:{tmp_path}", "train", "1.1")


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_answers_of_a_test_split_may_be_kept_back(version: str, tmp_path: Path):
    given = document()
    del given["data"][0]["paragraphs"][0]["qas"][1]
    question(given).pop("answers")
    write(tmp_path / "test.json", given)
    [record] = open_questions(f"files:{tmp_path}", "test", version)
    assert record["answers"] is None


@pytest.mark.parametrize(
    ("context", "text", "start", "found"),
    [
        (CONTEXT, "dog", 4, (4, 7)),
        (CONTEXT, "dog", 18, (18, 21)),
        (CONTEXT, "dog", 5, (4, 7)),
        (CONTEXT, "dog", 13, (18, 21)),
        (CONTEXT, "dog", -3, (4, 7)),
        (CONTEXT, "dog", 999, (18, 21)),
        (CONTEXT, "cat", 4, None),
        ("a\u00a0big \n dog", "big dog", 0, (2, 11)),
        ("le de\u0301jeuner", "déjeuner", 3, (3, 12)),
        ("le déjeuner", "de\u0301jeuner", 3, (3, 11)),
        ("1 + 1 (two)", "(two)", 0, (6, 11)),
        ("나는 한국\n사람 이다", "한국 사람", 3, (3, 8)),
        ("나는 한국 사람 이다", "\u1112\u1161\u11ab\u1100\u116e\u11a8\n사람", 0, (3, 8)),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8 사람", "한국 사람", 0, (0, 9)),
        ("東京が\u3000好き", "東京が 好き", 0, (0, 6)),
        ("東京か\u3099 好き", "東京が 好き", 0, (0, 7)),
        ("e\u0316\u0301  a", "\u00e9\u0316 a", 0, (0, 6)),  # marks in another order
        ("a \uf900  b", "\uf900 b", 0, (2, 6)),  # a character that no normal form keeps
    ],
)
def test_where_an_answer_is(context: str, text: str, start: int, found: tuple[int, int] | None):
    assert locate(context, text, start) == found


def hub_row(kind: str) -> dict[str, Any]:
    if kind == "tfds":
        answers = {
            "text": np.array([b"dog", b"A dog"], dtype=object),
            "answer_start": np.array([18, 16], np.int32),
        }
        texts = {"id": b"q1", "question": b"Who runs?", "context": CONTEXT.encode()}
        return {**texts, "title": b"Dogs", "answers": answers}
    answers = {"text": ["dog", "A dog"], "answer_start": [18, 16]}
    texts = {"id": "q1", "question": "Who runs?", "context": CONTEXT}
    return {**texts, "title": "Dogs", "answers": answers}


@pytest.mark.parametrize("kind", ["tfds", "hf"])
def test_hubs(kind: str, monkeypatch: pytest.MonkeyPatch):
    row = hub_row(kind)
    monkeypatch.setitem(hub._LIBRARIES, kind, lambda name, split: ([row], dict.fromkeys(row)))
    for version in ("1.1", "2.0"):
        records = open_questions(f"{kind}:squad", "validation", version)
        assert list(records) == [FIRST]
    row["answers"] = {"text": [], "answer_start": []}
    assert records[0]["answers"] == []
    with pytest.raises(UserError, match=f"{kind}:squad, row 0: .* use task 'squad2'"):
        open_questions(f"{kind}:squad", "train", "1.1")[0]
    row["context"] = 5
    with pytest.raises(UserError, match=r"row 0\.context is 5, not text"):
        records[0]
    del row["question"]
    with pytest.raises(UserError, match="has no column 'question'"):
        open_questions(f"{kind}:squad", "train", "1.1")


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_real_files(version: str, data_folder: Path):
    records = open_questions(f"files:{data_folder}", "validation", version)
    assert len(records) == {"1.1": 10_570, "2.0": 11_873}[version]
    unanswerable = sum(not record["answers"] for record in records)
    assert unanswerable == {"1.1": 0, "2.0": 5_945}[version]
    for record in records:
        for answer in record["answers"]:
            assert record["context"][answer["start"] : answer["end"]] == answer["text"]
