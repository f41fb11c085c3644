"""The submission at the end of ``bertjax glue``: written anew for other weights, and only then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from canned_glue import canned_run
from etils import epath

from bertjax.cli.submission import parse_models
from bertjax.glue import submission
from bertjax.glue.conclude import make_zip
from bertjax.glue.results import collect


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that a model was asked for, in place of asking one."""
    asked: list[str] = []
    rows = {"MNLI-m.tsv", "MNLI-mm.tsv"}

    def tests_of(task: str, data: str) -> tuple[dict[Any, Sequence[Any]], dict[str, str]]:
        del data
        files = [file for file in submission.SERVER_FILES if file.model == task]
        missing = {file.name: "there is no AX" for file in files if file.name not in rows}
        return {file: [] for file in files if file.name in rows}, missing

    def predictions(model: Any, file: Any, records: Any, batch_size: int) -> list[Any]:
        asked.append(file.name)
        return [file.filling[0]] * file.rows

    monkeypatch.setattr(submission, "tests_of", tests_of)
    monkeypatch.setattr("bertjax.glue.conclude.tests_of", tests_of)
    monkeypatch.setattr(submission, "load", lambda *given, **more: None)
    monkeypatch.setattr(submission, "_predictions", predictions)
    return asked


def test_other_weights_at_the_same_place(tmp_path: Path, predicted: list[str]):
    """AX has no test set here, which is no reason to predict MNLI's again."""

    def conclude() -> tuple[str, ...]:
        predicted.clear()
        return make_zip(workdir, collect(workdir)[0], "files:d")

    workdir = epath.Path(tmp_path)
    folder = canned_run(tmp_path, "mnli", "", 1, [0.8, 0.8], model=True)
    (folder / "huggingface" / "model.safetensors").write_bytes(b"one")
    notes = conclude()
    assert predicted == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    assert any(note.endswith("there is no AX") for note in notes)
    assert conclude() == notes
    assert predicted == []
    (folder / "huggingface" / "model.safetensors").write_bytes(b"two")
    assert conclude() == notes
    assert predicted == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    shutil.rmtree(folder)
    assert len(conclude()) == 12
    assert predicted == []
    told = json.loads((tmp_path / "submission.json").read_text())["files"]
    assert not any("model" in entry for entry in told.values())


def test_folders_of_points_with_several_fields():
    """A comma within a folder's name is no new task."""
    point = "W/runs/cola/batch_size=16,learning_rate=2e-05,weight_decay=0.0/seed=1"
    assert parse_models(f"cola={point},rte=R") == {"cola": point, "rte": "R"}
