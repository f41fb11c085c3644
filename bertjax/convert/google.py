"""The tables of Google's TensorFlow code: BERT, ALBERT and ELECTRA as their checkpoints name them.

Sources: the modeling, pretraining and fine-tuning code of google-research/bert, /albert and
/electra. A kernel is stored [inputs, outputs], but ``output_weights`` [classes, inputs].
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection

from bertjax.convert.table import TENSORFLOW, Entry, Table

_OPTIMIZERS = (
    r"global_step|beta[12]_power|loss_scale|good_steps"
    r"|.*/(adam_[mv]|lamb_[mv]|Adam|LAMB|Momentum)(_1)?"
)
"""What the optimizers of those projects and their descendants keep beside the variables."""

_RENAMES = ((r"^module/", ""),)
"""TF-hub puts ``module/`` before the names."""

_LAYER = (
    ("attention/self/query", "attention/query", "embed", "heads kv"),
    ("attention/self/key", "attention/key", "embed", "heads kv"),
    ("attention/self/value", "attention/value", "embed", "heads kv"),
    ("attention/output/dense", "attention/output", "heads kv", "embed"),
    ("intermediate/dense", "mlp/up", "embed", "mlp"),
    ("output/dense", "mlp/down", "mlp", "embed"),
)
"""BERT's and ELECTRA's projections: theirs, ours, inputs, outputs."""

_ALBERT_LAYER = (
    ("attention_1/self/query", "attention/query", "embed", "heads kv"),
    ("attention_1/self/key", "attention/key", "embed", "heads kv"),
    ("attention_1/self/value", "attention/value", "embed", "heads kv"),
    ("attention_1/output/dense", "attention/output", "heads kv", "embed"),
    ("ffn_1/intermediate/dense", "mlp/up", "embed", "mlp"),
    ("ffn_1/intermediate/output/dense", "mlp/down", "mlp", "embed"),
)


def _embeddings(scope: str) -> tuple[Entry, ...]:
    ours = "encoder/embeddings"
    return (
        *TENSORFLOW.table(f"{scope}/word_embeddings", f"{ours}/word", "vocab width"),
        *TENSORFLOW.table(f"{scope}/position_embeddings", f"{ours}/position", "positions width"),
        *TENSORFLOW.table(
            f"{scope}/token_type_embeddings", f"{ours}/type", "types width", when="embeds_types"
        ),
        *TENSORFLOW.norm(f"{scope}/LayerNorm", f"{ours}/norm", "width"),
    )


def _layers(
    scope: str, projections: tuple[tuple[str, str, str, str], ...], norms: tuple[str, str]
) -> tuple[Entry, ...]:
    """A layer's projections, and the LayerNorms after its attention and its feed-forward block."""
    dense = [
        entry
        for theirs, ours, inputs, outputs in projections
        for entry in TENSORFLOW.dense(
            f"{scope}/{theirs}", f"encoder/layers/{ours}", inputs, outputs
        )
    ]
    return (
        *dense,
        *TENSORFLOW.norm(f"{scope}/{norms[0]}", "encoder/layers/attention/norm"),
        *TENSORFLOW.norm(f"{scope}/{norms[1]}", "encoder/layers/mlp/norm"),
    )


def _projection(theirs: str, ours: str) -> tuple[Entry, ...]:
    return TENSORFLOW.dense(theirs, ours, "width", "embed", when="projects_embeddings")


def _outputs(theirs: str) -> tuple[Entry, ...]:
    """A head that the original code writes by hand: weights [classes, inputs] and a bias."""
    return (
        Entry(f"{theirs}output_weights", "heads/{head}/kernel", "classes embed -> embed classes"),
        Entry(f"{theirs}output_bias", "heads/{head}/bias", "classes"),
    )


def _masked_lm(scope: str, transform: str) -> tuple[Entry, ...]:
    return (
        *TENSORFLOW.dense(f"{scope}/{transform}dense", "heads/{head}/dense", "embed", "width"),
        *TENSORFLOW.norm(f"{scope}/{transform}LayerNorm", "heads/{head}/norm", "width"),
        Entry(f"{scope}/output_bias", "heads/{head}/bias", "vocab"),
    )


POOLER = TENSORFLOW.dense("bert/pooler/dense", "encoder/pooler", "embed", "out", when="pooler")

