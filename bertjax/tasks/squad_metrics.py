"""SQuAD's metrics: exact match and F1 of words, in percent, as their official scripts publish them.

Both scripts compare answers without case, ASCII punctuation, the English articles and the amount of
white space, and take the best over a question's gold answers: evaluate-v1.1.py of Rajpurkar et al.,
2016 (https://arxiv.org/abs/1606.05250) and evaluate-v2.0.py of Rajpurkar et al., 2018
(https://arxiv.org/abs/1806.03822). They are so for every language. Where nothing is left of an
answer, the two differ, and so do the functions here.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

Words = tuple[str, ...]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@functools.lru_cache(maxsize=1 << 17)
def normalized_words(answer: str) -> Words:
    """What is compared of an answer: its words without case, punctuation and articles."""
    plain = answer.lower().translate(_WITHOUT_PUNCTUATION)
    return tuple(_ARTICLES.sub(" ", plain).split())


def squad_scores(answers: Sequence[str], golds: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD 1.1's ``exact`` and ``f1``, 0 to 100.

    Args:
      answers: one a question.
      golds: the right answers of each question, at least one.
    """
    exact, f1 = _raw_scores(answers, golds, 0.0)
    return {"exact": 100 * float(exact.mean()), "f1": 100 * float(f1.mean())}


def squad2_scores(
    answers: Sequence[str],
    golds: Sequence[Sequence[str]],
    null_odds: Sequence[float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """SQuAD 2.0's scores by their official names, 0 to 100.

    Args:
      answers: one a question; empty where it is said to have none.
      golds: the right answers of each question; none where it has no answer.
      null_odds: how much rather than its answer each question has none, on any scale; None: the
        answers stand as they are.
      threshold: a question whose ``null_odds`` are above it counts as unanswered.

    Returns:
      ``exact`` and ``f1``; the same of the questions with an answer (``HasAns_exact``) and of those
      without (``NoAns_exact``), where there are any; and, with ``null_odds``, ``best_exact`` and
      ``best_f1`` with the thresholds that give them (``best_exact_thresh``, ``best_f1_thresh``).
    """
    has_answer = np.array([bool(texts) for texts in golds])
    kept = [[gold for gold in texts if normalized_words(gold)] or [""] for texts in golds]
    raw = dict(zip(("exact", "f1"), _raw_scores(answers, kept, 1.0), strict=True))
    scores, odds = raw, np.zeros(0)
    if null_odds is not None:
        odds = np.asarray(null_odds, dtype=np.float64)
        unanswered = (~has_answer).astype(np.float64)
        scores = {
            name: np.where(odds > threshold, unanswered, values) for name, values in raw.items()
        }
    found = {name: 100 * float(values.mean()) for name, values in scores.items()}
    for word, part in (("HasAns", has_answer), ("NoAns", ~has_answer)):
        if part.any():
            for name, values in scores.items():
                found[f"{word}_{name}"] = 100 * float(values[part].mean())
    if null_odds is not None:
        said = np.array([bool(answer) for answer in answers])
        for name, values in raw.items():
            gains = np.where(has_answer, values, -said.astype(np.float64))
            best, found[f"best_{name}_thresh"] = _best_threshold(gains, odds)
            found[f"best_{name}"] = 100 * (int((~has_answer).sum()) + best) / len(golds)
    return found


def _best_threshold(gains: np.ndarray, odds: np.ndarray) -> tuple[float, float]:
    """The most that answering the questions with the lowest odds gains, and a threshold for it.

    It lies midway between the odds of the last that is answered and the first that is not, so that
    a rounding error turns neither; the official script gives the former. Questions with equal odds
    are answered together, as no threshold parts them; the official script takes them one by one.
    """
    order = np.argsort(odds, kind="stable")
    ascending = odds[order]
    totals = np.append(0.0, np.cumsum(gains[order]))
    bounds = np.concatenate([[ascending[0] - 2.0], ascending, [ascending[-1] + 2.0]])
    totals[np.flatnonzero(bounds[1:] == bounds[:-1])] = -np.inf
    best = int(np.argmax(totals))
    return float(totals[best]), float(bounds[best] + bounds[best + 1]) / 2


def _raw_scores(
    answers: Sequence[str], golds: Sequence[Sequence[str]], f1_of_nothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question, 0 to 1; ``f1_of_nothing``: of two empty answers."""
    exact, f1 = np.zeros(len(golds)), np.zeros(len(golds))
    for row, (answer, texts) in enumerate(zip(answers, golds, strict=True)):
        words = normalized_words(answer)
        for gold in map(normalized_words, texts):
            if words == gold:
                exact[row] = 1.0
            same = _f1(words, gold) if words or gold else f1_of_nothing
            f1[row] = max(f1[row], same)
    return exact, f1


def _f1(words: Words, gold: Words) -> float:
    """Of two answers that are not both empty."""
    if words == gold:
        return 1.0
    common = sum((Counter(words) & Counter(gold)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(gold)
    return 2 * precision * recall / (precision + recall)
