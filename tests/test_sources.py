"""The source ``files:`` with a user's own files: what is read, and every mistake."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from bertjax.data.sources import Layout, infer_labels, open_source
from bertjax.tasks import GLUE
from bertjax.types import TextSchema, UserError

SENTIMENT = TextSchema(("text",), label_column="mood", labels=("bad", "good"))
SCORES = TextSchema(("left", "right"), label_column="score")


def fill(folder: Path, files: dict[str, str]) -> str:
    """Writes files into the folder and gives it as ``data``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", newline="")
    return f"files:{folder}"


OWN = {
    "csv": 'mood,text\ngood,"Fine, ""really"""\nbad,Poor\n',
    "tsv": 'mood\ttext\ngood\tFine, "really"\nbad\tPoor\n',
    "jsonl": '{"mood": "good", "text": "Fine, \\"really\\""}\n{"mood": "bad", "text": "Poor"}\n',
}
OWN_RECORDS = [
    {"index": 0, "text": 'Fine, "really"', "label": 1},
    {"index": 1, "text": "Poor", "label": 0},
]


@pytest.mark.parametrize("ending", OWN)
@pytest.mark.parametrize(
    ("stem", "split"),
    [("train", "train"), ("dev", "validation"), ("validation", "validation"), ("test", "test")],
)
def test_own_files_are_found_by_name(tmp_path: Path, ending: str, stem: str, split: str) -> None:
    data = fill(tmp_path, {f"{stem}.{ending}": OWN[ending]})
    assert open_source(data, split, SENTIMENT)[:] == OWN_RECORDS


def test_own_files_are_named_by_path(tmp_path: Path) -> None:
    fill(tmp_path, {"a,b.csv": OWN["csv"], "d.jsonl": OWN["jsonl"]})
    data = f"files:train={tmp_path}/a,b.csv,validation={tmp_path}/d.jsonl"
    assert open_source(data, "train", SENTIMENT)[:] == OWN_RECORDS
    assert open_source(data, "validation", SENTIMENT)[:] == OWN_RECORDS


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, {"mine/train.csv": OWN["csv"]})
    assert len(open_source("files:~/mine", "train", SENTIMENT)) == 2
    assert len(open_source("files:train=~/mine/train.csv", "train", SENTIMENT)) == 2


def test_numbers_from_text_and_json(tmp_path: Path) -> None:
    data = fill(
        tmp_path,
        {
            "train.csv": "left,right,score\na,b,-1\nc,d,2.5e0\n",
            "dev.jsonl": '{"left": "a", "right": "b", "score": 3}\n',
        },
    )
    assert [record["label"] for record in open_source(data, "train", SCORES)] == [-1.0, 2.5]
    assert [record["label"] for record in open_source(data, "validation", SCORES)] == [3.0]


def test_only_a_test_split_may_lack_labels(tmp_path: Path) -> None:
    data = fill(tmp_path, {"test.csv": "text\na\n", "train.csv": "text\na\n"})
    assert open_source(data, "test", SENTIMENT)[:] == [{"index": 0, "text": "a", "label": None}]
    with pytest.raises(UserError, match=r"train\.csv:1: the header has no column 'mood'"):
        open_source(data, "train", SENTIMENT)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["good", "bad", "good", "Bad"], ("Bad", "bad", "good")),
        (["10", "2", "-1", "2"], ("-1", "2", "10")),
        (["10", "2", "x"], ("10", "2", "x")),
    ],
)
def test_labels_are_inferred_sorted(
    tmp_path: Path, values: list[str], labels: tuple[str, ...]
) -> None:
    rows = "".join(f"{value},t\n" for value in values)
    data = fill(tmp_path, {"train.csv": f"mood,text\n{rows}"})
    assert infer_labels(data, SENTIMENT) == labels


def test_json_labels_are_inferred_as_they_are_written(tmp_path: Path) -> None:
    content = '{"mood": true, "text": "a"}\n{"mood": false, "text": "b"}\n'
    data = fill(tmp_path, {"train.jsonl": content})
    schema = dataclasses.replace(SENTIMENT, labels=infer_labels(data, SENTIMENT))
    assert schema.labels == ("false", "true")
    assert [record["label"] for record in open_source(data, "train", schema)] == [1, 0]


def test_records_are_a_sequence(tmp_path: Path) -> None:
    records = open_source(fill(tmp_path, {"train.csv": OWN["csv"]}), "train", SENTIMENT)
    assert len(records) == 2
    assert list(records) == OWN_RECORDS
    assert records[-1] == OWN_RECORDS[1]
    assert records[::-1] == OWN_RECORDS[::-1]
    assert pickle.loads(pickle.dumps(records))[:] == OWN_RECORDS
    with pytest.raises(IndexError):
        records[2]


@dataclasses.dataclass(frozen=True)
class Bad:
    """Files, what is asked of them, and what the message says. ``DIR`` is the folder."""

    what: str
    files: dict[str, str]
    message: str
    split: str = "train"
    data: str = "files:DIR"
    schema: TextSchema = SENTIMENT
    layout: Layout | None = None


HEAD = "text,mood\n"
PAIRS = "left\tright\tscore\n"

