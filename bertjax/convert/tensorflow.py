"""Models from the checkpoints of Google's TensorFlow code (BERT, ALBERT, ELECTRA), and back.

A folder holds ``bert_config.json`` (or ``albert_config.json``, ``electra_config.json``), the
checkpoint ``bert_model.ckpt.*`` and ``vocab.txt``. The family follows from the variables' names.

The activation "gelu" is read as transformers' converters read it: the exact GELU. Google's first
code computed that; since 2019 "gelu" is its tanh approximation there, which is our ``gelu_tanh``
and is written as "gelu_new", so that it is read back as what it is. The original code does not know
that word: change it to "gelu" for its use. The two functions differ by at most 4.8e-4; MiniLM's
last hidden states, of up to 5.9, by 3.2e-3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import models

from bertjax.convert.config import (
    FAMILIES,
    SENTENCE_KINDS,
    SIZES,
    check_supported,
    config_value,
)
from bertjax.convert.files import WEIGHT_FILES, Weights
from bertjax.convert.google import (
    CONFIG_FILES,
    TABLES,
    canonical,
    family_of_names,
    tables_of,
    with_pooler,
)
from bertjax.convert.huggingface import Loaded, new_folder
from bertjax.convert.params import read_params, write_params
from bertjax.convert.table import Table, slots
from bertjax.convert.tensorflow_files import open_checkpoint, write_checkpoint
from bertjax.folders import local_folder, read_json, write_json
from bertjax.models.presets import FAMILY_DEFAULTS
from bertjax.tokenizers import Tokenizer
from bertjax.types import HeadConfig, ModelConfig, UserError

CHECKPOINT = "bert_model.ckpt"
"""The name of the checkpoints that are written."""

_FILES = ("*config.json", "*.index", "*.data-*", "checkpoint")
_OTHER_CONFIGS = ("tokenizer_config.json", "generation_config.json")
_NORM_EPS = 1e-12
"""Fixed in the original code."""
_WRITTEN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "tanh": "tanh"}
_NOT_WRITTEN = ("norm_eps", "choice_dense", "choice_dropout")
_EXTRA = ("classifier_dropout", "pad_token_id")
"""Fields that Google's configs lack and its code passes over; written where they are not the
family's default."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint that was opened, and how it is to be read."""

    weights: Weights
    shapes: Shapes
    """By the names in the tables."""
    config: ModelConfig
    raw: dict[str, Any]
    table: Table


def is_tensorflow_folder(path: str | Path) -> bool:
    """Whether a folder holds a TensorFlow checkpoint and no weights in Hugging Face's layout."""
    folder = Path(path).expanduser()
    if not folder.is_dir() or any((folder / name).is_file() for name in WEIGHT_FILES):
        return False
    return any(folder.glob("*.index"))


def tensorflow_heads(source: str | Path) -> dict[str, HeadConfig]:
    """The heads that a checkpoint holds, each named after its kind.

    A classifier of one output is taken to be a regression.

    Raises:
      UserError: as :func:`load_tensorflow`.
    """
    checkpoint = _open(source, None)
    return _heads(checkpoint.table, checkpoint.shapes)


def load_tensorflow(
    source: str | Path,
    heads: Mapping[str, HeadConfig] | None = None,
    *,
    new_heads: bool = False,
) -> Loaded:
    """Reads the encoder and the wanted heads of a folder with a Google checkpoint.

    Without ``heads``, all that :func:`tensorflow_heads` finds is read, and the pooler too. Heads
    that are not there are left out of ``params`` and reported. ``new_heads``: the model is to have
    these heads, but begins them anew.

    A checkpoint of ELECTRA's pretraining holds two encoders: read is the discriminator or the
    generator, the first whose shapes fit the config and which has a wanted head.

    Raises:
      UserError: if a file is missing or damaged, if the folder has no config or several, if a
        variable of the encoder is missing, has another shape than the config or the head asks for
        or holds NaN, or if TensorFlow is not installed.
    """
    found = _open(source, heads)
    if heads is None:
        heads = _heads(found.table, found.shapes)
        pooler = found.config.pooler and any("/pooler/" in name for name in found.shapes)
    else:
        pooler = found.config.has_pooler(heads.values())
    known = {name: head for name, head in heads.items() if head.kind in found.table.heads}
    table = with_pooler(found.table, pooler)
    params, report = read_params(table, found.config, known, found.weights, new_heads=new_heads)
    new = tuple(f"heads/{name}" for name in heads if name not in known)
    report = dataclasses.replace(report, new=report.new + new)
    return Loaded(found.config, params, report, found.raw)


