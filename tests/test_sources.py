"""Sources: GLUE's layouts as they really are, a user's own files, Hugging Face, every mistake."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import pytest

from bertjax.data.hub import open_hub
from bertjax.data.layout import Layout
from bertjax.data.sources import infer_labels, open_source
from bertjax.tasks import GLUE, get_task
from bertjax.types import TextSchema, UserError

SENTIMENT = TextSchema(("text",), label_column="mood", labels=("bad", "good"))
SCORES = TextSchema(("left", "right"), label_column="score")


def fill(folder: Path, files: dict[str, str]) -> str:
    """Writes files into the folder and gives it as ``data``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", newline="")
    return f"files:{folder}"


# GLUE's own layouts: header lines, columns and label values of the official archives.

MNLI_FIRST = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
MNLI_ROW = '0\t1\t1n\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tAn "a\tA b.'
MNLI_TEXTS = ('An "a', "A b.")
PAIR_HEAD = "index\tsentence1\tsentence2"

OFFICIAL = [
    ("cola", "train", "CoLA/train.tsv", 'gj04\t0\t*\tA "b c.\n', ('A "b c.', 0)),
    ("cola", "validation", "CoLA/dev.tsv", "gj04\t1\t\tA b.\n", ("A b.", 1)),
    ("cola", "test", "CoLA/test.tsv", "index\tsentence\n0\tA b.\n", ("A b.", None)),
    ("sst2", "train", "SST-2/train.tsv", "sentence\tlabel\na b \t1\n", ("a b ", 1)),
    ("sst2", "test", "SST-2/test.tsv", "index\tsentence\n0\ta b\n", ("a b", None)),
    (
        "mrpc",
        "train",
        "MRPC/train.tsv",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\t" A\tB "c" "\r\n',
        ('" A', 'B "c" "', 1),
    ),
    (
        "mrpc",
        "test",
        "MRPC/test.tsv",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tA\tB\n",
        ("A", "B", None),
    ),
    (
        "stsb",
        "validation",
        "STS-B/dev.tsv",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tnews\tf\t2012\t1\tnone\tnone\tA\tB\t3.750\n",
        ("A", "B", 3.75),
    ),
    (
        "qqp",
        "train",
        "QQP/train.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tA?\t\t1\n",
        ("A?", "", 1),
    ),
    ("qqp", "test", "QQP/test.tsv", "id\tquestion1\tquestion2\n0\tA?\tB?\n", ("A?", "B?", None)),
    (
        "mnli",
        "train",
        "MNLI/train.tsv",
        f"{MNLI_FIRST}\tlabel1\tgold_label\n{MNLI_ROW}\tneutral\tneutral\n",
        (*MNLI_TEXTS, 1),
    ),
    (
        "mnli",
        "validation",
        "MNLI/dev_matched.tsv",
        f"{MNLI_FIRST}\tlabel1\tlabel2\tgold_label\n{MNLI_ROW}\tneutral\tneutral\tentailment\n",
        (*MNLI_TEXTS, 0),
    ),
    (
        "mnli",
        "validation_mismatched",
        "MNLI/dev_mismatched.tsv",
        f"{MNLI_FIRST}\tlabel1\tgold_label\n{MNLI_ROW}\tneutral\tcontradiction\n",
        (*MNLI_TEXTS, 2),
    ),
    (
        "mnli",
        "test",
        "MNLI/test_matched.tsv",
        f"{MNLI_FIRST}\n{MNLI_ROW}\n",
        (*MNLI_TEXTS, None),
    ),
    (
        "mnli",
        "test_mismatched",
        "MNLI/test_mismatched.tsv",
        f"{MNLI_FIRST}\n{MNLI_ROW}\n",
        (*MNLI_TEXTS, None),
    ),
    (
        "qnli",
        "validation",
        "QNLI/dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tA?\tB\tnot_entailment\n",
        ("A?", "B", 1),
    ),
    ("rte", "train", "RTE/train.tsv", f"{PAIR_HEAD}\tlabel\n0\tA\tB\tentailment\n", ("A", "B", 0)),
    ("wnli", "train", "WNLI/train.tsv", f"{PAIR_HEAD}\tlabel\n0\tA\tB\t1\n", ("A", "B", 1)),
    ("ax", "test", "AX/diagnostic.tsv", f"{PAIR_HEAD}\n0\tA\tB\n", ("A", "B", None)),
]
OFFICIAL_IDS = [f"{name}-{split}" for name, split, *_ in OFFICIAL]


