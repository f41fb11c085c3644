"""What every task is: where its records come from, what an encoder reads of them, how it is scored.

A record is what a source gives for one input; ``encode`` makes one or several examples of it (the
windows of a long text, say), the model answers each example, and ``score`` and ``answer`` put the
answers of a record's examples together again.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.inputs import read_rows
from bertjax.data.records import Record
from bertjax.types import HeadConfig, HeadKind, UserError, nearest

if TYPE_CHECKING:
    from bertjax.tokenizers import Tokenizer

Answer = dict[str, Any]
"""What ``predict`` gives for one record; JSON can hold it."""
Outputs = Sequence[Sequence[np.ndarray]]
"""For each record the head's outputs for each of its examples, float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """One task. A kind of task is a subclass, a task is an entry made of it."""

    name: str
    kind: HeadKind
    """The kind of the head, which decides losses and the shape of outputs."""
    metrics: tuple[str, ...]
    """What ``score`` gives; the first decides which checkpoint is the best."""
    usual_length: int = 128
    """The longest example, in tokens, where the experiment does not say."""
    description: str = ""
    citation: str = ""

    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Fields that an experiment may set: ``--config.options.FIELD=value``."""
    OUTPUTS: ClassVar[tuple[str, ...]] = ("jsonl",)
    """Formats in which answers can be written: JSON lines, and those that ``lines`` knows."""
    PERFECT: ClassVar[float] = 1.0
    """The most that the main metric can be; means over several tasks are of shares of it."""
    one_example: ClassVar[bool] = True
    """Whether every record gives exactly one example. Then training encodes them as it goes."""

    @property
    @abc.abstractmethod
    def head(self) -> HeadConfig:
        """The head that the task needs.

        Raises:
          UserError: where its size follows from labels that are not known yet.
        """

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that the task's data has."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the head's classes in the order of their ids; None where it has none."""
        return None

    @property
    def labels_known(self) -> bool:
        """Whether the head's size is known without looking at data."""
        return True

    def with_labels(self, labels: Sequence[str] | None) -> Self:
        """The task with these class names, as a run has recorded them."""
        del labels
        return self

    def with_labels_of(self, data: str) -> Self:
        """The task with its class names; where it has none yet they are inferred from ``data``.

        Raises:
          UserError: where the data cannot be read or do not tell.
        """
        del data
        return self

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The task with other values of its ``OPTIONS``.

        Raises:
          UserError: for an option that the task does not have, or a value that cannot be.
        """
        for field in options:
            if field not in self.OPTIONS:
                raise UserError(
                    f"task '{self.name}' has no option '{field}'{nearest(field, self.OPTIONS)}"
                    if self.OPTIONS
                    else f"task '{self.name}' has no option '{field}'; it has none"
                )
        values = {f: tuple(v) if isinstance(v, list) else v for f, v in options.items()}
        try:
            return dataclasses.replace(self, **values)
        except TypeError as error:
            raise UserError(f"task '{self.name}' has an option of a wrong type: {error}") from error

    def tuned(self, metrics: Mapping[str, float]) -> Self:
        """The task with what its run has tuned on validation data, from the run's metrics."""
        del metrics
        return self

    def options(self) -> dict[str, Any]:
        """The values of the task's ``OPTIONS``, by name."""
        return {field: getattr(self, field) for field in self.OPTIONS}

    @abc.abstractmethod
    def open(self, data: str, split: str) -> Sequence[Record]:
        """Opens one split for random access, with the labels of the task.

        Raises:
          UserError: for a source, split, file, row or label that is not as it must be.
        """

    @abc.abstractmethod
    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int) -> list[Encoded]:
        """The examples of one record, in order, at least one, none longer than ``max_length``.

        What the record's labels say goes along where they are known; see
        :data:`bertjax.data.batching.Encoded`.
        """

    def training_examples(
        self, records: Sequence[Record], tokenizer: Tokenizer, max_length: int
    ) -> Sequence[Encoded]:
        """The examples of all records, to train on."""
        if self.one_example:
            return LazyExamples(self, records, tokenizer, max_length)
        return [
            example for record in records for example in self.encode(record, tokenizer, max_length)
        ]

    @abc.abstractmethod
    def score(
        self, records: Sequence[Record], examples: Sequence[Sequence[Encoded]], outputs: Outputs
    ) -> dict[str, float]:
        """The task's metrics over a whole labelled split; one entry a record in each argument.

        Outputs are ``[classes]`` for an example of a text, ``[1]`` for a number, ``[length,
        classes]`` for tokens, ``[length, 2]`` for starts and ends of spans, ``[options]`` for
        choices.
        """

    @abc.abstractmethod
    def answer(
        self, record: Record, examples: Sequence[Encoded], outputs: Sequence[np.ndarray]
    ) -> Answer:
        """The answer to one record in the user's words."""

    @abc.abstractmethod
    def record(self, given: Any) -> Record:
        """The record of one input as a Python program gives it.

        Raises:
          UserError: for something else, saying what it must be.
        """

    def read(
        self, stream: Iterable[bytes], name: str, form: str, columns: Sequence[str] = ()
    ) -> Iterator[Record]:
        """The records of a file with inputs, in order.

        Args:
          stream: its lines, as bytes.
          name: what messages call it.
          form: ``lines``, ``tsv``, ``csv``, ``jsonl``, or a form of the task's own.
          columns: the names of the columns to read, where the user gives them.

        Raises:
          UserError: for a line that is no input of this task, by its number.
        """
        if columns:
            raise UserError(f"task '{self.name}' has its own columns; leave --columns out")
        for place, given in read_rows(stream, name, form):
            try:
                yield self.record(given)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None

    def lines(self, form: str, answers: Iterable[Answer]) -> Iterator[str]:
        """Answers as the lines of a file, without their ends.

        Args:
          form: one of ``OUTPUTS`` other than ``jsonl``.
          answers: as ``answer`` gives them.

        Raises:
          UserError: where the task writes ``jsonl`` only.
        """
        del answers
        raise UserError(f"task '{self.name}' does not write {form}; it writes jsonl")

    def check_output(self, form: str) -> None:
        """Raises UserError if answers cannot be written in that form."""
        if form not in self.OUTPUTS:
            raise UserError(
                f"task '{self.name}' does not write {form}; it writes {', '.join(self.OUTPUTS)}"
            )


@dataclasses.dataclass(frozen=True)
class LazyExamples(Sequence[Encoded]):
    """The one example of each record, encoded when it is asked for."""

    task: Task
    records: Sequence[Record]
    tokenizer: Tokenizer
    max_length: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        (example,) = self.task.encode(self.records[index], self.tokenizer, self.max_length)
        return example
