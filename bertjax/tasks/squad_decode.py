"""From the logits of windows to an answer: its text, its characters and its score.

A span's score is the logit of its first token as a start plus that of its last token as an end.
Spans begin in the window where their first token has most context, so none is met twice; all that
fit the length are looked at, where run_squad.py pairs only the 20 best starts and ends. SQuAD 2.0's
score of no answer is that of [CLS], the lowest of all windows (Devlin et al., 2019,
https://arxiv.org/abs/1810.04805, section 4.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.batching import Encoded


@dataclasses.dataclass(frozen=True)
class Span:
    """A piece of a context, or no answer: an empty text without a place."""

    text: str
    start: int | None
    end: int | None
    """Characters of the context from ``start`` up to ``end``."""
    score: float


NOWHERE = Span("", None, None, -np.inf)


def best_spans(
    context: str,
    examples: Sequence[Encoded],
    outputs: Sequence[np.ndarray],
    n_best: int,
    max_answer_length: int,
) -> list[Span]:
    """The spans of different texts with the highest scores, at most ``n_best``, best first.

    Args:
      context: the text.
      examples: its windows; see :func:`bertjax.tasks.squad_windows.encode_question`.
      outputs: of each window, [length, 2]: logits of start and end.
      n_best: spans at most.
      max_answer_length: tokens of a span at most.
    """
    found = [
        _window_spans(example, logits, n_best, max_answer_length)
        for example, logits in zip(examples, outputs, strict=True)
    ]
    starts, ends, scores = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    spans: dict[str, Span] = {}
    for best in np.lexsort((ends, starts, -scores)):
        start, end = int(starts[best]), int(ends[best])
        text = context[start:end]
        spans.setdefault(text, Span(text, start, end, float(scores[best])))
        if len(spans) == n_best:
            break
    return list(spans.values())


def _window_spans(
    example: Encoded, logits: np.ndarray, n_best: int, max_answer_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Characters from and up to, and the scores, of a window's best spans, in any order."""
    spans, first = example["spans"], example["context_start"]
    count = len(spans)
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    visible = spans[:, 0] < spans[:, 1]
    within = logits[first : first + count].astype(np.float64)
    starts = np.where(visible & example["own"], within[:, 0], -np.inf)
    ends = np.where(visible, within[:, 1], -np.inf)
    longest = min(max_answer_length, count)
    ends = np.append(ends, np.full(longest - 1, -np.inf))
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(ends, longest)
    flat = scores.ravel()
    best = np.argpartition(-flat, min(n_best, len(flat)) - 1)[:n_best]
    best = best[np.isfinite(flat[best])]
    start = best // longest
    return spans[start, 0], spans[start + best % longest, 1], flat[best]


def null_score(outputs: Sequence[np.ndarray]) -> float:
    """The score of no answer: the lowest of the windows' [CLS] as start and as end."""
    return min(float(logits[0].astype(np.float64).sum()) for logits in outputs)


def described(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Spans as JSON objects, each with its probability among them."""
    scores = np.array([span.score for span in spans])
    odds = np.exp(scores - scores.max())
    return [
        {
            "answer": span.text,
            "start": span.start,
            "end": span.end,
            "score": span.score,
            "probability": float(share),
        }
        for span, share in zip(spans, odds / odds.sum(), strict=True)
    ]
