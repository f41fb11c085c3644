"""A tiny model learns questions by heart, and every command answers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import tiny_model

from bertjax import predict
from bertjax.cli import main as cli
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train import finetune as finetuning
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Evaluator

ANIMALS = ("cat", "dog", "bird", "child")
DEEDS = ("sleeps", "runs", "eats", "sings")
OPTIONS = {"stride": 6, "max_query_length": 4, "n_best": 3}


def questions() -> dict[str, Any]:
    """What does one of the animals do? Nothing, where the text tells of it no deed."""
    rng = np.random.default_rng(0)
    paragraphs = []
    for number in range(4):
        deeds = dict(zip(_three(rng, ANIMALS), _three(rng, DEEDS), strict=True))
        context = "  ".join(f"The {animal}\t{deed} ." for animal, deed in deeds.items())
        context += " here there" * int(rng.integers(8))
        asked = [
            {
                "id": f"{number}-{animal}",
                "question": f"the {animal}",
                "answers": [_answer(context, deeds[animal])] if animal in deeds else [],
            }
            for animal in ANIMALS
        ]
        paragraphs.append({"context": context, "qas": asked})
    return {"version": "2.0", "data": [{"paragraphs": paragraphs}]}


def _three(rng: np.random.Generator, words: tuple[str, ...]) -> list[str]:
    return rng.permutation(words)[:3].tolist()


def _answer(context: str, text: str) -> dict[str, Any]:
    return {"text": text, "answer_start": context.index(text)}


def golds() -> dict[str, str]:
    asked = [q for p in questions()["data"][0]["paragraphs"] for q in p["qas"]]
    return {q["id"]: q["answers"][0]["text"] if q["answers"] else "" for q in asked}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The folder of the run, the file of questions, and the run's result."""
    folder = tmp_path_factory.mktemp("squad")
    file = folder / "questions.json"
    file.write_text(json.dumps(questions()), encoding="utf-8")
    config = FinetuneConfig.from_mapping(
        {
            "model": str(tiny_model(folder / "model", hidden_size=64, initializer_range=0.1)),
            "data": f"files:train={file},validation={file},test={file}",
            "task": "squad2",
            "options": OPTIONS,
            "max_length": 24,
            "batch_size": 16,
            "steps": 150,
            "eval_every": 150,
            "learning_rate": 2e-3,
            "dropout": 0.0,
            "pack": False,
            "unroll": 1,
        }
    )
    with pytest.MonkeyPatch.context() as patch:  # one device learns faster than eight
        patch.setattr(finetuning, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))
        return folder / "run", file, finetuning.finetune(config, str(folder / "run"))


def test_questions_are_learned(trained: tuple[Path, Path, dict[str, Any]]):
    run, _, result = trained
    metrics = result["metrics"]
    assert metrics["validation/best_f1"] == metrics["validation/best_exact"] == 100.0
    assert result["train_examples"] > len(golds())  # several windows of some
    model = predict.load(str(run))
    assert model.task is not None
    assert model.task.options() == OPTIONS | {
        "max_answer_length": 30,
        "null_threshold": metrics["validation/best_f1_thresh"],
    }


def test_commands(trained: tuple[Path, Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]):
    run, file, result = trained
    output = run.parent / "predictions.json"
    assert cli.main(["predict", f"--workdir={run}", f"--input={file}", f"--output={output}"]) == 0
    assert list(json.loads(output.read_text()).items()) == list(golds().items())
    capsys.readouterr()
    threshold = result["metrics"]["validation/best_f1_thresh"]
    exported = [f"--model={run / 'huggingface'}", "--task=squad2", "--max_length=24"]
    exported += [f"--options=stride=6,null_threshold={threshold}", "--batch_size=5"]
    assert cli.main(["predict", *exported, f"--input={file}"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {answer["id"]: answer["answer"] for answer in answers} == golds()
    contexts = {
        q["id"]: p["context"] for p in questions()["data"][0]["paragraphs"] for q in p["qas"]
    }
    for answer in answers:
        if answer["answer"]:
            context = contexts[answer["id"]]
            assert context[answer["start"] : answer["end"]] == answer["answer"]
        assert (answer["null_odds"] > threshold) == (answer["start"] is None)
    assert cli.main(["evaluate", f"--workdir={run}"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["examples"] == len(golds())
    assert scores["validation/f1"] == scores["validation/best_f1"] == 100.0


def test_every_question_once_and_in_order_on_any_devices(
    trained: tuple[Path, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    run, file, _ = trained
    found, scores = [], []
    for devices, batch_size in ((1, 7), (8, 16)):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        monkeypatch.setattr(predict, "make_mesh", lambda config, mesh=mesh: mesh)
        model = predict.load(str(run))
        assert model.task is not None
        records = model.task.open(f"files:test={file}", "test")
        answers = list(model.answers(records, batch_size))
        assert [answer["id"] for answer in answers] == list(golds())
        found.append([(answer["answer"], answer["start"]) for answer in answers])
        forward = model.forward(batch_size)
        task, tokenizer, length = model.task, model.tokenizer, model.max_length
        evaluator = Evaluator.of(task, "test", records, tokenizer, length, forward)
        scores.append(evaluator(model.params))
    assert found[0] == found[1]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_questions_from_python(trained: tuple[Path, Path, dict[str, Any]]):
    run, _, _ = trained
    model = predict.load(str(run))
    [paragraph, *_] = questions()["data"][0]["paragraphs"]
    asked = [question for question in paragraph["qas"] if question["answers"]]
    given = [{"question": q["question"], "context": paragraph["context"]} for q in asked]
    answers = model.predict(given)
    assert [answer["answer"] for answer in answers] == [q["answers"][0]["text"] for q in asked]
    assert "id" not in answers[0]
    assert len(answers[0]["n_best"]) == OPTIONS["n_best"]
