"""BERT's conversion table (Devlin et al. 2019), for transformers' names of its tensors."""

from __future__ import annotations

from bertjax.convert.table import Entry, Family

_EMBEDDINGS = tuple(
    Entry(f"embeddings.{theirs}", f"encoder/embeddings/{ours}", axes)
    for theirs, ours, axes in (
        ("word_embeddings.weight", "word", "vocab embed"),
        ("position_embeddings.weight", "position", "positions embed"),
        ("token_type_embeddings.weight", "type", "types embed"),
        ("LayerNorm.weight", "norm/scale", "embed"),
        ("LayerNorm.bias", "norm/bias", "embed"),
    )
)

_INWARD = "(heads kv) embed -> embed heads kv"
_OUTWARD = "embed (heads kv) -> heads kv embed"

_LAYER = tuple(
    Entry(f"encoder.layer.{{layer}}.{theirs}", f"encoder/layers/{ours}", axes)
    for theirs, ours, axes in (
        ("attention.self.query.weight", "attention/query/kernel", _INWARD),
        ("attention.self.query.bias", "attention/query/bias", "(heads kv) -> heads kv"),
        ("attention.self.key.weight", "attention/key/kernel", _INWARD),
        ("attention.self.key.bias", "attention/key/bias", "(heads kv) -> heads kv"),
        ("attention.self.value.weight", "attention/value/kernel", _INWARD),
        ("attention.self.value.bias", "attention/value/bias", "(heads kv) -> heads kv"),
        ("attention.output.dense.weight", "attention/output/kernel", _OUTWARD),
        ("attention.output.dense.bias", "attention/output/bias", "embed"),
        ("attention.output.LayerNorm.weight", "attention/norm/scale", "embed"),
        ("attention.output.LayerNorm.bias", "attention/norm/bias", "embed"),
        ("intermediate.dense.weight", "mlp/up/kernel", "mlp embed -> embed mlp"),
        ("intermediate.dense.bias", "mlp/up/bias", "mlp"),
        ("output.dense.weight", "mlp/down/kernel", "embed mlp -> mlp embed"),
        ("output.dense.bias", "mlp/down/bias", "embed"),
        ("output.LayerNorm.weight", "mlp/norm/scale", "embed"),
        ("output.LayerNorm.bias", "mlp/norm/bias", "embed"),
    )
)

_POOLER = (
    Entry("pooler.dense.weight", "encoder/pooler/kernel", "out embed -> embed out", when="pooler"),
    Entry("pooler.dense.bias", "encoder/pooler/bias", "out", when="pooler"),
)

_CLASSIFIER = (
    Entry("classifier.weight", "heads/{head}/kernel", "classes embed -> embed classes"),
    Entry("classifier.bias", "heads/{head}/bias", "classes"),
)

_NEXT_SENTENCE = (
    Entry("cls.seq_relationship.weight", "heads/{head}/kernel", "classes embed -> embed classes"),
    Entry("cls.seq_relationship.bias", "heads/{head}/bias", "classes"),
)

_TRANSFORM = "cls.predictions.transform."
_MASKED_LM = (
    Entry(_TRANSFORM + "dense.weight", "heads/{head}/dense/kernel", "out embed -> embed out"),
    Entry(_TRANSFORM + "dense.bias", "heads/{head}/dense/bias", "out"),
    Entry(_TRANSFORM + "LayerNorm.weight", "heads/{head}/norm/scale", "embed"),
    Entry(_TRANSFORM + "LayerNorm.bias", "heads/{head}/norm/bias", "embed"),
    Entry("cls.predictions.bias", "heads/{head}/bias", "vocab"),
)

BERT = Family(
    model_type="bert",
    prefix="bert.",
    encoder=_EMBEDDINGS + _LAYER + _POOLER,
    heads={
        "classification": _CLASSIFIER,
        "regression": _CLASSIFIER,
        "masked_lm": _MASKED_LM,
        "next_sentence": _NEXT_SENTENCE,
    },
    architectures={
        frozenset(): "BertModel",
        frozenset({"classification"}): "BertForSequenceClassification",
        frozenset({"regression"}): "BertForSequenceClassification",
        frozenset({"masked_lm"}): "BertForMaskedLM",
        frozenset({"next_sentence"}): "BertForNextSentencePrediction",
        frozenset({"masked_lm", "next_sentence"}): "BertForPreTraining",
    },
    config_fields={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "max_positions": "max_position_embeddings",
        "type_vocab_size": "type_vocab_size",
        "norm_eps": "layer_norm_eps",
        "hidden_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "classifier_dropout": "classifier_dropout",
        "initializer_range": "initializer_range",
        "pad_token_id": "pad_token_id",
    },
    renames=(
        (r"LayerNorm\.gamma$", "LayerNorm.weight"),
        (r"LayerNorm\.beta$", "LayerNorm.bias"),
    ),
    tied={
        "masked_lm": {
            "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    },
    ignored=("embeddings.position_ids",),
)
