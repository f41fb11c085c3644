"""The report of ``bertjax glue`` on made-up results: numbers by hand, and a page that stands."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from canned_glue import STEPS, canned_run
from etils import epath

from bertjax.glue.charts import BINS, binned, ticks
from bertjax.glue.report import Heading, write_report
from bertjax.glue.results import TaskResults, collect

LOW, HIGH = "learning_rate=2e-05", "learning_rate=0.0001"
COLA = {LOW: (0.41, 0.44, 0.50), HIGH: (0.30, 0.45, 0.46)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    for point, scores in COLA.items():
        for seed, score in enumerate(scores, 1):
            keep = seed == 2 or point == HIGH
            canned_run(folder, "cola", point, seed, [score], last=[score - 0.1], model=keep)
    canned_run(folder, "mrpc", "", 10, [0.9, 0.85])
    canned_run(folder, "mrpc", "", 9, [0.88, 0.87])
    canned_run(folder, "mnli", LOW, 1, [0.8, 0.81], model=True)
    canned_run(folder, "rte", LOW, 1, [0.6])
    failed = {"sentence": "the training has diverged: <nan> | 5", "final": True}
    (folder / "runs" / "rte" / LOW / "seed=2.failed.json").write_text(json.dumps(failed))
    stsb = canned_run(folder, "stsb", LOW, 1, [0.5, 0.5])
    result = json.loads((stsb / "result.json").read_text())
    result["metrics"]["validation/pearson"] = None
    (stsb / "result.json").write_text(json.dumps(result))
    (folder / "runs" / "wnli" / LOW / "seed=1").mkdir(parents=True)  # begun, not finished
    heading = Heading("org/model", "files:glue", "bertjax glue --model=org/model", 20, ("no qqp",))
    write_report(epath.Path(folder), heading)
    return folder


@pytest.fixture(scope="module")
def tasks(workdir: Path) -> dict[str, TaskResults]:
    return {task.task: task for task in collect(epath.Path(workdir))[0]}


def table_rows(workdir: Path, first: str) -> list[list[str]]:
    """Rows of the Markdown report whose first cell is ``first``, without their emphasis."""
    lines = (workdir / "report.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return [[cell.strip("*") for cell in row] for row in rows if row[0].strip("*") == first]


def test_statistics_by_hand(workdir: Path):
    """The best point is that of the highest median, not of the highest score."""
    [row] = table_rows(workdir, "CoLA")
    mean, deviation = statistics.mean(COLA[HIGH]), statistics.stdev(COLA[HIGH])
    assert row[1:] == [
        "matthews",
        "learning_rate 0.0001",
        "45.00",
        f"{100 * mean:.2f}±{100 * deviation:.2f}",
        "46.00 (seed 3)",
        "35.00",
        "3",
    ]


def test_every_point_is_there_in_the_order_of_its_values(
    workdir: Path, tasks: dict[str, TaskResults]
):
    assert [point.point for point in tasks["cola"].points] == [LOW, HIGH]
    low = table_rows(workdir, "learning_rate 2e-05")[0]
    assert low[1:] == ["44.00", "45.00±4.58", "50.00 (seed 3)", "34.00", "3", "1 min 40 s"]


def test_two_metrics_and_runs_without_a_grid(workdir: Path, tasks: dict[str, TaskResults]):
    [row] = table_rows(workdir, "MRPC")
    assert row[1:4] == ["F1/accuracy", "as configured", "89.00/86.00"]
    assert [result.seed for result in tasks["mrpc"].points[0].results] == [9, 10]
    [mnli] = table_rows(workdir, "MNLI")
    assert mnli[1:5] == ["matched/mismatched", "learning_rate 2e-05", "80.00/81.00", "80.00/81.00"]


def test_failed_runs_are_told(workdir: Path):
    text = (workdir / "report.md").read_text()
    assert "10 runs are finished and 2 have failed; the command below asks for 20" in text
    assert "the training has diverged: <nan> \\| 5" in text
    assert "| stsb learning_rate=2e-05 seed=1 | its validation/pearson is not a number" in text
    assert "- no qqp" in text


def test_published_scores_stand_below_ours(workdir: Path):
    [mine] = table_rows(workdir, "org/model")
    assert mine == ["org/model", "dev", "45.00", "89.00/86.00", "80.00/81.00", "60.00"]
    [theirs] = table_rows(workdir, "BERT-Small")
    assert theirs == ["BERT-Small", "test", "27.8", "83.4/76.2", "77.6/77.0", "61.8"]
    text = (workdir / "report.md").read_text()
    assert text.index("**org/model**") < text.index("| bert-base-uncased")
    assert "bertjax glue --model=org/model" in text


def test_the_model_that_is_submitted_is_one_that_was_kept(tasks: dict[str, TaskResults]):
    chosen = tasks["cola"].chosen
    assert chosen is not None
    assert (chosen.point, chosen.seed) == (HIGH, 3)
    assert tasks["mrpc"].chosen is None


def test_without_its_model_the_next_point_answers(tmp_path: Path):
    for point, scores in COLA.items():
        for seed, score in enumerate(scores, 1):
            canned_run(tmp_path, "cola", point, seed, [score], model=point == LOW and seed < 3)
    [task] = collect(epath.Path(tmp_path))[0]
    assert task.best.point == HIGH
    assert task.chosen is not None
    assert (task.chosen.point, task.chosen.seed) == (LOW, 2)


def test_seeds_that_failed_count_as_the_lowest(tmp_path: Path):
    """One lucky seed of three does not beat three of three; nor does another folder count."""
    canned_run(tmp_path, "rte", HIGH, 1, [0.71], model=True)
    for seed in (2, 3):
        canned_run(tmp_path, "rte", LOW, seed, [0.7], model=True)
        failure = tmp_path / "runs" / "rte" / HIGH / f"seed={seed}.failed.json"
        failure.write_text('{"sentence": "no", "final": true}')
    (tmp_path / "runs" / "rte" / LOW / "seed=2 copy").mkdir()
    [task], failures = collect(epath.Path(tmp_path))
    assert len(failures) == 2
    assert task.best.point == LOW
    assert task.best.medians() == (70.0,)
    assert task.chosen is not None
    assert task.chosen.point == LOW


class Tags(HTMLParser):
    """Checks that every element is closed, and notes what it names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(workdir: Path):
    text = (workdir / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe"}
    assert not any({"src", "href", "onclick"} & attributes.keys() for _, attributes in tags.seen)
    assert "@import" not in text
    assert "url(" not in text
    assert "&lt;nan&gt; | 5" in text
    assert "prefers-color-scheme: dark" in text


def test_curves_are_inside_their_charts(workdir: Path):
    """One line a run and chart; the dev scores rise from the left to the right edge."""
    text = (workdir / "report.html").read_text()
    lines = re.findall(r'<polyline class="line (.*?)" points="(.*?)"><title>(.*?)</title>', text)
    assert len(lines) == 2 * (6 + 2 + 1 + 1)
    for _, points, _ in lines:
        places = [tuple(map(float, point.split(","))) for point in points.split()]
        assert all(52 <= x <= 442 and 36 <= y <= 216 for x, y in places)
    best = [points for kind, points, name in lines if name == f"{HIGH} seed 3" and "strong" in kind]
    dev = [tuple(map(float, point.split(","))) for point in best[1].split()]
    assert len(dev) == 3
    assert dev[-1][0] == 442
    assert dev[0][1] > dev[1][1] > dev[2][1]


def test_binned_curves_keep_their_mean():
    curve = tuple((float(step), float(step % 7)) for step in range(1, STEPS + 1))
    short = binned(curve)
    assert len(short) == BINS
    assert statistics.mean(y for _, y in short) == pytest.approx(
        statistics.mean(y for _, y in curve)
    )
    assert binned(curve[:3]) == curve[:3]
    assert binned(()) == ()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.1, 0.7), (47.2, 47.3), (3, 3), (0, 6310)])
def test_ticks_are_round_and_enclose(low: float, high: float):
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 3 <= len(found) <= 8
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"
