"""Sentences and inputs to the records of tagging, and outputs to answers and lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.columns import Sentence
from bertjax.data.json_text import check_characters
from bertjax.data.records import Record
from bertjax.data.tags import spans_of
from bertjax.types import UserError

_BREAKS = re.compile(r"[\t\r\n]")
NEEDED = "an input must be a text, a list of words, or a mapping with 'text' or 'tokens'"


def words_of(given: Any) -> Record:
    """The record of an input: of a text, whose words are what white space parts, or of words.

    Returns:
      ``words`` and ``lengths``, and of a text ``text`` and ``starts``, where each word begins.

    Raises:
      UserError: for anything else, or a word with half of a surrogate pair.
    """
    if isinstance(given, Mapping):
        given = next((given[key] for key in ("tokens", "words", "text") if key in given), None)
    if isinstance(given, str):
        check_characters([given], "an input")
        found = list(re.finditer(r"\S+", given))
        words, starts = [match[0] for match in found], [match.start() for match in found]
        return {"words": words, "lengths": [len(words)], "text": given, "starts": starts}
    if not isinstance(given, Sequence) or not all(isinstance(word, str) for word in given):
        raise UserError(f"{NEEDED}, not {given!r}")
    check_characters(given, "an input")
    return {"words": list(given), "lengths": [len(given)]}


def records_of(sentences: Iterable[Sentence], context: str) -> Iterator[Record]:
    """A record a sentence or, if ``context`` is ``document`` and they are marked, a document."""
    group: list[Sentence] = []
    for sentence in sentences:
        goes_on = context == "document" and group and sentence.document >= 0
        if group and not (goes_on and sentence.document == group[-1].document):
            yield _record(group)
            group = []
        group.append(sentence)
    if group:
        yield _record(group)


def _record(group: Sequence[Sentence]) -> Record:
    tagged = all(sentence.tags is not None for sentence in group)
    return {
        "words": [word for sentence in group for word in sentence.words],
        "tags": [tag for sentence in group for tag in sentence.tags or ()] if tagged else None,
        "lengths": [len(sentence.words) for sentence in group],
    }


def sentences_of(record: Record, values: Sequence[Any]) -> list[list[Any]]:
    """What belongs to each word of a record, by sentence."""
    stops = list(accumulate(record["lengths"]))
    return [list(values[stop - n : stop]) for stop, n in zip(stops, record["lengths"], strict=True)]


def likeliest(
    record: Record, examples: Sequence[Encoded], outputs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Each word's likeliest class, int64 ``[words]``, and its probability, float64 ``[words]``.

    Args:
      record: with ``words``.
      examples: its windows, with ``words`` and ``places``.
      outputs: of each window, ``[length, classes]``.
    """
    classes = np.zeros(len(record["words"]), np.int64)
    scores = np.zeros(len(record["words"]))
    for example, output in zip(examples, outputs, strict=True):
        logits = output[example["places"]].astype(np.float64)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        classes[example["words"]] = logits.argmax(axis=-1)
        scores[example["words"]] = 1 / odds.sum(axis=-1)
    return classes, scores


def answer_of(
    record: Record, tags: Sequence[str], scores: np.ndarray, entities: bool
) -> dict[str, Any]:
    """The answer to one record.

    Args:
      record: with ``words`` and ``lengths``; ``text`` and ``starts`` where its text is known, else
        the text is the words with a space between.
      tags: of each word.
      scores: the probability of each word's tag.
      entities: whether tags mark spans.

    Returns:
      ``words``, ``tags``, ``scores``; with ``entities`` each one's type, text, place in the text
      (characters, from 0; ``end`` is the one after its last) and score, the mean of its words'.
      ``sentences``, the lengths in words, where there is more than one.
    """
    words = record["words"]
    answer: dict[str, Any] = {"words": words, "tags": list(tags), "scores": scores.tolist()}
    if entities:
        answer["entities"] = _entities(record, tags, scores)
    if len(record["lengths"]) > 1:
        answer["sentences"] = record["lengths"]
    return answer


def _entities(record: Record, tags: Sequence[str], scores: np.ndarray) -> list[dict[str, Any]]:
    words = record["words"]
    text = record.get("text", " ".join(words))
    starts = record.get("starts") or [0, *accumulate(len(word) + 1 for word in words)]
    found, before = [], 0
    for sentence in sentences_of(record, tags):
        for span in spans_of(sentence):
            first, stop = before + span.start, before + span.stop
            start, end = starts[first], starts[stop - 1] + len(words[stop - 1])
            score = float(scores[first:stop].mean())
            where = {"text": text[start:end], "start": start, "end": end}
            found.append({"type": span.type, **where, "score": score})
        before += len(sentence)
    return found


def column_lines(answers: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Answers as a column file: word TAB tag, and an empty line after each sentence.

    White space within a word is written as a space, so that a line stays one.
    """
    for answer in answers:
        record = {"lengths": answer.get("sentences", [len(answer["words"])])}
        for pairs in sentences_of(record, list(zip(answer["words"], answer["tags"], strict=True))):
            yield from (f"{_BREAKS.sub(' ', word)}\t{tag}" for word, tag in pairs)
            yield ""
