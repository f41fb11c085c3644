"""Scores of tagged sentences: entities as conlleval counts them, and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bertjax.data.tags import spans_of

SCORES = ("f1", "precision", "recall", "accuracy")
"""What every tagger of entities is scored by; ``f1_TYPE`` come in addition."""

Tagged = Sequence[Sequence[str]]
"""The tags of each sentence."""


def entity_scores(gold: Tagged, guessed: Tagged) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, over all types and F1 of each type.

    An entity is right where its first word, last word and type are. The counting is that of seqeval
    (https://github.com/chakki-works/seqeval) in its default mode, which is conlleval's. What is
    divided by zero is 0.0.

    Returns:
      ``f1``, ``precision``, ``recall``, and ``f1_TYPE`` for every type in ``gold`` or ``guessed``.
    """
    from seqeval.metrics import sequence_labeling

    score: Any = sequence_labeling.precision_recall_fscore_support
    tags = [list(sentence) for sentence in gold], [list(sentence) for sentence in guessed]
    precision, recall, f1, _ = score(*tags, average="micro", zero_division=0)
    types = {span.type for side in tags for tags_ in side for span in spans_of(tags_)}
    scores = {"f1": float(f1), "precision": float(precision), "recall": float(recall)}
    if types - {""}:
        each = score(*tags, average=None, zero_division=0)[2]
        names = {kind or "_": kind for kind in sorted(types)}  # seqeval sorts by its own names
        pairs = zip(sorted(names), each, strict=True)
        scores |= {f"f1_{names[name]}": float(one) for name, one in pairs}
    return scores


def word_accuracy(gold: Tagged, guessed: Tagged) -> float:
    """The share of words whose tag is the gold one; 0.0 where there are no words."""
    pairs = [
        (right, guess)
        for sentence, guesses in zip(gold, guessed, strict=True)
        for right, guess in zip(sentence, guesses, strict=True)
    ]
    return sum(right == guess for right, guess in pairs) / max(1, len(pairs))
