"""The report of a grid: ``report.md`` and ``report.html`` say the same, the page with curves."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence

from etils import epath

from bertjax.glue.page import page
from bertjax.glue.published import Row, rows_for
from bertjax.glue.results import Failure, PointResults, TaskResults, collect, metric_names
from bertjax.glue.tables import Section, Table, markdown
from bertjax.glue.words import duration

TITLES = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
READING = (
    "Scores are per cent on the development set. A run's score is that of its best evaluation by "
    "the task's main metric, which comes first; “last” is that of its last evaluation, which no "
    "choice has favoured. The hyper-parameters are those with the highest median over the seeds, "
    "a failed one counted as the lowest."
)
BESIDE = (
    "The first row is the median of the best hyper-parameters here. The others are as their "
    "sources print them; those of the test sets were scored by GLUE's server."
)


@dataclasses.dataclass(frozen=True)
class Heading:
    """What a report is of."""

    model: str
    data: str
    command: str
    total: int
    """Runs that the command asks for."""
    left_out: tuple[str, ...] = ()
    """Why tasks have no run, a sentence each."""
    submission: tuple[str, ...] = ()
    """What is to be known of the submission, a sentence each."""

    @property
    def name(self) -> str:
        """The model's without the folders above it."""
        folder = epath.Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model


def write_report(workdir: epath.Path, heading: Heading) -> list[TaskResults]:
    """Writes both files from what the runs left; returns the results.

    Raises:
      UserError: where a file of a run is damaged.
    """
    tasks, failures = collect(workdir)
    title = f"GLUE: {heading.name}"
    sections = _sections(tasks, failures, heading)
    for name, text in (
        ("report.md", markdown(title, sections)),
        ("report.html", page(title, sections, tasks)),
    ):
        part = workdir / f"{name}.part"
        part.write_text(text)
        part.replace(workdir / name)
    return tasks


def _sections(
    tasks: Sequence[TaskResults], failures: Sequence[Failure], heading: Heading
) -> list[Section]:
    finished = sum(len(point.results) for task in tasks for point in task.points)
    counted = (
        f"{finished} runs are finished and {len(failures)} have failed; the command below asks "
        f"for {heading.total}."
    )
    sections = [Section("Best hyper-parameters", [READING, counted], [_summary(tasks)])]
    sections += [_beside(tasks, heading.name)]
    sections += [
        Section(TITLES[task.task], [], [_points(task)], curves=task.task) for task in tasks
    ]
    if failures:
        rows = [(failure.name, failure.sentence) for failure in failures]
        sections.append(Section("Failed runs", [], [Table(("run", "why"), rows, text=2)]))
    for name, notes in (
        ("Tasks left out", heading.left_out),
        ("Submission", heading.submission),
    ):
        if notes:
            sections.append(Section(name, [], [], notes))
    return [*sections, _origin(tasks, heading)]


def _summary(tasks: Sequence[TaskResults]) -> Table:
    header = ("task", "metric", "hyper-parameters", "median", "mean ± sd", "best", "last", "seeds")
    rows = []
    for task in tasks:
        point = task.best
        rows.append((TITLES[task.task], *_metrics(task.task), _named(point.point), *_row(point)))
    return Table(header, rows, text=3)


def _metrics(task: str) -> tuple[str]:
    return ("/".join(metric_names(task)),)


def _row(point: PointResults) -> tuple[str, ...]:
    return (
        shown(point.medians()),
        _spread(point),
        f"{shown(point.best.scores)} (seed {point.best.seed})",
        shown(point.medians(last=True)),
        str(len(point.results)),
    )


def shown(scores: Sequence[float]) -> str:
    """``88.97/84.36``."""
    return "/".join(f"{score:.2f}" for score in scores)


def _spread(point: PointResults) -> str:
    deviations = point.deviations()
    if deviations is None:
        return shown(point.means())
    pairs = zip(point.means(), deviations, strict=True)
    return "/".join(f"{mean:.2f}±{deviation:.2f}" for mean, deviation in pairs)


def _named(point: str) -> str:
    return point.replace(",", ", ").replace("=", " ") or "as configured"


def _beside(tasks: Sequence[TaskResults], model: str) -> Section:
    names = [task.task for task in tasks]
    header = ("model", "split", *(TITLES[name] for name in names))
    metrics = ("", "", *("/".join(metric_names(name)) for name in names))
    mine = (model, "dev", *(shown(task.best.medians()) for task in tasks))
    published = rows_for(names)
    rows = [metrics, mine, *(_published(row, names) for row in published)]
    sources = [f"{row.name}: {row.source}. {row.note}".strip() for row in published]
    table = Table(header, rows, text=2, strong=1)
    return Section("Beside published scores", [BESIDE], [table], notes=sources)


def _published(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    return (row.name, row.split, *(row.scores.get(name, "–") for name in names))


def _points(task: TaskResults) -> Table:
    header = ("hyper-parameters", "median", "mean ± sd", "best", "last", "seeds", "time a run")
    rows = []
    for point in task.points:
        seconds = sum(result.seconds for result in point.results) / len(point.results)
        rows.append((_named(point.point), *_row(point), duration(seconds)))
    return Table(header, rows, strong=task.points.index(task.best))


def _origin(tasks: Sequence[TaskResults], heading: Heading) -> Section:
    runs = [result for task in tasks for point in task.points for result in point.results]
    devices = sorted({result.device for result in runs})
    versions = sorted({pair for result in runs for pair in result.versions})
    rows = [
        ("model", heading.model),
        ("data", heading.data),
        ("devices of a run", ", ".join(devices) or "–"),
        ("machine", f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"),
        ("time of all runs", duration(sum(result.seconds for result in runs))),
        ("Python", platform.python_version()),
        *versions,
    ]
    table = Table(("what", "which"), rows, text=2)
    return Section("How it was made", [], [table], command=heading.command)
