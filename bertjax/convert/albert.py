"""ALBERT's conversion table (Lan et al. 2020): groups of layers in place of layers."""

from __future__ import annotations

from bertjax.convert.bert import BUFFERS, CONFIG_FIELDS, EMBEDDINGS, OLD_NORMS, TASK_HEADS
from bertjax.convert.table import PYTORCH, Entry, Family, Table, architectures

_LAYER = "encoder.albert_layer_groups.{layer}.albert_layers.{inner}."

_LAYERS = tuple(
    entry
    for theirs, ours, inputs, outputs in (
        ("attention.query", "attention/query", "embed", "heads kv"),
        ("attention.key", "attention/key", "embed", "heads kv"),
        ("attention.value", "attention/value", "embed", "heads kv"),
        ("attention.dense", "attention/output", "heads kv", "embed"),
        ("ffn", "mlp/up", "embed", "mlp"),
        ("ffn_output", "mlp/down", "mlp", "embed"),
    )
    for entry in PYTORCH.dense(_LAYER + theirs, f"encoder/layers/{ours}", inputs, outputs)
) + (
    *PYTORCH.norm(_LAYER + "attention.LayerNorm", "encoder/layers/attention/norm"),
    *PYTORCH.norm(_LAYER + "full_layer_layer_norm", "encoder/layers/mlp/norm"),
)

ALBERT = Family(
    model_type="albert",
    config_fields={
        **CONFIG_FIELDS,
        "classifier_dropout": "classifier_dropout_prob",
        "embedding_size": "embedding_size",
        "layer_groups": "num_hidden_groups",
        "inner_layers": "inner_group_num",
    },
    architectures=architectures("Albert", ForPreTraining=("masked_lm", "sentence_order")),
    huggingface=Table(
        prefix="albert.",
        encoder=(
            *EMBEDDINGS,
            *PYTORCH.dense(
                "encoder.embedding_hidden_mapping_in",
                "encoder/embeddings/projection",
                "width",
                "embed",
            ),
            *_LAYERS,
            *PYTORCH.dense("pooler", "encoder/pooler", "embed", "out", when="pooler"),
        ),
        heads={
            **TASK_HEADS,
            "masked_lm": (
                *PYTORCH.dense("predictions.dense", "heads/{head}/dense", "embed", "width"),
                *PYTORCH.norm("predictions.LayerNorm", "heads/{head}/norm", "width"),
                Entry("predictions.bias", "heads/{head}/bias", "vocab"),
            ),
            "sentence_order": PYTORCH.dense(
                "sop_classifier.classifier", "heads/{head}", "embed", "classes"
            ),
        },
        renames=OLD_NORMS,
        tied={
            "masked_lm": {
                "predictions.decoder.weight": "embeddings.word_embeddings.weight",
                "predictions.decoder.bias": "predictions.bias",
            },
        },
        ignored=BUFFERS,
    ),
)
