"""GLUE's metrics: against numbers worked out by hand, and where a definition divides by zero."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from bertjax.metrics import METRICS, compute_metrics
from bertjax.types import UserError

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1])
PREDICTIONS = np.array([1, 1, 0, 0, 0, 1, 0, 1])
"""3 true and 1 false positives, 3 true and 1 false negatives."""


def logits_of(predictions: np.ndarray, classes: int = 2) -> np.ndarray:
    """Logits [examples, classes] whose largest is at the prediction."""
    return np.eye(classes, dtype=np.float32)[predictions] * 3.0 - 1.0


def compute(kind: str, labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Every metric of the kind; a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compute_metrics(kind, tuple(METRICS[kind]), labels, logits)


def test_two_classes_by_hand() -> None:
    assert compute("classification", LABELS, logits_of(PREDICTIONS)) == pytest.approx(
        {"accuracy": 6 / 8, "f1": 2 * 3 / (2 * 3 + 1 + 1), "matthews": (3 * 3 - 1 * 1) / 16}
    )


def test_f1_is_of_class_one() -> None:
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert compute("classification", labels, logits_of(predictions))["f1"] == pytest.approx(2 / 3)


def test_three_classes_by_hand() -> None:
    labels, predictions = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    scores = compute("classification", labels, logits_of(predictions, classes=3))
    assert scores["accuracy"] == 3 / 4
    # Class 2 is neither labelled nor predicted, and counts as 0 in the mean.
    assert scores["f1"] == pytest.approx((4 / 5 + 2 / 3 + 0.0) / 3)


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        pytest.param([1, 0, 1, 0], [0, 0, 0, 0], (0.5, 0.0, 0.0), id="never predicts class 1"),
        pytest.param([1, 0, 1, 1], [1, 1, 1, 1], (0.75, 6 / 7, 0.0), id="always predicts class 1"),
        pytest.param([0, 0], [0, 0], (1.0, 0.0, 0.0), id="no positive at all"),
        pytest.param([1, 1], [1, 1], (1.0, 1.0, 0.0), id="positives only"),
        pytest.param([1], [1], (1.0, 1.0, 0.0), id="one example"),
        pytest.param([1], [0], (0.0, 0.0, 0.0), id="one example, wrong"),
    ],
)
def test_one_class_only(
    labels: list[int], predictions: list[int], expected: tuple[float, float, float]
) -> None:
    scores = compute("classification", np.array(labels), logits_of(np.array(predictions)))
    assert tuple(scores.values()) == pytest.approx(expected)


def test_correlations_by_hand() -> None:
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    scores = compute("regression", labels, np.array([1.0, 2.0, 4.0, 3.0]))
    # Deviations (-1.5, -0.5, 0.5, 1.5) times (-1.5, -0.5, 1.5, 0.5): 4 of sums of squares 5 and 5.
    assert scores == pytest.approx({"pearson": 4 / 5, "spearman": 1 - 6 * 2 / (4 * 15)})


def test_spearman_sees_order_only_and_shares_ranks() -> None:
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    assert compute("regression", labels, np.exp(labels * 9))["spearman"] == pytest.approx(1.0)
    ties = compute("regression", labels, np.array([1.0, 2.0, 2.0, 3.0]))["spearman"]
    assert ties == pytest.approx(4.5 / math.sqrt(5.0 * 4.5))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_scores_may_be_a_column(shape: tuple[int, ...]) -> None:
    labels = np.array([0.0, 1.0, 2.0, 3.0], dtype=np.float32)
    logits = np.array([0.0, 2.0, 4.0, 6.0], dtype=np.float32).reshape(shape)
    assert compute("regression", labels, logits) == pytest.approx({"pearson": 1, "spearman": 1})


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        pytest.param([1.0, 2.0, 3.0], [0.7, 0.7, 0.7], id="constant scores"),
        pytest.param([2.5, 2.5, 2.5], [0.1, 0.2, 0.3], id="constant labels"),
        pytest.param([2.5], [0.1], id="one example"),
    ],
)
def test_a_correlation_without_spread_is_zero(labels: list[float], scores: list[float]) -> None:
    result = compute("regression", np.array(labels), np.array(scores, dtype=np.float32))
    assert result == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", METRICS)
def test_a_model_that_diverged_has_no_score(kind: str, bad: float) -> None:
    logits = PREDICTIONS.astype(np.float32) if kind == "regression" else logits_of(PREDICTIONS)
    labels = logits_of(LABELS) > 0 if kind == "multi_label" else LABELS
    logits.flat[3] = bad
    assert all(math.isnan(score) for score in compute(kind, labels, logits).values())


@pytest.mark.parametrize("labels", [[], [None, None], [1, None]])
def test_labels_are_needed(labels: list[int | None]) -> None:
    with pytest.raises(UserError, match="this split has no labels to score against"):
        compute_metrics("classification", ("accuracy",), labels, np.zeros((len(labels), 2)))


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("classification", ("acuracy",), "no classification metric 'acuracy'; did you mean 'accu"),
        ("classification", ("pearson",), "no classification metric 'pearson'; known: accuracy, f1"),
        ("regression", (), "a regression needs a metric; known: pearson, spearman"),
    ],
)
def test_unknown_metrics_are_named(kind: str, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compute_metrics(kind, names, [1, 0], np.zeros((2, 2)))


def predictions_with_edges() -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Labels and predictions: some and all of one class, two and three classes, at random."""
    rng = np.random.default_rng(5)
    cases = []
    for classes in (2, 3):
        labels, predictions = rng.integers(0, classes, (2, 40))
        for name, given, answered in (
            ("random", labels, predictions),
            ("all right", labels, labels),
            ("one class predicted", labels, np.full(40, classes - 1)),
            ("class 0 predicted", labels, np.zeros(40, np.int64)),
            ("one class labelled", np.full(40, 1), predictions),
            ("one class never labelled", np.minimum(labels, 1), predictions),
            ("one class in both", np.full(40, 1), np.full(40, 1)),
            ("no positive in both", np.zeros(40, np.int64), np.zeros(40, np.int64)),
        ):
            cases.append((f"{name}, {classes} classes", given, answered, classes))
    return cases