@pytest.mark.parametrize(("name", "split", "file", "content", "row"), OFFICIAL, ids=OFFICIAL_IDS)
@pytest.mark.parametrize("root", ["the GLUE root", "the task's own folder"])
def test_glue_layouts(
    tmp_path: Path,
    name: str,
    split: str,
    file: str,
    content: str,
    row: tuple[str | float | None, ...],
    root: str,
) -> None:
    data = fill(tmp_path, {file: content})
    if root != "the GLUE root":
        data = f"files:{(tmp_path / file).parent}"
    task = get_task(name)
    columns = (*task.schema.text_columns, "label")
    assert task.open(data, split)[:] == [{"index": 0, **dict(zip(columns, row, strict=True))}]


ROWS = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
    "qnli": (None, 5463, 5463),
    "ax": (None, None, 1104),
}
REAL = [
    (name, split, count)
    for name, counts in ROWS.items()
    for split, count in zip(("train", "validation", "test"), counts, strict=True)
    if count
]


@pytest.mark.parametrize(("name", "split", "count"), REAL)
def test_real_glue_files_read_whole(data_folder: Path, name: str, split: str, count: int) -> None:
    task = get_task(name)
    records = task.open(f"files:{data_folder / 'glue'}", split)
    labels = {record["label"] for record in records}
    assert len(records) == count
    assert all(isinstance(text, str) for record in records for text in task.texts(record))
    if split == "test":
        assert labels == {None}
    elif task.kind == "regression":
        assert (min(labels), max(labels)) == (0.0, 5.0)
    else:
        assert labels == set(range(len(task.labels)))


def test_real_msr_original_gives_the_hidden_labels(data_folder: Path) -> None:
    """The original has a byte-order mark and the test labels; a file may be named by its path."""
    original = data_folder / "glue" / "MRPC" / "msr_paraphrase_test.txt"
    records = get_task("mrpc").open(f"files:test={original}", "test")
    hidden = get_task("mrpc").open(f"files:{data_folder / 'glue'}", "test")
    assert sum(record["label"] for record in records) == 1147
    assert [{**record, "label": None} for record in records] == hidden[:]


# A user's own files.

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
        "DIR/train.jsonl:1: label null is neither a word nor a number",
    ),
    Bad(
        "label a list",
        {"train.jsonl": '{"text": "a", "mood": ["good"]}\n'},
        'DIR/train.jsonl:1: label ["good"] is neither a word nor a number',
    ),
    Bad(
        "text a number",
        {"train.jsonl": '{"text": "a", "mood": "good"}\n{"text": 5, "mood": "bad"}\n'},
        "DIR/train.jsonl:2: column 'text' holds 5, not text",
    ),
    Bad(
        "score a word",
        {"train.tsv": PAIRS + "a\tb\t1\na\tb\thigh\n"},
        'DIR/train.tsv:3: label "high" is not a finite number',
        schema=SCORES,
    ),
    Bad(
        "score with a comma",
        {"train.tsv": PAIRS + "a\tb\t3,5\n"},
        'DIR/train.tsv:2: label "3,5" is not a finite number',
        schema=SCORES,
    ),
    Bad(
        "score nan",
        {"train.tsv": PAIRS + "a\tb\tnan\n"},
        'DIR/train.tsv:2: label "nan" is not a finite number',
        schema=SCORES,
    ),
    Bad(
        "score a boolean",
        {"train.jsonl": '{"left": "a", "right": "b", "score": true}\n'},
        "DIR/train.jsonl:1: label true is not a finite number",
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
        "there is neither DIR/QNLI/train.tsv nor DIR/train.tsv",
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
    def missing(self: object) -> bool:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("etils.epath.gpath._GPath.is_dir", missing)
    with pytest.raises(UserError, match=r"cannot read gs://bucket/glue: Please install gcsfs"):
        open_source("files:gs://bucket/glue", "train", SENTIMENT)


# Hugging Face data sets, without a network.


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data sets; the library's cache lies beside it."""
    datasets = pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "set"


def test_hugging_face_reads_a_folder(local_hub: Path) -> None:
    rows = '{"mood": "good", "text": "Fine"}\n{"mood": "bad", "text": "Poor"}\n'
    fill(local_hub, {"train.jsonl": rows, "test.jsonl": '{"text": "Eh"}\n'})
    data = f"hf:{local_hub}"
    records = open_source(data, "train", SENTIMENT)
    assert records[:] == [
        {"index": 0, "text": "Fine", "label": 1},
        {"index": 1, "text": "Poor", "label": 0},
    ]
    assert infer_labels(data, SENTIMENT) == ("bad", "good")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    """A Hugging Face data set whose classes are in another order; gives what was asked for."""
    datasets = pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "mood": datasets.ClassLabel(names=["good", "bad"]),
            "word": datasets.Value("string"),
            "score": datasets.Value("float32"),
        }
    )
    columns = {
        "text": ["a", "b", "c"],
        "mood": [0, 1, -1],
        "word": ["good", "so-so", "bad"],
        "score": [-1.0, 0.5, 2.0],
    }
    asked = []

    def load_dataset(path: str, name: str | None, split: str) -> object:
        asked.append((path, name, split))
        return datasets.Dataset.from_dict(columns, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("data", "repository", "config"),
    [
        ("hf:imdb", "imdb", None),
        ("hf:nyu-mll/glue", "nyu-mll/glue", None),
        ("hf:nyu-mll/glue/mrpc", "nyu-mll/glue", "mrpc"),
    ],
)
def test_hugging_face_names(
    loaded: list[tuple[str, str | None, str]], data: str, repository: str, config: str | None
) -> None:
    open_source(data, "validation", SENTIMENT)
    assert loaded == [(repository, config, "validation")]


