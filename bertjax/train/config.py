"""The fields of a fine-tuning experiment, typed. ``configs/finetune.py`` fills them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from bertjax.optim import OptimConfig
from bertjax.sharding import MeshConfig
from bertjax.types import UserError, from_mapping, nearest

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SMALLEST = {
    **dict.fromkeys(("batch_size", "accumulation", "eval_batch_size", "max_length"), 1),
    **dict.fromkeys(("log_every", "save_every"), 1),
    **dict.fromkeys(("steps", "max_train_examples", "eval_every", "patience", "unroll"), 0),
}
"""Fields that count something, and the least that each can be."""


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run. Field names are the ones of ``--config.NAME=value``."""

    model: str
    """A Hugging Face folder, a trained workdir, or a hub name."""
    data: str
    """``files:DIR``, ``tfds:NAME`` or ``hf:NAME``."""
    task: str
    text_columns: tuple[str, ...] | None = None
    """With task ``classification`` or ``regression``: the one or two columns with text."""
    label_column: str | None = None
    labels: tuple[str, ...] | None = None
    """Class names in the order of their ids; None: those of the train split, sorted."""
    max_train_examples: int = 0
    """Use only the first so many training examples; 0: all."""
    max_length: int = 128
    """Longer texts are cut to so many tokens, special tokens counted."""
    batch_size: int = 32
    """Examples a step, over all devices."""
    accumulation: int = 1
    """Micro-batches a step; divides ``batch_size``."""
    eval_batch_size: int = 64
    pack: bool = True
    """Several examples share a row; lossless and faster than padding."""
    epochs: float = 3.0
    steps: int = 0
    """If not 0, replaces ``epochs``."""
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    power: float = 1.0
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    freeze: tuple[str, ...] = ()
    """Regular expressions of parameter paths, such as ``encoder/layers/[0-3]/.*``."""
    dropout: float | None = None
    """One rate for all of the model's dropouts; None: what its config says."""
    new_head: bool = False
    """Start with a new head even where the model has one."""
    seed: int = 0
    dtype: str = "float32"
    """Of the computation; parameters are float32."""
    unroll: int = 0
    """Layers a scan iteration; 0: all of them on a CPU, one elsewhere."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    eval_every: int = 0
    """Steps between evaluations; 0: each epoch."""
    save_every: int = 1000
    log_every: int = 20
    patience: int = 0
    """End after so many evaluations without a better score; 0: never."""
    export: bool = True
    """Write the best model as a Hugging Face folder, ``WORKDIR/huggingface``."""

    def __post_init__(self) -> None:
        for field in ("model", "data", "task"):
            if not getattr(self, field):
                raise UserError(f"config field '{field}' is not set; give --config.{field}=…")
        if self.dtype not in DTYPES:
            raise UserError(f"unknown dtype '{self.dtype}'{nearest(self.dtype, DTYPES)}")
        for field, least in SMALLEST.items():
            value = getattr(self, field)
            if value < least:
                raise UserError(f"config field '{field}' must be at least {least}, not {value}")
        if not self.steps and not 0 < self.epochs < math.inf:
            raise UserError("config: set epochs or steps to a number above 0")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"config field 'seed' must be in [0, 2**32), not {self.seed}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"config field 'dropout' must be in [0, 1), not {self.dropout}")
        _ = self.optim  # checks its own fields

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """Builds it from a config's plain values.

        Raises:
          UserError: for an unknown field or a value that cannot be.
        """
        values = dict(values)
        for field in ("text_columns", "labels", "freeze"):
            given = values.get(field)
            if given is not None:
                values[field] = (given,) if isinstance(given, str) else tuple(given)
        if values.get("freeze") is None:
            values.pop("freeze", None)
        if not isinstance(values.get("mesh", MeshConfig()), MeshConfig):
            values["mesh"] = from_mapping(MeshConfig, values["mesh"], "config field 'mesh'")
        return from_mapping(cls, values)

    @property
    def optim(self) -> OptimConfig:
        """The optimizer's part of it."""
        names = {field.name for field in dataclasses.fields(OptimConfig)}
        mine = {field.name for field in dataclasses.fields(self)}
        return OptimConfig(**{name: getattr(self, name) for name in names & mine})
