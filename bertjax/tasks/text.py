"""Classification and regression of one text or a pair of texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.inputs import read_texts
from bertjax.data.json_text import check_characters
from bertjax.data.sources import Layout, Record, infer_labels, open_source
from bertjax.metrics import check_metrics, compute_metrics
from bertjax.tasks.base import Answer, Outputs, Task
from bertjax.tasks.class_weights import (
    BALANCED,
    ClassWeights,
    WeightedExamples,
    balanced,
    check_weights,
)
from bertjax.tokenizer_layout import Keep, Truncation
from bertjax.types import HeadConfig, HeadKind, TextSchema, UserError

if TYPE_CHECKING:
    from bertjax.tokenizers import Tokenizer

GIVEN = "given texts"
"""Where a record has its one or two texts if they did not come from columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A task over one text or a pair of texts. Adding one is adding one of these."""

    schema: TextSchema
    kind: HeadKind = "classification"
    layout: Layout = dataclasses.field(default_factory=Layout)
    truncation: Keep | Literal[""] = ""
    """What is kept of a text that is too long; empty: as the tokenizer has it, mostly the head."""
    head_length: int = 0
    """With truncation ``head_tail``: tokens from the beginning; 0: a quarter of what is kept."""
    class_weights: ClassWeights = None
    """In the training loss of a classification: ``balanced``, or a number for each class."""
    columns: tuple[str, ...] = ()
    """Names of all columns, for one's own TSV and CSV files without a header line."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("truncation", "head_length", "class_weights", "columns")
    OUTPUTS: ClassVar[tuple[str, ...]] = ("jsonl", "tsv")

    def __post_init__(self) -> None:
        if len(self.schema.text_columns) not in (1, 2):
            columns = ", ".join(self.schema.text_columns) or "none"
            raise UserError(f"task '{self.name}' needs one or two text_columns, not {columns}")
        check_metrics(self.kind, self.metrics)
        if self.truncation or self.head_length:
            Truncation(self.truncation or "head", self.head_length)
        if self.class_weights is not None and self.kind != "classification":
            raise UserError(
                f"task '{self.name}' has no classes to weigh; class_weights are for a "
                "classification with one label an example"
            )
        check_weights(self.class_weights, self.schema.labels)
        if self.columns:
            self._check_columns()

    def _check_columns(self) -> None:
        if self.layout.files:
            raise UserError(f"task '{self.name}' has its own columns; leave options.columns away")
        check_names("columns", self.columns)
        for column in (*self.schema.text_columns, *self._label_columns):
            if column not in self.columns:
                raise UserError(
                    f"options.columns {', '.join(self.columns)} name no '{column}'; name every "
                    "column, and set text_columns and label_column where they are called otherwise"
                )

    @property
    def _label_columns(self) -> tuple[str, ...]:
        return (self.schema.label_column,)

    @property
    def _sources(self) -> Layout:
        """The layout, with the columns of files that do not name them."""
        headers = dict.fromkeys(self.layout.splits, self.columns) if self.columns else {}
        return dataclasses.replace(self.layout, headers={**self.layout.headers, **headers})

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
        return HeadConfig(self.kind, len(self.labels))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The labels of a classification."""
        return None if self.kind == "regression" else self.labels

    @property
    def labels_known(self) -> bool:
        """Whether the class names are known, or there are none."""
        return self.kind == "regression" or self.schema.labels is not None

    def with_labels(self, labels: Sequence[str] | None) -> Self:
        """The task with these class names."""
        if labels is None or self.kind == "regression":
            return self
        schema = dataclasses.replace(self.schema, labels=tuple(labels))
        return dataclasses.replace(self, schema=schema)

    def with_labels_of(self, data: str) -> Self:
        """The task with its class names; where it has none yet they are inferred from ``data``.

        Raises:
          UserError: where the data cannot be read, or has fewer than two classes.
        """
        if self.labels_known:
            return self
        labels = infer_labels(data, self.schema, self._sources)
        if len(labels) < 2:
            raise UserError(
                f"the train split of {data} has no label but '{', '.join(labels)}'; "
                "a classification needs two or more"
            )
        return self.with_labels(labels)

    def open(self, data: str, split: str) -> Sequence[Record]:
        """Opens one split; see :func:`bertjax.data.sources.open_source`.

        Raises:
          UserError: as ``open_source``.
        """
        return open_source(data, split, self.with_labels_of(data).schema, self._sources)

    def texts(self, record: Record) -> tuple[str, ...]:
        """The record's one or two texts."""
        given = record.get(GIVEN)
        return given or tuple(record[column] for column in self.schema.text_columns)

    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int) -> list[Encoded]:
        """The one example of a record, [CLS] text [SEP] or [CLS] text [SEP] text [SEP].

        A pair that is too long loses tokens of its longer text first, on the side that
        ``truncation`` says.

        Returns:
          ``token_ids`` and ``type_ids``, int32 [length <= max_length], and ``label`` (int or
          float) where the record's is known.
        """
        kept = Truncation(self.truncation, self.head_length) if self.truncation else None
        token_ids, type_ids = tokenizer.encode(
            *self.texts(record), max_length=max_length, truncation=kept
        )
        example: dict[str, Any] = {"token_ids": token_ids, "type_ids": type_ids}
        if record.get("label") is not None:
            example["label"] = record["label"]
        return [example]

    def training_examples(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int
    ) -> Sequence[Encoded]:
        """The examples of all records, with the weights of their classes."""
        examples = super().training_examples(records, tokenizer, max_length)
        weights = self.class_weights
        if weights == BALANCED:
            weights = balanced([record["label"] for record in records], self.labels)
        return WeightedExamples(examples, weights) if isinstance(weights, tuple) else examples

    def compute_metrics(self, labels: Any, logits: Any) -> dict[str, float]:
        """The task's metrics over a whole split; see :func:`bertjax.metrics.compute_metrics`.

        Args:
          labels: [examples], class ids or numbers.
          logits: [examples, classes], or [examples, 1] for a regression.
        """
        return compute_metrics(self.kind, self.metrics, labels, logits)

    def score(
        self, records: Sequence[Record], examples: Sequence[Sequence[Encoded]], outputs: Outputs
    ) -> dict[str, float]:
        """The task's metrics over a whole split."""
        del records
        labels = np.array([example["label"] for (example,) in examples])
        return self.compute_metrics(labels, np.stack([logits for (logits,) in outputs]))

    def answer(
        self, record: Record, examples: Sequence[Encoded], outputs: Sequence[np.ndarray]
    ) -> Answer:
        """``{"label": word, "probabilities": {word: p}}``, or ``{"score": number}``."""
        del record, examples
        return self.decode(outputs)[0]

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

    def record(self, given: Any) -> Record:
        """The record of a text, a pair of texts, or a mapping with the text columns.

        Raises:
          UserError: for anything else, or a text with half of a surrogate pair.
        """
        columns = self.schema.text_columns
        if isinstance(given, Mapping) and all(isinstance(given.get(c), str) for c in columns):
            texts = tuple(given[column] for column in columns)
        else:
            texts = (given,) if isinstance(given, str) else tuple(given)
        if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"an input must be a text or a pair of texts, not {given!r}")
        check_characters(texts, "an input")
        return {GIVEN: texts}

    def read(
        self, stream: Iterable[bytes], name: str, form: str, columns: Sequence[str] = ()
    ) -> Iterator[Record]:
        """Inputs from plain lines, with a TAB between the texts of a pair, or from a table.

        Raises:
          UserError: as :func:`bertjax.data.inputs.read_texts`.
        """
        mine = self.schema.text_columns
        for texts in read_texts(stream, name, form, columns or mine):
            yield {GIVEN: texts}

    def lines(self, form: str, answers: Iterable[Answer]) -> Iterator[str]:
        """A table: the label and each class's probability, or the score."""
        del form
        heading = ["score"] if self.kind == "regression" else ["label", *self.labels]
        yield "\t".join(heading)
        for answer in answers:
            if self.kind == "regression":
                yield str(answer["score"])
            else:
                yield "\t".join([answer["label"], *map(str, answer["probabilities"].values())])


def check_names(option: str, given: Any) -> None:
    """Raises UserError where an option is no list of columns, but one text, say."""
    if not isinstance(given, tuple) or not all(isinstance(name, str) for name in given):
        raise UserError(f"option {option} is {given!r}; set it to a list of columns")


def _classified(probabilities: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "label": labels[int(np.argmax(probabilities))],
        "probabilities": dict(zip(labels, probabilities.tolist(), strict=True)),
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
