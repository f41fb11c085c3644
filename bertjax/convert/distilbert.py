"""DistilBERT's conversion table (Sanh et al. 2019): no token types, no pooler."""

from __future__ import annotations

from bertjax.convert.bert import BUFFERS, CLASSIFIER, EMBEDDINGS, TASK_HEADS
from bertjax.convert.table import PYTORCH, Entry, Family, Table, architectures

_LAYER = "transformer.layer.{layer}."

_LAYERS = tuple(
    entry
    for theirs, ours, inputs, outputs in (
        ("attention.q_lin", "attention/query", "embed", "heads kv"),
        ("attention.k_lin", "attention/key", "embed", "heads kv"),
        ("attention.v_lin", "attention/value", "embed", "heads kv"),
        ("attention.out_lin", "attention/output", "heads kv", "embed"),
        ("ffn.lin1", "mlp/up", "embed", "mlp"),
        ("ffn.lin2", "mlp/down", "mlp", "embed"),
    )
    for entry in PYTORCH.dense(_LAYER + theirs, f"encoder/layers/{ours}", inputs, outputs)
) + (
    *PYTORCH.norm(_LAYER + "sa_layer_norm", "encoder/layers/attention/norm"),
    *PYTORCH.norm(_LAYER + "output_layer_norm", "encoder/layers/mlp/norm"),
)

_SENTENCE = (
    *PYTORCH.dense("pre_classifier", "heads/{head}/dense", "embed", "out"),
    *CLASSIFIER,
)

DISTILBERT = Family(
    model_type="distilbert",
    config_fields={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "activation": "activation",
        "hidden_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "span_dropout": "qa_dropout",
        "initializer_range": "initializer_range",
        "pad_token_id": "pad_token_id",
    },
    architectures=architectures("DistilBert"),
    huggingface=Table(
        prefix="distilbert.",
        encoder=EMBEDDINGS + _LAYERS,
        heads={
            **TASK_HEADS,
            "classification": _SENTENCE,
            "regression": _SENTENCE,
            "multi_label": _SENTENCE,
            "multiple_choice": _SENTENCE,
            "masked_lm": (
                *PYTORCH.dense("vocab_transform", "heads/{head}/dense", "embed", "width"),
                *PYTORCH.norm("vocab_layer_norm", "heads/{head}/norm", "width"),
                Entry("vocab_projector.bias", "heads/{head}/bias", "vocab"),
            ),
        },
        tied={
            "masked_lm": {"vocab_projector.weight": "embeddings.word_embeddings.weight"},
        },
        ignored=BUFFERS,
    ),
)