CLASSIFIED = predictions_with_edges()


@pytest.mark.parametrize(
    ("labels", "predictions", "classes"),
    [case[1:] for case in CLASSIFIED],
    ids=[case[0] for case in CLASSIFIED],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, of one class only
def test_classification_equals_scikit_learn(
    labels: np.ndarray, predictions: np.ndarray, classes: int
) -> None:
    from sklearn import metrics

    options: dict[str, Any] = {"zero_division": 0.0}
    if classes == 2:
        options |= {"average": "binary"}
    else:
        options |= {"average": "macro", "labels": list(range(classes))}
    found = compute("classification", labels, logits_of(predictions, classes))
    assert found == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(labels, predictions),
            "f1": metrics.f1_score(labels, predictions, **options),
            "matthews": metrics.matthews_corrcoef(labels, predictions),
        }
    )


@pytest.mark.parametrize("case", ["random", "ties", "reversed", "a huge outlier", "two values"])
def test_correlations_equal_scipy(case: str) -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(6)
    labels = np.round(rng.uniform(0, 5, 60), 1)
    scores = {
        "random": rng.normal(size=60),
        "ties": np.round(labels),
        "reversed": -3 * labels,
        "a huge outlier": np.where(np.arange(60) == 7, 1e6, labels),
        "two values": (labels > 2).astype(np.float64),
    }[case].astype(np.float32)
    found = compute("regression", labels, scores)
    assert found == pytest.approx(
        {
            "pearson": stats.pearsonr(labels, scores.astype(np.float64)).statistic,
            "spearman": stats.spearmanr(labels, scores).statistic,
        }
    )


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_a_constant_score_is_0_where_scipy_has_no_number() -> None:
    """A predictor that says 2.5 always is worth nothing; SciPy answers nan."""
    stats: Any = pytest.importorskip("scipy.stats")
    labels, scores = np.array([0.0, 2.0, 5.0]), np.full(3, 2.5)
    assert math.isnan(stats.pearsonr(labels, scores).statistic)
    assert math.isnan(stats.spearmanr(labels, scores).statistic)
    assert compute("regression", labels, scores) == {"pearson": 0.0, "spearman": 0.0}