_BERT = Table(
    prefix="",
    encoder=(
        *_embeddings("bert/embeddings"),
        *_layers(
            "bert/encoder/layer_{layer}", _LAYER, ("attention/output/LayerNorm", "output/LayerNorm")
        ),
        *POOLER,
    ),
    heads={
        "masked_lm": _masked_lm("cls/predictions", "transform/"),
        "next_sentence": _outputs("cls/seq_relationship/"),
        "classification": _outputs(""),
        "regression": _outputs(""),
        "span": _outputs("cls/squad/"),
    },
    renames=_RENAMES,
    ignored=_OPTIMIZERS,
)

_ALBERT = Table(
    prefix="",
    encoder=(
        *_embeddings("bert/embeddings"),
        *_projection("bert/encoder/embedding_hidden_mapping_in", "encoder/embeddings/projection"),
        *_layers(
            "bert/encoder/transformer/group_{layer}/inner_group_{inner}",
            _ALBERT_LAYER,
            ("LayerNorm", "LayerNorm_1"),
        ),
        *POOLER,
    ),
    heads={
        "masked_lm": _masked_lm("cls/predictions", "transform/"),
        "sentence_order": _outputs("cls/seq_relationship/"),
        "classification": _outputs(""),
        "regression": _outputs(""),
        "multiple_choice": _outputs(""),
        "span": _outputs("cls/squad/"),
    },
    renames=_RENAMES,
    ignored=_OPTIMIZERS,
)

_REPLACED_TOKEN = (
    *TENSORFLOW.dense("discriminator_predictions/dense", "heads/{head}/dense", "embed", "out"),
    *TENSORFLOW.dense("discriminator_predictions/dense_1", "heads/{head}", "embed", "one"),
)
_GENERATOR_HEAD = _masked_lm("generator_predictions", "")


def _electra(scope: str, embeddings: str = "electra", *, generator: bool = True) -> Table:
    """One of ELECTRA's two encoders, and the head that belongs to it."""
    return Table(
        prefix="",
        encoder=(
            *_embeddings(f"{embeddings}/embeddings"),
            *_projection(f"{scope}/embeddings_project", "encoder/embeddings/projection"),
            *_layers(
                f"{scope}/encoder/layer_{{layer}}",
                _LAYER,
                ("attention/output/LayerNorm", "output/LayerNorm"),
            ),
        ),
        heads={"masked_lm": _GENERATOR_HEAD} if generator else {"replaced_token": _REPLACED_TOKEN},
        renames=_RENAMES,
        ignored=_OPTIMIZERS,
    )


TABLES: dict[str, tuple[Table, ...]] = {
    "bert": (_BERT,),
    "albert": (_ALBERT,),
    "electra": (
        _electra("electra", generator=False),
        _electra("generator"),
        _electra("generator", embeddings="generator"),
        _electra("electra"),
    ),
}
"""The tables of each family, in the order in which they are tried.

ELECTRA's are the discriminator; the generator, which shares the discriminator's embeddings; the
generator with embeddings of its own; and the masked language model that is trained alone.
"""

CONFIG_FILES = {
    "bert": "bert_config.json",
    "albert": "albert_config.json",
    "electra": "electra_config.json",
}
"""The name under which each family's config is written."""

_SIGNS = (
    ("electra", r"(electra|generator)/"),
    ("albert", r"bert/encoder/transformer/"),
    ("bert", r"bert/encoder/layer_"),
)


def canonical(name: str) -> str:
    """The name of a variable in the tables."""
    return _BERT.canonical(name)


def family_of_names(names: Collection[str]) -> str | None:
    """The family that has variables of these (canonical) names; None for another project's."""
    for family, sign in _SIGNS:
        if any(re.match(sign, name) for name in names):
            return family
    return None


def tables_of(family: str, names: Collection[str]) -> tuple[Table, ...]:
    """The tables that can be meant by a checkpoint with variables of these (canonical) names.

    Beside a generator, ELECTRA's masked LM is the generator's and not the discriminator's.
    """
    tables = TABLES[family]
    apart = family == "electra" and any(name.startswith("generator/") for name in names)
    return tables[:-1] if apart else tables


def with_pooler(table: Table, wanted: bool) -> Table:
    """The table with the pooler, or without it, whatever the heads.

    The original code makes the pooler's variables in every model, also where no head reads them.
    """
    entries = [entry for entry in table.encoder if wanted or entry.when != "pooler"]
    entries = [
        dataclasses.replace(entry, when="") if entry.when == "pooler" else entry
        for entry in entries
    ]
    return dataclasses.replace(table, encoder=tuple(entries))
