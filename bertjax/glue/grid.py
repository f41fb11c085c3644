"""Which runs a grid has: every task with every hyper-parameter and every seed."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from etils import epath

from bertjax.tasks import get_task
from bertjax.tasks.glue import GLUE
from bertjax.train.config import FinetuneConfig
from bertjax.types import UserError, nearest

NOT_HERE = {
    "task": "--tasks",
    "seed": "--seeds",
    "model": "--model",
    "data": "--data",
    "export": "--keep",
}
"""Fields of a run that have a flag of their own, and that flag."""
TRAINED = tuple(name for name, task in GLUE.items() if "train" in task.splits)
"""The tasks that have a train split: all but the diagnostic set, which MNLI's model answers."""
SEEDS = "seeds"
"""The word of ``--per_task`` that is no field of a run."""

Point = tuple[tuple[str, Any], ...]
"""Fields and their values, sorted by field."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning of the grid."""

    task: str
    point: Point
    config: FinetuneConfig
    examples: int = 0
    """Training examples that it passes over, all epochs counted."""

    @property
    def place(self) -> str:
        """Its folder below ``WORKDIR/runs``, as ``cola/learning_rate=2e-05/seed=1``."""
        return "/".join(filter(None, (self.task, point_name(self.point), self._seed)))

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.place.replace("/", " ")

    @property
    def _seed(self) -> str:
        return f"seed={self.config.seed}"


def point_name(point: Point) -> str:
    """``learning_rate=2e-05,batch_size=16``, fit for a folder; empty without a grid."""
    return ",".join(f"{field}={quote(str(value), safe='+')}" for field, value in point)


def fields_of(name: str) -> list[str]:
    """The fields of the point with this name."""
    return [pair.partition("=")[0] for pair in filter(None, name.split(","))]


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of ``5`` (1 to 5) or of a list ``1,2,7``; ``7,`` is the one seed 7.

    Raises:
      UserError: for anything else, or a seed twice.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) > 1 and not words[-1]:
        words.pop()
        listed = True
    else:
        listed = len(words) > 1
    try:
        numbers = tuple(map(int, words))
    except ValueError:
        numbers = ()
    if not listed and numbers:
        numbers = tuple(range(1, numbers[0] + 1))
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise UserError(
            f"seeds '{text}' are neither a count such as 5 nor a list such as 1,2,7 of "
            "different numbers"
        )
    return numbers


