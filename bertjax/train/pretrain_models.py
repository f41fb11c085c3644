"""What a pretraining config asks for, made: models, objective, dropout, schedule, operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from bertjax.data.batching import Batch
from bertjax.flops import peak_flops, step_flops
from bertjax.models import Dropout, Electra, Model
from bertjax.optim import schedule
from bertjax.train.execution import execution, padded_vocabulary
from bertjax.train.objectives import Objective, pretraining, replaced_token
from bertjax.train.pretrain_config import PretrainConfig, Stretch, stretches
from bertjax.types import HeadConfig, ModelConfig

HEADS: dict[str, HeadConfig] = {
    "masked_lm": HeadConfig("masked_lm"),
    "next_sentence": HeadConfig("next_sentence", 2),
    "sentence_order": HeadConfig("sentence_order", 2),
    "replaced_token": HeadConfig("replaced_token"),
}


def make_models(
    config: PretrainConfig, shape: ModelConfig, mesh: Mesh, padding: int | None = None
) -> tuple[Model, Model | Electra]:
    """The model that is trained for use, and all that is trained: with ELECTRA's generator.

    ``padding`` is that of the checkpoints from which the run goes on; None: as the devices need.

    Raises:
      UserError: as :func:`~bertjax.train.execution.execution`.
    """
    longest = max(part.max_length for part in stretches(config))
    heads = tuple((name, HEADS[name]) for name in config.heads)
    shape = padded_vocabulary(config, shape, mesh, padding)
    model = Model(shape, heads, **execution(config, shape, mesh, longest))
    if config.objective == "replaced_token":
        return model, Electra.of(model, config.generator_size)
    return model, model


def make_objective(config: PretrainConfig, trained: Model | Electra) -> Objective:
    """What a run minimises."""
    if isinstance(trained, Electra):
        return replaced_token(trained, config.discriminator_weight)
    return pretraining(trained)


def dropout_rates(config: PretrainConfig, shape: ModelConfig) -> Dropout | None:
    """The rates of a run; None: no dropout."""
    if config.dropout is None:
        return Dropout.of(shape)
    return Dropout.at(config.dropout, shape) if config.dropout else None


def multiplier(config: PretrainConfig) -> Callable[[Any], Any]:
    """The share of ``learning_rate`` at each step: one schedule, or one a phase that restarts."""
    runs: list[list[Stretch]] = []
    for part in stretches(config):
        if part.restarts:
            runs.append([])
        runs[-1].append(part)
    parts, bounds = [], []
    for run_of in runs:
        first, last = run_of[0].first, run_of[-1].last
        optim = dataclasses.replace(config.optim, warmup_ratio=run_of[0].warmup_ratio)
        share = run_of[0].learning_rate / config.learning_rate if config.learning_rate else 0.0
        parts.append(_scaled(schedule(optim, last - first), share))
        bounds.append(first)
    return optax.join_schedules(parts, bounds[1:])


def _scaled(inner: optax.Schedule, factor: float) -> optax.Schedule:
    return lambda step: inner(step) * factor


def device_peak(config: PretrainConfig) -> float:
    """Operations a second of one device; 0 where it is neither told nor known."""
    return config.peak_flops or peak_flops(jax.devices()[0].device_kind) or 0.0


def batch_flops(trained: Model | Electra, batch: Batch) -> float:
    """The model's operations in a step over a batch ``[micro-batches, rows, …]``."""
    rows, length = batch["token_ids"][..., 0].size, batch["token_ids"].shape[-1]
    return rows_flops(trained, rows, length, int(batch["prediction_weight"].sum()))


def rows_flops(trained: Model | Electra, rows: int, length: int, predictions: int) -> float:
    """The model's operations in a step over ``rows`` with so many masked tokens in all."""
    models = (trained,)
    if isinstance(trained, Electra):
        models = (trained.discriminator, trained.generator)
    sizes = (rows, length, predictions)
    heads = [[head for _, head in model.head_configs] for model in models]
    return float(sum(step_flops(m.config, *sizes, h) for m, h in zip(models, heads, strict=True)))
