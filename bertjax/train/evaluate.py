"""Evaluation and prediction: every example once, in order, on any number of devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.batching import Batcher, Encoded
from bertjax.data.pipeline import chunks
from bertjax.models import Model
from bertjax.sharding import on_mesh, replicated, shard_batch
from bertjax.tasks.base import Task
from bertjax.types import UserError


@dataclasses.dataclass(frozen=True)
class Forward:
    """Logits of one head for any number of examples.

    The last batch is filled up with examples of weight 0, whose rows are thrown away.
    """

    model: Model
    head: str
    batcher: Batcher
    mesh: Mesh

    @functools.cached_property
    def _apply(self) -> Callable[..., jax.Array]:
        return jax.jit(
            lambda params, batch: self.model.apply({"params": params}, batch, self.head),
            out_shardings=replicated(self.mesh),
        )

    def __call__(self, params: Any, examples: Iterable[Encoded]) -> Iterator[np.ndarray]:
        """The logits ``[classes]`` of each example, in order, float32."""
        for chunk in chunks(examples, self.batcher.examples):
            batch = shard_batch(self.batcher(chunk), self.mesh)
            with on_mesh(self.mesh):
                logits = np.asarray(self._apply(params, batch))
            yield from logits[: len(chunk)]


def example_losses(kind: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss of each example in float64: cross entropy in nats, or squared error.

    Args:
      kind: of the head, ``classification`` or ``regression``.
      logits: ``[examples, classes]``.
      labels: ``[examples]``.
    """
    logits = logits.astype(np.float64)
    if kind == "regression":
        return np.square(logits[:, 0] - labels)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    return log_sum - shifted[np.arange(len(labels)), labels.astype(np.int64)]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """One labelled split with a task's metrics; names come back as ``split/metric``."""

    task: Task
    split: str
    examples: Sequence[Encoded]
    forward: Forward

    def __post_init__(self) -> None:
        if not len(self.examples):
            raise UserError(f"split '{self.split}' of task '{self.task.name}' is empty")
        if any("label" not in example for example in self.examples):
            raise UserError(
                f"split '{self.split}' of task '{self.task.name}' has hidden labels, so it cannot "
                "be scored; use predict for it"
            )

    def __call__(self, params: Any) -> dict[str, float]:
        """``loss`` and the task's metrics over the whole split."""
        logits = np.stack(list(self.forward(params, self.examples)))
        labels = np.array([example["label"] for example in self.examples])
        losses = example_losses(self.task.kind, logits, labels)
        metrics = {"loss": float(losses.mean()), **self.task.compute_metrics(labels, logits)}
        return {f"{self.split}/{name}": value for name, value in metrics.items()}
