"""What a step minimises: pure functions ``(params, batch, dropout, key) -> Sums``.

``Sums`` holds (sum, weight) pairs. An :class:`Objective` names those that are differentiated and
where in a batch their weights stand, so that a step can divide each by its total over all devices
and micro-batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from bertjax.losses import (
    Sums,
    agreeing,
    binary_cross_entropy,
    correct,
    cross_entropy,
    mean,
    squared_error,
)
from bertjax.models import Dropout, Electra, Model
from bertjax.models.model import of_examples

Batch = Mapping[str, Array]
NEVER = -1e9
"""The logit of what cannot be chosen."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """One of the pairs of ``Sums`` that is minimised."""

    name: str
    weights: Callable[[Batch], Array | None]
    """The weights of a batch, of any shape; their total divides the sum. None: the batch has no
    examples of this loss, and its sums lack it."""
    factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class Objective:
    """The mean of each loss, times its factor, added up."""

    sums: Callable[[Any, Batch, Dropout | None, Array], Sums]
    losses: tuple[Loss, ...]

    def __call__(self, params: Any, batch: Batch, dropout: Dropout | None, key: Array) -> Sums:
        """All (sum, weight) pairs of a batch."""
        return self.sums(params, batch, dropout, key)

    def scales(self, batch: Batch) -> dict[str, Array]:
        """What each loss's sum is multiplied by; ``batch`` may hold several micro-batches."""
        found = ((loss, loss.weights(batch)) for loss in self.losses)
        return {
            loss.name: loss.factor / jnp.maximum(jnp.sum(weights), 1e-9)
            for loss, weights in found
            if weights is not None
        }

    def total(self, sums: Sums) -> Array:
        """The value that is minimised, of the sums of a whole batch."""
        there = [loss for loss in self.losses if loss.name in sums]
        return jnp.sum(jnp.stack([loss.factor * mean(sums[loss.name]) for loss in there]))


def _logits(model: Model, head: str, params: Any, batch: Batch, drop: Any, key: Array) -> Array:
    logits = model.apply({"params": params}, batch, head, drop, rngs={"dropout": key})
    return cast(Array, logits)


def _field(name: str) -> Callable[[Batch], Array]:
    return lambda batch: batch[name]


def classification(model: Model, head: str) -> Objective:
    """Cross entropy of each example's label; also how many are right."""

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        given = batch["labels"], batch["example_weight"]
        return {"loss": cross_entropy(logits, *given), "accuracy": correct(logits, *given)}

    return Objective(sums, (Loss("loss", _field("example_weight")),))


def regression(model: Model, head: str) -> Objective:
    """Squared error of each example's score."""

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        scores = _logits(model, head, params, batch, drop, key)[:, 0]
        return {"loss": squared_error(scores, batch["labels"], batch["example_weight"])}

    return Objective(sums, (Loss("loss", _field("example_weight")),))


def multi_label(model: Model, head: str) -> Objective:
    """Cross entropy of yes and no, the mean over an example's classes; also how many are right."""

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        labels, count = batch["labels"], logits.shape[-1]
        weights = jnp.broadcast_to(batch["example_weight"][:, None] / count, logits.shape)
        return {
            "loss": binary_cross_entropy(logits, labels, weights),
            "accuracy": agreeing(logits > 0, labels, weights),
        }

    return Objective(sums, (Loss("loss", _field("example_weight")),))


def multiple_choice(model: Model, head: str) -> Objective:
    """Cross entropy of the right option among an example's; also how many are right."""

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)[..., 0]
        logits = jnp.where(batch["option_mask"] > 0, logits, NEVER)
        given = batch["labels"], batch["example_weight"]
        return {"loss": cross_entropy(logits, *given), "accuracy": correct(logits, *given)}

    return Objective(sums, (Loss("loss", _field("example_weight")),))


def token_classification(model: Model, head: str) -> Objective:
    """Cross entropy of each labelled token, all of a batch alike; also how many are right."""

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        flat = logits.reshape(-1, logits.shape[-1])
        given = batch["token_labels"].reshape(-1), batch["token_weight"].reshape(-1)
        return {"loss": cross_entropy(flat, *given), "accuracy": correct(flat, *given)}

    return Objective(sums, (Loss("loss", _field("token_weight")),))


def span(model: Model, head: str) -> Objective:
    """The mean of the cross entropies of a span's first and last token among an example's tokens.

    ``starts`` and ``ends`` are how many of each are right. Source: Devlin et al. 2019, section 4.2.
    """

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        logits = _logits(model, head, params, batch, drop, key)
        logits, mine = of_examples(logits, batch)
        logits = jnp.where(mine[:, :, None], logits, NEVER)
        labels, weights = batch["labels"], batch["example_weight"]
        sides = [(logits[:, :, side], labels[:, side], weights) for side in (0, 1)]
        (first, weight), (last, _) = (cross_entropy(*side) for side in sides)
        return {
            "loss": ((first + last) / 2, weight),
            "starts": correct(*sides[0]),
            "ends": correct(*sides[1]),
        }

    return Objective(sums, (Loss("loss", _field("example_weight")),))