def test_mnli_splits_have_other_names_at_the_hubs(
    loaded: list[tuple[str, str | None, str]],
) -> None:
    layout = GLUE["mnli"].layout
    for split in layout.splits:
        open_hub("hf:nyu-mll/glue/mnli", split, SENTIMENT, layout)
    assert [split for *_, split in loaded] == [
        "train",
        "validation_matched",
        "validation_mismatched",
        "test_matched",
        "test_mismatched",
    ]


@pytest.mark.usefixtures("loaded")
def test_declared_classes_are_matched_by_name() -> None:
    records = open_source("hf:x", "train", SENTIMENT)
    assert [record["label"] for record in records] == [1, 0, None]
    assert infer_labels("hf:x", SENTIMENT) == ("good", "bad")


@pytest.mark.usefixtures("loaded")
def test_minus_one_is_a_number_unless_the_layout_says_hidden() -> None:
    schema = TextSchema(("text",), label_column="score")
    numbers = open_source("hf:x", "train", schema)
    assert [record["label"] for record in numbers] == [-1.0, 0.5, 2.0]
    hidden = open_source("hf:x", "train", schema, Layout(hidden_label=-1))
    assert [record["label"] for record in hidden] == [None, 0.5, 2.0]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (TextSchema(("txt",)), "hf:x has no column 'txt'; did you mean 'text'?"),
        (TextSchema(("text",)), "hf:x has no column 'label'; known: mood, score, text, word"),
        (TextSchema(("score",), "mood"), "hf:x, row 0: column 'score' holds -1.0, not text"),
        (
            TextSchema(("text",), "mood", ("no", "yes")),
            "hf:x has the labels good, bad where the task has no, yes; "
            "choose another task or set its labels",
        ),
        (
            TextSchema(("text",), "word", ("bad", "good")),
            "hf:x, row 1: unknown label 'so-so'; known: bad, good",
        ),
    ],
)
def test_hugging_face_mistakes(schema: TextSchema, message: str) -> None:
    with pytest.raises(UserError) as raised:
        open_source("hf:x", "train", schema)[:]
    assert str(raised.value) == message


def test_an_unreachable_data_set_is_a_sentence() -> None:
    pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    with pytest.raises(UserError) as raised:
        open_source("hf:nyu-mll/no-such-set/mrpc", "train", SENTIMENT)
    message = str(raised.value)
    assert message.startswith("cannot read split 'train' of hf:nyu-mll/no-such-set/mrpc: ")
    assert "\n" not in message


@pytest.mark.parametrize(("kind", "module"), [("tfds", "tensorflow_datasets"), ("hf", "datasets")])
def test_a_library_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{kind}:a/b needs pip install 'bertjax\[{kind}\]': "):
        open_source(f"{kind}:a/b", "train", SENTIMENT)
