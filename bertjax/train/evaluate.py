"""Evaluation and prediction: every example once, in order, on any number of devices."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.batching import Batcher, Encoded
from bertjax.data.pipeline import chunks
from bertjax.data.records import Record
from bertjax.models import Model
from bertjax.models.model import TOKEN_HEADS, Batch, of_examples
from bertjax.sharding import on_mesh, replicated, shard_batch
from bertjax.tasks import Task
from bertjax.tokenizers import Tokenizer
from bertjax.types import HeadKind, UserError


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
    def kind(self) -> HeadKind:
        """Of the head."""
        return dict(self.model.head_configs)[self.head].kind

    @functools.cached_property
    def _apply(self) -> Callable[..., jax.Array]:
        def apply(params: Any, batch: Batch) -> Any:
            logits: Any = self.model.apply({"params": params}, batch, self.head)
            return of_examples(logits, batch)[0] if self.kind in TOKEN_HEADS else logits

        return jax.jit(apply, out_shardings=replicated(self.mesh))

    def __call__(self, params: Any, examples: Iterable[Encoded]) -> Iterator[np.ndarray]:
        """The logits of each example, in order, float32.

        ``[classes]``, ``[length, classes]`` for a head of tokens, ``[options]`` for a choice.
        """
        for chunk in chunks(examples, self.batcher.examples):
            batch = shard_batch(self.batcher(chunk), self.mesh)
            with on_mesh(self.mesh):
                logits = np.asarray(self._apply(params, batch))
            for example, found in zip(chunk, logits, strict=False):
                yield self._its_own(example, found)

    def _its_own(self, example: Encoded, logits: np.ndarray) -> np.ndarray:
        if self.kind in TOKEN_HEADS:
            return logits[: len(example["token_ids"])].copy()
        return logits[: len(example["options"]), 0] if self.kind == "multiple_choice" else logits

    def by_record(
        self, params: Any, grouped: Sequence[Sequence[Encoded]]
    ) -> Iterator[list[np.ndarray]]:
        """The logits of each record's examples, in order."""
        found = self(params, itertools.chain.from_iterable(grouped))
        for examples in grouped:
            yield list(itertools.islice(found, len(examples)))


def is_labelled(example: Encoded) -> bool:
    """Whether an example says what is right."""
    return "label" in example or "token_labels" in example


def example_loss(kind: HeadKind, logits: np.ndarray, example: Encoded) -> tuple[float, float]:
    """The loss of one example in float64 and its weight: as in training, without dropout.

    Args:
      kind: of the head.
      logits: as :class:`Forward` gives them.
      example: labelled.
    """
    logits, weight = logits.astype(np.float64), example.get("weight", 1.0)
    if kind == "token_classification":
        labels = np.asarray(example["token_labels"])
        chosen = np.flatnonzero(labels >= 0)
        losses = _cross_entropy(logits[chosen], labels[chosen])
        return weight * float(losses.sum()), weight * len(chosen)
    label = np.asarray(example["label"])
    match kind:
        case "regression":
            loss = np.square(logits[0] - label)
        case "multi_label":
            loss = np.mean(np.logaddexp(0, logits) - logits * label)
        case "span":
            loss = _cross_entropy(logits.T, label).mean()
        case _:
            loss = _cross_entropy(logits[None], label[None])[0]
    return weight * float(loss), weight


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of ``logits [entries, classes]`` at ``labels [entries]``, in nats."""
    shifted = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    return log_sum - shifted[np.arange(len(labels)), labels]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """One labelled split with a task's metrics; names come back as ``split/metric``."""

    task: Task
    split: str
    records: Sequence[Record]
    examples: Sequence[Sequence[Encoded]]
    """Of each record."""
    forward: Forward

    @classmethod
    def of(
        cls,
        task: Task,
        split: str,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        max_length: int,
        forward: Forward,
    ) -> Evaluator:
        """The evaluator of a split; its records are encoded at once."""
        examples = [task.encode(record, tokenizer, max_length) for record in records]
        return cls(task, split, records, examples, forward)

    def __post_init__(self) -> None:
        if not len(self.examples):
            raise UserError(f"split '{self.split}' of task '{self.task.name}' is empty")
        if not all(map(is_labelled, itertools.chain.from_iterable(self.examples))):
            raise UserError(
                f"split '{self.split}' of task '{self.task.name}' has hidden labels, so it cannot "
                "be scored; use predict for it"
            )

    def __call__(self, params: Any) -> dict[str, float]:
        """``loss`` and the task's metrics over the whole split."""
        outputs = list(self.forward.by_record(params, self.examples))
        total, weight = 0.0, 0.0
        for examples, found in zip(self.examples, outputs, strict=True):
            for example, logits in zip(examples, found, strict=True):
                loss, share = example_loss(self.task.kind, logits, example)
                total, weight = total + loss, weight + share
        metrics = {"loss": total / max(weight, 1e-9)}
        metrics |= self.task.score(self.records, self.examples, outputs)
        return {f"{self.split}/{name}": value for name, value in metrics.items()}
