"""The fields of a fine-tuning experiment, typed. ``configs/finetune.py`` fills them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from bertjax.tasks.several import check_fields, of_task
from bertjax.train.run_config import RunConfig, strings
from bertjax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """One fine-tuning run. Field names are the ones of ``--config.NAME=value``."""

    model: str
    """A Hugging Face folder, a trained workdir, or a hub name."""
    data: str
    """``files:DIR``, ``tfds:NAME`` or ``hf:NAME``; of several tasks ``{task}`` stands for each."""
    task: str
    """Its name, or the names of several that share the encoder: ``mnli+rte``."""
    task_data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """With several tasks, the data of those that have other than ``data``."""
    alpha: float = 0.75
    """With several tasks, each is drawn for a step with a probability proportional to the number of
    its examples to the power of this: 1 is proportional to them, 0 is all alike."""
    text_columns: tuple[str, ...] | None = None
    """With task ``classification`` or ``regression``: the one or two columns with text."""
    label_column: str | None = None
    labels: tuple[str, ...] | None = None
    """Class names in the order of their ids; None: those of the train split, sorted."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The task's own; see its ``OPTIONS``. Of several tasks each one's under its name."""
    max_train_examples: int = 0
    """Use only the first so many training records (texts, questions, sentences); 0: all."""
    max_length: int = 128
    """Longer texts are cut to so many tokens, special tokens counted."""
    batch_size: int = 32
    """Examples a step, over all devices."""
    eval_batch_size: int = 64
    pack: bool = True
    """Several examples share a row; lossless and faster than padding."""
    epochs: float = 3.0
    steps: int = 0
    """If not 0, replaces ``epochs``."""
    new_head: bool = False
    """Start with a new head even where the model has one."""
    layer_decay: float = 1.0
    """Each layer's learning rate is so much of that of the layer above it, and the embeddings' of
    the first one's; see :func:`bertjax.optim.layer_rates`. 1: one rate for all."""
    reinit: tuple[str, ...] = ()
    """Regular expressions of parameters that begin anew though the model has them."""
    reinit_layers: int = 0
    """So many of the top layers, and the pooler, begin anew."""
    eval_every: int = 0
    """Steps between evaluations; 0: each epoch."""
    patience: int = 0
    """End after so many evaluations without a better score; 0: never."""

    smallest: ClassVar[Mapping[str, float]] = {
        **RunConfig.smallest,
        **dict.fromkeys(("batch_size", "eval_batch_size", "max_length"), 1),
        **dict.fromkeys(("steps", "max_train_examples", "eval_every", "patience"), 0),
        "reinit_layers": 0,
    }

    def __post_init__(self) -> None:
        for field in ("model", "data", "task"):
            if not getattr(self, field):
                raise UserError(f"config field '{field}' is not set; give --config.{field}=…")
        super().__post_init__()
        if not self.steps and not 0 < self.epochs < math.inf:
            raise UserError("config: set epochs or steps to a number above 0")
        check_fields(dataclasses.asdict(self))
        if not 0 <= self.alpha <= 1:
            raise UserError(f"config field 'alpha' must be in [0, 1], not {self.alpha}")
        if not 0 < self.layer_decay <= 1:
            raise UserError(
                f"config field 'layer_decay' must be above 0 and at most 1, not {self.layer_decay}"
            )

    def of_task(self, name: str) -> FinetuneConfig:
        """The experiment as if it were of one of its tasks alone."""
        return dataclasses.replace(self, **of_task(vars(self), name))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Builds it from a config's plain values.

        Raises:
          UserError: for an unknown field or a value that cannot be.
        """
        values = {**values, "reinit": strings(values.get("reinit"))}
        for field in ("text_columns", "labels"):
            if values.get(field) is not None:
                values[field] = strings(values[field])
        return super().from_mapping(values)
