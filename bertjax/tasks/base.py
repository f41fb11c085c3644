"""One text classification or regression task, from its records to its scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.sources import Layout, Record, infer_labels, open_source
from bertjax.metrics import check_metrics, compute_metrics
from bertjax.types import HeadConfig, TextSchema, UserError

if TYPE_CHECKING:
    from bertjax.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Task:
    """A task over one text or a pair of texts. Adding one is adding one of these."""

    name: str
    schema: TextSchema
    metrics: tuple[str, ...]
    """Names from :mod:`bertjax.metrics`; the first decides which checkpoint is the best."""
    kind: Literal["classification", "regression"] = "classification"
    layout: Layout = dataclasses.field(default_factory=Layout)
    description: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if len(self.schema.text_columns) not in (1, 2):
            columns = ", ".join(self.schema.text_columns) or "none"
            raise UserError(f"task '{self.name}' needs one or two text_columns, not {columns}")
        check_metrics(self.kind, self.metrics)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the task's data has."""
        return self.layout.splits

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their ids.

        Raises:
          UserError: for a regression, or where the labels have not been inferred yet.
        """
        if self.schema.labels is None:
            raise UserError(f"task '{self.name}' has no labels; set labels, or name data to infer")
        return self.schema.labels

    @property
    def head(self) -> HeadConfig:
        """The head that the task needs: one output a class, or one number."""
        if self.kind == "regression":
            return HeadConfig("regression", 1)
        return HeadConfig("classification", len(self.labels))

    def with_labels_of(self, data: str) -> Task:
        """The task with its class names; where it has none yet they are inferred from ``data``.

        Raises:
          UserError: where the data cannot be read, or has fewer than two classes.
        """
        if self.kind == "regression" or self.schema.labels is not None:
            return self
        labels = infer_labels(data, self.schema, self.layout)
        if len(labels) < 2:
            raise UserError(
                f"the train split of {data} has no label but '{', '.join(labels)}'; "
                "a classification needs two or more"
            )
        return dataclasses.replace(self, schema=dataclasses.replace(self.schema, labels=labels))

    def open(self, data: str, split: str) -> Sequence[Record]:
        """Opens one split; see :func:`bertjax.data.sources.open_source`.

        Raises:
          UserError: as ``open_source``.
        """
        return open_source(data, split, self.with_labels_of(data).schema, self.layout)

    def texts(self, record: Record) -> tuple[str, ...]:
        """The record's one or two texts."""
        return tuple(record[column] for column in self.schema.text_columns)

    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int) -> Encoded:
        """Token ids of one record, [CLS] text [SEP] or [CLS] text [SEP] text [SEP].

        A pair that is too long loses tokens from its longer text first.

        Returns:
          ``token_ids`` and ``type_ids``, int32 [length <= max_length], and ``label`` (int or
          float) where the record's is known.
        """
        token_ids, type_ids = tokenizer.encode(*self.texts(record), max_length=max_length)
        example = {"token_ids": token_ids, "type_ids": type_ids}
        if record.get("label") is not None:
            example["label"] = record["label"]
        return example

    def compute_metrics(self, labels: Any, logits: Any) -> dict[str, float]:
        """The task's metrics over a whole split; see :func:`bertjax.metrics.compute_metrics`.

        Args:
          labels: [examples], class ids or numbers.
          logits: [examples, classes], or [examples, 1] for a regression.
        """
        return compute_metrics(self.kind, self.metrics, labels, logits)

    def decode(self, logits: Any) -> list[dict[str, Any]]:
        """Answers in the user's words, one an example.

        Args:
          logits: [examples, classes], or [examples, 1] for a regression.

        Returns:
          ``{"label": word, "probabilities": {word: p}}``, or ``{"score": number}``.
        """
        values = np.asarray(logits, dtype=np.float64)
        if self.kind == "regression":
            return [{"score": float(score)} for score in values.reshape(len(values))]
        return [_classified(row, self.labels) for row in _softmax(values)]


def _classified(probabilities: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "label": labels[int(np.argmax(probabilities))],
        "probabilities": dict(zip(labels, probabilities.tolist(), strict=True)),
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
