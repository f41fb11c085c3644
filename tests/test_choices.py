"""Multiple-choice questions as files hold them: SWAG, RACE, DREAM, one's own, and every mistake."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data.choices import open_questions, read_questions
from bertjax.data.layout import Layout
from bertjax.data.questions import Question, chosen, question_of
from bertjax.types import UserError

OWN = Layout()
RACE = Layout(folder="RACE", files={"train": "train", "validation": "dev", "test": "test"})
DREAM = Layout(
    folder="dream",
    files={"train": "train.json", "validation": "dev.json", "test": "test.json"},
)
SWAG_HEADER = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"
)
SWAG_ROW = (
    '0,anetv_1,1,"He said ""no"", She",He sat.,"He said ""no"", She",gold,"smiles, then ""goes"".",'
    "waits.,runs.,sings."
)
ARTICLE = {
    "article": "Tom and Ann went out.",
    "questions": ["_  went out.", "Who is Ann?", "Where?"],
    "options": [["Tom", "Ann", "Both", "No one"], ["C", "B", "A"], ["x", "", "y", "z"]],
    "answers": ["C", "A", "D"],
    "id": "middle1.txt",
}
DIALOGUE = [
    ["W: Is it late?", "M: No."],
    [
        {"question": "Is it late?", "choice": ["yes", "no", "B"], "answer": "no"},
        {"question": "Letter?", "choice": ["C", "B"], "answer": "B"},
    ],
    "4-199",
]


def read(text: str, form: str, *, labelled: bool = True) -> list[Question]:
    """The questions of a file ``F`` with that text."""
    return list(read_questions(io.BytesIO(text.encode()), "F", form, labelled=labelled))


def refusal(text: str, form: str, *, labelled: bool = True) -> str:
    """What is said of a file that cannot be read."""
    with pytest.raises(UserError) as error:
        read(text, form, labelled=labelled)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_swag(tmp_path: Path) -> None:
    """Quotes and commas within cells; a header that begins with an index; no labels in test."""
    [question] = read(f"{SWAG_HEADER},label\n{SWAG_ROW},3\n", "csv")
    assert question == Question(
        context="He sat.",
        question='He said "no", She',
        options=('smiles, then "goes".', "waits.", "runs.", "sings."),
        label=3,
    )
    layout = Layout(folder="SWAG", files={"train": "train.csv", "test": "test.csv"})
    (tmp_path / "test.csv").write_text(f"{SWAG_HEADER}\n{SWAG_ROW}\n")
    [record] = open_questions(f"files:{tmp_path}", "test", layout)
    assert record == {"index": 0, **vars(question), "label": None}


def test_race_folders_in_order(tmp_path: Path) -> None:
    """Both schools, articles by number; answers are letters even where options are letters too."""
    for place in ("high/10.txt", "high/9.txt", "middle/1.txt"):
        file = tmp_path / "RACE" / "dev" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**ARTICLE, "article": place}))
    records = open_questions(f"files:{tmp_path}", "validation", RACE)
    assert [record["context"] for record in records[::3]] == [
        "high/9.txt",
        "high/10.txt",
        "middle/1.txt",
    ]
    assert [record["index"] for record in records] == list(range(9))
    assert [record["label"] for record in records[:3]] == [2, 0, 3]
    assert [len(record["options"]) for record in records[:3]] == [4, 3, 4]
    middle = open_questions(f"files:validation={tmp_path}/RACE/dev/middle", "validation", RACE)
    assert [record["label"] for record in middle] == [2, 0, 3]
    lines = read(json.dumps(ARTICLE) + "\n" + json.dumps(ARTICLE) + "\n", "jsonl")
    assert [question.label for question in lines] == [2, 0, 3] * 2


def test_dream() -> None:
    questions = read(json.dumps([DIALOGUE, DIALOGUE]), "json")
    assert len(questions) == 4
    assert questions[0] == Question(
        "W: Is it late?\nM: No.", "Is it late?", ("yes", "no", "B"), label=1
    )
    assert questions[1].label == 1  # a text, even where it looks like a letter


def test_own_tables_and_lines() -> None:
    """Differing numbers of options; labels as number, letter and text."""
    table = (
        "context,question,option0,option1,option2,label\n"
        'It rains.,"What, ""then""?",wet,dry,,0\n'
        "It rains.,,wet,dry,hot,C\n"
        ",Why?,wet,dry,,dry\n"
    )
    questions = read(table, "csv")
    assert [question.options for question in questions] == [
        ("wet", "dry"),
        ("wet", "dry", "hot"),
        ("wet", "dry"),
    ]
    assert [question.label for question in questions] == [0, 2, 1]
    assert questions[0].question == 'What, "then"?'
    tabbed = read('context\toption a\toption b\nHe "sat\tup\tdown\n', "tsv", labelled=False)
    assert tabbed == [Question('He "sat', "", ("up", "down"), None)]
    rows = [
        {"context": "a", "options": ["1", "2"], "label": 1},
        {"question": "b", "options": list("abcde"), "label": "e"},
        {"context": "c", "question": None, "choices": ["x", "y", "z"], "answer": "B"},
    ]
    lines = read("".join(json.dumps(row) + "\n" for row in rows), "jsonl")
    assert [question.label for question in lines] == [1, 4, 1]
    assert [len(question.options) for question in lines] == [2, 5, 3]


def test_options_by_the_number_of_their_column() -> None:
    """Label 0 is option0, wherever its column or key stands."""
    [question] = read("context,option1,option0,label\nc,one,zero,0\n", "csv")
    assert (question.options, question.label) == (("zero", "one"), 0)
    row = {"context": "c", **{f"option{i}": f"o{i}" for i in range(12)}, "label": 2}
    [question] = read(json.dumps(row, sort_keys=True), "jsonl")
    assert question.options == tuple(f"o{i}" for i in range(12))
    [question] = read("context,option2,option 3,option_1,label\nc,y,z,x,0\n", "csv")
    assert question.options == ("x", "y", "z")
    [question] = read("sent1,ending_B,ending_a,label\nc,second,first,1\n", "csv")
    assert (question.options, question.label) == (("first", "second"), 1)


@pytest.mark.parametrize(
    "columns",
    [
        "option0,ending1",  # two prefixes
        "option0,option2",  # a gap
        "option0,option1,option_1",  # twice
        "option2,option3",
        "optiona,optionc",
        "optionb,optionc",
        "option0,optiona",
    ],
)
def test_columns_of_options_that_have_no_order(columns: str) -> None:
    cells = ",".join(columns)[: 2 * columns.count(",") + 1]
    message = refusal(f"context,{columns},label\nc,{cells},0\n", "csv")
    assert message.startswith(f"F:2: the columns {columns.replace(',', ', ')} ")
    assert "name them option0, option1, …" in message


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"options": ["a", "b"], "label": 0}, "neither a context nor a question"),
        ({"context": 3, "options": ["a", "b"], "label": 0}, "'context' holds 3, not text"),
        ({"context": "c", "opitons": ["a", "b"], "label": 0}, "did you mean 'opitons'?"),
        ({"context": "c", "options": "ab", "label": 0}, "'options' must be a list of texts"),
        ({"context": "c", "options": ["a", 2], "label": 0}, "'options' must be a list of texts"),
        ({"context": "c", "options": ["a"], "label": 0}, "only one option where two or more"),
        ({"context": "c", "options": [], "label": 0}, "no option where two or more"),
        ({"context": "c", "options": ["a", " "], "label": 0}, "option 1, counted from 0, is empty"),
        ({"context": "c", "options": ["a", "b"]}, "no 'label' that names the right option"),
        ({"context": "c", "options": ["a", "b"], "label": 2}, "label 2 is none of the 2 options"),
        ({"context": "c", "options": ["a", "b"], "label": -1}, "write a number from 0 to 1"),
        ({"context": "c", "options": ["a", "b"], "label": 1.0}, "label 1.0 is none of the 2"),
        ({"context": "c", "options": ["a", "b"], "label": "9" * 5000}, "is none of the 2 options"),
        ({"context": "c", "options": ["a", "b"], "label": True}, "label True is none of the 2"),
        ({"context": "c", "options": ["a", "b"], "label": "C"}, "label 'C' is none of the 2"),
        ({"context": "c", "options": ["a", "a"], "label": "a"}, "can mean option 0 or 1, counted"),
        ({"context": "c", "options": ["1", "2"], "label": "1"}, "can mean option 0 or 1, counted"),
        (
            {"sent1": "c", "ending0": "a", "ending1": "b", "label": "B"},
            "write a number from 0 to 1",
        ),
        ({"article": "c", "options": ["a", "b"], "answer": "b "}, None),
        ({"article": "c", "options": ["a", "b"], "answer": "E"}, "write a letter from A on"),
        ({"dialogue": ["c"], "choice": ["a", "b"], "answer": "A"}, "write the text of one of them"),
    ],
)
def test_mistakes_of_a_question(row: dict[str, Any], expected: str | None) -> None:
    text = json.dumps({"context": "c", "options": ["a", "b"], "label": 0}) + "\n"
    if expected is None:
        assert read(json.dumps(row), "jsonl")[0].label == 1
        return
    message = refusal(text + json.dumps(row) + "\n", "jsonl")
    assert message.startswith("F:2: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ('{"context": "c"\n', "jsonl", "F:1 is not JSON"),
        ('["c"]\n', "jsonl", "F:1 is not a JSON object"),
        ('{"a": 1}\n{"a": 2}', "json", "F:2 is not JSON: Extra data at column 1; the name of a"),
        ("3", "json", "F: a question must be an object with context, question and options"),
        (json.dumps([DIALOGUE, [["W: x"], {}]]), "json", "F at [1]: a dialogue must be written as"),
        (json.dumps([DIALOGUE, ["x"]]), "json", "F at [1]: a dialogue must be written as"),
        (
            json.dumps([DIALOGUE, [["W: x"], [{"question": "q", "choice": ["a"]}]]]),
            "json",
            "F at [1][1][0]: there is only one option",
        ),
        (
            json.dumps({**ARTICLE, "answers": ["A", "B"]}),
            "json",
            "F: 'answers' must be a list with one entry for each question",
        ),
        (
            json.dumps({**ARTICLE, "answers": ["A", "D", "A"]}),
            "json",
            "F at questions[1]: the label 'D' is none of the 3 options; write a letter from A on",
        ),
        ("context,option0,option1,label\nc,a,b\n", "csv", "F:2 has 3 columns where 4 are expected"),
        ('context,option0,option1,label\n"c,a,b,0\n', "csv", "F:2 is not CSV"),
        ("context,option0,option1,label\nc,a,,0\n", "csv", "F:2: there is only one option"),
        ("context,option0,option1,option2,label\nc,a,,b,0\n", "csv", "F:2: option 1, counted from"),
        ("context,option0,option1,label\nc,a,b,\n", "csv", "F:2: there is no 'label'"),
        ("context,text,label\nc,a,0\n", "csv", "F:2: there are no 'options'"),
        ("", "conll", "F: questions are not written as conll"),
    ],
)
def test_mistakes_of_a_file(text: str, form: str, expected: str) -> None:
    assert refusal(text, form).startswith(expected)


def test_mistakes_of_a_source(tmp_path: Path) -> None:
    for data, message in (
        (f"files:{tmp_path}/none", "there is no folder"),
        (f"files:{tmp_path}", "holds no file for 'train'; looked for train.csv"),
        (f"files:train={tmp_path}", "holds no .txt or .json file"),
        (f"files:train={tmp_path}/x.csv", "there is no file"),
        (f"files:train={tmp_path}/x.xml", "ends in '.xml'"),
        (f"files:validation={tmp_path}/x.csv", "names no file for 'train'; add train=PATH"),
        ("nowhere", "does not say where from"),
    ):
        with pytest.raises(UserError, match=message):
            open_questions(data, "train", OWN)
    with pytest.raises(UserError, match="there is no split 'dev'"):
        open_questions(f"files:{tmp_path}", "dev", OWN)
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(UserError, match="holds no questions"):
        open_questions(f"files:train={tmp_path}/train.json", "train", OWN)
    (tmp_path / "train.json").write_bytes(b'["\xff"]')
    with pytest.raises(UserError, match=r"train\.json is not UTF-8"):
        open_questions(f"files:train={tmp_path}/train.json", "train", OWN)


def test_only_test_may_lack_labels(tmp_path: Path) -> None:
    row = {"context": "c", "options": ["a", "b"]}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert open_questions(f"files:{tmp_path}", "test", OWN)[0]["label"] is None
    with pytest.raises(UserError, match=r"train\.jsonl:1: there is no 'label'"):
        open_questions(f"files:{tmp_path}", "train", OWN)


def test_a_label_that_is_kept_back(tmp_path: Path) -> None:
    """-1 in a test split, as Hugging Face writes SWAG's, and in what is predicted."""
    row = {"sent1": "a", "sent2": "b", "ending0": "x", "ending1": "y", "label": -1}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert open_questions(f"files:{tmp_path}", "test", OWN)[0]["label"] is None
    with pytest.raises(UserError, match=r"train\.jsonl:1: the label -1 is none of the 2 options"):
        open_questions(f"files:{tmp_path}", "train", OWN)
    table = "context,option0,option1,label\nc,a,b,-1\nc,-1,1,-1\n"
    questions = read(table, "csv", labelled=False)
    assert [question.label for question in questions] == [None, 0]  # a text of an option is one
    assert question_of(row, "F", labelled=False).label is None


