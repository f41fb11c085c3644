"""The conversion table of RoBERTa (Liu et al. 2019), which XLM-R and CamemBERT share."""

from __future__ import annotations

from bertjax.convert.bert import (
    BUFFERS,
    CONFIG_FIELDS,
    EMBEDDINGS,
    LAYER,
    OLD_NORMS,
    POOLER,
    TASK_HEADS,
)
from bertjax.convert.table import PYTORCH, Entry, Family, Table, architectures

_CLASSIFICATION = (
    *PYTORCH.dense("classifier.dense", "heads/{head}/dense", "embed", "out"),
    *PYTORCH.dense("classifier.out_proj", "heads/{head}", "embed", "classes"),
)

_TABLE = Table(
    prefix="roberta.",
    encoder=EMBEDDINGS + LAYER + POOLER,
    heads={
        **TASK_HEADS,
        "classification": _CLASSIFICATION,
        "regression": _CLASSIFICATION,
        "multi_label": _CLASSIFICATION,
        "masked_lm": (
            *PYTORCH.dense("lm_head.dense", "heads/{head}/dense", "embed", "width"),
            *PYTORCH.norm("lm_head.layer_norm", "heads/{head}/norm", "width"),
            Entry("lm_head.bias", "heads/{head}/bias", "vocab"),
        ),
    },
    renames=OLD_NORMS,
    tied={
        "masked_lm": {
            "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    },
    ignored=BUFFERS,
)


def _family(model_type: str, name: str) -> Family:
    return Family(model_type, CONFIG_FIELDS, architectures(name), _TABLE)


ROBERTA = _family("roberta", "Roberta")
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta")
CAMEMBERT = _family("camembert", "Camembert")
