"""Tasks: the GLUE table, one's own data, encoding, decoding, scores, and every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.tasks import GLUE, TASK_NAMES, TextTask, get_task
from bertjax.types import HeadConfig, TextSchema, UserError

ENTAILMENT = ("entailment", "neutral", "contradiction")


class Words:
    """A tokenizer of words: 1 [CLS], 2 [SEP], 10 and up for a word by its length."""

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int, truncation: object = None
    ) -> tuple[np.ndarray, np.ndarray]:
        assert truncation is None
        first = [1, *(10 + len(word) for word in text.split()), 2]
        second = [*(10 + len(word) for word in pair.split()), 2] if pair is not None else []
        types = [0] * len(first) + [1] * len(second)
        ids = np.array((first + second)[:max_length], dtype=np.int32)
        return ids, np.array(types[:max_length], dtype=np.int32)


def text_task(name: str, **options: Any) -> TextTask:
    task = get_task(name, **options)
    assert isinstance(task, TextTask)
    return task


# The label order is the one of https://huggingface.co/datasets/nyu-mll/glue and of TFDS.
@pytest.mark.parametrize(
    ("name", "columns", "labels", "metrics"),
    [
        ("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",)),
        ("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        ("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("f1", "accuracy")),
        ("stsb", ("sentence1", "sentence2"), None, ("pearson", "spearman")),
        ("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
        ("mnli", ("premise", "hypothesis"), ENTAILMENT, ("accuracy",)),
        ("qnli", ("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
        ("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
        ("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
        ("ax", ("premise", "hypothesis"), ENTAILMENT, ("matthews",)),
    ],
)
def test_the_glue_table(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...] | None, metrics: tuple[str, ...]
) -> None:
    task = text_task(name)
    assert task.schema == TextSchema(columns, "label", labels)
    assert task.metrics == metrics
    expected = HeadConfig("classification", len(labels)) if labels else HeadConfig("regression", 1)
    assert task.head == expected
    assert task.description
    assert task.citation


def test_glue_matches_the_tfds_declarations() -> None:
    glue = pytest.importorskip("tensorflow_datasets.text.glue", reason="needs 'bertjax[tfds]'")
    configs = {config.name: config for config in glue.Glue.BUILDER_CONFIGS}
    for name, task in GLUE.items():
        assert set(task.schema.text_columns) == set(configs[name].text_features), name
        assert task.schema.labels == (tuple(configs[name].label_classes or ()) or None), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mprc", "there is no task 'mprc'; did you mean 'mrpc'?"),
        ("MRPC", "there is no task 'MRPC'; did you mean 'mrpc'?"),
        ("sst-2", "there is no task 'sst-2'; did you mean 'sst2'?"),
        ("clasification", "there is no task 'clasification'; did you mean 'classification'?"),
        ("xyzzy", f"there is no task 'xyzzy'; known: {', '.join(sorted(TASK_NAMES))}"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        get_task(name)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rte", {"labels": ["a", "b"]}, "task 'rte' has its own labels; use task 'classification'"),
        ("rte", {"text_columns": ["a"]}, "task 'rte' has its own text_columns; use task 'classifi"),
        ("regression", {"labels": ["a", "b"]}, "task 'regression' has no labels: it predicts a nu"),
        ("classification", {"labels": ["a", "a"]}, "labels must be two or more different words, "),
        ("classification", {"labels": ["a"]}, "labels must be two or more different words, not a"),
        (
            "classification",
            {"text_columns": ["a", "b", "c"]},
            "task 'classification' needs one or two text_columns, not a, b, c",
        ),
        ("classification", {"metrics": ["pearson"]}, "there is no classification metric 'pearson'"),
        ("stsb", {"metrics": ["accuracy"]}, "there is no regression metric 'accuracy'; known: pe"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        get_task(name, **options)
    assert str(raised.value).startswith(message)


def test_own_classification() -> None:
    task = text_task(
        "classification",
        text_columns=["title", "body"],
        label_column="topic",
        labels=["art", "war"],
        metrics=["f1"],
    )
    assert task.schema == TextSchema(("title", "body"), "topic", ("art", "war"))
    assert task.metrics == ("f1",)
    assert task.head == HeadConfig("classification", 2)


def test_labels_are_inferred_from_the_train_split(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,war\nb,art\nc,war\n")
    (tmp_path / "dev.csv").write_text("text,label\na,war\n")
    data = f"files:{tmp_path}"
    task = text_task("classification", data=data)
    assert task.labels == ("art", "war")
    assert task.open(data, "validation")[0]["label"] == 1
    assert get_task("classification").open(data, "validation")[0]["label"] == 1


def test_labels_in_no_data_and_one_label_only(tmp_path: Path) -> None:
    task = get_task("classification")
    with pytest.raises(UserError, match="task 'classification' has no labels; set labels"):
        task.head  # noqa: B018
    (tmp_path / "train.csv").write_text("text,label\na,war\nb,war\n")
    with pytest.raises(UserError, match=r"has no label but 'war'; a classification needs two"):
        task.with_labels_of(f"files:{tmp_path}")


def test_encode_one_text() -> None:
    record = {"index": 0, "sentence": "a bb", "label": 1}
    (example,) = get_task("cola").encode(record, Words(), max_length=8)  # pyright: ignore
    assert example["token_ids"].tolist() == [1, 11, 12, 2]
    assert example["type_ids"].tolist() == [0, 0, 0, 0]
    assert example["label"] == 1
    assert example["token_ids"].dtype == example["type_ids"].dtype == np.int32


def test_encode_a_pair_in_the_schemas_order() -> None:
    record = {"hypothesis": "dddd", "premise": "a bb", "index": 0, "label": 0}
    (example,) = get_task("mnli").encode(record, Words(), max_length=8)  # pyright: ignore
    assert example["token_ids"].tolist() == [1, 11, 12, 2, 14, 2]
    assert example["type_ids"].tolist() == [0, 0, 0, 0, 1, 1]
    assert example["label"] == 0


@pytest.mark.parametrize("record", [{"sentence": "a", "label": None}, {"sentence": "a"}])
def test_a_hidden_label_is_left_out(record: dict[str, Any]) -> None:
    (example,) = get_task("sst2").encode(record, Words(), max_length=8)  # pyright: ignore
    assert "label" not in example


def test_encode_passes_the_length_on() -> None:
    record = {"sentence": "a b c d e"}
    (example,) = get_task("sst2").encode(record, Words(), max_length=4)  # pyright: ignore
    assert len(example["token_ids"]) == 4


def test_decode_classes() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]])
    first, second = text_task("rte").decode(logits)
    assert first["label"] == "not_entailment"
    assert first["probabilities"] == pytest.approx({"entailment": 0.25, "not_entailment": 0.75})
    assert second == {
        "label": "entailment",
        "probabilities": {"entailment": 1.0, "not_entailment": 0.0},
    }


def test_decode_scores() -> None:
    logits = np.array([[2.5], [-0.5]], dtype=np.float32)
    assert text_task("stsb").decode(logits) == [{"score": 2.5}, {"score": -0.5}]


@pytest.mark.parametrize("name", [*GLUE, "classification", "regression"])
def test_decode_nothing(name: str) -> None:
    task = text_task(name, labels=["a", "b"] if name == "classification" else None)
    assert task.decode(np.zeros((0, task.head.size), np.float32)) == []


def test_scores_are_the_tasks_metrics() -> None:
    logits = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert text_task("mrpc").compute_metrics([1, 0, 0], logits) == pytest.approx(
        {"f1": 2 / 3, "accuracy": 2 / 3}
    )
    scores = text_task("stsb").compute_metrics([1.0, 2.0, 3.0], np.array([[1.0], [2.0], [3.0]]))
    assert list(scores) == ["pearson", "spearman"]


def test_a_task_of_ones_own_is_one_entry() -> None:
    schema = TextSchema(("text",), labels=("art", "war"))
    task = TextTask(name="topic", schema=schema, metrics=("accuracy",))
    assert task.splits == ("train", "validation", "test")
    assert task.head == HeadConfig("classification", 2)
