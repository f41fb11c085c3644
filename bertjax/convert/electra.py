"""ELECTRA's conversion table (Clark et al. 2020), for generator and discriminator alike."""

from __future__ import annotations

from bertjax.convert.bert import (
    BUFFERS,
    CLASSIFIER,
    CONFIG_FIELDS,
    EMBEDDINGS,
    LAYER,
    OLD_NORMS,
    TASK_HEADS,
)
from bertjax.convert.table import PYTORCH, Entry, Family, Table, architectures

_CLASSIFICATION = (
    *PYTORCH.dense("classifier.dense", "heads/{head}/dense", "embed", "out"),
    *PYTORCH.dense("classifier.out_proj", "heads/{head}", "embed", "classes"),
)

ELECTRA = Family(
    model_type="electra",
    config_fields={
        **CONFIG_FIELDS,
        "embedding_size": "embedding_size",
        "choice_dense": "summary_activation",
        "choice_dropout": "summary_last_dropout",
    },
    architectures=architectures("Electra", ForPreTraining=("replaced_token",)),
    huggingface=Table(
        prefix="electra.",
        encoder=(
            *EMBEDDINGS,
            *PYTORCH.dense(
                "embeddings_project",
                "encoder/embeddings/projection",
                "width",
                "embed",
                when="projects_embeddings",
            ),
            *LAYER,
        ),
        heads={
            **TASK_HEADS,
            "classification": _CLASSIFICATION,
            "regression": _CLASSIFICATION,
            "multi_label": _CLASSIFICATION,
            "multiple_choice": (
                *PYTORCH.dense("sequence_summary.summary", "heads/{head}/dense", "embed", "out"),
                *CLASSIFIER,
            ),
            "masked_lm": (
                *PYTORCH.dense(
                    "generator_predictions.dense", "heads/{head}/dense", "embed", "width"
                ),
                *PYTORCH.norm("generator_predictions.LayerNorm", "heads/{head}/norm", "width"),
                Entry("generator_lm_head.bias", "heads/{head}/bias", "vocab"),
            ),
            "replaced_token": (
                *PYTORCH.dense(
                    "discriminator_predictions.dense", "heads/{head}/dense", "embed", "out"
                ),
                *PYTORCH.dense(
                    "discriminator_predictions.dense_prediction", "heads/{head}", "embed", "one"
                ),
            ),
        },
        renames=OLD_NORMS,
        tied={
            "masked_lm": {"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
        },
        ignored=BUFFERS,
    ),
    allowed={
        "summary_type": ("first",),
        "summary_use_proj": (True,),
        "summary_activation": ("gelu", "relu", "silu", "tanh"),
    },
)
