"""Dropout stands where transformers has it: draws of the outputs have the same mean and spread.

Every kind of rate is another number, so that a rate in a wrong place shows.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from family_models import heads_of, ours, peer, random_batch

from bertjax.analysis.verify import their_outputs
from bertjax.convert import load_huggingface
from bertjax.models import Dropout, Model
from bertjax.models.model import TOKEN_HEADS
from bertjax.types import HeadKind

torch = pytest.importorskip("torch", reason="needs the parity extra")

LENGTHS, DRAWS = (7, 4, 7), 2000

BERT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.35}
RATES: dict[str, dict[str, float]] = {
    "bert": {**BERT, "classifier_dropout": 0.5},
    "roberta": {**BERT, "classifier_dropout": 0.5},
    "albert": {**BERT, "classifier_dropout_prob": 0.5},
    "distilbert": {
        "dropout": 0.2,
        "attention_dropout": 0.35,
        "seq_classif_dropout": 0.5,
        "qa_dropout": 0.4,
    },
    "electra": {**BERT, "classifier_dropout": 0.5, "summary_last_dropout": 0.4},
}
HEADS: dict[str, tuple[HeadKind, ...]] = {
    "Model": (),
    "ForSequenceClassification": ("classification",),
    "ForTokenClassification": ("token_classification",),
    "ForQuestionAnswering": ("span",),
    "ForMultipleChoice": ("multiple_choice",),
}
CASES = [(family, suffix, kinds) for family in RATES for suffix, kinds in HEADS.items()]
CASES += [("albert", "ForPreTraining", ("masked_lm", "sentence_order"))]
CASES += [("bert", "ForPreTraining", ("masked_lm", "next_sentence"))]


@pytest.mark.parametrize(
    ("family", "suffix", "kinds"), CASES, ids=[f"{family}-{suffix}" for family, suffix, _ in CASES]
)
def test_outputs_spread_alike(
    tmp_path: Path, family: str, suffix: str, kinds: tuple[HeadKind, ...]
) -> None:
    model = peer(family, suffix, kinds, **RATES[family])
    model.save_pretrained(tmp_path)
    batch = random_batch(model.config, LENGTHS)
    repeated = {name: np.tile(value, (DRAWS, 1)) for name, value in batch.items()}
    theirs = draws_of_transformers(model.train(), repeated, kinds)
    computed = draws_of_ours(tmp_path, repeated, kinds)
    assert theirs.keys() == computed.keys()
    for output, expected in theirs.items():
        got = computed[output]
        assert expected.shape == got.shape
        deviation, other = expected.std(axis=0), got.std(axis=0)
        assert deviation.min() > 1e-4
        limit = 0.03 if kinds else 0.01  # hidden states are more numbers
        assert abs(other.mean() / deviation.mean() - 1) < limit, output
        error = np.sqrt((deviation**2 + other**2) / DRAWS)
        assert np.sqrt(np.mean(((got - expected).mean(axis=0) / error) ** 2)) < 2


def draws_of_transformers(
    model: Any, batch: dict[str, np.ndarray], kinds: tuple[HeadKind, ...]
) -> dict[str, np.ndarray]:
    """Outputs ``[draws, numbers]`` of each head; of a bare encoder the last hidden states."""
    torch.manual_seed(1)
    inputs = {"input_ids": batch["token_ids"], "attention_mask": batch["mask"].astype(np.int64)}
    if model.config.model_type != "distilbert":
        inputs["token_type_ids"] = batch["type_ids"]
    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    if kinds == ("multiple_choice",):
        tensors = {name: value[None] for name, value in tensors.items()}
    with torch.no_grad():
        output = model(**tensors, output_hidden_states=True)
    found = their_outputs(output, batch["mask"], kinds)
    return {name: found[name].reshape(DRAWS, -1) for name in kinds or ("hidden states",)}


def draws_of_ours(
    folder: Path, batch: dict[str, np.ndarray], kinds: tuple[HeadKind, ...]
) -> dict[str, np.ndarray]:
    """As :func:`draws_of_transformers`."""
    heads = heads_of(kinds)
    loaded = load_huggingface(folder, heads)
    model, rates = Model(loaded.config, tuple(heads.items())), Dropout.of(loaded.config)
    rngs, variables = {"dropout": jax.random.key(1)}, {"params": loaded.params}
    if not kinds:
        encode = jax.jit(functools.partial(model.apply, method="encode"))
        states = np.asarray(encode(variables, ours(batch), rates, rngs=rngs))
        return {"hidden states": states[batch["mask"]].reshape(DRAWS, -1)}
    found = {}
    for kind in kinds:
        apply = jax.jit(model.apply, static_argnums=2)
        logits = np.asarray(apply(variables, ours(batch), kind, rates, rngs=rngs))
        found[kind] = logits[batch["mask"]] if kind in TOKEN_HEADS else logits
    return {kind: value.reshape(DRAWS, -1) for kind, value in found.items()}
