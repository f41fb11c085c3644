"""Weights of classes: scikit-learn's numbers, PyTorch's loss, and a rare class that is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import WORDS, tiny_model

from bertjax.data.batching import Batcher
from bertjax.losses import cross_entropy, mean
from bertjax.tasks import get_task
from bertjax.tasks.class_weights import WeightedExamples, balanced
from bertjax.tokenizers import wordpiece_tokenizer
from bertjax.train.config import FinetuneConfig
from bertjax.train.finetune import finetune
from bertjax.types import UserError

LABELS = ("a", "b", "c")
IDS = [0, 0, 0, 0, 0, 0, 1, 1, 2, 0]


def records(ids: list[int]) -> list[dict[str, Any]]:
    return [{"text": "the cat", "label": number} for number in ids]


def examples(weights: Any, ids: list[int] | None = None) -> Any:
    task = get_task("classification", labels=LABELS, options={"class_weights": weights})
    return task.training_examples(records(ids or IDS), wordpiece_tokenizer(WORDS), 8)


def test_balanced_is_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(IDS))
    assert balanced(IDS, LABELS) == pytest.approx(expected.tolist())
    found = examples("balanced")
    assert len(found) == len(IDS)
    assert [example["weight"] for example in found] == pytest.approx(expected[IDS].tolist())
    assert [example["weight"] for example in found[7:9]] == pytest.approx(expected[[1, 2]].tolist())


def test_numbers_are_taken_as_they_are_and_none_are_no_weights():
    assert [example["weight"] for example in examples([1, 2.5, 4])] == [
        (1, 2.5, 4)[number] for number in IDS
    ]
    assert not isinstance(examples(None), WeightedExamples)


def test_evaluation_weighs_all_examples_alike():
    task = get_task("classification", labels=LABELS, options={"class_weights": [1, 2, 3]})
    [example] = task.encode(records([2])[0], wordpiece_tokenizer(WORDS), 8)
    assert "weight" not in example


def test_a_class_without_examples_has_no_balanced_weight():
    with pytest.raises(UserError, match="have none of class 'c', so class_weights cannot be 'bal"):
        examples("balanced", [0, 1, 1])


@pytest.mark.parametrize("rows", [1, 7, 10])
def test_the_loss_is_pytorchs(rows: int):
    """The weighted mean, over the batch, of CrossEntropyLoss(weight)."""
    torch = pytest.importorskip("torch", reason="needs torch")
    weights = (0.5, 2.0, 7.0)
    batch = Batcher(examples=16, max_length=8)(examples(weights)[:rows])
    logits = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))
    expected = loss(torch.tensor(logits[:rows]), torch.tensor(IDS[:rows])).item()
    given = (jnp.asarray(batch[name]) for name in ("labels", "example_weight"))
    ours = mean(jax.jit(cross_entropy)(jnp.asarray(logits), *given))
    assert float(ours) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_rare_class_is_found_with_weights_alone(tmp_path: Path):
    """One text in twelve is good and half of the good ones look like bad ones."""
    rows = []
    for index in range(96):
        good = index % 12 == 0
        word = "cat" if good or index % 6 == 1 else "dog"
        rows.append(f"the {word} sleeps .,{'good' if good else 'bad'}\n")
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    model, scores = str(tiny_model(tmp_path / "model", initializer_range=0.2)), {}
    for weights in (None, "balanced"):
        config = FinetuneConfig(
            model=model,
            data=f"files:{tmp_path}",
            task="classification",
            max_length=16,
            batch_size=48,
            steps=60,
            eval_every=60,
            learning_rate=1e-2,
            dropout=0.0,
            export=False,
            options={"class_weights": weights},
        )
        scores[weights] = finetune(config, str(tmp_path / f"run {weights}"))["metrics"]
    # Of the 24 texts with a cat 8 are good: the likelier answer is bad, the weightier is good.
    assert scores[None]["validation/f1"] == 0.0
    assert scores["balanced"]["validation/f1"] == pytest.approx(2 * 8 / (2 * 8 + 16))
    assert scores["balanced"]["validation/accuracy"] == pytest.approx(80 / 96)
