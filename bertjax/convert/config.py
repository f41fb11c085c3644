"""Hugging Face's ``config.json``, read and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.convert.albert import ALBERT
from bertjax.convert.bert import BERT
from bertjax.convert.distilbert import DISTILBERT
from bertjax.convert.electra import ELECTRA
from bertjax.convert.files import (
    FLAX_PATTERNS,
    PICKLE_PATTERNS,
    SAFETENSORS_PATTERNS,
    WEIGHT_FILES,
)
from bertjax.convert.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from bertjax.convert.table import Family
from bertjax.folders import local_folder, read_json, write_json
from bertjax.models.presets import FAMILY_DEFAULTS
from bertjax.types import Activation, HeadConfig, HeadKind, ModelConfig, UserError, nearest

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ALBERT, DISTILBERT, ELECTRA)
}
"""Every family that can be converted, by the ``model_type`` of config.json."""

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
_WRITTEN = {"gelu_tanh": "gelu_new"}

_WHOLE = frozenset(
    field.name for field in dataclasses.fields(ModelConfig) if "int" in str(field.type)
)
"""Fields of ModelConfig that hold whole numbers."""

SENTENCE_KINDS: frozenset[HeadKind] = frozenset({"classification", "regression", "multi_label"})
LABELLED: frozenset[HeadKind] = frozenset({"classification", "multi_label", "token_classification"})
"""Heads whose outputs have names."""
PRETRAINING_KINDS: tuple[HeadKind, ...] = (
    "masked_lm",
    "next_sentence",
    "sentence_order",
    "replaced_token",
)
SIZES: dict[HeadKind, int] = {
    "multiple_choice": 1,
    "span": 2,
    "next_sentence": 2,
    "sentence_order": 2,
    "masked_lm": 0,
    "replaced_token": 0,
}
"""Of the heads whose size the labels do not give."""

_PROBLEM_TYPES: dict[HeadKind, str] = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi_label": "multi_label_classification",
}


def model_folder(source: str | Path) -> Path:
    """The local folder of a model, fetched from the hub if it is a name there.

    Pickles are fetched only if the model has no safetensors, Flax's files only if it has neither.

    Raises:
      UserError: if it is neither a folder nor a hub name that can be reached.
    """
    folder = local_folder(source, ("config.json", *SAFETENSORS_PATTERNS))
    if Path(source).expanduser().is_dir():
        return folder
    for patterns in (PICKLE_PATTERNS, FLAX_PATTERNS):
        if any((folder / name).is_file() for name in WEIGHT_FILES):
            break
        folder = local_folder(source, ("config.json", *patterns))
    return folder


def read_config(source: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The shape of a Hugging Face model, and all that its ``config.json`` says.

    A field that is not there has transformers' default for the family.

    Raises:
      UserError: if there is no such file, or if it asks for something that is not supported.
    """
    path = local_folder(source, ("config.json",)) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{path.parent} has no config.json; name a folder that transformers' "
            "save_pretrained wrote"
        )
    raw = read_json(path)
    family = family_of(raw, path)
    check_supported(raw, family, path)
    base = FAMILY_DEFAULTS[family.model_type]
    values: dict[str, Any] = {}
    for ours, theirs in family.config_fields.items():
        if raw.get(theirs) is not None:
            values[ours] = config_value(raw[theirs], ours, theirs, path)
    try:
        return dataclasses.replace(base, **values), raw
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def family_of(raw: Mapping[str, Any], path: Path) -> Family:
    """The family that a ``config.json`` names.

    Raises:
      UserError: if it names none, or one that has no table here.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise UserError(f"{path} has no 'model_type'; add one of: {', '.join(sorted(FAMILIES))}")
    if model_type not in FAMILIES:
        raise UserError(
            f"{path} has model_type '{model_type}', which is not supported"
            f"{nearest(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type]


def read_head(raw: Mapping[str, Any]) -> tuple[HeadConfig, tuple[str, ...] | None] | None:
    """The head for whole texts that ``config.json`` tells of, and its labels.

    None if the folder holds no such head. Labels are None for regression.

    Raises:
      UserError: if ``id2label`` does not number its labels from 0.
    """
    heads, labels = read_heads(raw)
    head = next((head for kind, head in heads.items() if kind in SENTENCE_KINDS), None)
    return None if head is None else (head, labels)


def read_heads(
    raw: Mapping[str, Any],
) -> tuple[dict[str, HeadConfig], tuple[str, ...] | None]:
    """The heads of the class that ``config.json`` names, by kind, and the labels of a classifier.

    Raises:
      UserError: if ``id2label`` does not number its labels from 0.
    """
    family = FAMILIES[raw["model_type"]]
    kinds: set[HeadKind] = set()
    for name in raw.get("architectures") or ():
        kinds |= family.kinds(str(name))
    labels = _labels(raw)
    if kinds & SENTENCE_KINDS:
        kinds -= SENTENCE_KINDS
        kinds.add(_sentence_kind(raw, len(labels)))
    heads: dict[str, HeadConfig] = {
        kind: HeadConfig(kind, SIZES.get(kind, len(labels))) for kind in sorted(kinds)
    }
    return heads, labels if kinds & LABELLED else None


def _sentence_kind(raw: Mapping[str, Any], outputs: int) -> HeadKind:
    """What a class for whole texts computes.

    transformers says it in ``problem_type``, if at all; where it does not, one output is a number.
    """
    named: dict[str, HeadKind] = {problem: kind for kind, problem in _PROBLEM_TYPES.items()}
    kind = named.get(str(raw.get("problem_type")), "classification")
    return "regression" if kind == "classification" and outputs == 1 else kind


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    labels = raw.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        named = {int(index): str(label) for index, label in labels.items()}
        return tuple(named[index] for index in range(len(named)))
    except (ValueError, AttributeError, KeyError):
        raise UserError("config.json's 'id2label' must number its labels 0, 1, 2, …") from None


def write_config(
    folder: Path,
    config: ModelConfig,
    heads: Mapping[str, HeadConfig],
    labels: Sequence[str] | None = None,
    *,
    dtype: str = "float32",
) -> None:
    """Writes the ``config.json`` of a model into a folder, as transformers v4 and v5 read it.

    Raises:
      UserError: if no class of transformers has these heads, or if the labels are not as many as
        the head's classes.
    """
    family = FAMILIES[config.model_type]
    raw: dict[str, Any] = {
        "model_type": config.model_type,
        "architectures": [_architecture(family, heads)],
        "dtype": dtype,
    }
    for ours, theirs in family.config_fields.items():
        value = getattr(config, ours)
        raw[theirs] = _WRITTEN.get(value, value) if isinstance(value, str) else value
    if config.embedding_size is None and "embedding_size" in family.config_fields:
        raw["embedding_size"] = config.hidden_size
    for name, head in heads.items():
        if head.kind in LABELLED:
            words = list(labels or (f"LABEL_{index}" for index in range(head.size)))
            if len(words) != head.size:
                raise UserError(
                    f"the head '{name}' has {head.size} classes but {len(words)} labels are given"
                )
            raw |= _label_maps(words)
        elif head.kind == "regression":
            raw |= _label_maps([f"LABEL_{index}" for index in range(head.size)])
        if head.kind in _PROBLEM_TYPES:
            raw["problem_type"] = _PROBLEM_TYPES[head.kind]
    write_json(folder / "config.json", raw)


def _label_maps(words: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(index): word for index, word in enumerate(words)},
        "label2id": {word: index for index, word in enumerate(words)},
    }


def _architecture(family: Family, heads: Mapping[str, HeadConfig]) -> str:
    kinds: list[HeadKind] = [head.kind for head in heads.values()]
    if frozenset(kinds) not in family.architectures or len(set(kinds)) != len(kinds):
        raise UserError(
            f"no Hugging Face class of '{family.model_type}' holds the heads "
            f"{', '.join(heads)} together; write one head at a time"
        )
    return family.architectures[frozenset(kinds)]


def config_value(value: Any, ours: str, theirs: str, path: Path) -> Any:
    """A field's value as ModelConfig takes it: the name of an activation, or a number."""
    if ours in ("activation", "choice_dense"):
        return _activation(value, theirs, path)
    whole = ours in _WHOLE
    wanted = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{path}: the field '{theirs}' must be {kind}, not {value!r}; correct it")
    if value < (0 if ours == "pad_token_id" or not whole else 1):
        raise UserError(f"{path}: the field '{theirs}' must not be {value!r}; correct it")
    return value


def _activation(value: Any, field: str, path: Path) -> Activation:
    name = str(value)
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{path} has {field} '{name}', which is not supported{nearest(name, _ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def check_supported(raw: Mapping[str, Any], family: Family, path: Path) -> None:
    """Refuses what would load but compute something else."""
    absolute = {"position_embedding_type": ("absolute",)}
    for field, allowed in {**absolute, **family.allowed}.items():
        if field in raw and raw[field] not in allowed:
            raise UserError(
                f"{path} has {field} {raw[field]!r}, and only "
                f"{' or '.join(map(repr, allowed))} is supported; choose another checkpoint"
            )
    for field in ("is_decoder", "add_cross_attention", "pruned_heads"):
        if raw.get(field):
            raise UserError(
                f"{path} sets {field}, and only whole bidirectional encoders are supported; "
                "choose another checkpoint"
            )
