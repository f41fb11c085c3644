"""Plans: which tokens make which example, for one pass over a corpus.

A plan is drawn from the sentence lengths alone, so a pass over millions of documents is laid out
before any token is read, and any example of it can be made at random. Two passes are drawn
differently; the same seed draws the same plan everywhere.

``next_sentence`` follows Devlin et al. 2019, appendix A.2, and the description of
google-research/bert ``create_pretraining_data.py``; ``sentence_order`` Lan et al. 2020, section
3.1; ``none`` Liu et al. 2019, section 4.2 (DOC-SENTENCES), with short examples sharing rows.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

SentenceTask = Literal["none", "next_sentence", "sentence_order"]
SENTENCE_TASKS = ("none", "next_sentence", "sentence_order")
FOLLOWS, OTHER, UNKNOWN = 0, 1, -1
"""Labels: B follows A; B is from another document, or the two are swapped; there is no B."""
ATTEMPTS = 10
"""Draws for a document other than A's before any is taken, as in the published code."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """The sentence lengths of some documents of a corpus."""

    documents: np.ndarray
    """int64 ``[documents]``: their numbers in the corpus."""
    first: np.ndarray
    """int64 ``[documents + 1]``: the first sentence of each, and the number of all sentences."""
    ends: np.ndarray
    """int64 ``[sentences + 1]``: 0, then the tokens up to the end of each sentence."""

    @classmethod
    def of(cls, lengths: np.ndarray, chosen: np.ndarray | None = None) -> Outline:
        """From :meth:`Corpus.lengths`; ``chosen``: numbers of documents, in order; None: all."""
        stops = np.flatnonzero(lengths == 0)
        counts = np.diff(stops, prepend=-1) - 1
        numbers = np.arange(len(stops)) if chosen is None else np.asarray(chosen)
        kept = np.zeros(len(stops), bool)
        kept[numbers] = True
        sentences = lengths[np.repeat(kept, counts + 1) & (lengths > 0)]
        return cls(
            documents=np.flatnonzero(kept),
            first=np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
            ends=np.concatenate([[0], np.cumsum(sentences, dtype=np.int64)]),
        )

    def __len__(self) -> int:
        return len(self.documents)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How examples are cut from documents."""

    max_length: int = 128
    """Of an example, special tokens counted."""
    sentence_task: SentenceTask = "next_sentence"
    short_share: float = 0.1
    """Of documents whose pairs aim at a length drawn between 2 and the longest."""
    cut_sentences: bool = True
    """Without a sentence task: whether a sentence may go on in the next example. If not, an
    example ends with the last sentence that fits."""
    balance: bool = True
    """Whether half of all pairs are from two documents. The published code pairs a sentence that
    has no other beside it with another document, on top of half of the rest; where this is set
    so many of the rest are left as they are."""
    special_tokens: int = 3
    """That an example has: [CLS] A [SEP] B [SEP], or two without a sentence task."""

    @property
    def room(self) -> int:
        """Tokens of text in the longest example."""
        return self.max_length - self.special_tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Examples as spans of tokens; every field is ``[examples]``.

    A is tokens ``start_a`` to ``stop_a`` of document ``document_a``, B likewise; an example without
    B has an empty span. Documents are numbers in the corpus, offsets count within the document.
    """

    document_a: np.ndarray
    start_a: np.ndarray
    stop_a: np.ndarray
    document_b: np.ndarray
    start_b: np.ndarray
    stop_b: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def length_a(self) -> np.ndarray:
        """Tokens of A."""
        return self.stop_a - self.start_a

    @property
    def length_b(self) -> np.ndarray:
        """Tokens of B; 0: there is none."""
        return self.stop_b - self.start_b


def make_plan(outline: Outline, sampling: Sampling, generator: np.random.Generator) -> Plan:
    """The examples of one pass, in the order of the documents."""
    if sampling.sentence_task == "none":
        return _single(outline, sampling)
    return _pairs(outline, sampling, generator)


