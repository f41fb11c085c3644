"""Hugging Face's ``config.json``, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.convert.bert import BERT
from bertjax.convert.files import PICKLE_PATTERNS, SAFETENSORS_PATTERNS, WEIGHT_FILES
from bertjax.convert.table import Family
from bertjax.folders import local_folder, read_json, write_json
from bertjax.types import Activation, HeadConfig, HeadKind, ModelConfig, UserError, nearest

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT,)}
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


def model_folder(source: str | Path) -> Path:
    """The local folder of a model, fetched from the hub if it is a name there.

    Pickles are fetched only if the model has no safetensors.

    Raises:
      UserError: if it is neither a folder nor a hub name that can be reached.
    """
    folder = local_folder(source, ("config.json", *SAFETENSORS_PATTERNS))
    if Path(source).expanduser().is_dir():
        return folder
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        return folder
    return local_folder(source, ("config.json", *PICKLE_PATTERNS))


def read_config(source: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The shape of a Hugging Face model, and all that its ``config.json`` says.

    A field that is not there has transformers' default, which is ours too.

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
    _check_supported(raw, path)
    values: dict[str, Any] = {}
    for ours, theirs in family.config_fields.items():
        value = raw.get(theirs)
        if value is not None:
            values[ours] = _number(value, theirs, getattr(ModelConfig, ours), path)
    values["activation"] = _activation(raw, path)
    try:
        return ModelConfig(**values), raw
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
    """The sequence-classification or regression head that ``config.json`` tells of, and its labels.

    None if the folder holds no such head. Labels are None for regression.

    Raises:
      UserError: if ``id2label`` does not number its labels from 0.
    """
    architectures = raw.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return None
    labels = raw.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        named = {int(index): str(label) for index, label in labels.items()}
        ordered = tuple(named[index] for index in range(len(named)))
    except (ValueError, AttributeError, KeyError):
        raise UserError("config.json's 'id2label' must number its labels 0, 1, 2, …") from None
    if len(ordered) == 1 or raw.get("problem_type") == "regression":
        return HeadConfig("regression", len(ordered)), None
    return HeadConfig("classification", len(ordered)), ordered


def write_config(
    folder: Path,
    config: ModelConfig,
    heads: Mapping[str, HeadConfig],
    labels: Sequence[str] | None = None,
    *,
    model_type: str = "bert",
) -> None:
    """Writes the ``config.json`` of a model into a folder, as transformers v4 and v5 read it.

    Raises:
      UserError: if no class of transformers has these heads, or if the labels are not as many as
        the head's classes.
    """
    family = FAMILIES[model_type]
    raw: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [_architecture(family, heads)],
        "hidden_act": _WRITTEN.get(config.activation, config.activation),
        "dtype": "float32",
        **{theirs: getattr(config, ours) for ours, theirs in family.config_fields.items()},
    }
    for name, head in heads.items():
        if head.kind == "classification":
            words = list(labels or (f"LABEL_{index}" for index in range(head.size)))
            if len(words) != head.size:
                raise UserError(
                    f"the head '{name}' has {head.size} classes but {len(words)} labels are given"
                )
            raw |= {"problem_type": "single_label_classification", **_label_maps(words)}
        elif head.kind == "regression":
            words = [f"LABEL_{index}" for index in range(head.size)]
            raw |= {"problem_type": "regression", **_label_maps(words)}
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


def _number(value: Any, field: str, default: Any, path: Path) -> int | float:
    """Checks that a field is a number, a whole one where its default is."""
    whole = isinstance(default, int)
    wanted = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{path}: the field '{field}' must be {kind}, not {value!r}; correct it")
    if value < (0 if field == "pad_token_id" or not whole else 1):
        raise UserError(f"{path}: the field '{field}' must not be {value!r}; correct it")
    return value


def _activation(raw: Mapping[str, Any], path: Path) -> Activation:
    name = str(raw.get("hidden_act", "gelu"))
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{path} has hidden_act '{name}', which is not supported{nearest(name, _ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _check_supported(raw: Mapping[str, Any], path: Path) -> None:
    """Refuses what would load but compute something else."""
    position = raw.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise UserError(
            f"{path} has position_embedding_type '{position}', and only 'absolute' is supported; "
            "choose another checkpoint"
        )
    for field in ("is_decoder", "add_cross_attention", "pruned_heads"):
        if raw.get(field):
            raise UserError(
                f"{path} sets {field}, and only whole bidirectional encoders are supported; "
                "choose another checkpoint"
            )
