"""Held-out evaluation of pretraining: the objective's means over rows that are never trained on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bertjax.data.batching import round_up
from bertjax.data.pretraining import RowFormat, Rows, micro_batches
from bertjax.losses import Sums
from bertjax.sharding import batch_divisor, join_rows, on_mesh, rows_here
from bertjax.train.corpora import Corpora
from bertjax.train.objectives import Objective
from bertjax.train.pretrain_config import stretches


@dataclasses.dataclass(frozen=True)
class RowEvaluator:
    """The objective's means over held-out rows, which are masked once for all."""

    objective: Objective
    rows: Rows
    count: int
    batch_size: int
    form: RowFormat
    mesh: Mesh
    prefix: str

    def __call__(self, params: Any) -> dict[str, float]:
        """Losses in nats, accuracies, and the perplexity of the masked tokens."""
        totals: dict[str, np.ndarray] = {}
        for first in range(0, self.count, self.batch_size):
            with on_mesh(self.mesh):
                sums = jax.device_get(self._sums(params, self._batch(first)))
            for name, pair in sums.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.array(pair, np.float64)
        means = {name: float(total / max(weight, 1e-9)) for name, (total, weight) in totals.items()}
        if "masked_lm_loss" in means:
            means["masked_lm_perplexity"] = float(np.exp(min(means["masked_lm_loss"], 700)))
        means["loss"] = sum(loss.factor * means[loss.name] for loss in self.objective.losses)
        return {f"{self.prefix}/{name}": value for name, value in means.items()}

    def _batch(self, first: int) -> dict[str, Array]:
        """The rows from ``first`` on; the last batch is filled up with rows of no weight."""
        mine = first + rows_here(self.mesh, self.batch_size)
        rows = [self.rows[i] if i < self.count else self.form.empty() for i in mine]
        batch = {name: value[0] for name, value in micro_batches(rows, 1).items()}
        return join_rows(batch, self.mesh)

    @functools.cached_property
    def _sums(self) -> Callable[[Any, Mapping[str, Array]], Sums]:
        key = jax.random.key(0)
        return jax.jit(lambda params, batch: self.objective(params, batch, None, key))


def make_evaluators(corpora: Corpora, objective: Objective, mesh: Mesh) -> tuple[RowEvaluator, ...]:
    """One for each length that the phases have; none where nothing is held out."""
    config = corpora.config
    lengths = sorted({part.max_length for part in stretches(config)})
    found = []
    for length in lengths:
        rows = corpora.rows("validation", length, seed=0)
        if rows is None:
            continue
        size = round_up(config.eval_batch_size, batch_divisor(mesh))
        prefix = "validation" if len(lengths) == 1 else f"validation-{length}"
        count = min(rows.count, config.eval_rows or rows.count)
        found.append(RowEvaluator(objective, rows, count, size, rows.form, mesh, prefix))
    return tuple(found)


def evaluate_all(evaluators: tuple[RowEvaluator, ...], params: Any) -> dict[str, float]:
    """The metrics of all evaluators."""
    metrics: dict[str, float] = {}
    for evaluator in evaluators:
        metrics |= evaluator(params)
    return metrics
