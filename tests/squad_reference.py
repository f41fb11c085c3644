"""SQuAD's scores once more, question by question from their published definitions."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

PUNCTUATION = set(string.punctuation)


def normalized(text: str) -> str:
    letters = "".join(c for c in text.lower() if c not in PUNCTUATION)
    words = re.split(r"\s+", re.sub(r"\b(a|an|the)\b", " ", letters))
    return " ".join(word for word in words if word)


def word_f1(answer: str, gold: str, version: str) -> float:
    left, right = normalized(answer).split(), normalized(gold).split()
    if version == "2.0" and not (left and right):
        return float(left == right)
    rest, shared = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(left), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def question_scores(answer: str, golds: Sequence[str], version: str) -> tuple[float, float]:
    """Exact match and F1 of one question; version 2.0 leaves out a gold answer of articles."""
    if version == "2.0":
        golds = [gold for gold in golds if normalized(gold)] or [""]
    exact = max(float(normalized(answer) == normalized(gold)) for gold in golds)
    return exact, max(word_f1(answer, gold, version) for gold in golds)


def reference_scores_of_1(
    answers: Sequence[str], golds: Sequence[Sequence[str]]
) -> dict[str, float]:
    """All that ``squad_scores`` gives."""
    rows = [question_scores(a, g, "1.1") for a, g in zip(answers, golds, strict=True)]
    exact, f1 = (100 * sum(column) / len(rows) for column in zip(*rows, strict=True))
    return {"exact": exact, "f1": f1}


def reference_scores_of_2(
    answers: Sequence[str],
    golds: Sequence[Sequence[str]],
    odds: Sequence[float],
    threshold: float,
) -> dict[str, float]:
    """All that ``squad2_scores`` gives but the best thresholds, for different ``odds``."""
    raw = [question_scores(a, g, "2.0") for a, g in zip(answers, golds, strict=True)]
    none = [float(not gold) for gold in golds]
    found = {}
    for kind, belongs in {"": (True, False), "HasAns_": (True,), "NoAns_": (False,)}.items():
        chosen = [i for i, gold in enumerate(golds) if bool(gold) in belongs]
        for column, name in enumerate(("exact", "f1")):
            scores = [none[i] if odds[i] > threshold else raw[i][column] for i in chosen]
            if scores:
                found[kind + name] = 100 * sum(scores) / len(scores)
    for column, name in enumerate(("exact", "f1")):
        best = total = sum(none)
        for i in sorted(range(len(odds)), key=lambda i: odds[i]):
            if golds[i]:
                total += raw[i][column]
            elif answers[i]:  # said something, be it an article
                total -= 1
            best = max(best, total)
        found[f"best_{name}"] = 100 * best / len(golds)
    return found
