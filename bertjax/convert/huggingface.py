"""Models from Hugging Face folders, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.convert.config import (
    FAMILIES,
    PRETRAINING_KINDS,
    SIZES,
    family_of,
    model_folder,
    read_config,
    read_heads,
    write_config,
)
from bertjax.convert.files import SAFETENSORS_PATTERNS, open_weights
from bertjax.convert.params import LoadReport, Params, heads_present, read_params, write_params
from bertjax.convert.writing import INDEX, SHARD_BYTES, write_safetensors
from bertjax.folders import first_line
from bertjax.models.vocabulary import with_rows
from bertjax.tokenizers import Tokenizer
from bertjax.types import HeadConfig, ModelConfig, UserError


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model read from a Hugging Face folder."""

    config: ModelConfig
    params: Params
    """Float32 arrays; only the parts that were found."""
    report: LoadReport
    raw: dict[str, Any]
    """All that ``config.json`` says."""


def load_huggingface(
    source: str | Path,
    heads: Mapping[str, HeadConfig] | None = None,
    *,
    new_heads: bool = False,
) -> Loaded:
    """Reads the encoder and the wanted heads of a local Hugging Face folder or a hub name.

    The pooler and the heads may be missing: they are left out of ``params`` and reported.
    ``new_heads``: the model is to have these heads, but begins them anew.

    Raises:
      UserError: if a file is missing, damaged or unsupported, if a tensor of the encoder is
        missing, or if one has another shape than the config or the head asks for.
    """
    folder = model_folder(source)
    config, raw = read_config(folder)
    family = family_of(raw, folder / "config.json")
    weights = open_weights(folder)
    params, report = read_params(
        family.huggingface, config, heads or {}, weights, new_heads=new_heads
    )
    return Loaded(config, params, report, raw)


def huggingface_heads(source: str | Path) -> tuple[dict[str, HeadConfig], tuple[str, ...] | None]:
    """The heads that a folder holds, each named after its kind, and the labels of a classifier.

    They are those of the class that ``config.json`` names, and heads of pretraining that the
    weights have beside it, as BERT's first checkpoints do.

    Raises:
      UserError: as :func:`load_huggingface`, or if a head that is named is not there.
    """
    folder = model_folder(source)
    config, raw = read_config(folder)
    family, weights = family_of(raw, folder / "config.json"), open_weights(folder)
    heads, labels = read_heads(raw)
    pretraining = {kind: HeadConfig(kind, SIZES[kind]) for kind in PRETRAINING_KINDS}
    known = {k: h for k, h in pretraining.items() if h.kind in family.huggingface.heads}
    found = heads_present(family.huggingface, config, known | heads, weights)
    if lost := [kind for kind in heads if kind not in found]:
        raise UserError(
            f"{folder / 'config.json'} names a class with the head {lost[0]}, but "
            f"{weights.path.name} lacks its tensors; correct 'architectures' or get the file anew"
        )
    together = frozenset(head.kind for head in found.values())
    return (found if together in family.architectures else heads), labels


def save_huggingface(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    heads: Mapping[str, HeadConfig] | None = None,
    *,
    labels: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a folder that transformers loads: weights, ``config.json`` and the tokenizer.

    ``heads`` are those to write: none (the bare encoder), one, or those of pretraining together.
    Padding of the vocabulary is left out. The files are written beside the folder first, so that it
    never holds half a file; weights above ``max_shard_bytes`` are cut into several files.

    Raises:
      UserError: if the parameters do not fit the config, or if the disk refuses.
    """
    heads, table = heads or {}, FAMILIES[config.model_type].huggingface
    params = with_rows(params, config.vocab_rows, config.vocab_size)
    with new_folder(folder) as part:
        write_config(part, config, heads, labels, dtype=dtype)
        tensors = write_params(table, config, params, heads)
        write_safetensors(part, tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
        if tokenizer is not None:
            tokenizer.save(part)
    return Path(folder).expanduser().absolute()


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, whose files are put in place at the end.

    Raises:
      UserError: if the disk refuses.
    """
    folder = Path(folder).expanduser().absolute()
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        _move(part, folder)
    except OSError as error:
        raise UserError(
            f"cannot write the model to {folder}: {error.strerror or first_line(error)}; "
            "free space there, or name a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move(part: Path, folder: Path) -> None:
    """Puts the finished files in place: the folder at once, or each file where one exists.

    Older weights go: they would be read in place of the new ones.
    """
    if not folder.exists():
        part.rename(folder)
        return
    new = sorted(part.iterdir(), key=lambda file: ("model" in file.name, file.name == INDEX))
    old = {path for pattern in SAFETENSORS_PATTERNS for path in folder.glob(pattern)}
    for stale in old - {folder / file.name for file in new}:
        stale.unlink()
    for file in new:
        file.replace(folder / file.name)
