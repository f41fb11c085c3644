"""The sources ``hf:`` and ``tfds:`` without a network: names, splits, classes, every mistake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertjax.data.sources import Layout, infer_labels, open_source
from bertjax.tasks import GLUE
from bertjax.types import TextSchema, UserError

SENTIMENT = TextSchema(("text",), label_column="mood", labels=("bad", "good"))


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data sets; the library's cache lies beside it."""
    datasets = pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "set"


def test_hugging_face_reads_a_folder(local_hub: Path) -> None:
    rows = '{"mood": "good", "text": "Fine"}\n{"mood": "bad", "text": "Poor"}\n'
    local_hub.mkdir()
    (local_hub / "train.jsonl").write_text(rows)
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
        open_source("hf:nyu-mll/glue/mnli", split, SENTIMENT, layout)
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