def _single(outline: Outline, sampling: Sampling) -> Plan:
    """Spans of one document each, one after the other, without overlap."""
    room, bounds = sampling.room, outline.ends[outline.first]
    if sampling.cut_sentences:
        sizes = np.diff(bounds)
        counts = -(-sizes // room)
        document = np.repeat(np.arange(len(outline)), counts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = number * room
        stop = np.minimum(start + room, sizes[document])
    else:
        document, start, stop = _whole_sentences(outline, room)
    none = np.zeros_like(start)
    numbers, label = outline.documents[document], np.full(len(start), UNKNOWN)
    return Plan(numbers, start, stop, numbers, none, none, label)


def _whole_sentences(outline: Outline, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many whole sentences as fit; one that is longer than the room is cut."""
    ends, spans = memoryview(outline.ends), []  # pyright: ignore[reportArgumentType]
    for document, (low, high) in enumerate(zip(outline.first, outline.first[1:], strict=False)):
        base, sentence, start = ends[low], int(low), ends[low]
        while start < ends[high]:
            sentence = bisect.bisect_right(ends, start + room, sentence, high + 1) - 1
            stop = ends[sentence] if ends[sentence] > start else start + room
            spans.append((document, start - base, stop - base))
            start = stop
    document, start, stop = np.array(spans, np.int64).reshape(-1, 3).T
    return document, start, stop


def _pairs(outline: Outline, sampling: Sampling, generator: np.random.Generator) -> Plan:
    """A and B of sentences; the pairs are drawn first, then cut to the room all at once."""
    chunks = _Chunks(outline, sampling, generator)
    for document in range(len(outline)):
        chunks.walk(document)
    table = np.array(chunks.rows, np.int64).reshape(-1, 7)
    document_a, first_a, last_a, document_b, first_b, last_b, label = table.T
    start_a, stop_a = outline.ends[first_a], outline.ends[last_a]
    start_b, stop_b = outline.ends[first_b], outline.ends[last_b]
    cut_a, cut_b = cuts(stop_a - start_a, stop_b - start_b, sampling.room)
    front_a, front_b = generator.binomial(cut_a, 0.5), generator.binomial(cut_b, 0.5)
    base_a = outline.ends[outline.first[document_a]]
    base_b = outline.ends[outline.first[document_b]]
    a = (
        outline.documents[document_a],
        start_a + front_a - base_a,
        stop_a - cut_a + front_a - base_a,
    )
    b = (
        outline.documents[document_b],
        start_b + front_b - base_b,
        stop_b - cut_b + front_b - base_b,
    )
    if sampling.sentence_task == "sentence_order":
        swap = label == OTHER
        a, b = np.where(swap, b, a), np.where(swap, a, b)
    return Plan(a[0], a[1], a[2], b[0], b[1], b[2], label)


def cuts(length_a: np.ndarray, length_b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens each of A and B loses so that both fit into ``room`` together.

    One token at a time from the longer, from B where they are equal.
    """
    excess = np.maximum(length_a + length_b - room, 0)
    difference = length_a - length_b
    first = np.minimum(excess, np.abs(difference))  # the longer comes down to the other
    rest = excess - first
    cut_a = np.where(difference > 0, first, 0) + rest // 2
    cut_b = np.where(difference < 0, first, 0) + (rest - rest // 2)
    return cut_a, cut_b


class _Chunks:
    """Walks documents and cuts them into pairs; ``rows`` collects what :func:`_pairs` reads."""

    def __init__(self, outline: Outline, sampling: Sampling, generator: np.random.Generator):
        self.rows: list[tuple[int, int, int, int, int, int, int]] = []
        self._outline = outline
        self._first: Any = memoryview(outline.first)  # pyright: ignore[reportArgumentType]
        self._ends: Any = memoryview(outline.ends)  # pyright: ignore[reportArgumentType]
        self._room = sampling.room
        self._short = sampling.short_share
        self._next = sampling.sentence_task == "next_sentence"
        self._balance, self._owed = sampling.balance, 0
        self._draw = uniform(generator)

    def walk(self, document: int) -> None:
        """Chunks of sentences up to the target length, each split into A and B."""
        draw, ends = self._draw, self._ends
        target = self._room
        if draw() < self._short:
            target = 2 + int(draw() * (self._room - 1))
        sentence, high = self._first[document], self._first[document + 1]
        while sentence < high:
            stop = bisect.bisect_left(ends, ends[sentence] + target, sentence + 1, high)
            count = stop - sentence
            split = sentence + (1 + int(draw() * (count - 1)) if count > 1 else 1)
            if not self._next:
                self._order(document, sentence, split, stop)
                sentence = stop
            elif self._other(count):
                room = target - (ends[split] - ends[sentence])
                other, begin, end = self._elsewhere(document, room)
                self.rows.append((document, sentence, split, other, begin, end, OTHER))
                sentence = split  # the rest of the chunk is used again
            else:
                self.rows.append((document, sentence, split, document, split, stop, FOLLOWS))
                sentence = stop

    def _other(self, count: int) -> bool:
        """Whether B is to come from another document; a chunk of one sentence has no B itself."""
        if count == 1:
            self._owed += self._balance
            return True
        if self._draw() >= 0.5:
            return False
        spared = self._owed > 1  # one of the rest makes good for two
        self._owed -= 2 * spared
        return not spared

    def _order(self, document: int, start: int, split: int, stop: int) -> None:
        """A and what follows; a chunk of one sentence has no B and no order."""
        label = UNKNOWN if split == stop else (OTHER if self._draw() < 0.5 else FOLLOWS)
        self.rows.append((document, start, split, document, split, stop, label))

    def _elsewhere(self, document: int, room: int) -> tuple[int, int, int]:
        """Sentences of another document, from a random one on, until ``room`` is filled."""
        draw, ends = self._draw, self._ends
        for _ in range(ATTEMPTS):
            other = int(draw() * len(self._outline))
            if other != document:
                break
        low, high = self._first[other], self._first[other + 1]
        begin = low + int(draw() * (high - low))
        end = bisect.bisect_left(ends, ends[begin] + room, begin + 1, high)
        return other, begin, end


def uniform(generator: np.random.Generator, size: int = 4096) -> Callable[[], float]:
    """Numbers in [0, 1), one a call; drawn many at a time."""

    def numbers():
        while True:
            yield from generator.random(size).tolist()

    return numbers().__next__


def pack(lengths: np.ndarray, row_length: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Places examples into rows: longest first, each where the least room is left that will do.

    Args:
      lengths: ``[examples]``, each at most ``row_length``.
      row_length: tokens in a row.
      most: examples in a row.

    Returns:
      ``order [examples]`` and ``first [rows + 1]``: row r holds ``order[first[r]:first[r + 1]]``.
    """
    open_rows: list[list[list[int]]] = [[] for _ in range(row_length + 1)]
    mask, rows = 0, []  # bit r of the mask: there is an open row with room for r tokens
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        fitting = mask >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                mask ^= 1 << room
        else:
            room, row = row_length, []
            rows.append(row)
        row.append(index)
        if len(row) < most and room > length:
            open_rows[room - length].append(row)
            mask |= 1 << (room - length)
    sizes = np.array([len(row) for row in rows], np.int64)
    order = np.array([index for row in rows for index in row], np.int64)
    return order, np.concatenate([[0], np.cumsum(sizes)])
