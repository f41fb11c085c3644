"""Models from folders, whichever project wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bertjax.convert.huggingface import Loaded, huggingface_heads, load_huggingface
from bertjax.convert.tensorflow import is_tensorflow_folder, load_tensorflow, tensorflow_heads
from bertjax.types import HeadConfig


def load_folder(
    source: str | Path,
    heads: Mapping[str, HeadConfig] | None = None,
    *,
    new_heads: bool = False,
) -> Loaded:
    """Reads the encoder and the wanted heads; see :func:`load_huggingface`.

    Raises:
      UserError: if a file is missing, damaged or unsupported.
    """
    if is_tensorflow_folder(source):
        return load_tensorflow(source, heads or {}, new_heads=new_heads)
    return load_huggingface(source, heads, new_heads=new_heads)


def folder_heads(source: str | Path) -> tuple[dict[str, HeadConfig], tuple[str, ...] | None]:
    """The heads that a folder holds, each named after its kind, and the labels of a classifier.

    Raises:
      UserError: if a file is missing, damaged or unsupported.
    """
    if is_tensorflow_folder(source):
        heads = tensorflow_heads(source)
        classes = heads["classification"].size if "classification" in heads else 0
        return heads, tuple(f"LABEL_{index}" for index in range(classes)) or None
    return huggingface_heads(source)
