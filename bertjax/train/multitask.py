"""What a run of several tasks has in place of one task's objective, stream and evaluation.

One encoder, a head for each task, one task a step: the batch ``{task: fields}`` chooses the head by
its structure, for which the step is compiled once. The step and the loop know nothing of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.data.batching import Encoded
from bertjax.data.mixture import MixedStream
from bertjax.data.pipeline import Stream
from bertjax.models import Model
from bertjax.tasks import Task, get_task
from bertjax.tasks.several import task_names
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Evaluator
from bertjax.train.objectives import OBJECTIVES, Objective, mixed

AVERAGE = "average"
"""The mean of the tasks' main metrics, each of its first evaluated split and as a share of the most
that it can be (SQuAD's are percentages)."""


@dataclasses.dataclass(frozen=True)
class TaskParts:
    """One task of a run with what it trains and is scored on."""

    task: Task
    examples: Sequence[Encoded]
    """Of the train split."""
    evaluators: tuple[Evaluator, ...]

    @property
    def main_metric(self) -> str | None:
        """``split/metric`` of the first evaluated split; None: there is none."""
        if not self.evaluators:
            return None
        return f"{self.evaluators[0].split}/{self.task.metrics[0]}"

    def evaluate(self, params: Any) -> dict[str, float]:
        """All its evaluators' metrics."""
        metrics: dict[str, float] = {}
        for evaluator in self.evaluators:
            metrics |= evaluator(params)
        return metrics


def get_tasks(config: FinetuneConfig) -> tuple[Task, ...]:
    """The tasks of an experiment, with their options and class names.

    Raises:
      UserError: as :func:`bertjax.tasks.get_task`.
    """
    alone = [config.of_task(name) for name in task_names(config.task)]
    return tuple(
        get_task(
            one.task,
            text_columns=one.text_columns,
            label_column=one.label_column,
            labels=one.labels,
            options=one.options,
            data=one.data,
        )
        for one in alone
    )


def objective_of(model: Model, tasks: Sequence[TaskParts]) -> Objective:
    """One task's objective, or that of batches of several."""
    each = {
        part.task.name: OBJECTIVES[part.task.head.kind](model, part.task.name) for part in tasks
    }
    return mixed(each) if len(each) > 1 else next(iter(each.values()))


def stream_of(config: FinetuneConfig, streams: Mapping[str, Stream]) -> Stream | MixedStream:
    """One task's stream, or several in one."""
    if len(streams) > 1:
        return MixedStream(streams, config.alpha, config.seed)
    return next(iter(streams.values()))


def main_metric(tasks: Sequence[TaskParts]) -> str | None:
    """The name of the metric that keeps the best checkpoint; None: nothing is evaluated."""
    if len(tasks) == 1:
        return tasks[0].main_metric
    return AVERAGE if any(part.main_metric for part in tasks) else None


def evaluate(tasks: Sequence[TaskParts], params: Any) -> dict[str, float]:
    """``split/metric`` of one task; of several ``task/split/metric`` and :data:`AVERAGE`."""
    if len(tasks) == 1:
        return tasks[0].evaluate(params)
    metrics: dict[str, float] = {}
    main: list[float] = []
    for part in tasks:
        found = part.evaluate(params)
        metrics |= {f"{part.task.name}/{name}": value for name, value in found.items()}
        if part.main_metric is not None:
            main.append(found[part.main_metric] / part.task.PERFECT)
    return metrics | {AVERAGE: sum(main) / len(main)}


def shares(tasks: Sequence[TaskParts], stream: Stream | MixedStream, steps: int) -> dict[str, Any]:
    """What a result says of each of several tasks: its training examples and its steps so far."""
    if not isinstance(stream, MixedStream):
        return {}
    counts = stream.mixture.counts(steps).tolist()
    return {
        "tasks": {
            part.task.name: {"train_examples": len(part.examples), "steps": count}
            for part, count in zip(tasks, counts, strict=True)
        }
    }
