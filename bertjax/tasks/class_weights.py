"""Weights of classes in the training loss, for data in which some are rare.

The loss is PyTorch's ``CrossEntropyLoss(weight)``: each example's is weighted by its class, and the
sum is divided by the sum of the weights. Evaluation weighs all examples alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.types import UserError, nearest

BALANCED = "balanced"
ClassWeights = str | tuple[float, ...] | None
"""``balanced``, a weight for each class in the order of their ids, or None."""


def check_weights(weights: ClassWeights, labels: Sequence[str] | None) -> None:
    """Raises UserError where these are not ``balanced``, or a number above 0 for each label."""
    if weights is None or weights == BALANCED:
        return
    if isinstance(weights, str):
        raise UserError(f"there are no class_weights '{weights}'{nearest(weights, [BALANCED])}")
    numbers = [w for w in weights if isinstance(w, int | float) and 0 < w < math.inf]
    if len(numbers) != len(weights):
        raise UserError(f"class_weights must be '{BALANCED}' or numbers above 0, not {weights}")
    if labels is not None and len(weights) != len(labels):
        raise UserError(
            f"there are {len(weights)} class_weights for the {len(labels)} classes "
            f"{', '.join(labels)}; give one for each"
        )


def balanced(class_ids: Sequence[int], labels: Sequence[str]) -> tuple[float, ...]:
    """Examples / (classes * count) of each class, as scikit-learn's ``class_weight="balanced"``.

    Raises:
      UserError: for a class without an example.
    """
    counts = np.bincount(class_ids, minlength=len(labels))
    if not counts.all():
        missing = labels[int(np.argmin(counts))]
        raise UserError(
            f"the training examples have none of class '{missing}', so class_weights cannot be "
            "'balanced'; give numbers"
        )
    return tuple((len(class_ids) / (len(labels) * counts)).tolist())


@dataclasses.dataclass(frozen=True)
class WeightedExamples(Sequence[Encoded]):
    """Examples with the weights of their classes."""

    examples: Sequence[Encoded]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        example = self.examples[index]
        return {**example, "weight": self.weights[example["label"]]}
