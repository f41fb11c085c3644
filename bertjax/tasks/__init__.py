"""What a task is: its data, how an example is encoded, its head, and how it is scored."""

from __future__ import annotations

from bertjax.tasks.base import Encoded, Task
from bertjax.tasks.glue import GLUE
from bertjax.tasks.registry import TASK_NAMES, get_task

__all__ = ["GLUE", "TASK_NAMES", "Encoded", "Task", "get_task"]
