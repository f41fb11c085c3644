"""Weights of other projects in and out. One declarative table for each family of models."""

from bertjax.convert.config import FAMILIES, model_folder, read_config, read_head, write_config
from bertjax.convert.huggingface import (
    Loaded,
    huggingface_heads,
    load_huggingface,
    save_huggingface,
)
from bertjax.convert.params import LoadReport

__all__ = [
    "FAMILIES",
    "LoadReport",
    "Loaded",
    "huggingface_heads",
    "load_huggingface",
    "model_folder",
    "read_config",
    "read_head",
    "save_huggingface",
    "write_config",
]
