"""What a step minimises: pure functions ``(params, batch, dropout, key) -> Sums``.

``Sums`` holds (sum, weight) pairs; ``loss`` is the one that is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from jax import Array

from bertjax.losses import Sums, correct, cross_entropy, squared_error
from bertjax.models import Dropout, Model

Objective = Callable[[Any, Mapping[str, Array], Dropout | None, Array], Sums]


def _logits(
    model: Model, head: str, params: Any, batch: Mapping[str, Array], drop: Any, key: Array
) -> Array:
    logits = model.apply({"params": params}, batch, head, drop, rngs={"dropout": key})
    return cast(Array, logits)


def classification(model: Model, head: str) -> Objective:
    """Cross entropy of each example's label; also how many are right."""

    def objective(params: Any, batch: Mapping[str, Array], drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        labels, weights = batch["labels"], batch["example_weight"]
        return {
            "loss": cross_entropy(logits, labels, weights),
            "accuracy": correct(logits, labels, weights),
        }

    return objective


def regression(model: Model, head: str) -> Objective:
    """Squared error of each example's score."""

    def objective(params: Any, batch: Mapping[str, Array], drop: Any, key: Array) -> Sums:
        scores = _logits(model, head, params, batch, drop, key)[:, 0]
        return {"loss": squared_error(scores, batch["labels"], batch["example_weight"])}

    return objective


def masked_lm(model: Model, head: str) -> Objective:
    """Cross entropy of the masked tokens. Source: Devlin et al. 2019, section 3.1."""

    def objective(params: Any, batch: Mapping[str, Array], drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        labels, weights = batch["prediction_labels"], batch["prediction_weight"]
        return {
            "loss": cross_entropy(logits, labels, weights),
            "accuracy": correct(logits, labels, weights),
        }

    return objective


OBJECTIVES: dict[str, Callable[[Model, str], Objective]] = {
    "classification": classification,
    "regression": regression,
    "masked_lm": masked_lm,
}
"""By the kind of the head they train."""
