"""With dropout off, fine-tuning here and in PyTorch is the same trajectory, step by step.

Seeds apart, dropout is the only thing in which two runs of the benchmark may differ; so everything
else is held to equality: losses, gradient clipping, decay mask, schedule, AdamW, packed batches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_glue, tiny_model

from bertjax.convert import load_huggingface
from bertjax.data.pipeline import Stream
from bertjax.tasks import get_task
from bertjax.tokenizers import load_tokenizer
from bertjax.train.config import FinetuneConfig
from bertjax.train.finetune import finetune
from bertjax.types import HeadConfig

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")

STEPS, BATCH, LENGTH, RATE, WARMUP = 12, 8, 24, 1e-3, 0.25
HEADS = {"mrpc": HeadConfig("classification", 2), "stsb": HeadConfig("regression", 1)}


@pytest.mark.parametrize("task_name", HEADS)
def test_same_trajectory(tmp_path: Path, task_name: str) -> None:
    """Every logged loss and the final weights agree with a plain PyTorch loop."""
    labels = ("not_equivalent", "equivalent") if task_name == "mrpc" else None
    model = tiny_model(tmp_path / "model", head=HEADS[task_name], labels=labels)
    data = f"files:{tiny_glue(tmp_path / 'glue')}"
    config = FinetuneConfig(
        model=str(model),
        data=data,
        task=task_name,
        steps=STEPS,
        batch_size=BATCH,
        max_length=LENGTH,
        learning_rate=RATE,
        warmup_ratio=WARMUP,
        clip=0.5,
        weight_decay=0.1,
        dropout=0.0,
        seed=3,
        log_every=1,
        eval_every=STEPS,  # so that the exported weights are the last
    )
    finetune(config, str(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "train/loss" in row]
    losses = [row["train/loss"] for row in rows]
    expected, peer = peer_run(model, data, task_name)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert_same_weights(tmp_path / "run" / "huggingface", peer, task_name)


def peer_run(model: Path, data: str, task_name: str) -> tuple[list[float], Any]:
    """Losses and model of the same recipe, written with PyTorch's own parts."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    auto = transformers.AutoModelForSequenceClassification
    peer = auto.from_pretrained(model, **off).train()
    plain = ("bias", "LayerNorm.weight")
    groups = [
        {
            "params": [p for n, p in peer.named_parameters() if n.endswith(plain) == bare],
            "weight_decay": 0.0 if bare else 0.1,
        }
        for bare in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    warmup = int(STEPS * WARMUP)
    losses = []
    batches = padded_batches(model, data, task_name)
    for step in range(STEPS):
        scale = step / warmup if step < warmup else (STEPS - step) / (STEPS - warmup)
        for group in optimizer.param_groups:
            group["lr"] = RATE * scale
        loss = peer(**next(batches)).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 0.5)
        optimizer.step()
    return losses, peer


def padded_batches(model: Path, data: str, task_name: str) -> Any:
    """The same examples in the same order, padded, as PyTorch tensors."""
    task, tokenizer = get_task(task_name), load_tokenizer(model)
    stream = Stream(
        examples=task.training_examples(task.open(data, "train"), tokenizer, LENGTH),
        batch=lambda examples: {"examples": examples},  # type: ignore[dict-item]
        batch_size=BATCH,
        seed=3,
    )
    for batch in stream.starting_at(0):
        examples: Any = batch["examples"]
        longest = max(len(example["token_ids"]) for example in examples)

        def padded(name: str, examples: Any = examples, longest: int = longest) -> Any:
            rows = [np.pad(e[name], (0, longest - len(e[name]))) for e in examples]
            return torch.tensor(np.stack(rows), dtype=torch.int64)

        mask = [[1] * len(e["token_ids"]) + [0] * (longest - len(e["token_ids"])) for e in examples]
        yield {
            "input_ids": padded("token_ids"),
            "token_type_ids": padded("type_ids"),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor([example["label"] for example in examples]),
        }


def assert_same_weights(folder: Path, peer: Any, task_name: str) -> None:
    """The exported weights are the peer's, to the accuracy that Adam leaves of float32."""
    import safetensors.numpy

    peer.save_pretrained(folder.with_name("peer"))
    heads = {task_name: HEADS[task_name]}
    assert load_huggingface(str(folder), heads).report.unused == ()
    ours = safetensors.numpy.load_file(folder / "model.safetensors")
    theirs = safetensors.numpy.load_file(folder.with_name("peer") / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        worst = np.abs(ours[name] - value).max()
        assert worst < 0.01 * RATE, f"{name}: {worst}"  # Adam moves a weight by RATE in a step
