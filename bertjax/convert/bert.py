"""BERT's conversion table (Devlin et al. 2019); other families share parts of it."""

from __future__ import annotations

from bertjax.convert.table import PYTORCH, Entry, Family, Table, architectures
from bertjax.types import HeadKind

EMBEDDINGS = (
    *PYTORCH.table("embeddings.word_embeddings", "encoder/embeddings/word", "vocab width"),
    *PYTORCH.table(
        "embeddings.position_embeddings", "encoder/embeddings/position", "positions width"
    ),
    *PYTORCH.table(
        "embeddings.token_type_embeddings",
        "encoder/embeddings/type",
        "types width",
        when="embeds_types",
    ),
    *PYTORCH.norm("embeddings.LayerNorm", "encoder/embeddings/norm", "width"),
)

LAYER = tuple(
    entry
    for theirs, ours, inputs, outputs in (
        ("attention.self.query", "attention/query", "embed", "heads kv"),
        ("attention.self.key", "attention/key", "embed", "heads kv"),
        ("attention.self.value", "attention/value", "embed", "heads kv"),
        ("attention.output.dense", "attention/output", "heads kv", "embed"),
        ("intermediate.dense", "mlp/up", "embed", "mlp"),
        ("output.dense", "mlp/down", "mlp", "embed"),
    )
    for entry in PYTORCH.dense(
        f"encoder.layer.{{layer}}.{theirs}", f"encoder/layers/{ours}", inputs, outputs
    )
) + (
    *PYTORCH.norm(
        "encoder.layer.{layer}.attention.output.LayerNorm", "encoder/layers/attention/norm"
    ),
    *PYTORCH.norm("encoder.layer.{layer}.output.LayerNorm", "encoder/layers/mlp/norm"),
)

POOLER = PYTORCH.dense("pooler.dense", "encoder/pooler", "embed", "out", when="pooler")
CLASSIFIER = PYTORCH.dense("classifier", "heads/{head}", "embed", "classes")

TASK_HEADS: dict[HeadKind, tuple[Entry, ...]] = {
    "classification": CLASSIFIER,
    "regression": CLASSIFIER,
    "multi_label": CLASSIFIER,
    "multiple_choice": CLASSIFIER,
    "token_classification": CLASSIFIER,
    "span": PYTORCH.dense("qa_outputs", "heads/{head}", "embed", "classes"),
}
"""Those of fine-tuning; a family with another one overrides it."""

CONFIG_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "activation": "hidden_act",
    "norm_eps": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}

BUFFERS = r"embeddings\.(position_ids|token_type_ids)"

OLD_NORMS = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)

_TRANSFORM = "cls.predictions.transform."

BERT = Family(
    model_type="bert",
    config_fields=CONFIG_FIELDS,
    architectures=architectures(
        "Bert",
        ForNextSentencePrediction=("next_sentence",),
        ForPreTraining=("masked_lm", "next_sentence"),
    ),
    huggingface=Table(
        prefix="bert.",
        encoder=EMBEDDINGS + LAYER + POOLER,
        heads={
            **TASK_HEADS,
            "masked_lm": (
                *PYTORCH.dense(_TRANSFORM + "dense", "heads/{head}/dense", "embed", "width"),
                *PYTORCH.norm(_TRANSFORM + "LayerNorm", "heads/{head}/norm", "width"),
                Entry("cls.predictions.bias", "heads/{head}/bias", "vocab"),
            ),
            "next_sentence": PYTORCH.dense(
                "cls.seq_relationship", "heads/{head}", "embed", "classes"
            ),
        },
        renames=OLD_NORMS,
        tied={
            "masked_lm": {
                "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
                "cls.predictions.decoder.bias": "cls.predictions.bias",
            },
        },
        ignored=BUFFERS,
    ),
)