def test_labels() -> None:
    assert chosen("1", ("a", "b"), "any", "F") == 1
    assert chosen("1", ("0", "1"), "any", "F") == 1  # both readings mean the same option
    assert chosen(" b ", ("x", "y"), "letter", "F") == 1
    assert chosen("A", ("B", "A"), "text", "F") == 1
    with pytest.raises(UserError, match="can mean option 0 or 1"):
        chosen("A", ("B", "A"), "any", "F")
    with pytest.raises(UserError, match="a question must be an object"):
        question_of("text", "F", labelled=False)


HUB_ROWS: dict[str, list[dict[str, Any]]] = {
    "allenai/swag": [
        {"sent1": "a", "sent2": "b", **{f"ending{i}": f"e{i}" for i in range(4)}, "label": 2},
        {"sent1": "a", "sent2": "b", **{f"ending{i}": f"e{i}" for i in range(4)}, "label": -1},
    ],
    "ehovy/race": [
        {"example_id": "1", "article": "a", "question": "_", "options": ["x", "y"], "answer": "B"}
    ],
    "dataset-org/dream": [
        {"id": 0, "dialogue": ["a", "b"], "question": "q", "choice": ["x", "y"], "answer": "y"}
    ],
}


def test_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns of the three published data sets."""
    datasets = pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    asked = []

    def load_dataset(path: str, name: str | None, split: str) -> object:
        asked.append((path, name, split))
        return datasets.Dataset.from_list(HUB_ROWS[path])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    swag = open_questions("hf:allenai/swag", "test", OWN)
    assert [record["label"] for record in swag] == [2, None]
    assert swag[0]["options"] == ("e0", "e1", "e2", "e3")
    [race] = open_questions("hf:ehovy/race/all", "validation", OWN)
    assert (race["context"], race["options"], race["label"]) == ("a", ("x", "y"), 1)
    [dream] = open_questions("hf:dataset-org/dream", "train", OWN)
    assert (dream["context"], dream["label"]) == ("a\nb", 1)
    assert asked[1:] == [("ehovy/race", "all", "validation"), ("dataset-org/dream", None, "train")]
    with pytest.raises(UserError, match="swag, row 1: the label -1 is none of the 4 options"):
        open_questions("hf:allenai/swag", "train", OWN)[:]


def tfds_of(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A TFDS that gives these rows; returns what will be asked of it."""
    library: Any = types.ModuleType("tensorflow_datasets")
    library.text = types.ModuleType("tensorflow_datasets.text")
    asked = []

    class Source(list[Any]):
        dataset_info = types.SimpleNamespace(features=dict.fromkeys(rows[0]))

    def data_source(name: str, split: str) -> Source:
        asked.append((name, split))
        return Source(rows)

    library.data_source = data_source
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", library)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.text", library.text)
    return asked


