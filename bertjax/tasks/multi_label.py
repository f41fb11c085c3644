"""Any number of labels for one text or a pair of texts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from bertjax.data.layout import LabelSets, Layout
from bertjax.data.records import Record
from bertjax.tasks.base import Answer, Outputs
from bertjax.tasks.text import TextTask, check_names
from bertjax.types import HeadKind, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabelTask(TextTask):
    """A task in which a text has any number of labels, each of which is a yes or a no."""

    kind: HeadKind = "multi_label"
    separator: str = ";"
    """Between the labels of a cell; JSON lines may also have a list."""
    label_columns: tuple[str, ...] = ()
    """Columns of 0 and 1, one a label, where files have these in place of a cell of labels."""
    threshold: float = 0.5
    """A label is given where its probability is this or more."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("truncation", "head_length", "columns"),
        *("separator", "label_columns", "threshold"),
    )

    def __post_init__(self) -> None:
        self._check_types()
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise UserError(f"threshold {self.threshold} must lie between 0 and 1")
        if not self.separator.strip():
            raise UserError("separator must be a character such as ';', and no space")
        columns, labels = self.label_columns, self.schema.labels
        if len(columns) == 1 or len(set(columns)) != len(columns):
            raise UserError(
                f"label_columns must be two or more different columns, not {', '.join(columns)}"
            )
        if columns and labels not in (None, columns):
            raise UserError("label_columns are the labels themselves; leave labels away")
        if columns and labels is None:
            object.__setattr__(self, "schema", dataclasses.replace(self.schema, labels=columns))

    def _check_types(self) -> None:
        """Before anything reads the options as what they should be."""
        if not isinstance(self.separator, str):
            raise UserError(
                f"option separator is {self.separator!r}; set it to a character such as ';'"
            )
        check_names("label_columns", self.label_columns)

    @property
    def _sources(self) -> Layout:
        sets = LabelSets(self.separator, self.label_columns)
        return dataclasses.replace(super()._sources, label_sets=sets)

    @property
    def _label_columns(self) -> tuple[str, ...]:
        return self.label_columns or super()._label_columns

    def score(
        self, records: Sequence[Record], examples: Sequence[Sequence[Any]], outputs: Outputs
    ) -> dict[str, float]:
        """The task's metrics over a whole split, with the labels that the threshold gives."""
        del records
        labels = np.stack([example["label"] for (example,) in examples])
        return self.compute_metrics(labels, self._above(np.stack([one for (one,) in outputs])))

    def decode(self, logits: Any) -> list[dict[str, Any]]:
        """Answers in the user's words, one an example.

        Args:
          logits: [examples, classes].

        Returns:
          ``{"labels": [word, ...], "probabilities": {word: p}}``.
        """
        return [self._answer(row) for row in np.asarray(logits, np.float64)]

    def lines(self, form: str, answers: Iterable[Answer]) -> Iterator[str]:
        """A table: the labels with the separator between them, and each label's probability."""
        del form
        yield "\t".join(["labels", *self.labels])
        for answer in answers:
            given = self.separator.join(answer["labels"])
            yield "\t".join([given, *map(str, answer["probabilities"].values())])

    def _answer(self, logits: np.ndarray) -> dict[str, Any]:
        given = self._above(logits) >= 0
        probabilities = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        return {
            "labels": [word for word, yes in zip(self.labels, given, strict=True) if yes],
            "probabilities": dict(zip(self.labels, probabilities.tolist(), strict=True)),
        }

    def _above(self, logits: np.ndarray) -> np.ndarray:
        """How far logits are above the threshold's."""
        return logits.astype(np.float64) - math.log(self.threshold / (1 - self.threshold))
