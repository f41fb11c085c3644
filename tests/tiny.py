"""A model and data small enough for a test: seconds to train, and in the real layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bertjax.convert import save_huggingface
from bertjax.models import Model
from bertjax.models.model import example_batch
from bertjax.tokenizers import load_tokenizer
from bertjax.types import HeadConfig, ModelConfig

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "a", "cat", "dog", "bird", "child", "sleeps", "runs", "eats", "sings"),
    *("slowly", "quickly", "here", "there", "."),
    *"bcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
)
ROWS = {"train": 32, "dev": 10, "test": 6}


def tiny_model(
    folder: Path,
    *,
    head: HeadConfig | None = None,
    labels: Sequence[str] | None = None,
    **overrides: Any,
) -> Path:
    """Writes a Hugging Face folder: random weights, and a WordPiece vocabulary of :data:`WORDS`.

    ``overrides`` are fields of ModelConfig; ``head`` adds a classification or regression head.
    """
    sizes: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_positions": 32,
    }
    config = ModelConfig(**(sizes | overrides))
    heads = {} if head is None else {"head": head}
    model = Model(config, tuple(heads.items()))
    init = jax.jit(lambda key: model.init(key, example_batch(config), method="initialise"))
    variables = init(jax.random.key(0))
    params = jax.device_get(nn.unbox(variables["params"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(str(folder))
    return save_huggingface(folder, config, params, heads, labels=labels, tokenizer=tokenizer)


def tiny_glue(folder: Path) -> Path:
    """Writes CoLA, MRPC and STS-B as GLUE lays them out: ``files:FOLDER`` reads them.

    Each has 32 rows in train, 10 in dev and 6 in test, whose labels are kept back.
    """
    random = np.random.default_rng(0)
    for split, count in ROWS.items():
        hidden = split == "test"
        cola, mrpc, stsb = [], [], []
        for row in range(count):
            first, second = _sentence(random), _sentence(random)
            label, score = int(random.integers(2)), float(random.integers(6))
            cola.append([row, first] if hidden else ["gj04", label, "*", first])
            mrpc.append([row if hidden else label, row, row, first, second])
            stsb.append([row, "news", "file", "2012", row, "-", "-", first, second, score])
        _write(folder / "CoLA", split, ["index", "sentence"] if hidden else None, cola)
        first_column = "index" if hidden else "Quality"
        header = ["\ufeff" + first_column, "#1 ID", "#2 ID", "#1 String", "#2 String"]
        _write(folder / "MRPC", split, header, mrpc)
        header = ["index", "genre", "filename", "year", "old_index", "source1", "source2"]
        header += ["sentence1", "sentence2", "score"]
        cut = len(header) - hidden
        _write(folder / "STS-B", split, header[:cut], [row[:cut] for row in stsb])
    return folder


def _sentence(random: np.random.Generator) -> str:
    words = [random.choice(WORDS[start:stop]) for start, stop in ((5, 7), (7, 11), (11, 15))]
    return " ".join([*words, str(random.choice(WORDS[15:19])), "."])


def _write(folder: Path, split: str, header: list[str] | None, rows: list[list[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [header, *rows] if header else rows
    text = "".join("\t".join(map(str, cells)) + "\n" for cells in lines)
    (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
