"""Questions with contexts as token ids: a context that is too long becomes several windows.

The windows are those of google-research/bert's run_squad.py: each is as long as ``max_length``
allows beside the question, and begins ``stride`` tokens after the one before; the last ends with
the context. A token that lies in several windows belongs to the one where it has most context on
both sides. Characters are those of the original text, so that answers come out as written.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from typing import Any

import numpy as np
import tokenizers

from bertjax.data.batching import Encoded
from bertjax.data.records import Record
from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError

LEAST_ROOM = 8
"""Tokens that a window must at least have for its context."""


@dataclasses.dataclass(frozen=True)
class _Pair:
    """What a tokenizer puts around the two texts of a pair: token ids and type ids."""

    before: tuple[np.ndarray, np.ndarray]
    between: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]
    question_type: int
    context_type: int

    @property
    def special(self) -> int:
        """The number of special tokens."""
        return sum(len(ids) for ids, _ in (self.before, self.between, self.after))


def encode_question(
    record: Record, tokenizer: Tokenizer, max_length: int, stride: int, max_query_length: int
) -> list[Encoded]:
    """One example a window of the context, in order: [CLS] question [SEP] window [SEP].

    Args:
      record: with ``question``, ``context`` and, where they are known, ``answers``, of which the
        first is learned; see :mod:`bertjax.data.squad`.
      tokenizer: of the model.
      max_length: tokens of an example at most.
      stride: tokens of the context from one window to the next.
      max_query_length: longer questions are cut to so many tokens.

    Returns:
      Each with ``token_ids`` and ``type_ids`` int32 [length]; ``label`` int32 [2], the first and
      the last token of the answer, or 0, 0 where it does not lie in the window whole; and of the
      window's context ``context_start``, its first token, ``spans`` int32 [tokens, 2], the
      characters of the context from and up to, and ``own`` bool [tokens], whether the token
      belongs to this window.

    Raises:
      UserError: where ``max_length`` leaves too little room for a context.
    """
    pair = _pair(tokenizer.backend)
    encoding = tokenizer.backend.encode(record["question"], add_special_tokens=False)
    question = np.array(encoding.ids[:max_query_length], np.int32)
    ids, spans = _context(tokenizer.backend, record["context"])
    room = max_length - pair.special - len(question)
    if room < LEAST_ROOM:
        raise UserError(
            f"max_length {max_length} leaves {max(room, 0)} tokens for the context beside a "
            f"question of {len(question)}; set it to at least "
            f"{max_length - room + LEAST_ROOM}, or a smaller max_query_length"
        )
    starts, stops = _windows(len(ids), room, stride)
    owner = _owners(starts, stops, len(ids))
    answers = record.get("answers")
    first, last = _answer_tokens(spans, answers[0]) if answers else (-1, -1)
    examples = []
    for window, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        example = _joined(pair, question, ids[start:stop])
        if answers is not None:
            whole = start <= first and last < stop
            shift = example["context_start"] - start
            label = (first + shift, last + shift) if whole else (0, 0)
            example["label"] = np.array(label, np.int32)
        example["spans"], example["own"] = spans[start:stop], owner[start:stop] == window
        examples.append(example)
    return examples


@functools.lru_cache(maxsize=8)
def _context(backend: tokenizers.Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [tokens] and the characters of each, from and up to: [tokens, 2].

    Kept for the questions that follow about the same context, so it is not to be written to.
    """
    encoding = backend.encode(text, add_special_tokens=False)
    spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    ids, spans = np.array(encoding.ids, np.int32), _visible(text, spans)
    ids.flags.writeable = spans.flags.writeable = False
    return ids, spans


@functools.lru_cache(maxsize=8)
def _pair(backend: tokenizers.Tokenizer) -> _Pair:
    encoding = backend.encode("a", "a")
    ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32)
    sides = encoding.sequence_ids
    question = [place for place, side in enumerate(sides) if side == 0]
    context = [place for place, side in enumerate(sides) if side == 1]
    parts = (
        slice(question[0]),
        slice(question[-1] + 1, context[0]),
        slice(context[-1] + 1, None),
    )
    before, between, after = ((ids[part], types[part]) for part in parts)
    return _Pair(before, between, after, int(types[question[0]]), int(types[context[0]]))


def _joined(pair: _Pair, question: np.ndarray, context: np.ndarray) -> dict[str, Any]:
    parts = (
        pair.before,
        (question, np.full_like(question, pair.question_type)),
        pair.between,
        (context, np.full_like(context, pair.context_type)),
        pair.after,
    )
    token_ids, type_ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    start = len(token_ids) - len(pair.after[0]) - len(context)
    return {"token_ids": token_ids, "type_ids": type_ids, "context_start": start}


def _windows(length: int, room: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The first token of each window and the one behind its last: at least one window."""
    step = min(stride, room)
    count = 1 + max(0, -(-(length - room) // step))
    starts = step * np.arange(count)
    return starts, np.minimum(starts + room, length)


def _owners(starts: np.ndarray, stops: np.ndarray, length: int) -> np.ndarray:
    """The window that each token belongs to, [length]: the first of those with most context.

    That is the smaller of the tokens to the left and to the right, and a little for the length of
    the window.
    """
    tokens = np.arange(length)[None]
    left, right = tokens - starts[:, None], stops[:, None] - 1 - tokens
    context = np.minimum(left, right)
    score = np.where(context < 0, -np.inf, context + 0.01 * (stops - starts)[:, None])
    return np.argmax(score, axis=0)


def _visible(context: str, spans: np.ndarray) -> np.ndarray:
    """The spans without white space at their ends, and with the accents that follow them.

    Some tokenizers count the space before a word to it, and those that strip accents leave a
    combining one out of its letter's token.
    """
    space = np.array([character.isspace() for character in context] + [False])
    accent = np.array([unicodedata.category(c).startswith("M") for c in context] + [False])
    starts, stops = spans[:, 0].copy(), spans[:, 1].copy()
    while len(moving := np.flatnonzero(space[starts] & (starts < stops))):
        starts[moving] += 1
    while len(moving := np.flatnonzero(space[stops - 1] & (starts < stops))):
        stops[moving] -= 1
    while len(moving := np.flatnonzero(accent[stops] & (starts < stops))):
        stops[moving] += 1
    return np.stack([starts, stops], axis=1)


def _answer_tokens(spans: np.ndarray, answer: dict[str, Any]) -> tuple[int, int]:
    """The first and the last token that share a character with the answer; -1, -1 for none."""
    inside = (spans[:, 0] < answer["end"]) & (spans[:, 1] > answer["start"])
    found = np.flatnonzero(inside & (spans[:, 0] < spans[:, 1]))
    return (int(found[0]), int(found[-1])) if len(found) else (-1, -1)
