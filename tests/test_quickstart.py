"""The quickstart at a tiny size, from the standard library's text: whole, twice, interrupted."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import bertjax
from bertjax.cli import quickstart as command
from bertjax.data import python_text
from bertjax.data.masking import Masking
from bertjax.data.python_text import Passage
from bertjax.tokenizers import wordpiece_tokenizer
from bertjax.train import pretrain as pretraining
from bertjax.train.quickstart import QuickstartConfig, label, quickstart, read_corpus
from bertjax.types import Interrupted, UserError

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


def test_workdir_is_that_of_a_run(run: tuple[Path, dict[str, Any], list[str]]):
    folder, result, said = run
    assert json.loads((folder / "result.json").read_text()) == result
    assert (result["steps"], len(result["libraries"]), result["test_sentences"]) == (4, 2, 20)
    assert result["majority"] == 0.5
    assert {*result["accuracy"]} == {"finetuned", "finetuned-from-random"}
    assert {example["library"] for example in result["examples"]} == {*result["libraries"]}
    metrics = lines_of(folder / "metrics.jsonl")
    assert {"train/loss", "validation/loss"} <= {name for line in metrics for name in line}
    experiment = json.loads((folder / "config.json").read_text())["experiment"]
    assert experiment["steps"] == 4
    assert any("Pretraining" in line for line in said)
    for part in ("huggingface", "random"):
        assert (folder / part / "model.safetensors").is_file()


def test_no_sentence_is_in_two_places(run: tuple[Path, dict[str, Any], list[str]]):
    data = run[0] / "data"
    splits = {name: lines_of(data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    texts = [row["text"] for rows in splits.values() for row in rows]
    assert len(texts) == len(set(texts)) == 2 * (8 + 4 + 10)
    for rows in splits.values():
        assert len(set(Counter(row["label"] for row in rows).values())) == 1
    corpus = read_corpus(data)  # type: ignore[arg-type]
    learnt = {s for passage in corpus.train for s in passage.sentences}
    assert not learnt & {row["text"] for name in ("validation", "test") for row in splits[name]}


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
    assert bertjax.load(str(folder)).encode(["A sentence."]).shape == (1, 16)


def test_examples_are_full_and_masked_the_same_each_time():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    tokenizer = wordpiece_tokenizer(words)
    documents = [["a b c", "d e"], ["f g h a"]]
    examples = pretraining.full_examples(documents, tokenizer, 5)
    assert [example["token_ids"].tolist() for example in examples] == [
        [2, 5, 6, 7, 3],
        [2, 10, 11, 12, 3],
    ]
    once = pretraining.masked_once(examples, Masking.of(tokenizer), 0)
    again = pretraining.masked_once(examples, Masking.of(tokenizer), 0)
    assert [e["token_ids"].tolist() for e in once] == [e["token_ids"].tolist() for e in again]


def test_a_finished_run_is_read(run: tuple[Path, dict[str, Any], list[str]]):
    folder, result, _ = run
    said: list[str] = []
    assert quickstart(TINY, str(folder), said.append) == result
    assert said == [f"The run in {folder} is finished; this is its result."]
    with pytest.raises(UserError, match="steps: 4 there, 5 here"):
        quickstart(dataclasses.replace(TINY, steps=5), str(folder), said.append)


def test_an_interrupted_run_goes_on_with_the_same_bits(
    run: tuple[Path, dict[str, Any], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, result, _ = run
    interrupted = tmp_path / "run"
    save = pretraining.Loop._save

    def save_and_stop(loop: Any, step: int, *rest: Any) -> None:
        save(loop, step, *rest)
        raise Interrupted(2, step)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining.Loop, "_save", save_and_stop)
        with pytest.raises(Interrupted):
            quickstart(TINY, str(interrupted), lambda line: None)
    assert not (interrupted / "result.json").exists()
    monkeypatch.setattr("bertjax.train.quickstart.compare", lambda *_: {})
    said: list[str] = []
    assert quickstart(TINY, str(interrupted), said.append)["metrics"] == result["metrics"]
    assert not any("Reading English" in line for line in said)
    tensors = [(f / "huggingface" / "model.safetensors") for f in (folder, interrupted)]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


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
