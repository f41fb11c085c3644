"""A small model of every family is fine-tuned, written, and read again by transformers."""

from __future__ import annotations

import dataclasses
import json
import string
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny import WORDS, tiny_glue

import bertjax
from bertjax.convert import save_huggingface
from bertjax.models import Model
from bertjax.models.model import example_batch
from bertjax.models.presets import FAMILY_DEFAULTS
from bertjax.tokenizers import load_tokenizer
from bertjax.train.config import FinetuneConfig
from bertjax.train.finetune import finetune

PAIRS = [("a cat sleeps slowly .", "the dog runs ."), ("the bird sings", "a child"), ("a", "b .")]
LETTERS = [*string.ascii_lowercase, ".", "Ġ"]
PIECES = [(piece, -1.0 - index / 10) for index, piece in enumerate(["▁", *LETTERS, "▁the", "▁a"])]
SPECIAL = {
    "xlm-roberta": ["<s>", "<pad>", "</s>", "<unk>"],
    "camembert": ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
}
CLASSES = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "albert": "AlbertTokenizer",
}


def write_tokenizer(family: str, folder: Path) -> None:
    """The vocabulary of a family, in the files that its checkpoints have."""
    import transformers

    if family == "roberta":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "th", "the", "<mask>"]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        merges: Any = [("t", "h"), ("th", "e")]
        made: Any = transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)
        made.save_pretrained(folder)
    elif family in CLASSES:
        pieces = [*((token, 0.0) for token in SPECIAL[family]), *PIECES]
        made = getattr(transformers, CLASSES[family])(vocab=pieces)
        made.save_pretrained(folder)
    else:
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")


def random_model(family: str, folder: Path) -> Path:
    """A Hugging Face folder of a small model with random weights."""
    folder.mkdir()
    write_tokenizer(family, folder)
    base = FAMILY_DEFAULTS[family]
    (folder / "config.json").write_text(f'{{"model_type": "{family}"}}')
    tokenizer = load_tokenizer(str(folder))
    config = dataclasses.replace(
        base,
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        embedding_size=base.embedding_size and 8,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_positions=40,
        type_vocab_size=1 if base.positions_after_pad else base.type_vocab_size,
        initializer_range=0.3,
    )
    model = Model(config)
    init = jax.jit(lambda key: model.init(key, example_batch(config), method="initialise"))
    params = jax.device_get(nn.unbox(init(jax.random.key(0))["params"]))
    return save_huggingface(folder, config, params, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_glue(tmp_path_factory.mktemp("glue"))


QUICK = ("bert", "roberta")
"""The others differ from these in their tables of names, which have their own tests."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] * (f not in QUICK)) for f in FAMILY_DEFAULTS],
)
def test_finetuned_and_read_by_transformers(family: str, glue: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    config = FinetuneConfig(
        model=str(random_model(family, tmp_path / "model")),
        data=f"files:{glue}",
        task="mrpc",
        max_length=32,
        batch_size=16,
        steps=3,
        learning_rate=1e-2,
    )
    result = finetune(config, str(tmp_path / "run"))
    assert result["steps"] == 3
    ours = np.concatenate(list(bertjax.load(str(tmp_path / "run")).logits(PAIRS)))

    folder = tmp_path / "run" / "huggingface"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    auto = transformers.AutoModelForSequenceClassification
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not {*report["missing_keys"], *report["unexpected_keys"]}
    firsts, seconds = (list(texts) for texts in zip(*PAIRS, strict=True))
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 32}
    # transformers' tokenizer of ALBERT leaves them out unless it is asked, and all are sentence A
    if family == "albert":
        options["return_token_type_ids"] = True
    inputs = tokenizer(firsts, seconds, return_tensors="pt", **options)
    with torch.no_grad():
        theirs = model.eval()(**inputs).logits.numpy()
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.ptp(ours, axis=0).max() > 1e-3  # the pairs are told apart
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert not isinstance(settings.get("extra_special_tokens"), list)  # version 4 fails on one
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}

    again = bertjax.load(str(folder), max_length=32)
    assert np.abs(np.concatenate(list(again.logits(PAIRS))) - ours).max() <= 1e-6
