"""A corpus and a model small enough to pretrain in a test, and the command that does it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import WORDS

from bertjax.corpus.prepare import prepare
from bertjax.corpus.shards import Preparation
from bertjax.tokenizers import wordpiece_tokenizer

TEXT_WORDS = WORDS[5:19]
ARCHITECTURE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "intermediate_size": 64,
    "max_positions": 64,
}


def tiny_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """Writes a WordPiece tokenizer."""
    folder.mkdir(parents=True)
    wordpiece_tokenizer([*words]).save(str(folder))
    return folder


def tiny_corpus(
    folder: Path,
    documents: int = 40,
    words: Sequence[str] = TEXT_WORDS,
    vocabulary: Sequence[str] = WORDS,
    seed: int = 0,
) -> Path:
    """Prepares made-up documents of 2 to 10 sentences; the corpus is ``folder / "prepared"``."""
    draw, tokenizer = random.Random(seed), tiny_tokenizer(folder / "tokenizer", vocabulary)
    text = "\n\n".join(
        "\n".join(
            " ".join([*draw.choices(words, k=draw.randint(2, 9)), "."])
            for _ in range(draw.randint(2, 10))
        )
        for _ in range(documents)
    )
    (folder / "text.txt").write_text(text + "\n", encoding="utf-8")
    how = Preparation(sentences="lines", shard_size=4000)
    place = folder / "prepared"
    prepare(str(folder / "text.txt"), str(tokenizer), place, how, workers=1, note=lambda _: None)
    return place


def fields(data: object, **changes: object) -> dict[str, Any]:
    """Fields of a run of a few seconds: four steps of eight rows, everything logged."""
    return {
        "data": str(data),
        "model": "preset:bert_tiny",
        "max_length": 32,
        "batch_size": 8,
        "eval_batch_size": 8,
        "steps": 4,
        "held_out": 0.1,
        "unroll": 1,
        "learning_rate": 1e-2,
        "log_every": 1,
        **changes,
    }


def command(data: object, workdir: Path, **changes: object) -> list[str]:
    """``bertjax pretrain`` of :func:`fields`; a warm start (``model``) has no ``architecture``."""
    values = {"minutes": 0, **fields(data, **changes)}
    if str(values["model"]).startswith("preset:"):
        values |= {f"architecture.{name}": value for name, value in ARCHITECTURE.items()}
    return [
        "pretrain",
        "--config=configs/pretrain.py:bert_tiny",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in values.items()),
    ]
