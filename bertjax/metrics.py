"""GLUE's metrics, from scikit-learn and SciPy, as functions of labels and logits.

Every function takes ``labels`` [examples] (class ids, or numbers for a regression) and ``logits``
[examples, classes] (or [examples, 1] or [examples] for a regression) and returns a number. They
see whole splits: a metric of batches averaged is another metric. With several labels an example,
``labels`` [examples, classes] is 1 where it has one, and a label is predicted where its logit is 0
or more: a threshold other than 0.5 is subtracted before.

Where a definition divides by zero the answer is 0.0, as the field does: Matthews' coefficient when
the labels or the predictions hold one class only, F1 when no positive is labelled or predicted (of
one class in a mean, or of all), a correlation when labels or scores are constant. Where a logit is
not finite the answer is nan: a model that diverged has no score, and nan is never the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bertjax.types import UserError, nearest

Array = np.ndarray
Metric = Callable[[Any, Any], float]


def accuracy(labels: Array, logits: Array) -> float:
    """The share of examples whose largest logit is the label's."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def f1(labels: Array, logits: Array) -> float:
    """F1 of class 1 where there are two classes, else the mean of every class's F1 (macro)."""
    from sklearn.metrics import f1_score

    classes = logits.shape[-1]
    average = "binary" if classes == 2 else "macro"
    ids = None if classes == 2 else list(range(classes))
    predictions = np.argmax(logits, axis=-1)
    return float(
        f1_score(
            labels,
            predictions,
            labels=ids,
            average=average,
            zero_division=0.0,  # pyright: ignore[reportArgumentType]
        )
    )


def matthews(labels: Array, logits: Array) -> float:
    """Matthews' correlation coefficient, for any number of classes."""
    from sklearn.metrics import matthews_corrcoef

    predictions = np.argmax(logits, axis=-1)
    if _constant(labels) or _constant(predictions):
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(labels: Array, logits: Array) -> float:
    """Pearson's correlation of the labels and the scores."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, labels, logits)


def spearman(labels: Array, logits: Array) -> float:
    """Spearman's rank correlation of the labels and the scores; ties share their mean rank."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, labels, logits)


def f1_micro(labels: Array, logits: Array) -> float:
    """F1 of all labels of all examples, counted together."""
    return _f1_of_sets(labels, logits, "micro")


def f1_macro(labels: Array, logits: Array) -> float:
    """The mean of every label's F1."""
    return _f1_of_sets(labels, logits, "macro")


def subset_accuracy(labels: Array, logits: Array) -> float:
    """The share of examples whose labels are all right, and no others predicted."""
    return float(np.mean(np.all((logits >= 0) == (labels > 0), axis=-1)))


METRICS: dict[str, dict[str, Metric]] = {
    "classification": {"accuracy": accuracy, "f1": f1, "matthews": matthews},
    "regression": {"pearson": pearson, "spearman": spearman},
    "multi_label": {
        "f1_micro": f1_micro,
        "f1_macro": f1_macro,
        "subset_accuracy": subset_accuracy,
    },
}
"""Metrics by name, for each kind of task."""


def compute_metrics(kind: str, names: Sequence[str], labels: Any, logits: Any) -> dict[str, float]:
    """The named metrics of one split, by name, in the order of ``names``.

    Args:
      kind: ``classification``, ``regression`` or ``multi_label``.
      names: of :data:`METRICS`, for that kind.
      labels: [examples], without hidden ones; [examples, classes] of 0 and 1 for ``multi_label``.
      logits: [examples, classes]; for a regression [examples, 1] or [examples].

    Raises:
      UserError: for an unknown name, or where there are no labels to compare with.
    """
    check_metrics(kind, names)
    labels, logits = np.asarray(labels), np.asarray(logits)
    if not labels.size or labels.dtype == object:
        raise UserError("this split has no labels to score against; it can only be predicted")
    if not np.isfinite(logits).all():
        return dict.fromkeys(names, float("nan"))
    return {name: METRICS[kind][name](labels, logits) for name in names}


def check_metrics(kind: str, names: Sequence[str]) -> None:
    """Checks that a kind of task has these metrics, one at least.

    Raises:
      UserError: for an unknown name, or none.
    """
    known = METRICS[kind]
    if not names:
        raise UserError(f"a {kind} needs a metric{nearest('', known)}")
    for name in names:
        if name not in known:
            raise UserError(f"there is no {kind} metric '{name}'{nearest(name, known)}")


def _correlation(correlate: Callable[..., Any], labels: Array, logits: Array) -> float:
    labels = labels.astype(np.float64)
    scores = logits.reshape(labels.shape).astype(np.float64)
    if _constant(labels) or _constant(scores):
        return 0.0
    return float(correlate(labels, scores).statistic)


def _f1_of_sets(labels: Array, logits: Array, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(
        f1_score(
            labels > 0,
            logits >= 0,
            average=average,  # pyright: ignore[reportArgumentType]
            zero_division=0.0,  # pyright: ignore[reportArgumentType]
        )
    )


def _constant(values: Array) -> bool:
    return bool(np.all(values == values[0]))