def parse_grid(text: str, fields: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The axes of ``learning_rate:2e-5,3e-5;batch_size:16,32``, sorted by field.

    Args:
      text: the flag; empty: no axis.
      fields: those of the config with their values, by which the words are read.

    Raises:
      UserError: for an unknown field, a value of another type, or a field or value twice.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        field, colon, words = part.partition(":")
        if not colon or not words.strip():
            raise UserError(f"--grid: '{part}' is not written FIELD:VALUE,VALUE")
        if field in axes:
            raise UserError(f"--grid names the field '{field}' twice; list its values once")
        values = [_value(field, word.strip(), fields, "--grid") for word in words.split(",")]
        if len(set(values)) != len(values):
            raise UserError(f"--grid: field '{field}' has a value twice in '{words}'")
        axes[field] = tuple(values)
    return dict(sorted(axes.items()))


def parse_per_task(text: str, fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of ``sst2:seeds=1;rte:epochs=10,max_length=256`` by task.

    ``seeds`` is a count here, and comes back as the tuple of the seeds.

    Raises:
      UserError: for an unknown task or field, a value of another type, or a task twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        task, _, words = part.partition(":")
        _check_task(task)
        if task in found:
            raise UserError(f"--per_task names the task '{task}' twice; list its fields once")
        found[task] = {}
        for pair in words.split(","):
            field, sign, word = (piece.strip() for piece in pair.partition("="))
            if not sign:
                raise UserError(f"--per_task: '{part}' is not written TASK:FIELD=VALUE,FIELD=VALUE")
            if field == SEEDS:
                found[task][SEEDS] = parse_seeds(word)
            else:
                found[task][field] = _value(field, word, fields, "--per_task")
    return found


def _value(field: str, word: str, fields: Mapping[str, Any], flag: str) -> Any:
    """A word as a value of the field's type."""
    if field in NOT_HERE:
        raise UserError(f"{flag}: '{field}' is set by {NOT_HERE[field]}")
    if field not in fields:
        raise UserError(f"{flag}: a run has no field '{field}'{nearest(field, fields)}")
    now = fields[field]
    if isinstance(now, Mapping | tuple | list):
        raise UserError(f"{flag}: field '{field}' is neither a number nor a word; set it by config")
    if isinstance(now, str):
        return word
    try:
        value = ast.literal_eval(word.capitalize() if isinstance(now, bool) else word)
        simple = int | float | str | None
        fits = {bool: bool, int: int, float: int | float}.get(type(now), simple)
        if not isinstance(value, fits) or (isinstance(value, bool) and not isinstance(now, bool)):
            raise ValueError(word)
    except (ValueError, SyntaxError):
        raise UserError(f"{flag}: '{word}' is no value for '{field}', which is {now!r}") from None
    return float(value) if isinstance(now, float) else value


def choose_tasks(text: str, data: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The tasks of ``--tasks``, and for those left out of ``all`` why.

    Raises:
      UserError: for an unknown task, one without a train split, or one whose data is missing.
    """
    if text == "all":
        missing = {task: why for task in TRAINED if (why := missing_file(task, data, strict=True))}
        chosen = tuple(task for task in TRAINED if task not in missing)
        if not chosen:
            raise UserError(f"no task's training and development data is in {data}; check --data")
        return chosen, missing
    chosen = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for task in chosen:
        _check_task(task)
        if why := missing_file(task, data):
            raise UserError(f"task '{task}' cannot be run: {why}")
    return chosen, {}


def _check_task(task: str) -> None:
    if task == "ax":
        raise UserError("task 'ax' is not trained: the model of 'mnli' answers it")
    if task not in TRAINED:
        raise UserError(f"GLUE has no task '{task}'{nearest(task, TRAINED)}")


def missing_file(task: str, data: str, strict: bool = False) -> str | None:
    """Why a task cannot be trained from ``files:DIR``; None where it can, or for other sources.

    ``strict`` wants the data set's own folder, so that DIR is not one task's for all of them.
    """
    from bertjax.data.files import find_file

    kind, _, location = data.partition(":")
    if kind != "files":
        return None
    layout = GLUE[task].layout
    splits = [split for split in layout.splits if not split.startswith("test")]
    location = os.path.expanduser(location.replace("{task}", task))
    if strict and "=" not in location and not (epath.Path(location) / layout.folder).is_dir():
        return f"there is no folder {location}/{layout.folder}"
    for split in splits:
        try:
            find_file(location, split, layout)
        except UserError as error:
            return str(error)
    return None


def plan_runs(
    tasks: Sequence[str],
    axes: Mapping[str, tuple[Any, ...]],
    seeds: Sequence[int],
    per_task: Mapping[str, Mapping[str, Any]],
    fields: Mapping[str, Any],
) -> list[Run]:
    """All runs: task by task, and within a task seed by seed.

    A field of ``per_task`` replaces the axis of that name. The train split of every task is read,
    so that what is wrong with it is told before anything is trained.

    Raises:
      UserError: for a config or data that cannot be.
    """
    runs = []
    for task in tasks:
        own = dict(per_task.get(task, {}))
        its_seeds = own.pop(SEEDS, tuple(seeds))
        mine = {field: (own[field],) if field in own else axes[field] for field in axes}
        points = [
            tuple(zip(mine, values, strict=True)) for values in itertools.product(*mine.values())
        ]
        data = fields["data"].replace("{task}", task)
        rows = len(get_task(task).open(data, "train"))
        for seed, point in itertools.product(its_seeds, points):
            changed = {**own, **dict(point), "task": task, "seed": seed, "data": data}
            config = FinetuneConfig.from_mapping({**fields, **changed})
            runs.append(Run(task, point, config, _examples(config, rows)))
    return runs


def _examples(config: FinetuneConfig, rows: int) -> int:
    rows = min(config.max_train_examples or rows, rows)
    return config.steps * config.batch_size or math.ceil(rows * config.epochs)
