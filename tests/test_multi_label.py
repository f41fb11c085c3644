"""Any number of labels a text: every way to write them, scores, answers, and a run to the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_model

import bertjax
from bertjax.convert import folder_heads, read_head
from bertjax.data.hub import HubSplit
from bertjax.metrics import METRICS, compute_metrics
from bertjax.tasks import get_task
from bertjax.train.config import FinetuneConfig
from bertjax.train.finetune import finetune
from bertjax.types import HeadConfig, HeadKind, UserError

WORDS = ("loud", "sad")
ROWS = (("a", []), ("b", ["sad"]), ("c", ["sad", "loud"]))
EXPECTED = [[0, 0], [0, 1], [1, 1]]


def table(separator: str) -> str:
    return "text\tlabels\n" + "".join(f"{t}\t{separator.join(ws)}\n" for t, ws in ROWS)


WRITTEN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lists": (
        "train.jsonl",
        "".join(json.dumps({"text": t, "labels": ws}) + "\n" for t, ws in ROWS),
        {},
    ),
    "semicolons": ("train.tsv", table("; "), {}),
    "commas": ("train.tsv", table(","), {"separator": ","}),
    "columns": (
        "train.csv",
        "loud,text,sad\n0,a,0\n0,b,1\n1,c,1\n",
        {"label_columns": ["loud", "sad"]},
    ),
    "columns of JSON": (
        "train.jsonl",
        '{"text":"a","loud":0,"sad":false}\n{"text":"b","loud":0,"sad":1}\n'
        '{"text":"c","loud":true,"sad":1.0}\n',
        {"label_columns": ["loud", "sad"]},
    ),
    "no header": (
        "train.tsv",
        table("|").split("\n", 1)[1],
        {"separator": "|", "columns": ["text", "labels"]},
    ),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_every_way_to_write_labels(tmp_path: Path, way: str):
    name, content, options = WRITTEN[way]
    (tmp_path / name).write_text(content)
    data = f"files:{tmp_path}"
    task = get_task("multi_label", options=options, data=data)
    assert task.head == HeadConfig("multi_label", 2)
    assert task.class_names == WORDS
    records = task.open(data, "train")
    assert [record["label"].tolist() for record in records] == EXPECTED
    assert {record["label"].dtype for record in records} == {np.dtype(np.float32)}
    assert [record["text"] for record in records] == ["a", "b", "c"]


def test_a_test_split_may_lack_its_labels(tmp_path: Path):
    (tmp_path / "test.csv").write_text("text\na\n")
    for options in ({}, {"label_columns": WORDS}):
        task = get_task("multi_label", options=options, labels=None if options else WORDS)
        assert task.open(f"files:{tmp_path}", "test")[0]["label"] is None


def test_hugging_face_gives_lists_of_class_ids(monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    feature = datasets.Sequence(datasets.ClassLabel(names=list(WORDS)))
    features = {"text": datasets.Value("string"), "labels": feature}
    rows = [{"text": "b", "labels": [1]}, {"text": "c", "labels": np.array([1, 0])}]
    monkeypatch.setattr("bertjax.data.hub.open_split", lambda d, s: HubSplit(d, rows, features))
    task = get_task("multi_label", data="hf:someone/moods")
    assert task.class_names == WORDS
    assert [r["label"].tolist() for r in task.open("hf:someone/moods", "train")] == EXPECTED[1:]
    hidden: list[Any] = [None, -1, [-1], np.array([-1]), [None]]
    rows[:] = [{"text": "a", "labels": value} for value in [*hidden, []]]
    labels = [record["label"] for record in task.open("hf:someone/moods", "test")]
    assert labels[:-1] == [None] * len(hidden)
    assert labels[-1].tolist() == [0, 0]
    for value in ([0, -1], [2], ["sad"], "sad", [0.5], [[0]], {}):
        rows[:] = [{"text": "a", "labels": value}]
        with pytest.raises(UserError, match=r"^hf:someone/moods, row 0: labels .* class ids"):
            task.open("hf:someone/moods", "train")[0]
    with pytest.raises(UserError, match="columns of 0 and 1 are read from files only"):
        get_task("multi_label", options={"label_columns": WORDS}).open("hf:x/y", "train")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("train.tsv", "text\tlabels\na\tsad;lout\n", {}, "train.tsv:2: unknown label 'lout'; did"),
        ("train.jsonl", '{"text":"a","labels":1}\n', {}, "train.jsonl:1: labels 1 are neither a l"),
        ("train.jsonl", '{"text":"a","labels":[[]]}\n', {}, r"jsonl:1: label \[\] is neither a wo"),
        (
            "train.csv",
            "text,loud,sad\na,0,2\n",
            {"label_columns": WORDS},
            "train.csv:2: column 'sad' holds '2' where 0 or 1 is expected",
        ),
        (
            "train.csv",
            "text,loud\na,0\n",
            {"label_columns": WORDS},
            "train.csv:1: the header has no column 'sad'",
        ),
    ],
)
def test_bad_labels_are_named(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], message: str
):
    (tmp_path / name).write_text(content)
    task = get_task("multi_label", options=options).with_labels(WORDS)
    with pytest.raises(UserError, match=message):
        task.open(f"files:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold 1.0 must lie between 0 and 1"),
        ({"separator": " "}, "separator must be a character such as ';', and no space"),
        ({"separator": 1}, "option separator is 1; set it to a character such as ';'"),
        ({"separator": None}, "option separator is None; set it to a character such as ';'"),
        ({"label_columns": "ab"}, "option label_columns is 'ab'; set it to a list of columns"),
        ({"label_columns": [1, 2]}, "option label_columns is (1, 2); set it to a list of columns"),
        ({"label_columns": ["a"]}, "label_columns must be two or more different columns, not a"),
        ({"label_columns": ["a", "b"]}, "label_columns are the labels themselves; leave labels"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str):
    with pytest.raises(UserError) as raised:
        get_task("multi_label", labels=WORDS, options=options)
    assert str(raised.value).startswith(message)


def test_answers_and_scores_share_the_threshold():
    """At 0.8: a probability of 0.81 is enough, one of 0.79 is not."""
    task = get_task("multi_label", labels=WORDS, options={"threshold": 0.8})
    odds = np.array([[0.81 / 0.19, 0.79 / 0.21], [0.79 / 0.21, 99.0]])
    logits = np.log(odds)
    answers = [task.answer({}, [{}], [row]) for row in logits]
    assert [answer["labels"] for answer in answers] == [["loud"], ["sad"]]
    assert answers[0]["probabilities"] == pytest.approx({"loud": 0.81, "sad": 0.79})
    assert next(iter(task.lines("tsv", answers))) == "labels\tloud\tsad"
    labels = [np.array(row, np.float32) for row in ([1, 0], [1, 1])]
    scores = task.score([{}, {}], [[{"label": row}] for row in labels], [[row] for row in logits])
    assert scores == pytest.approx(
        {"f1_micro": 2 * 2 / (2 + 3), "f1_macro": (2 / 3 + 1) / 2, "subset_accuracy": 0.5}
    )
    sure = task.answer({}, [{}], [np.array([-1e4, 1e4], np.float32)])
    assert sure["labels"] == ["sad"]
    assert sure["probabilities"]["sad"] == 1.0


@pytest.mark.parametrize("case", ["random", "none predicted", "all predicted", "none labelled"])
@pytest.mark.filterwarnings("error")
def test_metrics_are_scikit_learns(case: str):
    from sklearn import metrics

    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (50, 4)).astype(np.float32)
    labels[:, 3] = 0  # a label that nothing has
    logits = random.normal(size=(50, 4)).astype(np.float32)
    logits = {"none predicted": -abs(logits), "all predicted": abs(logits)}.get(case, logits)
    labels = labels * (case != "none labelled")
    found = compute_metrics("multi_label", tuple(METRICS["multi_label"]), labels, logits)
    predicted, options = logits > 0, dict[str, Any](zero_division=0.0)
    assert found == pytest.approx(
        {
            "f1_micro": metrics.f1_score(labels, predicted, average="micro", **options),
            "f1_macro": metrics.f1_score(labels, predicted, average="macro", **options),
            "subset_accuracy": metrics.accuracy_score(labels, predicted),
        }
    )


@pytest.mark.parametrize(
    ("problem", "outputs", "kind"),
    [
        ("multi_label_classification", 3, "multi_label"),
        ("multi_label_classification", 1, "multi_label"),
        ("single_label_classification", 3, "classification"),
        (None, 3, "classification"),
        (None, 1, "regression"),
        ("regression", 1, "regression"),
    ],
)
def test_the_problem_type_tells_the_head(problem: str | None, outputs: int, kind: HeadKind):
    names = {str(index): f"mood {index}" for index in range(outputs)}
    raw = {
        "model_type": "roberta",
        "architectures": ["RobertaForSequenceClassification"],
        "problem_type": problem,
        "id2label": names,
    }
    labels = None if kind == "regression" else tuple(names.values())
    assert read_head(raw) == (HeadConfig(kind, outputs), labels)


def write_moods(folder: Path) -> str:
    """Texts of which 'cat' makes one label and 'runs' the other."""
    for split, count in (("train", 48), ("dev", 10)):
        rows = []
        for index in range(count):
            words = ["cat" if index % 2 else "dog", "runs" if index % 3 else "sleeps"]
            labels = [mood for mood, word in (("sad", "cat"), ("loud", "runs")) if word in words]
            rows.append({"text": " ".join(["the", *words, "."]), "labels": labels})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.jsonl").write_text(text)
    return f"files:{folder}"


TEXTS = ["the cat sleeps .", "the dog runs .", "the cat runs .", "the dog sleeps ."]


def train(folder: Path, **fields: Any) -> dict[str, Any]:
    """A run in ``folder / "run"``."""
    config = FinetuneConfig(
        model=str(tiny_model(folder / "model", initializer_range=0.3)),
        data=write_moods(folder / "data"),
        task="multi_label",
        max_length=16,
        batch_size=16,
        learning_rate=1e-2,
        dropout=0.0,
        options={"threshold": 0.6},
        **fields,
    )
    return finetune(config, str(folder / "run"))


@pytest.mark.slow
def test_a_run_and_its_export_answer_alike(tmp_path: Path):
    result = train(tmp_path, steps=2)
    assert set(result["metrics"]) == {
        "validation/" + name for name in ("loss", *METRICS["multi_label"])
    }
    ours, folder = bertjax.load(str(tmp_path / "run")), tmp_path / "run" / "huggingface"
    answers = ours.predict(TEXTS)
    for answer in answers:
        found = [word for word, p in answer["probabilities"].items() if p >= 0.6]
        assert answer["labels"] == found
    assert len({answer["probabilities"]["sad"] for answer in answers}) == len(TEXTS)
    assert folder_heads(folder) == ({"multi_label": HeadConfig("multi_label", 2)}, WORDS)
    for answer, other in zip(answers, bertjax.load(str(folder)).predict(TEXTS), strict=True):
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    assert_transformers_agrees(folder, TEXTS, answers)


@pytest.mark.slow
def test_a_run_learns(tmp_path: Path):
    metrics = train(tmp_path, epochs=20, eval_every=30, export=False)["metrics"]
    assert metrics["validation/f1_micro"] == 1.0
    assert metrics["validation/subset_accuracy"] == 1.0
    answers = bertjax.load(str(tmp_path / "run")).predict(TEXTS)
    expected = [["sad"], ["loud"], ["loud", "sad"], []]
    assert [answer["labels"] for answer in answers] == expected


def assert_transformers_agrees(folder: Path, texts: list[str], answers: list[dict[str, Any]]):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="needs torch")
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder).eval()
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == dict(enumerate(WORDS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    for row, answer in zip(torch.sigmoid(logits).tolist(), answers, strict=True):
        assert row == pytest.approx(list(answer["probabilities"].values()), abs=1e-5)
