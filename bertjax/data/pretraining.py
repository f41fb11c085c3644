"""Rows for pretraining, made on the fly from prepared documents.

A row has a fixed length and holds one example or more; every field has a fixed shape, so a run
compiles one program for each length. What row number ``i`` holds is a function of (seed, i): the
plan of its pass (:mod:`bertjax.data.plans`) says which tokens, and a generator seeded by both
numbers draws the masks. So two passes differ, and any row can be made again.

A row is ``token_ids``, ``type_ids``, ``segment_ids``, ``positions`` int32 ``[length]``;
``prediction_position``, ``prediction_labels`` int32 and ``prediction_weight`` float32
``[predictions]``, the masked tokens; ``cls_position``, ``labels`` int32 and ``example_weight``
float32 ``[examples]``, of the sentence task (weight 0 where an example has no label).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from bertjax.data.batching import Batch, Encoded
from bertjax.data.documents import Document
from bertjax.data.masking import Masking
from bertjax.data.plans import UNKNOWN, Outline, Plan, Sampling, make_plan, pack
from bertjax.data.workers import end_with_parent
from bertjax.tokenizers import Tokenizer

ENDLESS = 1 << 40
"""Rows of a stream that never ends, as Grain wants a number."""
TOKENS_AN_EXAMPLE = 16
"""A row has room for one example in so many of its tokens, two at least."""
PLANS, MASKS, ORDER = range(3)
"""What a generator is for, in its seed."""


class Rows(Protocol):
    """Rows by number, without an end; those of one pass come before those of the next."""

    @property
    def form(self) -> RowFormat:
        """The shapes of all rows."""
        ...

    @property
    def count(self) -> int:
        """Rows in a pass."""
        ...

    def __getitem__(self, index: int) -> Batch:
        """Row ``index``."""
        ...


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """The shapes of a row and the ids that frame it."""

    length: int
    predictions: int
    examples: int
    pad_id: int
    cls_id: int
    sep_id: int

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, length: int, rate: float, packed: bool, spare: int = 0
    ) -> RowFormat:
        """Room for the tokens masked at a rate, ``spare`` more, and a packed row's examples."""
        return cls(
            length=length,
            predictions=int(length * rate) + 1 + spare,
            examples=max(2, length // TOKENS_AN_EXAMPLE) if packed else 1,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        )

    def join(self, examples: Sequence[Encoded]) -> Encoded:
        """Examples one after the other, as one: ``token_ids``, ``type_ids``, ``segment_ids``,
        ``positions``, ``continues`` if they have it, and ``starts`` and ``labels``.
        """
        lengths = [len(example["token_ids"]) for example in examples]
        starts = np.cumsum([0, *lengths[:-1]])
        names = [name for name in ("token_ids", "type_ids", "continues") if name in examples[0]]
        joined = {name: np.concatenate([e[name] for e in examples]) for name in names}
        joined["segment_ids"] = np.repeat(np.arange(1, len(examples) + 1, dtype=np.int32), lengths)
        positions = np.arange(sum(lengths)) - np.repeat(starts, lengths)
        joined["positions"] = positions.astype(np.int32)
        return {**joined, "starts": starts, "labels": [e.get("label") for e in examples]}

    def finish(self, row: Encoded) -> Batch:
        """Fills every field of a joined and masked row up to its fixed shape."""
        count, marked = len(row["token_ids"]), len(row["prediction_positions"])
        result: Batch = {}
        for name in ("token_ids", "type_ids", "segment_ids", "positions"):
            fill = self.pad_id if name == "token_ids" else 0
            result[name] = np.full(self.length, fill, np.int32)
            result[name][:count] = row[name]
        result["prediction_position"] = np.zeros(self.predictions, np.int32)
        result["prediction_position"][:marked] = row["prediction_positions"]
        result["prediction_labels"] = np.zeros(self.predictions, np.int32)
        result["prediction_labels"][:marked] = row["prediction_labels"]
        result["prediction_weight"] = (np.arange(self.predictions) < marked).astype(np.float32)
        labels = np.full(self.examples, UNKNOWN, np.int32)
        given = [UNKNOWN if label is None else label for label in row["labels"]]
        labels[: len(given)] = given
        result["cls_position"] = np.zeros(self.examples, np.int32)
        result["cls_position"][: len(given)] = row["starts"]
        result["labels"] = np.maximum(labels, 0)
        result["example_weight"] = (labels != UNKNOWN).astype(np.float32)
        return result

    def empty(self) -> Batch:
        """A row of padding, which weighs nothing."""
        none = np.zeros(0, np.int32)
        names = ("token_ids", "type_ids", "segment_ids", "positions", "starts", "labels")
        predictions = {"prediction_positions": none, "prediction_labels": none}
        return self.finish({**dict.fromkeys(names, none), **predictions})


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """The plan of one pass with its examples in rows, and the rows in random order."""

    plan: Plan
    order: np.ndarray
    first: np.ndarray
    rows: np.ndarray

    def examples(self, row: int) -> np.ndarray:
        """The numbers of the examples in a row; after the last row the first comes again."""
        place = self.rows[row % len(self.rows)]
        return self.order[self.first[place] : self.first[place + 1]]


class CorpusRows:
    """Rows of a corpus, or of some of its documents.

    Every pass has as many rows as pass 0, so that a row's pass follows from its number: where a
    later plan has a few more they are left out, and where it has fewer some come twice, masked
    differently.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        outline: Outline,
        sampling: Sampling,
        masking: Masking,
        form: RowFormat,
        seed: int,
    ):
        self._documents, self._outline = documents, outline
        self._sampling, self._masking, self.form = sampling, masking, form
        self._seed = seed
        self._passes: dict[int, Pass] = {}
        self._lock = threading.Lock()
        self.count = len(self._pass(0).rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": {}, "_lock": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Batch:
        number, row = divmod(int(index), self.count)
        now = self._pass(number)
        examples = [self._example(now.plan, example) for example in now.examples(row)]
        generator = np.random.default_rng([self._seed, MASKS, int(index)])
        return self.form.finish(self._masking(self.form.join(examples), generator))

    def plan(self, number: int) -> Pass:
        """The plan of a pass."""
        return self._pass(number)

    def _pass(self, number: int) -> Pass:
        with self._lock:
            if number not in self._passes:
                for old in sorted(self._passes)[:-1]:  # the one before may still be read from
                    del self._passes[old]
                self._passes[number] = self._make_pass(number)
            return self._passes[number]

    def _make_pass(self, number: int) -> Pass:
        generator = np.random.default_rng([self._seed, PLANS, number])
        plan = make_plan(self._outline, self._sampling, generator)
        special = 2 + (plan.length_b > 0)
        lengths = plan.length_a + plan.length_b + special
        order, first = pack(lengths, self.form.length, self.form.examples)
        return Pass(plan, order, first, generator.permutation(len(first) - 1))

    def _example(self, plan: Plan, index: int) -> Encoded:
        """[CLS] A [SEP], and B [SEP] where there is a B."""
        parts = [self._span(plan.document_a[index], plan.start_a[index], plan.stop_a[index])]
        if plan.stop_b[index] > plan.start_b[index]:
            parts.append(
                self._span(plan.document_b[index], plan.start_b[index], plan.stop_b[index])
            )
        cls, sep = [self.form.cls_id], [self.form.sep_id]
        pieces = [cls, *(piece for tokens, _ in parts for piece in (tokens, sep))]
        length = len(parts[0][0]) + 2
        token_ids = np.concatenate(pieces).astype(np.int32)
        type_ids = (np.arange(len(token_ids)) >= length).astype(np.int32)
        example = {"token_ids": token_ids, "type_ids": type_ids, "label": int(plan.label[index])}
        if parts[0][1] is not None:
            marks = [[False], *(piece for _, marked in parts for piece in (marked, [False]))]
            example["continues"] = np.concatenate(marks).astype(bool)
        return example

    def _span(self, document: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        found = self._documents[int(document)]
        marks = found.continues
        return found.tokens[start:stop], None if marks is None else marks[start:stop]


class RecordRows:
    """Rows of examples that were made and masked before, one example a row, shuffled anew in
    every pass; see :mod:`bertjax.data.tfrecords`.
    """

    def __init__(self, examples: Sequence[Encoded], form: RowFormat, seed: int):
        self._examples, self.form, self._seed = examples, form, seed
        self.count = len(examples)

    def __getitem__(self, index: int) -> Batch:
        number, row = divmod(int(index), self.count)
        example = self._examples[int(self._order(number)[row])]
        masks = {k: v for k, v in example.items() if k.startswith("prediction_")}
        return self.form.finish({**self.form.join([example]), **masks})

    @functools.lru_cache(maxsize=4)  # noqa: B019  the rows live as long as their run
    def _order(self, number: int) -> np.ndarray:
        """The order of the examples in a pass."""
        return np.random.default_rng([self._seed, ORDER, number]).permutation(self.count)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Rows of several sources in turn, by weight: after n rows each has given n times its share,
    to within one row (two where there are more than nine sources).
    """

    sources: tuple[Rows, ...]
    weights: tuple[float, ...]

    @property
    def form(self) -> RowFormat:
        """The shapes of all rows."""
        return self.sources[0].form

    @property
    def count(self) -> int:
        """Rows until the first source ends its pass, at least."""
        shares = np.array(self.weights) / sum(self.weights)
        return int(min(s.count / share for s, share in zip(self.sources, shares, strict=True)))

    def __getitem__(self, index: int) -> Batch:
        source, row = self.place(int(index))
        return self.sources[source][row]

    def place(self, index: int) -> tuple[int, int]:
        """The source that row ``index`` comes from, and its number there."""
        given = self._given(index)
        after = self._given(index + 1)
        source = int(np.flatnonzero(after - given)[0])
        return source, int(given[source])

    def _given(self, count: int) -> np.ndarray:
        """How many of the first ``count`` rows each source gives.

        Each takes its share, rounded, of those that the sources before it leave: so with every row
        one number grows by one, and none falls.
        """
        given, left, weight = [], count, sum(self.weights)
        for mine in self.weights[:-1]:
            given.append(math.floor(left * (mine / weight) + 0.5))
            left -= given[-1]
            weight -= mine
        return np.array([*given, left], np.int64)


@dataclasses.dataclass(frozen=True)
class _Share:
    """The rows of this process, in the order it reads them: its part of each global batch."""

    rows: Rows
    batch_size: int
    accumulation: int
    held: np.ndarray
    """Rows of each micro-batch that are read here."""
    first_batch: int

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        batch, place = divmod(int(index), self.share)
        micro, row = divmod(place, len(self.held))
        first = (self.first_batch + batch) * self.batch_size
        first += micro * (self.batch_size // self.accumulation)
        return self.rows[first + int(self.held[row])]

    @property
    def share(self) -> int:
        return self.accumulation * len(self.held)

    def __repr__(self) -> str:
        return f"rows from batch {self.first_batch}"


def row_batches(
    rows: Rows,
    batch_size: int,
    accumulation: int,
    start: int,
    workers: int = 0,
    held: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches from number ``start`` on, ``[micro-batches, rows, …]``, made ahead.

    Read in threads, or in ``workers`` processes. ``held``: rows of each micro-batch that are read
    here; None: all.
    """
    held = np.arange(batch_size // accumulation) if held is None else held
    mine = _Share(rows, batch_size, accumulation, held, start)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * mine.share)
    dataset = grain.MapDataset.source(mine).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its flags when it starts processes
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=lambda *_: end_with_parent())
    return iter(dataset.batch(mine.share, batch_fn=lambda part: micro_batches(part, accumulation)))


def micro_batches(rows: Sequence[Batch], count: int) -> Batch:
    """Rows stacked to ``[count, rows / count, …]``."""
    return {
        name: np.stack([row[name] for row in rows]).reshape(count, -1, *rows[0][name].shape)
        for name in rows[0]
    }
