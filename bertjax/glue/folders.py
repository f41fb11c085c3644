"""The folder of a run: whether it is finished, what is kept of it, and why it failed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from bertjax.glue.grid import TRAINED, Run, fields_of
from bertjax.tasks import get_task
from bertjax.train import workdir as workdirs
from bertjax.train.config import FinetuneConfig

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
    """Raises UserError where a run's folder, or a result beside it, is of another config.

    Medians and the submission are over all that is in a workdir. So other seeds and other points of
    a task have the same config but for the seed and the fields of the grid, and other tasks the
    same model.
    """
    planned: dict[str, Run] = {}
    for run in runs:
        planned.setdefault(run.task, run)
        folder = folder_of(workdir, run)
        if (folder / workdirs.CONFIG).exists():
            document = {"experiment": dataclasses.asdict(run.config)}
            workdirs.prepare(folder, document, defaults=run.config.defaults())
    if not planned:
        return
    fields = {field.name for field in dataclasses.fields(FinetuneConfig)}
    for task, point, folder in run_folders(workdir):
        if workdirs.read_result(folder) is None:
            continue
        run = planned.get(task)
        free = fields - {"model"} if run is None else {"seed", *fields_of(point), *dict(run.point)}
        config = (run or next(iter(planned.values()))).config
        there = workdirs.read_document(folder)["experiment"]
        here = dataclasses.asdict(config)
        workdirs.check_same(folder, there, here, config.defaults(), free)


def run_folders(workdir: epath.Path) -> Iterator[tuple[str, str, epath.Path]]:
    """Of every run below ``WORKDIR/runs`` its task, its point and its folder, by seed.

    The folder of a run that failed at once need not be there, but what lies beside it.
    """
    for task in TRAINED:
        top = workdir / "runs" / task
        if not top.is_dir():
            continue
        inner = sorted(path for path in top.iterdir() if path.is_dir() and not _seed(path.name))
        for place in [top, *inner]:
            seeds = {seed for path in place.iterdir() if (seed := _seed(path.name))}
            for seed in sorted(seeds, key=lambda name: int(name.removeprefix("seed="))):
                yield task, "" if place == top else place.name, place / seed


def _seed(name: str) -> str:
    """``seed=1`` of ``seed=1`` and of what lies beside it; else empty."""
    match = re.fullmatch(r"(seed=\d+)(\.log|\.failed\.json)?", name)
    return match[1] if match else ""


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
    """Whether a run is finished, or failed in a way that it would fail again.

    Where the folder was removed, it is to be run anew.
    """
    if workdirs.read_result(folder) is not None:
        return True
    failure = read_failure(folder)
    return bool(failure and failure["final"]) and (folder / workdirs.CONFIG).exists()


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
