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


def _cross_entropy(model: Model, head: str, labels: str, weights: str) -> Objective:
    def objective(params: Any, batch: Mapping[str, Array], drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        return {
            "loss": cross_entropy(logits, batch[labels], batch[weights]),
            "accuracy": correct(logits, batch[labels], batch[weights]),
        }

    return objective


def classification(model: Model, head: str) -> Objective:
    """Cross entropy of each example's label; also how many are right."""
    return _cross_entropy(model, head, "labels", "example_weight")


def masked_lm(model: Model, head: str) -> Objective:
    """Cross entropy of the masked tokens. Source: Devlin et al. 2019, section 3.1."""
    return _cross_entropy(model, head, "prediction_labels", "prediction_weight")


def regression(model: Model, head: str) -> Objective:
    """Squared error of each example's score."""

    def objective(params: Any, batch: Mapping[str, Array], drop: Any, key: Array) -> Sums:
        scores = _logits(model, head, params, batch, drop, key)[:, 0]
        return {"loss": squared_error(scores, batch["labels"], batch["example_weight"])}

    return objective


OBJECTIVES: dict[str, Callable[[Model, str], Objective]] = {
    "classification": classification,
    "regression": regression,
    "masked_lm": masked_lm,
}
"""By the kind of the head they train."""