BAD = [
    Bad(
        "unknown label",
        {"train.csv": HEAD + "a,good\nb,godo\n"},
        "DIR/train.csv:3: unknown label 'godo'; did you mean 'good'?",
    ),
    Bad(
        "empty label",
        {"train.csv": HEAD + "a,\n"},
        "DIR/train.csv:2: unknown label ''; known: bad, good",
    ),
    Bad(
        "label null",
        {"train.jsonl": '{"text": "a", "mood": null}\n'},
        "DIR/train.jsonl:1: label None is neither a word nor a number",
    ),
    Bad(
        "label a list",
        {"train.jsonl": '{"text": "a", "mood": ["good"]}\n'},
        "DIR/train.jsonl:1: label ['good'] is neither a word nor a number",
    ),
    Bad(
        "text a number",
        {"train.jsonl": '{"text": "a", "mood": "good"}\n{"text": 5, "mood": "bad"}\n'},
        "DIR/train.jsonl:2: column 'text' holds 5, not text",
    ),
    Bad(
        "score a word",
        {"train.tsv": PAIRS + "a\tb\t1\na\tb\thigh\n"},
        "DIR/train.tsv:3: label 'high' is not a finite number",
        schema=SCORES,
    ),
    Bad(
        "score with a comma",
        {"train.tsv": PAIRS + "a\tb\t3,5\n"},
        "DIR/train.tsv:2: label '3,5' is not a finite number",
        schema=SCORES,
    ),
    Bad(
        "score nan",
        {"train.tsv": PAIRS + "a\tb\tnan\n"},
        "DIR/train.tsv:2: label 'nan' is not a finite number",
        schema=SCORES,
    ),
    Bad(
        "score a boolean",
        {"train.jsonl": '{"left": "a", "right": "b", "score": true}\n'},
        "DIR/train.jsonl:1: label True is not a finite number",
        schema=SCORES,
    ),
    Bad(
        "stray row",
        {"train.csv": HEAD + "a,good\nb,so-so,good\n"},
        "DIR/train.csv:3 has 3 columns where 2 are expected; mend or remove the row",
    ),
    Bad("empty file", {"train.csv": ""}, "DIR/train.csv is empty; it needs a header line and rows"),
    Bad(
        "no file",
        {"train.csv": HEAD},
        "DIR holds no file for 'test'; looked for test.csv, test.tsv, test.jsonl",
        split="test",
    ),
    Bad(
        "two files",
        {"dev.csv": HEAD, "validation.tsv": HEAD},
        "DIR holds both dev.csv and validation.tsv for 'validation'; "
        "name the one you mean, as in files:validation=PATH",
        split="validation",
    ),
    Bad(
        "no folder",
        {},
        "there is no folder DIR/x; to name a file write files:train=PATH",
        data="files:DIR/x",
    ),
    Bad(
        "a file as folder",
        {"x.csv": HEAD},
        "there is no folder DIR/x.csv; to name a file write files:train=PATH",
        data="files:DIR/x.csv",
    ),
    Bad("named file missing", {}, "there is no file DIR/x.csv", data="files:train=DIR/x.csv"),
    Bad(
        "split not named",
        {},
        "data='files:train=DIR/x.csv' names no file for 'test'; add test=PATH",
        split="test",
        data="files:train=DIR/x.csv",
    ),
    Bad(
        "split misspelt in data",
        {},
        "data='files:trian=DIR/x.csv': there is no split 'trian'; did you mean 'train'?",
        data="files:trian=DIR/x.csv",
    ),
    Bad(
        "split unknown",
        {},
        "there is no split 'dev'; known: test, train, validation",
        split="dev",
    ),
    Bad(
        "split of GLUE",
        {},
        "there is no split 'train'; known: test",
        layout=GLUE["ax"].layout,
    ),
    Bad(
        "no kind",
        {},
        "data='DIR' does not say where from; write files:DIR for a folder, or tfds:NAME or hf:NAME",
        data="DIR",
    ),
    Bad(
        "kind unknown",
        {},
        "data='file:DIR': there is no source 'file'; did you mean 'files'?",
        data="file:DIR",
    ),
    Bad("nothing named", {}, "data='hf:' names nothing after 'hf:'", data="hf:"),
    Bad(
        "GLUE without the task",
        {"RTE/train.tsv": ""},
        "there is neither DIR/QNLI/train.tsv nor DIR/train.tsv; name the folder of the data set",
        schema=GLUE["qnli"].schema,
        layout=GLUE["qnli"].layout,
    ),
    Bad(
        "GLUE row broken in two",
        {"QQP/train.tsv": "id\tquestion1\tquestion2\tis_duplicate\n0\tA?\tB\n?\t0\n"},
        "DIR/QQP/train.tsv:2 has 3 columns where 4 are expected; mend or remove the row",
        schema=GLUE["qqp"].schema,
        layout=GLUE["qqp"].layout,
    ),
    Bad(
        "GLUE label as a word",
        {"CoLA/train.tsv": "gj04\tacceptable\t\tA b.\n"},
        "DIR/CoLA/train.tsv:1: unknown label 'acceptable'; known: 0, 1",
        schema=GLUE["cola"].schema,
        layout=GLUE["cola"].layout,
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.what for bad in BAD])
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, bad: Bad) -> None:
    fill(tmp_path, bad.files)
    with pytest.raises(UserError) as raised:
        open_source(bad.data.replace("DIR", str(tmp_path)), bad.split, bad.schema, bad.layout)
    assert str(raised.value).replace(str(tmp_path), "DIR") == bad.message


def test_a_file_system_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("bertjax.data.files.epath.Path", missing)
    with pytest.raises(UserError, match=r"cannot read gs://bucket/glue: Please install gcsfs"):
        open_source("files:gs://bucket/glue", "train", SENTIMENT)
