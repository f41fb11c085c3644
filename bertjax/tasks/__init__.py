"""What a task is: its data, how an example is encoded, its head, and how it is scored."""

from __future__ import annotations

from bertjax.data.batching import Encoded
from bertjax.tasks.base import Task
from bertjax.tasks.glue import GLUE
from bertjax.tasks.registry import (
    TASK_NAMES,
    TASK_OF_HEAD,
    TASKS,
    get_task,
    restore_task,
    task_options,
)
from bertjax.tasks.text import TextTask

__all__ = [
    "GLUE",
    "TASKS",
    "TASK_NAMES",
    "TASK_OF_HEAD",
    "Encoded",
    "Task",
    "TextTask",
    "get_task",
    "restore_task",
    "task_options",
]