OBJECTIVES: dict[str, Callable[[Model, str], Objective]] = {
    "classification": classification,
    "regression": regression,
    "multi_label": multi_label,
    "multiple_choice": multiple_choice,
    "token_classification": token_classification,
    "span": span,
}
"""By the kind of the head they train."""


def mixed(objectives: Mapping[str, Objective]) -> Objective:
    """The sum of the objectives of the tasks that a batch ``{task: fields}`` has.

    Their names are ``TASK/NAME``. Each task draws its own random numbers.
    """

    def sums(params: Any, batch: Any, drop: Any, key: Array) -> Sums:
        found: Sums = {}
        for index, (task, objective) in enumerate(objectives.items()):
            if task in batch:
                its = objective(params, batch[task], drop, jax.random.fold_in(key, index))
                found |= {f"{task}/{name}": pair for name, pair in its.items()}
        return found

    def of_task(task: str, loss: Loss) -> Loss:
        def weights(batch: Any) -> Array | None:
            return loss.weights(batch[task]) if task in batch else None

        return Loss(f"{task}/{loss.name}", weights, loss.factor)

    losses = (of_task(task, loss) for task, each in objectives.items() for loss in each.losses)
    return Objective(sums, tuple(losses))


PAIR_HEADS = ("next_sentence", "sentence_order")


def pretraining(model: Model) -> Objective:
    """Masked LM, and the sentence task if the model has a head for one, on rows of
    :mod:`bertjax.data.pretraining`: the sum of the two means (Devlin et al. 2019, appendix A.2).
    """
    fields = {"masked_lm": ("prediction_labels", "prediction_weight")}
    fields |= dict.fromkeys(PAIR_HEADS, ("labels", "example_weight"))
    names = tuple(name for name, _ in model.head_configs)

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        logits = cast(
            dict[str, Array],
            model.apply(
                {"params": params}, batch, names, drop, rngs={"dropout": key}, method="all"
            ),
        )
        found: Sums = {}
        for name in names:
            labels, weights = (batch[field].reshape(-1) for field in fields[name])
            found[f"{name}_loss"] = cross_entropy(logits[name], labels, weights)
            found[f"{name}_accuracy"] = correct(logits[name], labels, weights)
        return found

    losses = tuple(Loss(f"{name}_loss", _field(fields[name][1])) for name in names)
    return Objective(sums, losses)


def replaced_token(pair: Electra, factor: float) -> Objective:
    """ELECTRA: the generator fills the masked places, the discriminator finds what it put there.

    Source: Clark et al. 2020, section 3.1 and 3.2: the generator's masked-LM loss plus ``factor``
    times the discriminator's loss over all tokens. What the generator draws has no gradient.
    """
    (head,) = (name for name, _ in pair.head_configs)

    def sums(params: Any, batch: Batch, drop: Any, key: Array) -> Sums:
        keys = jax.random.split(key, 3)
        generator = pair.generator_params(params)
        logits = _logits(pair.generator, "masked_lm", generator, batch, drop, keys[0])
        labels, weights = batch["prediction_labels"], batch["prediction_weight"]
        real_logits = jax.lax.stop_gradient(logits)[:, : pair.config.vocab_size]
        drawn = jax.random.categorical(keys[1], real_logits)
        drawn = drawn.reshape(labels.shape).astype(labels.dtype)
        seen = fill(batch, "token_ids", drawn)
        replaced = fill({**batch, "none": jnp.zeros_like(seen)}, "none", drawn != labels)
        found = _logits(
            pair.discriminator,
            head,
            pair.discriminator_params(params),
            {**batch, "token_ids": seen},
            drop,
            keys[2],
        )[..., 0]
        real = (batch["segment_ids"] > 0).astype(jnp.float32)
        flat = logits, labels.reshape(-1), weights.reshape(-1)
        return {
            "masked_lm_loss": cross_entropy(*flat),
            "masked_lm_accuracy": correct(*flat),
            "replaced_token_loss": binary_cross_entropy(found, replaced, real),
            "replaced_token_accuracy": agreeing(found > 0, replaced, real),
            "replaced_share": (jnp.sum(replaced * real), jnp.sum(real)),
        }

    losses = (
        Loss("masked_lm_loss", _field("prediction_weight")),
        Loss("replaced_token_loss", lambda batch: batch["segment_ids"] > 0, factor),
    )
    return Objective(sums, losses)


def fill(batch: Batch, field: str, values: Array) -> Array:
    """``batch[field] [rows, length]`` with ``values [rows, predictions]`` at the masked places."""
    grid = batch[field]
    real = batch["prediction_weight"] > 0
    column = jnp.where(real, batch["prediction_position"], grid.shape[1])  # beyond: left out
    row = jnp.broadcast_to(jnp.arange(grid.shape[0])[:, None], column.shape)
    return grid.at[row, column].set(values.astype(grid.dtype), mode="drop")
