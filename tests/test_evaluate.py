"""Every example counts once and in order, whatever the batch size and the number of devices."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import WORDS, tiny_model

from bertjax import predict
from bertjax.cli import main as cli
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.tasks import get_task
from bertjax.train.evaluate import Evaluator, Forward, example_loss
from bertjax.types import HeadConfig, UserError

EXAMPLES = 53
"""No multiple of a batch size or of the devices."""


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that does not give all sentences the same class."""
    from safetensors.numpy import load_file, save_file

    head, labels = HeadConfig("classification", 3), ("bad", "fair", "good")
    folder = tmp_path_factory.mktemp("sentiment") / "model"
    tiny_model(folder, head=head, labels=labels, initializer_range=0.3)
    [logits] = predict.load(str(folder)).logits(sentences(64), 64)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] - logits.mean(axis=0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def similarity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similarity") / "model"
    return tiny_model(folder, head=HeadConfig("regression", 1), initializer_range=0.3)


def sentences(count: int) -> list[str]:
    """Different sentences of different lengths."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS[5:19], rng.integers(1, 15))) for _ in range(count)]


def on_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Lets what is loaded from here on see the first ``count`` devices."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:count])
    monkeypatch.setattr(predict, "make_mesh", lambda config: mesh)


def score(folder: Path, batch_size: int) -> tuple[dict[str, float], np.ndarray]:
    """The metrics of a labelled split, and the logits of its examples."""
    model = predict.load(str(folder))
    assert model.task is not None
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, EXAMPLES) if model.task.kind == "classification" else None
    numbers = rng.uniform(0, 5, EXAMPLES).tolist() if labels is None else labels.tolist()
    texts = [
        {"text": text, "label": number}
        for text, number in zip(sentences(EXAMPLES), numbers, strict=True)
    ]
    forward = model.forward(batch_size)
    given = texts, model.tokenizer, model.max_length, forward
    evaluator = Evaluator.of(model.task, "validation", *given)
    examples = [example for (example,) in evaluator.examples]
    return evaluator(model.params), np.stack(list(forward(model.params, examples)))


@pytest.mark.parametrize("kind", ["sentiment", "similarity"])
def test_batch_size_and_devices_do_not_matter(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    folder = request.getfixturevalue(kind)
    results = []
    for devices, batch_size in ((1, 7), (1, 64), (8, 7), (8, 64)):
        on_devices(monkeypatch, devices)
        results.append(score(folder, batch_size))
    metrics, logits = results[0]
    assert len(logits) == EXAMPLES
    expected = {"loss", "pearson", "spearman"} if kind == "similarity" else {"loss", "accuracy"}
    assert {f"validation/{name}" for name in expected} <= set(metrics)
    assert len(np.unique(logits.argmax(axis=-1))) == logits.shape[-1]
    for other, other_logits in results[1:]:
        np.testing.assert_array_equal(other_logits.argmax(axis=-1), logits.argmax(axis=-1))
        np.testing.assert_allclose(other_logits, logits, atol=1e-5)
        assert other.keys() == metrics.keys()
        for name, value in metrics.items():
            assert other[name] == pytest.approx(value, abs=1e-6), name


def test_metrics_are_those_of_all_examples(sentiment: Path):
    """Against the examples one at a time, averaged by hand."""
    metrics, logits = score(sentiment, 7)
    labels = np.random.default_rng(1).integers(0, 3, EXAMPLES)
    model = predict.load(str(sentiment))
    alone = np.concatenate([next(model.logits([text], 1)) for text in sentences(EXAMPLES)])
    np.testing.assert_allclose(logits, alone, atol=1e-5)
    odds = np.exp(alone.astype(np.float64))
    probabilities = odds / odds.sum(axis=-1, keepdims=True)
    loss = -np.log(probabilities[np.arange(EXAMPLES), labels]).mean()
    assert metrics["validation/loss"] == pytest.approx(loss, abs=1e-6)
    accuracy = (alone.argmax(axis=-1) == labels).mean()
    assert metrics["validation/accuracy"] == pytest.approx(accuracy)


def test_losses_of_examples():
    classes, numbers = np.array([1e4, 0.0], np.float32), np.array([1.5], np.float32)
    assert example_loss("classification", classes, {"label": 1}) == (1e4, 1)
    assert example_loss("classification", classes * 0, {"label": 0, "weight": 3.0}) == (
        pytest.approx(3 * np.log(2)),
        3,
    )
    assert example_loss("regression", numbers, {"label": 1.0}) == (0.25, 1)


def test_what_cannot_be_scored(sentiment: Path):
    task = get_task("mrpc")
    forward: Any = Forward.__new__(Forward)
    with pytest.raises(UserError, match="split 'test' of task 'mrpc' is empty"):
        Evaluator(task, "test", [], [], forward)
    with pytest.raises(UserError, match="hidden labels, so it cannot be scored; use predict"):
        Evaluator(task, "test", [{}], [[{"token_ids": np.zeros(1, np.int32)}]], forward)


def run_predict(
    arguments: Sequence[str], given: str, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """What ``bertjax predict`` answers to standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["predict", *arguments]) == 0
    monkeypatch.undo()
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_predict_answers_every_line_in_order(
    count: int, sentiment: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = sentences(count)
    if count > 1:
        lines[3] = ""  # an empty line is an input too
    given = "".join(line + "\n" for line in lines)
    answers = run_predict([f"--model={sentiment}"], given, monkeypatch)
    assert len(answers) == count
    backwards = "".join(line + "\n" for line in reversed(lines))
    reverse = run_predict([f"--model={sentiment}", "--batch_size=50"], backwards, monkeypatch)
    for answer, other in zip(answers, reversed(reverse), strict=True):
        assert answer["label"] == other["label"]
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        assert list(answer["probabilities"]) == ["bad", "fair", "good"]
    if count == 1000:
        assert len({answer["probabilities"]["bad"] for answer in answers}) > 900
        assert len({answer["label"] for answer in answers}) == 3


def test_predict_takes_a_last_line_without_its_end(
    sentiment: Path, monkeypatch: pytest.MonkeyPatch
):
    answers = run_predict([f"--model={sentiment}"], "a cat sleeps .\na dog", monkeypatch)
    assert len(answers) == 2
