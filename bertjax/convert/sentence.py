"""Sentence-transformers folders: how a model's hidden states become one vector of a text.

Such a folder is a Hugging Face folder with a ``modules.json``, which lists what follows the
transformer: a pooling, and often a normalisation. It is read as sentence-transformers 6.2 reads it,
old names of fields and files included. A module is known by the last part of its type, because the
packages before it have moved between versions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from tokenizers import normalizers

from bertjax.folders import first_line, local_folder, read_json
from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError

Pooling = Literal["cls", "mean", "max", "pooler"]

MODULES = "modules.json"
MODULE_ORDER = ("Transformer", "Pooling", "Normalize")
TRANSFORMER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""In the order in which they are looked for."""
PROMPTS = "config_sentence_transformers.json"
SENTENCE_FILES = (
    "config.json",
    MODULES,
    *TRANSFORMER_FILES,
    PROMPTS,
    "tokenizer_config.json",
    "[0-9]*_*/config.json",
)

# The only values with which a transformer's output is its last hidden states.
_PLAIN_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "processing_kwargs": {},
}
_PLAIN_NORMALIZE = {
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
}
_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "max": "max"}
# Before version 5.4 each mode had a field of its own, in this order.
_MODE_FIELDS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_REMEDY = "give encode both pooling and normalize to have vectors without it"


@dataclasses.dataclass(frozen=True)
class SentenceConfig:
    """What a sentence-transformers folder says of its vectors."""

    pooling: Pooling = "mean"
    normalize: bool = False
    max_length: int = 0
    """Longer texts are cut to so many tokens; 0: nothing is said."""
    lower_case: bool = False
    """Whether texts are lower-cased before the tokenizer's own normalisation."""
    problem: str = ""
    """Why the folder's own vectors cannot be computed, in one sentence; empty if they can."""


def read_sentence_config(source: str | Path) -> SentenceConfig | None:
    """What the modules of a folder or hub name say; None if it has no ``modules.json``.

    A module that is not supported does not hinder the use of the model beneath it: it is told of
    in ``problem``.

    Raises:
      UserError: if there is no such folder or name, if ``modules.json`` is damaged or puts the
        transformer into another folder, or if the longest text is not a number of tokens.
    """
    folder = local_folder(source, SENTENCE_FILES)
    if not (folder / MODULES).is_file():
        return None
    modules = _read_modules(folder / MODULES)
    path = next((p for name in TRANSFORMER_FILES if (p := folder / name).is_file()), None)
    settings = read_json(path) if path else {}
    config = SentenceConfig(
        max_length=_max_length(folder, path, settings),
        lower_case=bool(settings.get("do_lower_case")),
    )
    try:
        _check_order(folder / MODULES, modules)
        if path is not None:
            _check_fields(path, settings, _PLAIN_TRANSFORMER)
        _check_prompts(folder / PROMPTS)
        pooling = _pooling(folder / modules[1]["path"] / "config.json")
        normalize = len(modules) == len(MODULE_ORDER)
        if normalize:
            path = folder / modules[2]["path"] / "config.json"
            _check_fields(path, _optional_json(path), _PLAIN_NORMALIZE)
    except UserError as error:
        return dataclasses.replace(config, problem=str(error))
    return dataclasses.replace(config, pooling=pooling, normalize=normalize)


def lower_cased(tokenizer: Tokenizer) -> Tokenizer:
    """A freshly read tokenizer, made to lower-case its texts before all else."""
    own = tokenizer.backend.normalizer
    lower = normalizers.Lowercase()
    tokenizer.backend.normalizer = normalizers.Sequence([lower, own] if own else [lower])
    return tokenizer


def _read_modules(path: Path) -> list[Mapping[str, str]]:
    """The entries of ``modules.json``: ``path`` and ``type`` of each."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({first_line(error)}); get the file anew"
        ) from None
    if not isinstance(modules, list) or not modules or not all(map(_is_module, modules)):
        raise UserError(f"{path} is no list of modules with 'type' and 'path'; get the file anew")
    if modules[0]["path"] not in ("", ".") and _name(modules[0]) == MODULE_ORDER[0]:
        raise UserError(
            f"{path} puts the transformer into the folder '{modules[0]['path']}', and only one "
            "beside modules.json is read with its modules; give the path of that folder itself"
        )
    return modules


def _is_module(module: Any) -> bool:
    """Whether an entry has both fields, and its path does not leave the folder."""
    if not isinstance(module, dict):
        return False
    path = module.get("path")
    inside = isinstance(path, str) and not Path(path).is_absolute() and ".." not in Path(path).parts
    return inside and isinstance(module.get("type"), str)


def _name(module: Mapping[str, str]) -> str:
    """The class of a module of sentence-transformers; the whole type of any other."""
    package, _, name = module["type"].rpartition(".")
    return name if package.split(".")[0] == "sentence_transformers" else module["type"]


def _check_order(path: Path, modules: Sequence[Mapping[str, str]]) -> None:
    for name, expected in zip_longest(map(_name, modules), MODULE_ORDER):
        if name is None and expected != "Normalize":
            raise UserError(f"{path} has no {expected} module; {_REMEDY}")
        if name is not None and name != expected:
            raise UserError(
                f"{path} has the module {name}, and only a Transformer, a Pooling and then a "
                f"Normalize are supported; {_REMEDY}"
            )


def _check_fields(path: Path, values: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
    for field, value in plain.items():
        if values.get(field) not in (None, value):
            raise UserError(
                f"{path} has {field} {values[field]!r}, which is not supported; {_REMEDY}"
            )


def _check_prompts(path: Path) -> None:
    """Refuses what sentence-transformers would do to a text before, or to a vector after, all."""
    values = _optional_json(path)
    name, prompts = values.get("default_prompt_name"), values.get("prompts")
    if name is not None and not (isinstance(prompts, dict) and prompts.get(name) == ""):
        raise UserError(
            f"{path} puts the prompt '{name}' before every text, which is not supported; put it "
            "there yourself, and give encode both pooling and normalize"
        )
    _check_fields(path, values, {"truncate_dim": None})


def _pooling(path: Path) -> Pooling:
    values = read_json(path)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for field, mode in _MODE_FIELDS.items() if values.get(field)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _POOLINGS:
        told = ", ".join(map(str, modes)) if isinstance(modes, list) else repr(modes)
        raise UserError(
            f"{path} asks for the pooling {told}, and only one of {', '.join(_POOLINGS)} is "
            f"supported; {_REMEDY}"
        )
    return _POOLINGS[modes[0]]


def _max_length(folder: Path, path: Path | None, settings: Mapping[str, Any]) -> int:
    """``max_seq_length``; without it the tokenizer's longest text, where newer versions keep it."""
    field, value = "max_seq_length", settings.get("max_seq_length")
    if value is None:
        path, field = folder / "tokenizer_config.json", "model_max_length"
        value = _optional_json(path).get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise UserError(f"{path}: the field '{field}' must be a number of tokens, not {value!r}")
    return int(value)


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
