"""Weights of other projects in and out. One declarative table for each family of models."""

from bertjax.convert.config import (
    FAMILIES,
    model_folder,
    read_config,
    read_head,
    read_heads,
    write_config,
)
from bertjax.convert.folders import folder_heads, load_folder
from bertjax.convert.huggingface import (
    Loaded,
    huggingface_heads,
    load_huggingface,
    save_huggingface,
)
from bertjax.convert.params import LoadReport
from bertjax.convert.tensorflow import (
    is_tensorflow_folder,
    load_tensorflow,
    save_tensorflow,
    vocabulary_note,
)

__all__ = [
    "FAMILIES",
    "LoadReport",
    "Loaded",
    "folder_heads",
    "huggingface_heads",
    "is_tensorflow_folder",
    "load_folder",
    "load_huggingface",
    "load_tensorflow",
    "model_folder",
    "read_config",
    "read_head",
    "read_heads",
    "save_huggingface",
    "save_tensorflow",
    "vocabulary_note",
    "write_config",
]