def _open(source: str | Path, heads: Mapping[str, HeadConfig] | None) -> _Checkpoint:
    folder = local_folder(source, _FILES)
    path = _config_path(folder)
    raw = read_json(path)
    weights = open_checkpoint(folder)
    shapes = {canonical(name): weights.shape(name) for name in weights.names()}
    family = family_of_names(shapes)
    if family is None:
        raise UserError(
            f"{weights.path} names no variables as Google's BERT, ALBERT or ELECTRA do; "
            "give a checkpoint of the original TensorFlow 1 code"
        )
    if raw.get("model_type", family) != family:
        raise UserError(
            f"{path} has model_type {raw['model_type']!r}, but {weights.path.name} holds "
            f"'{family}'; use the config that belongs to the checkpoint"
        )
    config = _read_config(path, raw, family, shapes)
    table = _choose(tables_of(family, shapes), config, shapes, heads)
    return _Checkpoint(weights, shapes, config, raw | {"model_type": family}, table)


def _config_path(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("*config.json") if path.name not in _OTHER_CONFIGS)
    if not found:
        raise UserError(
            f"{folder} has no bert_config.json, albert_config.json or electra_config.json; "
            "put the config of the checkpoint there"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder} has several configs ({', '.join(path.name for path in found)}); "
            "keep only the one of the checkpoint"
        )
    return found[0]


