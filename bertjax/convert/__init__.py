"""Weights of other projects in and out. One declarative table for each family of models."""

from bertjax.convert.config import FAMILIES, model_folder, read_config, read_head, write_config
from bertjax.convert.huggingface import (
    Loaded,
    LoadReport,
    load_huggingface,
    save_huggingface,
)

__all__ = [
    "FAMILIES",
    "LoadReport",
    "Loaded",
    "load_huggingface",
    "model_folder",
    "read_config",
    "read_head",
    "save_huggingface",
    "write_config",
]
