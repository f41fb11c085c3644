"""``bertjax convert``: whole models from any place into any format, and the check of both sides."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from family_models import heads_of, peer
from safetensors.numpy import load_file, save_file
from tiny import WORDS, tiny_model

import bertjax
from bertjax.cli import main as cli
from bertjax.convert import huggingface_heads
from bertjax.exchange import read_model
from bertjax.types import HeadConfig, HeadKind

TEXTS = ["a cat sleeps slowly .", "the bird sings"]
ROW = re.compile(
    r"^(\S+(?: \S+)?)\s+(random|real)\s+(\S+)\s+(\S+)\s+(\S+) - (\S+?)(  <- too large)?$"
)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A Hugging Face folder with three named classes."""
    head = HeadConfig("classification", 3)
    labels = ["low", "middle", "high"]
    return tiny_model(tmp_path / "given", head=head, labels=labels, initializer_range=0.3)


def convert(source: Path, target: Path, *flags: str) -> int:
    return cli.main(["convert", f"--from={source}", f"--to={target}", *flags])


def test_to_bertjax_and_back(classifier: Path, tmp_path: Path) -> None:
    """The same bits, labels and answers; and the workdir serves wherever a model does."""
    assert convert(classifier, tmp_path / "ours", "--format=bertjax") == 0
    assert convert(tmp_path / "ours", tmp_path / "back") == 0
    before, after = (load_file(f / "model.safetensors") for f in (classifier, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert huggingface_heads(tmp_path / "back") == huggingface_heads(classifier)
    answers = [bertjax.load(str(tmp_path / n)).predict(TEXTS) for n in ("given", "ours", "back")]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0]["label"] in ("low", "middle", "high")


@pytest.mark.parametrize(
    ("family", "suffix", "kinds"),
    [
        ("bert", "ForPreTraining", ("masked_lm", "next_sentence")),
        ("roberta", "ForTokenClassification", ("token_classification",)),
        ("albert", "Model", ()),
        ("electra", "ForPreTraining", ("replaced_token",)),
        ("distilbert", "ForQuestionAnswering", ("span",)),
    ],
)
def test_every_head_passes_through_a_checkpoint(
    tmp_path: Path, family: str, suffix: str, kinds: tuple[HeadKind, ...]
) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    peer(family, suffix, kinds).save_pretrained(tmp_path / "given")
    assert convert(tmp_path / "given", tmp_path / "ours", "--format=bertjax") == 0
    whole = read_model(str(tmp_path / "ours"))
    assert whole.heads == heads_of(kinds)
    assert any(note.startswith("no tokenizer:") for note in whole.notes)
    assert convert(tmp_path / "ours", tmp_path / "back", "--max_shard_mb=1") == 0
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("given", "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("flags", [[], ["--dtype=bfloat16"], ["--format=bertjax"]])
def test_verify_runs_both_sides(
    classifier: Path, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    assert convert(classifier, tmp_path / "new", "--verify", *flags) == 0
    rows = [ROW.match(line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert all(rows)
    seen = {(row[1], row[2], row[5]) for row in rows if row}
    sides = {"bertjax(from)", "bertjax(to)"}
    sides |= set() if "--format=bertjax" in flags else {"transformers(to)"}
    outputs = ("hidden states", "classification")
    assert seen == {
        (o, text, side) for o in outputs for text in ("random", "real") for side in sides
    }


def test_verify_fails_where_the_outputs_differ(
    classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A writer that gets one weight wrong by a thousandth is found."""
    pytest.importorskip("torch", reason="needs the parity extra")
    from bertjax import exchange

    right = exchange.write_model

    def wrong(model: exchange.WholeModel, folder: str, form: str, **options: object) -> None:
        right(model, folder, form)
        tensors = load_file(Path(folder) / "model.safetensors")
        tensors["classifier.bias"] = tensors["classifier.bias"] + np.float32(1e-3)
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exchange, "write_model", wrong)
    assert convert(classifier, tmp_path / "new", "--verify") == 2
    captured = capsys.readouterr()
    assert "classification" in captured.out
    assert captured.out.count("<- too large") == 4  # two sides, two texts
    assert re.search(r"error: the written model differs: classification by 1\.0e-03", captured.err)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--format=bertjax", "--dtype=bfloat16"],
            "the format bertjax holds float32; leave --dtype",
        ),
        (["--max_shard_mb=0"], "the size of a shard must be at least one byte"),
    ],
)
def test_what_cannot_be_written_is_said(
    classifier: Path,
    tmp_path: Path,
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert convert(classifier, tmp_path / "new", *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_models_tokenizer_is_not_carried_over(classifier: Path, tmp_path: Path) -> None:
    (classifier / "vocab.txt").write_text("\n".join([*WORDS, "one", "more"]) + "\n")
    (classifier / "tokenizer.json").unlink()
    assert convert(classifier, tmp_path / "new") == 0
    assert not list((tmp_path / "new").glob("*token*"))
