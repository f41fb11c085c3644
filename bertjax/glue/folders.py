"""The folder of a run: whether it is finished, what is kept of it, and why it failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from etils import epath

from bertjax.glue.grid import Run
from bertjax.tasks import get_task
from bertjax.train import workdir as workdirs

LARGE = ("checkpoints", "tokenizer")
"""What a finished run does not need: its model is in MODEL."""
MODEL = "huggingface"


def folder_of(workdir: epath.Path, run: Run) -> epath.Path:
    """Where a run is."""
    return workdir / "runs" / run.place


def beside(folder: epath.Path, ending: str) -> epath.Path:
    """``seed=1.log`` and ``seed=1.failed.json`` lie beside the folder ``seed=1``."""
    return folder.with_name(folder.name + ending)


def check_runs(workdir: epath.Path, runs: Iterable[Run]) -> None:
    """Raises UserError where a run's folder holds one of another config."""
    for run in runs:
        folder = folder_of(workdir, run)
        if (folder / workdirs.CONFIG).exists():
            document = {"experiment": dataclasses.asdict(run.config)}
            workdirs.prepare(folder, document, defaults=run.config.defaults())


def main_score(task: str, result: dict[str, Any]) -> float:
    """The task's main metric on the development set, of the evaluation that was best."""
    value = result["metrics"].get(f"validation/{get_task(task).metrics[0]}")
    return float("-inf") if value is None else value


def note_failure(folder: epath.Path, sentence: str, final: bool) -> None:
    """Writes why a run failed; ``final``: it would fail again."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(beside(folder, ".failed.json"), {"sentence": sentence, "final": final})


def read_failure(folder: epath.Path) -> dict[str, Any] | None:
    """``{"sentence": …, "final": …}``, or None for a run that has not failed."""
    path = beside(folder, ".failed.json")
    return workdirs.read_json(path, "remove it") if path.exists() else None


def forget_failure(folder: epath.Path) -> None:
    """Before a run is tried again."""
    beside(folder, ".failed.json").unlink(missing_ok=True)


def is_over(folder: epath.Path) -> bool:
    """Whether a run is finished, or failed in a way that it would fail again."""
    failure = read_failure(folder)
    return workdirs.read_result(folder) is not None or bool(failure and failure["final"])


def tidy(workdir: epath.Path, run: Run, keep: str) -> None:
    """Removes what is not kept of a finished run, and of those with another seed.

    ``keep``: with ``best`` the model of the best seed of each grid point stays, with ``all`` all
    of everything.
    """
    if keep == "all":
        return
    folder = folder_of(workdir, run)
    results = {
        path: result
        for path in sorted(folder.parent.iterdir())
        if path.is_dir() and (result := workdirs.read_result(path)) is not None
    }
    having = [path for path in results if (path / MODEL).exists()]
    best = max(having, key=lambda path: main_score(run.task, results[path]), default=None)
    for path in results:
        for name in LARGE if path == best else (*LARGE, MODEL):
            if (path / name).exists():
                (path / name).rmtree()