def test_tfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """TFDS gives bytes and numpy numbers."""
    endings = {f"ending{i}": f"é{i}".encode() for i in range(4)}
    row = {"sent1": b"a", "sent2": b"b", **endings, "label": np.int64(3)}
    tfds_of([row], monkeypatch)
    [record] = open_questions("tfds:swag", "train", OWN)
    assert record == {
        "index": 0,
        "context": "a",
        "question": "b",
        "options": ("é0", "é1", "é2", "é3"),
        "label": 3,
    }


def test_tfds_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Articles with their questions, as TFDS's race has them; its validation split is dev."""

    def packed(texts: list[str]) -> Any:
        return np.array([text.encode() for text in texts], object)

    row = {
        "article": ARTICLE["article"].encode(),
        "questions": packed(ARTICLE["questions"]),
        "options": [packed(options) for options in ARTICLE["options"]],
        "answers": packed(ARTICLE["answers"]),
        "example_id": b"middle1.txt",
    }
    asked = tfds_of([row, {**row, "article": b"Another."}], monkeypatch)
    for data in ("tfds:race/middle", "tfds:race/high:2.0.0"):
        records = open_questions(data, "validation", RACE)
        assert [record["index"] for record in records] == list(range(6))
        assert [record["label"] for record in records] == [2, 0, 3] * 2
        assert [record["options"] for record in records[:3]] == [*map(tuple, ARTICLE["options"])]
        assert records[3]["context"] == "Another."
    assert asked == [("race/middle", "dev"), ("race/high:2.0.0", "dev")]
    open_questions("tfds:race/high", "train", RACE)
    assert asked[-1] == ("race/high", "train")
    row["answers"] = packed(["C", "A", "E"])
    message = r"tfds:race/high, row 0 at questions\[2\]: the label 'E' is none of the 4 options"
    with pytest.raises(UserError, match=message):
        open_questions("tfds:race/high", "test", RACE)


def test_real_dream(data_folder: Path) -> None:
    """All of DREAM; every question has three options and tells the right one."""
    for split, count in {"train": 6116, "validation": 2040, "test": 2041}.items():
        records = open_questions(f"files:{data_folder}", split, DREAM)
        assert len(records) == count
        assert all(len(r["options"]) == 3 and r["label"] in (0, 1, 2) for r in records)
