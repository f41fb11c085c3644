"""Random models of transformers, one of every family and head, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bertjax.types import HeadConfig, HeadKind

LABELS = 3
SIZES: dict[HeadKind, int] = {"classification": LABELS, "token_classification": LABELS}
SIZES |= {"multi_label": LABELS}
SIZES |= {"regression": 1, "multiple_choice": 1, "span": 2, "next_sentence": 2, "sentence_order": 2}

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
NARROW = {"embedding_size": 12}
WIDTH = "intermediate_size"
"""DistilBERT calls it ``hidden_dim``, and keeps an unknown field without a word."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"type_vocab_size": 3}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "camembert": ("Camembert", {"type_vocab_size": 1, "pad_token_id": 1}),
    "albert": ("Albert", {**NARROW}),
    "albert in groups": ("Albert", {**NARROW, "num_hidden_groups": 2, "inner_group_num": 2}),
    "albert, wide tables": ("Albert", {"embedding_size": 32, "num_hidden_groups": 4}),
    "distilbert": ("DistilBert", {"hidden_dim": 40}),
    "electra": ("Electra", {**NARROW}),
    "electra, wide tables": ("Electra", {"embedding_size": 32, "hidden_act": "relu"}),
}
"""Name to the prefix of its classes in transformers, and what its config adds to the shape."""

ALL_HEADS: dict[str, tuple[HeadKind, ...]] = {
    "Model": (),
    "ForSequenceClassification": ("classification",),
    "ForTokenClassification": ("token_classification",),
    "ForQuestionAnswering": ("span",),
    "ForMultipleChoice": ("multiple_choice",),
    "ForMaskedLM": ("masked_lm",),
}
MORE_HEADS: dict[str, dict[str, tuple[HeadKind, ...]]] = {
    "Bert": {
        "ForNextSentencePrediction": ("next_sentence",),
        "ForPreTraining": ("masked_lm", "next_sentence"),
    },
    "Albert": {"ForPreTraining": ("masked_lm", "sentence_order")},
    "Electra": {"ForPreTraining": ("replaced_token",)},
}


def cases() -> list[tuple[str, str, tuple[HeadKind, ...]]]:
    """(family, class of transformers without its prefix, heads), one for each that exists."""
    return [
        (family, suffix, kinds)
        for family, (prefix, _) in FAMILIES.items()
        for suffix, kinds in (ALL_HEADS | MORE_HEADS.get(prefix, {})).items()
    ]


def heads_of(kinds: tuple[HeadKind, ...]) -> dict[str, HeadConfig]:
    """Our heads of these kinds, each named after its kind."""
    return {kind: HeadConfig(kind, SIZES.get(kind, 0)) for kind in kinds}


def peer(family: str, suffix: str, kinds: tuple[HeadKind, ...], **settings: Any) -> Any:
    """A random model in evaluation mode; no bias or norm is trivial, weights spread by 0.054.

    A trained BERT's spread by 0.04; what bfloat16 rounds away grows with them.
    """
    import torch
    import transformers

    prefix, fields = FAMILIES[family]
    torch.manual_seed(len(family + suffix))
    labels = {"classification": LABELS, "token_classification": LABELS, "regression": 1}
    settings["num_labels"] = labels.get(kinds[0], 2) if kinds else 2
    settings["attn_implementation"] = "eager"
    shape = {k: v for k, v in SHAPE.items() if "hidden_dim" not in fields or k != WIDTH}
    config = getattr(transformers, f"{prefix}Config")(**shape | fields, **settings)
    model = getattr(transformers, prefix + suffix)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def random_batch(config: Any, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random ids ``[rows, longest]``; what follows each example's end is padding."""
    random = np.random.default_rng(0)
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1])[None, :] < np.array(lengths)[:, None]
    types = getattr(config, "type_vocab_size", 1)
    return {
        "token_ids": np.where(
            mask, random.integers(5, config.vocab_size, shape), config.pad_token_id
        ),
        "type_ids": np.where(mask, random.integers(0, types, shape), 0),
        "mask": mask,
    }


def theirs(model: Any, batch: Mapping[str, np.ndarray], kinds: tuple[HeadKind, ...]) -> Any:
    """What transformers computes, with every hidden state and attention."""
    import torch

    inputs = {
        "input_ids": torch.tensor(batch["token_ids"]),
        "attention_mask": torch.tensor(batch["mask"].astype(np.int64)),
    }
    if model.config.model_type != "distilbert":
        inputs["token_type_ids"] = torch.tensor(batch["type_ids"])
    if kinds == ("multiple_choice",):
        inputs = {name: value[None] for name, value in inputs.items()}
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True, output_attentions=True)


def ours(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch as our model takes it; every real token is a prediction."""
    rows, length = batch["mask"].shape
    row, position = np.nonzero(batch["mask"])
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return {
        "token_ids": batch["token_ids"].astype(np.int32),
        "type_ids": batch["type_ids"].astype(np.int32),
        "segment_ids": batch["mask"].astype(np.int32),
        "positions": np.where(batch["mask"], positions, 0),
        "cls_row": np.arange(rows, dtype=np.int32),
        "cls_position": np.zeros(rows, np.int32),
        "prediction_row": row.astype(np.int32),
        "prediction_position": position.astype(np.int32),
    }
