"""The published rows: well formed, and cut to the tasks that were run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bertjax.glue.published import GLUE_ROWS, OTHER_ROWS, Row, rows_for
from bertjax.tasks import GLUE


@pytest.mark.parametrize("row", GLUE_ROWS, ids=lambda row: row.name)
def test_scores_are_of_known_tasks_and_metrics(row: Row):
    assert row.split in ("dev", "test")
    assert row.source
    for task, score in row.scores.items():
        parts = score.split("/")
        assert len(parts) <= (2 if task == "mnli" else len(GLUE[task].metrics))
        for part in parts:
            value, _, deviation = part.partition("±")
            assert re.fullmatch(r"\d+\.\d+", value)
            assert 0 <= float(value) <= 100
            assert deviation == "" or float(deviation) < 10


def test_rows_hold_the_wanted_tasks_alone_in_their_order():
    rows = rows_for(["ax", "stsb"])
    assert [(row.name, list(row.scores)) for row in rows] == [
        ("bert-base-uncased", ["stsb"]),
        ("bert-base-cased (Flax)", ["stsb"]),
        ("BERT-Tiny", ["ax", "stsb"]),
        ("BERT-Small", ["ax", "stsb"]),
    ]
    assert rows_for(["squad"]) == []
    assert [row.scores["squad"] for row in rows_for(["squad"], OTHER_ROWS)] == [
        "80.8/88.5",
        "84.1/90.9",
    ]


def test_the_guide_prints_every_row():
    guide = (Path(__file__).parents[1] / "docs" / "glue.md").read_text(encoding="utf-8")
    tasks = [task for task in GLUE if task != "ax"] + ["ax"]
    for row in GLUE_ROWS:
        cells = [row.scores.get(task, "–") for task in tasks]
        assert f"| {' | '.join([row.name, row.split, *cells])} |\n" in guide
        assert row.source.partition(";")[0] in " ".join(guide.split())


def test_the_recipes_print_what_is_published_beyond_glue():
    guide = (Path(__file__).parents[1] / "docs" / "finetuning.md").read_text(encoding="utf-8")
    for row in OTHER_ROWS:
        for score in row.scores.values():
            assert score in guide