def _read_config(path: Path, raw: Mapping[str, Any], family: str, shapes: Shapes) -> ModelConfig:
    """The shape of the model; what the file does not say has transformers' default."""
    check_supported(raw, FAMILIES[family], path)
    values: dict[str, Any] = {
        ours: config_value(raw[theirs], ours, theirs, path)
        for ours, theirs in FAMILIES[family].config_fields.items()
        if raw.get(theirs) is not None
    }
    tables = shapes.get("electra/embeddings/word_embeddings", ())
    if "embedding_size" not in values and len(tables) == 2:
        values["embedding_size"] = tables[1]
    try:
        config = dataclasses.replace(FAMILY_DEFAULTS[family], **values)
        if config.embedding_width == config.hidden_size:
            config = dataclasses.replace(config, embedding_projection=None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config


def _choose(
    tables: tuple[Table, ...],
    config: ModelConfig,
    shapes: Shapes,
    heads: Mapping[str, HeadConfig] | None,
) -> Table:
    """The first table whose encoder has the checkpoint's shapes, better with a head than without.

    If none has, the first: reading by it tells what is wrong.
    """
    wanted = {head.kind for head in (heads or {}).values()}
    fitting = [table for table in tables if _fits(table, config, shapes)]
    for table in fitting:
        present = {head.kind for head in _heads(table, shapes).values()}
        if present and (not wanted or wanted & present):
            return table
    return (fitting or tables)[0]


def _fits(table: Table, config: ModelConfig, shapes: Shapes) -> bool:
    encoder = slots(with_pooler(table, False), config, {})
    return all(shapes.get(slot.theirs) == slot.their_shape for slot in encoder)


def _heads(table: Table, shapes: Shapes) -> dict[str, HeadConfig]:
    """The heads of which a checkpoint has the first variable."""
    found = {}
    for kind, entries in table.heads.items():
        shape = shapes.get(entries[0].theirs)
        if shape is None or kind == "multiple_choice":  # which looks like a regression
            continue
        outputs = shape[0] if shape else 0
        if kind in SENTENCE_KINDS and (kind == "regression") != (outputs == 1):
            continue
        found[str(kind)] = HeadConfig(kind, SIZES.get(kind, outputs))
    return found


def save_tensorflow(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    heads: Mapping[str, HeadConfig],
    *,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Writes a folder that Google's code reads: ``bert_model.ckpt.*``, config and vocabulary.

    The variables have the original names and shapes, in float32. ELECTRA is written as the
    generator if its only head is the masked LM, else as the discriminator. Only a WordPiece
    tokenizer gives a ``vocab.txt``; see :func:`vocabulary_note`.

    Raises:
      UserError: if the original code has no such family, head or setting, if the parameters do not
        fit the config, if the disk refuses, or if TensorFlow is not installed.
    """
    table = _table_to_write(config, heads)
    document = _document(config)
    pooler = "pooler" in params["encoder"] or config.has_pooler(heads.values())
    tensors = write_params(with_pooler(table, pooler), config, params, heads)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise UserError(
            f"two of the heads {', '.join(heads)} have the same variables in a TensorFlow "
            "checkpoint; write one head at a time"
        )
    with new_folder(folder) as part:
        write_json(part / CONFIG_FILES[config.model_type], document)
        write_checkpoint(part / CHECKPOINT, tensors)
        if tokenizer is not None:
            tokenizer.save(part)
    return Path(folder).expanduser().absolute()


def vocabulary_note(tokenizer: Tokenizer) -> str | None:
    """What to say of a tokenizer that the original code cannot read; None for WordPiece."""
    if isinstance(tokenizer.backend.model, models.WordPiece):
        return None
    return (
        "the tokenizer is no WordPiece: it is written as tokenizer.json, which the original code "
        "does not read; copy its spiece.model into the folder"
    )


def _table_to_write(config: ModelConfig, heads: Mapping[str, HeadConfig]) -> Table:
    """The family's table that has all of these heads."""
    family = config.model_type
    if family not in TABLES:
        raise UserError(
            f"'{family}' has no TensorFlow code of Google's, which only {', '.join(TABLES)} have; "
            "write another format"
        )
    for table in TABLES[family]:
        if all(head.kind in table.heads for head in heads.values()):
            return table
    kinds = sorted({kind for table in TABLES[family] for kind in table.heads})
    raise UserError(
        f"Google's TensorFlow code of '{family}' has no model with "
        f"{' and '.join(head.kind for head in heads.values())}; the heads that it has are "
        f"{', '.join(kinds)}: write another format, or one of these"
    )


def _document(config: ModelConfig) -> dict[str, Any]:
    """The config in Google's layout.

    Raises:
      UserError: if it asks for what the original code does not compute.
    """
    family = FAMILIES[config.model_type]
    default = FAMILY_DEFAULTS[config.model_type]
    projected = config.embedding_width != config.hidden_size
    for field, value, possible in (
        ("norm_eps", config.norm_eps, [_NORM_EPS]),
        ("activation", config.activation, list(_WRITTEN)),
        ("embedding_projection", config.projects_embeddings, [projected]),
    ):
        if value not in possible:
            raise UserError(
                f"Google's TensorFlow code knows no model with {field} {value}, but only "
                f"{' or '.join(map(str, possible))}; write another format"
            )
    document: dict[str, Any] = {}
    for ours, theirs in family.config_fields.items():
        value = getattr(config, ours)
        if ours not in _NOT_WRITTEN and (ours not in _EXTRA or value != getattr(default, ours)):
            document[theirs] = value
    document["hidden_act"] = _WRITTEN[config.activation]
    if "embedding_size" in document:
        document["embedding_size"] = config.embedding_width
    return document
