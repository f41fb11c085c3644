"""The quickstart at a tiny size, from the standard library's text: whole, twice, interrupted."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import bertjax
from bertjax.cli import quickstart as command
from bertjax.corpus.inputs import Reading, read_documents
from bertjax.data import python_text
from bertjax.data.documents import Corpus
from bertjax.data.python_text import Passage
from bertjax.train import quickstart as quickstarting
from bertjax.train import quickstart_data
from bertjax.train.loop import Loop
from bertjax.train.pretrain import pretrain
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.train.pretrained import load_pretrained
from bertjax.train.quickstart import quickstart
from bertjax.train.quickstart_data import QuickstartConfig, label
from bertjax.types import HeadConfig, Interrupted, UserError

TINY = QuickstartConfig(
    steps=4,
    sources=("python", "numpy", "scipy"),
    sentences=400,
    held_out=16,
    classes=2,
    train_sentences=8,
    validation_sentences=4,
    test_sentences=10,
    vocab_size=400,
    hidden_size=16,
    num_layers=1,
    max_length=32,
    batch_size=8,
    finetune_epochs=1,
    finetune_batch_size=8,
)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A finished run: its folder, its result and what it said."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    said: list[str] = []
    return folder, quickstart(TINY, str(folder), said.append), said


def sentences_of(path: Path) -> list[list[str]]:
    return list(read_documents(str(path), Reading("text")))


def test_workdir_holds_every_stage(run: tuple[Path, dict[str, Any], list[str]]):
    folder, result, said = run
    assert json.loads((folder / "result.json").read_text()) == result
    assert (result["steps"], len(result["libraries"]), result["test_sentences"]) == (4, 2, 20)
    assert result["majority"] == 0.5
    assert {*result["accuracy"]} == {"finetuned", "finetuned-from-random"}
    assert {example["library"] for example in result["examples"]} == {*result["libraries"]}
    metrics = lines_of(folder / "pretrained" / "metrics.jsonl")
    names = {name for line in metrics for name in line}
    assert {"train/loss", "validation/masked_lm_accuracy"} <= names
    experiment = json.loads((folder / "quickstart.json").read_text())["experiment"]
    assert experiment["steps"] == 4
    assert any("Pretraining" in line for line in said)
    for part in ("pretrained/huggingface", "random"):
        assert (folder / part / "model.safetensors").is_file()


def test_corpora_are_the_text(run: tuple[Path, dict[str, Any], list[str]]):
    folder, result, _ = run
    for name in ("train", "validation"):
        documents = sentences_of(folder / "text" / f"{name}.txt")
        corpus = Corpus(folder / "prepared" / name)
        assert [len(corpus[i].lengths) for i in range(len(corpus))] == list(map(len, documents))
        assert 2 <= len(documents) <= len(TINY.sources)
    tokens = Corpus(folder / "prepared" / "train").manifest.tokens
    assert result["train_tokens"] == tokens > 5000


def test_random_model_is_the_one_that_pretraining_begins_with(
    run: tuple[Path, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, begun = run[0], []

    def stop(loop: Any, state: Any) -> None:
        begun.append(jax.device_get(state.params))
        raise Interrupted(2, 0)

    monkeypatch.setattr(Loop, "run", stop)
    experiment = json.loads((folder / "pretrained" / "config.json").read_text())["experiment"]
    with pytest.raises(Interrupted):
        pretrain(PretrainConfig.from_mapping(experiment), str(tmp_path / "again"))
    heads = {"masked_lm": HeadConfig("masked_lm")}
    jax.tree.map(
        np.testing.assert_array_equal,
        load_pretrained(str(folder / "random"), heads).params,
        begun[0],
    )


def test_no_sentence_is_in_two_places(run: tuple[Path, dict[str, Any], list[str]]):
    folder = run[0]
    names = ("train", "validation", "test")
    splits = {name: lines_of(folder / "data" / f"{name}.jsonl") for name in names}
    texts = [row["text"] for rows in splits.values() for row in rows]
    assert len(texts) == len(set(texts)) == 2 * (8 + 4 + 10)
    for rows in splits.values():
        assert len(set(Counter(row["label"] for row in rows).values())) == 1
    learnt, held_out = (
        {line for document in sentences_of(folder / "text" / f"{name}.txt") for line in document}
        for name in ("train", "validation")
    )
    assert not learnt & held_out
    assert {row["text"] for row in splits["train"]} <= learnt
    assert {row["text"] for name in names[1:] for row in splits[name]} <= held_out


def test_finetuned_workdir_predicts_and_the_pretrained_one_encodes(
    run: tuple[Path, dict[str, Any], list[str]],
):
    folder, result, _ = run
    example = result["examples"][0]
    answer = bertjax.load(str(folder / "finetuned")).predict([example["text"]])[0]
    assert answer["label"] == example["answer"]
    assert answer["probabilities"][answer["label"]] == pytest.approx(
        example["probability"], abs=1e-3
    )
    assert bertjax.load(str(folder / "pretrained")).encode(["A sentence."]).shape == (1, 16)
    with pytest.raises(UserError, match=r"has no config\.json"):
        bertjax.load(str(folder))


def test_a_finished_run_is_read(run: tuple[Path, dict[str, Any], list[str]]):
    folder, result, _ = run
    said: list[str] = []
    assert quickstart(TINY, str(folder), said.append) == result
    assert said == [f"The run in {folder} is finished; this is its result."]
    with pytest.raises(UserError, match="steps: 4 there, 5 here"):
        quickstart(dataclasses.replace(TINY, steps=5), str(folder), said.append)


def stop_after(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does its work and is interrupted then."""

    def stopped(*arguments: Any, **named: Any) -> None:
        function(*arguments, **named)
        raise Interrupted(2, 0)

    return stopped


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_bits(
    run: tuple[Path, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Interrupted in every stage, one after the other, and run again."""
    folder, result, _ = run
    interrupted = tmp_path / "run"
    stages = (
        (quickstart_data, "_write_folder"),  # the text, and nothing labelled
        (quickstart_data, "make_vocabulary"),
        (quickstart_data, "prepare"),  # the first of the two corpora
        (Loop, "_save"),  # of the pretraining
        (quickstarting, "finetune"),  # the first of the two
    )
    for place, name in stages:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop_after(getattr(place, name)))
            with pytest.raises(Interrupted):
                quickstart(TINY, str(interrupted), lambda line: None)
        assert not (interrupted / "result.json").exists()
    said: list[str] = []
    again = quickstart(TINY, str(interrupted), said.append)
    assert not any("Reading English" in line or "vocabulary" in line for line in said)
    times = ("seconds", "pretraining_seconds")
    untimed = [{k: v for k, v in r.items() if k not in times} for r in (again, result)]
    assert untimed[0] == untimed[1]
    for part in ("pretrained", "finetuned", "finetuned-from-random"):
        path = Path(part, "huggingface", "model.safetensors")
        assert (folder / path).read_bytes() == (interrupted / path).read_bytes()


def test_command(
    run: tuple[Path, dict[str, Any], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder, result, _ = run
    monkeypatch.setattr("bertjax.train.quickstart.quickstart", lambda *_: result)
    assert command.main([f"--workdir={folder}"]) == 0
    printed = capsys.readouterr().out
    for words in ("fine-tuned after pretraining", "fine-tuned from random", "Try next", "50.0%"):
        assert words in printed
    assert f"bertjax predict --workdir={folder}/finetuned" in printed


def test_what_can_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="steps must be at least 1"):
        QuickstartConfig(steps=0)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("Dear", encoding="utf-8")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        quickstart(TINY, str(tmp_path / "letters"), print)
    few = [Passage("python", f"{i}.py", (f"Sentence number {i} of a few.",)) for i in range(9)]
    with pytest.raises(UserError, match="carries too little English"):
        label(TINY, python_text.split(few))
