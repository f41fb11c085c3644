"""What becomes of a finished grid: the submission of its best models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.glue.results import TaskResults
from bertjax.glue.submission import SERVER_FILES, described, make_submission, tests_of

NAME = "submission.zip"


def make_zip(workdir: epath.Path, tasks: Sequence[TaskResults], data: str) -> tuple[str, ...]:
    """Writes ``submission.zip``, of the best seed of the best point of each task.

    It is not written anew where it is there and of the same weights.

    Returns:
      What is to be known of it, a sentence each.

    Raises:
      UserError: as :func:`bertjax.glue.submission.make_submission`.
    """
    place = workdir / NAME
    chosen = {task.task: found for task in tasks if (found := task.chosen) is not None}
    models = {task: result.model or "" for task, result in chosen.items()}
    notes = [
        f"{task.task} has no model that was kept, so its file is filled; run it with --keep=best"
        for task in tasks
        if task.task not in models
    ]
    if (told := _told(place)) is None or not _is_of(told, models, data):
        lengths = {task: result.max_length for task, result in chosen.items()}
        make_submission(str(place), models, data, max_lengths=lengths)
        told = _told(place) or {}
    picked = [
        f"{file.name} is answered by {chosen[file.model].name}"
        for file in SERVER_FILES
        if "model" in told[file.name]
    ]
    return (f"{place} is for https://gluebenchmark.com/submit", *picked, *notes, *_filled(told))


def _told(place: epath.Path) -> dict[str, Any] | None:
    """What stands beside a zip: of each file its model, or why it is filled."""
    beside = place.with_suffix(".json")
    if not (place.exists() and beside.exists()):
        return None
    return json.loads(beside.read_text())["files"]


def _is_of(told: Mapping[str, Any], models: Mapping[str, str], data: str) -> bool:
    """Whether the same weights would answer the same files, and for the same reasons no others."""
    now = {task: described(folder) for task, folder in models.items()}
    lacking: dict[str, str] = {}
    for task in {file.model for file in SERVER_FILES if "filled" in told[file.name]} & now.keys():
        lacking |= tests_of(task, data)[1]
    for file in SERVER_FILES:
        entry = told[file.name]
        if "filled" in entry:
            same = file.model not in now or lacking.get(file.name) == entry["because"]
        else:
            same = now.get(file.model) == {name: entry[name] for name in entry if name != "rows"}
        if not same:
            return False
    return True


def _filled(told: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is filled with {entry['filled']}: {entry['because']}"
        for name, entry in told.items()
        if "filled" in entry
    ]
