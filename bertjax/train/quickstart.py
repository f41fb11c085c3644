"""The quickstart: pretrains a very small BERT on the English that Python carries, and tests it.

The workdir is the pretraining run. Under it lie the sentences (``data``), two Hugging Face folders
(``huggingface``, pretrained; ``random``, as it began) and the two fine-tuning runs that start from
them (``finetuned``, ``finetuned-from-random``).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from bertjax.data.batching import Batcher, round_up
from bertjax.data.python_text import LIBRARIES, Passage, balanced, collect, split
from bertjax.data.vocabulary import train_wordpiece
from bertjax.models import Model
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh
from bertjax.tasks import Task, get_task
from bertjax.tokenizers import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.train import workdir as workdirs
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Forward
from bertjax.train.finetune import finetune
from bertjax.train.pretrain import HEADS, PretrainConfig, full_examples, pretrain
from bertjax.train.pretrained import load_pretrained
from bertjax.types import ModelConfig, UserError

RUNS = {"huggingface": "finetuned", "random": "finetuned-from-random"}
"""Folder of the model that a fine-tuning run starts from, and folder of the run."""


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Sizes; the default takes about two and a half minutes on two CPU cores."""

    steps: int = 600
    """Of the pretraining."""
    seed: int = 0
    sources: tuple[str, ...] = LIBRARIES
    sentences: int = 10_000
    """At most so many are read of each library."""
    classes: int = 8
    """Libraries to be told apart: those with the most sentences held out."""
    train_sentences: int = 100
    """Labelled sentences of each library."""
    validation_sentences: int = 40
    test_sentences: int = 120
    vocab_size: int = 4096
    hidden_size: int = 128
    num_layers: int = 2
    max_length: int = 64
    batch_size: int = 64
    learning_rate: float = 2e-3
    finetune_epochs: float = 10.0
    finetune_batch_size: int = 32
    finetune_learning_rate: float = 5e-4


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read from ``workdir/data`` and ``workdir/tokenizer``."""

    train: list[Sequence[str]]
    """Unlabelled sentences, those of one file together."""
    validation: list[Sequence[str]]
    tokenizer: Tokenizer


def quickstart(
    config: QuickstartConfig, workdir: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Runs it, or goes on, in ``workdir``; the result is what ``result.json`` holds.

    Args:
      config: the sizes.
      workdir: a new folder, or one that an earlier call began.
      say: is told, a line at a time, what is going on.

    Raises:
      UserError: if the workdir holds something else, or Python carries too little text.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    began = time.perf_counter()
    folder = epath.Path(workdir)
    if not (folder / "config.json").exists() and folder.exists() and any(folder.iterdir()):
        raise UserError(f"the workdir {folder} is not empty and holds no run; choose another one")
    data = _prepare(config, folder, say)
    result_path = folder / "result.json"
    if result_path.exists():
        say(f"The run in {folder} is finished; this is its result.")
        return workdirs.read_json(result_path)
    result = _pretrain(config, data, folder, say)
    result |= {"task": "quickstart", "accuracy": {}}
    for model, run in RUNS.items():
        _finetune(config, folder, model, say)
        task, records, logits = answers(folder, run)
        labels = np.array([record["label"] for record in records])
        result["accuracy"][run] = task.compute_metrics(labels, logits)["accuracy"]
        if run == "finetuned":
            result["examples"] = _examples(task, records, logits)
            result["majority"] = max(Counter(labels.tolist()).values()) / len(labels)
            result["test_sentences"] = len(labels)
    result["seconds"] = round(time.perf_counter() - began, 1)
    workdirs.write_json(result_path, result)
    return result


def _prepare(config: QuickstartConfig, folder: epath.Path, say: Callable[[str], None]) -> Data:
    """Makes ``config.json``, ``data`` and ``tokenizer``, or reads what an earlier call made."""
    if (folder / "config.json").exists() and (folder / "data").exists():
        tokenizer = load_tokenizer(str(folder / "tokenizer"))
        workdirs.prepare(folder, _document(config, tokenizer))
        passages = [
            _read_lines(folder / "data" / f"passages-{s}.jsonl") for s in ("train", "validation")
        ]
        return Data(*([p["sentences"] for p in part] for part in passages), tokenizer)
    raise NotImplementedError
