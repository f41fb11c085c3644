"""What the runs of a workdir came to: their scores, their curves, and those that failed."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from etils import epath

from bertjax.glue.folders import MODEL, read_failure, run_folders
from bertjax.tasks import get_task
from bertjax.train import workdir as workdirs

SPLITS = ("validation", "validation_mismatched")
Curve = tuple[tuple[int, float], ...]
"""Steps and values."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run."""

    task: str
    point: str
    """``learning_rate=2e-05``, or empty without a grid."""
    seed: int
    scores: tuple[float, ...]
    """Of the best evaluation, in per cent, in the order of :func:`metric_names`."""
    last: tuple[float, ...]
    """Of the last one."""
    seconds: float
    device: str
    versions: tuple[tuple[str, str], ...]
    model: str | None
    """The folder of its model, where that was kept."""
    max_length: int
    losses: Curve
    """Of single training steps."""
    dev: Curve
    """The main metric of every evaluation, in per cent."""

    @property
    def name(self) -> str:
        """As messages call the run."""
        return _name(self.task, self.point, f"seed={self.seed}")


@dataclasses.dataclass(frozen=True)
class PointResults:
    """All seeds of one task at one point of the grid."""

    task: str
    point: str
    results: tuple[Result, ...]
    failed: int = 0
    """Seeds without a score."""

    @property
    def main(self) -> list[float]:
        """The main metric of each seed."""
        return [result.scores[0] for result in self.results]

    @functools.cached_property
    def best(self) -> Result:
        """The seed with the highest main metric."""
        return max(self.results, key=lambda result: result.scores[0])

    def medians(self, last: bool = False) -> tuple[float, ...]:
        """The median over the seeds of each metric, of the best or of the ``last`` evaluation."""
        rows = [result.last if last else result.scores for result in self.results]
        return tuple(statistics.median(column) for column in zip(*rows, strict=True))

    def means(self) -> tuple[float, ...]:
        """The mean over the seeds of each metric."""
        return tuple(statistics.mean(column) for column in self._columns)

    def deviations(self) -> tuple[float, ...] | None:
        """The standard deviation (n - 1) of each metric; None for a single seed."""
        if len(self.results) < 2:
            return None
        return tuple(statistics.stdev(column) for column in self._columns)

    @property
    def _columns(self) -> Iterator[tuple[float, ...]]:
        return zip(*(result.scores for result in self.results), strict=True)


@dataclasses.dataclass(frozen=True)
class TaskResults:
    """All points of one task, those of smaller values first."""

    task: str
    points: tuple[PointResults, ...]

    @property
    def best(self) -> PointResults:
        """The point with the highest median of the main metric; of equal ones, highest mean.

        A seed that failed counts as lower than any score.
        """
        return self._ranked[0]

    @property
    def chosen(self) -> Result | None:
        """Whose model is submitted: the best seed of the best point of which a model is kept."""
        for point in self._ranked:
            having = [result for result in point.results if result.model]
            if having:
                return max(having, key=lambda result: result.scores[0])
        return None

    @property
    def _ranked(self) -> list[PointResults]:
        def worth(point: PointResults) -> tuple[float, float]:
            lowest = [-math.inf] * point.failed
            return statistics.median([*point.main, *lowest]), point.means()[0]

        return sorted(self.points, key=worth, reverse=True)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run without a score."""

    name: str
    sentence: str


def metric_names(task: str) -> tuple[str, ...]:
    """What the scores of a task are, such as ``f1, accuracy`` or ``matched, mismatched``."""
    found = get_task(task)
    if "validation_mismatched" in found.splits:
        return "matched", "mismatched"
    return tuple({"f1": "F1"}.get(metric, metric) for metric in found.metrics)


def collect(workdir: epath.Path) -> tuple[list[TaskResults], list[Failure]]:
    """All finished and failed runs below ``WORKDIR/runs``, in GLUE's order of the tasks.

    Raises:
      UserError: where a file of a run is damaged.
    """
    by_task: dict[str, dict[str, list[Result | Failure]]] = {}
    for task, point, folder in run_folders(workdir):
        if found := _outcome(task, point, folder):
            by_task.setdefault(task, {}).setdefault(point, []).append(found)
    tasks = []
    for task, by_point in by_task.items():
        points = []
        for point, outcomes in sorted(by_point.items(), key=lambda pair: _order(pair[0])):
            results = tuple(found for found in outcomes if isinstance(found, Result))
            if results:
                points.append(PointResults(task, point, results, len(outcomes) - len(results)))
        if points:
            tasks.append(TaskResults(task, tuple(points)))
    every = [found for points in by_task.values() for row in points.values() for found in row]
    return tasks, [found for found in every if isinstance(found, Failure)]


def _outcome(task: str, point: str, folder: epath.Path) -> Result | Failure | None:
    """What a run came to; None while it is not over."""
    if (result := workdirs.read_result(folder)) is not None:
        return _result(task, point, folder, result)
    failure = read_failure(folder)
    return Failure(_name(task, point, folder.name), failure["sentence"]) if failure else None


def _name(task: str, point: str, seed: str) -> str:
    return " ".join(filter(None, (task, point, seed)))


def _result(task: str, point: str, folder: epath.Path, result: dict[str, Any]) -> Result | Failure:
    document = workdirs.read_document(folder)
    names = _score_names(task)
    scores, last = (_scores(result[key], names) for key in ("metrics", "last_metrics"))
    if scores is None or last is None:
        return Failure(
            _name(task, point, folder.name), f"its {names[0]} is not a number: it has diverged"
        )
    losses, dev = _curves(folder, names[0])
    return Result(
        task=task,
        point=point,
        seed=document["experiment"]["seed"],
        scores=scores,
        last=last,
        seconds=result["seconds"],
        device=result["device"],
        versions=tuple(sorted(document.get("versions", {}).items())),
        model=str(folder / MODEL) if (folder / MODEL).exists() else None,
        max_length=document["experiment"]["max_length"],
        losses=losses,
        dev=dev,
    )


def _score_names(task: str) -> list[str]:
    found = get_task(task)
    splits = [split for split in SPLITS if split in found.splits]
    return [f"{split}/{metric}" for split in splits for metric in found.metrics]


def _scores(metrics: dict[str, Any], names: Sequence[str]) -> tuple[float, ...] | None:
    values = [metrics.get(name) for name in names]
    return None if None in values else tuple(100 * value for value in values if value is not None)


def _curves(folder: epath.Path, metric: str) -> tuple[Curve, Curve]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    losses, dev = [], []
    for values in map(json.loads, lines):
        if values.get("train/loss") is not None:
            losses.append((values["step"], values["train/loss"]))
        if values.get(metric) is not None:
            dev.append((values["step"], 100 * values[metric]))
    return tuple(losses), tuple(dev)


def _order(point: str) -> list[tuple[str, float, str]]:
    """Points in the order of their values, numbers by size."""
    keys = []
    for pair in filter(None, point.split(",")):
        field, _, word = pair.partition("=")
        try:
            keys.append((field, float(word), ""))
        except ValueError:
            keys.append((field, 0.0, unquote(word)))
    return keys
