"""Families of models, and published shapes by name.

Sources: Devlin et al. 2019 (BERT), Turc et al. 2019 (its miniatures: heads are H / 64 and the
feed-forward width is 4 H), Liu et al. 2019 (RoBERTa), Conneau et al. 2020 (XLM-R), Martin et al.
2020 (CamemBERT), Lan et al. 2020 (ALBERT), Sanh et al. 2019 (DistilBERT), Clark et al. 2020
(ELECTRA); numbers that the papers leave open are those of the released checkpoints.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bertjax.types import ModelConfig

_ROBERTA = ModelConfig(
    model_type="roberta",
    vocab_size=50265,
    pad_token_id=1,
    positions_after_pad=True,
    classification_dense="tanh",
    classification_input_dropout=True,
    masked_lm_activation="gelu",
    choice_dropout="hidden",
)

FAMILY_DEFAULTS: dict[str, ModelConfig] = {
    "bert": ModelConfig(),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(_ROBERTA, model_type="xlm-roberta", vocab_size=30522),
    "camembert": dataclasses.replace(_ROBERTA, model_type="camembert", vocab_size=30522),
    "albert": ModelConfig(
        model_type="albert",
        vocab_size=30000,
        embedding_size=128,
        embedding_projection=True,
        hidden_size=4096,
        num_heads=64,
        intermediate_size=16384,
        layer_groups=1,
        activation="gelu_tanh",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        classifier_dropout=0.1,
        mlp_output_dropout=False,
    ),
    "distilbert": ModelConfig(
        model_type="distilbert",
        num_layers=6,
        type_vocab_size=0,
        pooler=False,
        classifier_dropout=0.2,
        token_dropout="hidden",
        span_dropout=0.1,
        attention_output_dropout=False,
        classification_dense="relu",
        choice_dense="relu",
    ),
    "electra": ModelConfig(
        model_type="electra",
        embedding_size=128,
        hidden_size=256,
        num_heads=4,
        intermediate_size=1024,
        pooler=False,
        classification_dense="gelu",
        classification_input_dropout=True,
        choice_dense="gelu",
        choice_dropout=0.1,
        masked_lm_activation="gelu",
    ),
}
"""What makes each family: where it differs from BERT, and the defaults of its ``config.json``."""


def _shape(family: str, num_layers: int, hidden_size: int, **fields: Any) -> ModelConfig:
    """A member of a family; heads are 64 wide unless ``fields`` says otherwise."""
    shape = {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "num_heads": hidden_size // 64,
        "intermediate_size": 4 * hidden_size,
    }
    return dataclasses.replace(FAMILY_DEFAULTS[family], **shape | fields)


def _roberta(family: str, num_layers: int, hidden_size: int, vocab_size: int) -> ModelConfig:
    fields = {"max_positions": 514, "type_vocab_size": 1, "norm_eps": 1e-5}
    return _shape(family, num_layers, hidden_size, vocab_size=vocab_size, **fields)


def _albert(num_layers: int, hidden_size: int, num_heads: int, **fields: Any) -> ModelConfig:
    return _shape("albert", num_layers, hidden_size, num_heads=num_heads, **fields)


def _electra(hidden_size: int, num_heads: int, embedding_size: int, **fields: Any) -> ModelConfig:
    shape = {"num_layers": 12, "num_heads": num_heads, "embedding_size": embedding_size}
    return _shape("electra", hidden_size=hidden_size, **shape | fields)


_MINIATURES = {
    f"bert_l{layers}_h{width}": _shape("bert", layers, width)
    for layers in (2, 4, 6, 8, 10, 12)
    for width in (128, 256, 512, 768)
}

PRESETS: dict[str, ModelConfig] = {
    "bert_tiny": _MINIATURES["bert_l2_h128"],
    "bert_mini": _MINIATURES["bert_l4_h256"],
    "bert_small": _MINIATURES["bert_l4_h512"],
    "bert_medium": _MINIATURES["bert_l8_h512"],
    "bert_base": _shape("bert", 12, 768),
    "bert_base_cased": _shape("bert", 12, 768, vocab_size=28996),
    "bert_base_multilingual": _shape("bert", 12, 768, vocab_size=119547),
    "bert_base_chinese": _shape("bert", 12, 768, vocab_size=21128),
    "bert_large": _shape("bert", 24, 1024),
    "bert_large_cased": _shape("bert", 24, 1024, vocab_size=28996),
    **_MINIATURES,
    "roberta_base": _roberta("roberta", 12, 768, 50265),
    "roberta_large": _roberta("roberta", 24, 1024, 50265),
    "distilroberta_base": _roberta("roberta", 6, 768, 50265),
    "xlm_roberta_base": _roberta("xlm-roberta", 12, 768, 250002),
    "xlm_roberta_large": _roberta("xlm-roberta", 24, 1024, 250002),
    "camembert_base": _roberta("camembert", 12, 768, 32005),
    "camembert_large": _roberta("camembert", 24, 1024, 32005),
    "albert_base": _albert(12, 768, 12),
    "albert_large": _albert(24, 1024, 16),
    "albert_xlarge": _albert(24, 2048, 16),
    "albert_xxlarge": _albert(12, 4096, 64),
    "distilbert_base": _shape("distilbert", 6, 768),
    "distilbert_base_cased": _shape("distilbert", 6, 768, vocab_size=28996),
    "distilbert_base_multilingual": _shape("distilbert", 6, 768, vocab_size=119547),
    "electra_small": _electra(256, 4, 128),
    "electra_small_generator": _electra(256, 4, 128),
    "electra_base": _electra(768, 12, 768),
    "electra_base_generator": _electra(256, 4, 768),
    "electra_large": _electra(1024, 16, 1024, num_layers=24),
    "electra_large_generator": _electra(256, 4, 1024, num_layers=24),
}
"""Published shapes. ALBERT's are version 2's."""
