"""Finds a task by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.tasks.base import Task
from bertjax.tasks.beyond_glue import BEYOND_GLUE
from bertjax.tasks.choice import CHOICE
from bertjax.tasks.glue import GLUE
from bertjax.tasks.multi_label import MultiLabelTask
from bertjax.tasks.squad import SQUAD
from bertjax.tasks.tagging import TAGGING
from bertjax.tasks.text import TextTask
from bertjax.types import TextSchema, UserError, nearest

OWN_DATA: dict[str, TextTask] = {
    "classification": TextTask(
        name="classification",
        schema=TextSchema(text_columns=("text",)),
        metrics=("accuracy", "f1"),
        description="One text or a pair from your own data, sorted into classes.",
    ),
    "regression": TextTask(
        name="regression",
        schema=TextSchema(text_columns=("text",)),
        metrics=("pearson", "spearman"),
        kind="regression",
        description="One text or a pair from your own data, given a number.",
    ),
    "multi_label": MultiLabelTask(
        name="multi_label",
        schema=TextSchema(text_columns=("text",), label_column="labels"),
        metrics=("f1_micro", "f1_macro", "subset_accuracy"),
        description="One text or a pair from your own data, given any number of labels.",
    ),
}

TASKS: dict[str, Task] = {**GLUE, **BEYOND_GLUE, **SQUAD, **TAGGING, **CHOICE, **OWN_DATA}
"""Every task by its name. A new one is one more entry."""
TASK_NAMES = tuple(TASKS)
OF_TABLES = tuple(name for name, task in OWN_DATA.items() if isinstance(task, TextTask))
"""Tasks whose columns and labels the experiment says."""


TASK_OF_HEAD = {task.kind: name for name, task in OWN_DATA.items()}
TASK_OF_HEAD |= {
    "span": "squad",
    "token_classification": "ner",
    "multiple_choice": "multiple_choice",
}
"""The task of a model of which only the kind of its head is known."""


def task_options(name: str) -> dict[str, Any]:
    """The options of a task with their defaults; none where there is no such task."""
    return TASKS[name].options() if name in TASKS else {}


def get_task(
    name: str,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> Task:
    """The task of that name.

    Args:
      name: one of :data:`TASK_NAMES`.
      text_columns: for one's own data, the one or two columns that hold the texts.
      label_column: for one's own data, the column that holds the label.
      labels: for one's own classification, the class names in the order of their ids.
      metrics: other metrics than the task's own; the first decides which checkpoint is the best.
      options: of the task's own ``OPTIONS``.
      data: where to infer the class names of a classification, if ``labels`` does not give them.

    Raises:
      UserError: for an unknown name, columns or labels for a task that has its own, or data that
        cannot be read.
    """
    if name not in TASK_NAMES:
        raise UserError(f"there is no task '{name}'{nearest(name.lower(), TASK_NAMES)}")
    schema = {
        "text_columns": text_columns and tuple(text_columns),
        "label_column": label_column,
        "labels": labels and tuple(labels),
    }
    overrides: dict[str, Any] = {field: value for field, value in schema.items() if value}
    task = TASKS[name]
    _check_overrides(task, overrides)
    if isinstance(task, TextTask) and overrides:
        task = dataclasses.replace(task, schema=dataclasses.replace(task.schema, **overrides))
    task = dataclasses.replace(task, metrics=tuple(metrics or task.metrics))
    task = task.with_options(options or {})
    return task if data is None else task.with_labels_of(data)


def restore_task(name: str, experiment: Mapping[str, Any], labels: Sequence[str] | None) -> Task:
    """The task of a run, from what its workdir has recorded.

    Raises:
      UserError: as :func:`get_task`.
    """
    fields = ("text_columns", "label_column", "labels")
    recorded = {field: experiment.get(field) for field in fields}
    return get_task(name, **recorded, options=experiment.get("options")).with_labels(labels)


def _check_overrides(task: Task, overrides: Mapping[str, Any]) -> None:
    if task.name not in OF_TABLES and overrides:
        field = next(iter(overrides))
        raise UserError(
            f"task '{task.name}' has its own {field}; use task 'classification' or 'regression' "
            "for other data"
        )
    labels = overrides.get("labels", ())
    if labels and task.kind == "regression":
        raise UserError("task 'regression' has no labels: it predicts a number")
    if len(set(labels)) != len(labels) or len(labels) == 1:
        raise UserError(f"labels must be two or more different words, not {', '.join(labels)}")
