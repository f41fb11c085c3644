"""Experiments over several tasks, ``task=mnli+rte``: which they are, and what each has for its own.

The fields of an experiment are shared by its tasks, but for these: ``{task}`` in ``data`` stands
for each task's name, ``task_data`` names other data of single tasks, and ``options`` holds each
task's options under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertjax.tasks.base import Task
from bertjax.tasks.glue import GLUE
from bertjax.tasks.registry import OF_TABLES, TASKS, task_options
from bertjax.types import UserError, nearest

SIGN = "+"


def task_names(field: str) -> tuple[str, ...]:
    """The tasks that the field ``task`` of an experiment names.

    Raises:
      UserError: where one is named twice, or between two signs there is none.
    """
    names = tuple(field.split(SIGN))
    if len(names) > 1 and not all(names):
        raise UserError(f"config field 'task': '{field}' names no task beside a {SIGN}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"config field 'task': '{field}' names {twice[0]} twice")
    return names


def is_several(experiment: Mapping[str, Any]) -> bool:
    """Whether an experiment trains several tasks."""
    return SIGN in experiment.get("task", "")


def options_of(field: str) -> dict[str, Any]:
    """The options of an experiment's task with their defaults; of several, each one's by name."""
    if SIGN not in field:
        return task_options(field)
    return {name: found for name in field.split(SIGN) if (found := task_options(name))}


def default_data(field: str) -> str:
    """Where the data of an experiment's tasks come from if nothing is said; empty: it must be."""
    return "tfds:glue/{task}" if all(name in GLUE for name in field.split(SIGN) if name) else ""


def usual_length(field: str) -> int:
    """The longest example of an experiment's tasks where nothing is said."""
    found = [TASKS[name].usual_length for name in field.split(SIGN) if name in TASKS]
    return max(found, default=Task.usual_length)


def data_fields(field: str) -> dict[str, str]:
    """The field ``task_data`` before it is set: a place for each of several tasks."""
    return dict.fromkeys(field.split(SIGN), "") if SIGN in field else {}


def of_task(experiment: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of an experiment of several tasks, as those of one of them alone.

    Columns and labels are of the tasks for one's own data; GLUE's, say, have their own.
    """
    if not is_several(experiment):
        return dict(experiment)
    own: dict[str, Any] = {
        "task": name,
        "data": (experiment["task_data"].get(name) or experiment["data"]).replace("{task}", name),
        "task_data": {},
        "options": experiment["options"].get(name, {}),
    }
    if name not in OF_TABLES:
        own |= dict.fromkeys(("text_columns", "label_column", "labels"))
    return {**experiment, **own}


def check_fields(experiment: Mapping[str, Any]) -> None:
    """Checks that options and data are of tasks of the experiment.

    Raises:
      UserError: for another task's.
    """
    names = task_names(experiment["task"])
    several = len(names) > 1
    for field in ("task_data", *["options"] * several):
        for name in experiment[field]:
            if name not in names or not several:
                raise UserError(
                    f"config field '{field}' has a task '{name}' that the experiment has not"
                    + (nearest(name, names) if several else "; set 'data' of a single task")
                )
