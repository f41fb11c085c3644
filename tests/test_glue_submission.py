"""GLUE's submission: what is written passes a check that knows nothing of the writer."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_model

import bertjax
from bertjax.cli import main as cli
from bertjax.glue.submission import (
    SERVER_FILES,
    ServerFile,
    make_submission,
    predictions_of,
    write_submission,
)
from bertjax.glue.validator import FORMAT, validate_submission
from bertjax.tasks import GLUE
from bertjax.types import HeadConfig, UserError

FILES = {file.name: file for file in SERVER_FILES}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission without a single model."""
    path = tmp_path_factory.mktemp("submission") / "filled.zip"
    assert len(write_submission(str(path), {})) == len(FILES)
    return path


def test_filled_submission_is_valid_and_told(filled: Path):
    validate_submission(str(filled))
    told = json.loads(filled.with_suffix(".json").read_text())["files"]
    assert {name: entry["rows"] for name, entry in told.items()} == {
        "CoLA.tsv": 1063,
        "SST-2.tsv": 1821,
        "MRPC.tsv": 1725,
        "STS-B.tsv": 1379,
        "QQP.tsv": 390965,
        "MNLI-m.tsv": 9796,
        "MNLI-mm.tsv": 9847,
        "QNLI.tsv": 5463,
        "RTE.tsv": 3000,
        "WNLI.tsv": 146,
        "AX.tsv": 1104,
    }
    assert told["AX.tsv"] == {
        "rows": 1104,
        "filled": "entailment",
        "because": "there is no model of mnli",
    }
    with zipfile.ZipFile(filled) as archive:
        head = archive.read("STS-B.tsv").decode().split("\n")[:3]
    assert head == ["index\tprediction", "0\t0.000", "1\t1.000"]


def test_writer_and_validator_agree():
    assert {file.name: (file.rows, set(file.words)) for file in SERVER_FILES} == {
        name: (rows, set(words)) for name, (rows, words) in FORMAT.items()
    }


def test_predictions_arrive_as_given_and_the_bytes_repeat(tmp_path: Path):
    wnli = ["01"[row % 2] for row in range(146)]
    stsb = [-0.0, *(row % 11 / 2 for row in range(1, 1379))]
    predictions: dict[str, list[Any]] = {"WNLI.tsv": wnli, "STS-B.tsv": stsb}
    one, two = tmp_path / "one.zip", tmp_path / "deep" / "er" / "two.zip"
    source = {"WNLI.tsv": {"model": "runs"}}
    notes = write_submission(str(one), predictions, {"RTE.tsv": "it rained"}, source)
    assert notes == write_submission(str(two), predictions, {"RTE.tsv": "it rained"})
    assert one.read_bytes() == two.read_bytes()
    validate_submission(str(one))
    with zipfile.ZipFile(one) as archive:
        lines = archive.read("STS-B.tsv").decode().splitlines()
        assert lines[1:12] == [f"{row}\t{row / 2:.3f}" for row in range(11)]
        cells = [line.split("\t") for line in archive.read("WNLI.tsv").decode().splitlines()]
    assert [cell for _, cell in cells[1:]] == wnli
    assert len(notes) == 9
    assert "RTE.tsv is filled with entailment: it rained" in notes
    told = json.loads(one.with_suffix(".json").read_text())["files"]
    assert told["WNLI.tsv"] == {"rows": 146, "model": "runs"}


def _set(name: str, change: Callable[[str], str]) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        files[name] = change(files[name].decode()).encode()

    return apply


def _line(name: str, number: int, new: str) -> Callable[[dict[str, bytes]], None]:
    """Puts ``new`` in the place of line ``number``, from 1."""

    def change(text: str) -> str:
        lines = text.split("\n")
        lines[number - 1] = new
        return "\n".join(lines)

    return _set(name, change)


def _rename(name: str, new: str) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({new: files.pop(name)})


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "missing": (lambda files: files.pop("AX.tsv"), "lacks AX.tsv; the server asks for all"),
    "extra": (lambda files: files.update({"README.txt": b""}), "README.txt, no file of GLUE"),
    "folder": (_rename("AX.tsv", "sub/AX.tsv"), "sub/AX.tsv; its files must lie in no folder"),
    "name": (_rename("MNLI-m.tsv", "MNLI.tsv"), "MNLI.tsv, no file of GLUE; did you mean 'MNLI-m"),
    "header": (_line("AX.tsv", 1, "id\tlabel"), "AX.tsv, line 1: the header"),
    "no header": (_set("AX.tsv", lambda t: t.partition("\n")[2]), "AX.tsv, line 1: the header"),
    "empty": (_set("AX.tsv", lambda t: ""), "AX.tsv, line 1: the header"),
    "too few": (_set("CoLA.tsv", lambda t: t[: t.rindex("1062")]), "CoLA.tsv has 1,062 pred"),
    "too many": (_set("CoLA.tsv", lambda t: t + "1063\t1\n"), "has 1,064 predictions, not 1,063"),
    "blank line": (_set("CoLA.tsv", lambda t: t + "\n"), "CoLA.tsv, line 1065 has 1 columns"),
    "columns": (_line("AX.tsv", 3, "1\tneutral\t0.5"), "AX.tsv, line 3 has 3 columns"),
    "comma": (_line("AX.tsv", 3, "1,neutral"), "AX.tsv, line 3 has 1 columns"),
    "order": (_line("AX.tsv", 3, "2\tneutral"), "AX.tsv, line 3: the index is '2', not 1"),
    "from 1": (_line("AX.tsv", 2, "1\tneutral"), "AX.tsv, line 2: the index is '1', not 0"),
    "word": (_line("AX.tsv", 3, "1\tnot_entailment"), "line 3: 'not_entailment' is none of ent"),
    "label": (_line("CoLA.tsv", 2, "0\tacceptable"), "line 2: 'acceptable' is none of 0, 1"),
    "float": (_line("CoLA.tsv", 2, "0\t1.0"), "CoLA.tsv, line 2: '1.0' is none of 0, 1"),
    "nan": (_line("STS-B.tsv", 9, "7\tnan"), "STS-B.tsv, line 9: 'nan' is not a number from 0"),
    "beyond": (_line("STS-B.tsv", 9, "7\t5.001"), "line 9: '5.001' is not a number from 0 to 5"),
    "below": (_line("STS-B.tsv", 9, "7\t-0.01"), "line 9: '-0.01' is not a number from 0 to 5"),
    "mark": (_set("AX.tsv", lambda t: "\ufeff" + t), "AX.tsv, line 1 begins with a byte-order"),
    "windows": (_set("AX.tsv", lambda t: t.replace("\n", "\r\n")), "line 1 ends as on Windows"),
    "bytes": (lambda files: files.update({"AX.tsv": b"\xff\xfe"}), "AX.tsv is not UTF-8 at byte 0"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_every_break_is_found(case: str, filled: Path, tmp_path: Path):
    with zipfile.ZipFile(filled) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    breaks, told = BROKEN[case]
    breaks(files)
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(UserError) as error:
        validate_submission(str(tmp_path / "broken.zip"))
    assert told in str(error.value)


def test_validator_takes_what_the_server_takes(filled: Path, tmp_path: Path):
    with zipfile.ZipFile(filled) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    _line("STS-B.tsv", 9, "7\t4.2e-05")(files)
    _line("STS-B.tsv", 10, "8\t5")(files)
    _set("AX.tsv", lambda text: text.removesuffix("\n"))(files)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    validate_submission(str(tmp_path / "other.zip"))


def test_damaged_or_absent_zip(filled: Path, tmp_path: Path):
    with pytest.raises(UserError, match="there is no file"):
        validate_submission(str(tmp_path / "none.zip"))
    damaged = tmp_path / "damaged.zip"
    content = bytearray(filled.read_bytes())
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"is no zip that can be read"):
        validate_submission(str(damaged))
    content[60:80] = bytes(20)  # within the first file's packed bytes
    damaged.write_bytes(content)
    with pytest.raises(UserError, match=r"is no zip that can be read"):
        validate_submission(str(damaged))


@pytest.mark.parametrize(
    ("path", "predictions", "told"),
    [
        ("a.tar", {}, "a submission is a zip: write .*a.tar.zip"),
        ("a.zip", {"wnli": []}, "has no file 'wnli'"),
        ("a.zip", {"WNLI.tsv": ["0"] * 145}, "WNLI.tsv has 146 rows, not 145"),
        ("a.zip", {"WNLI.tsv": ["entailment"] * 146}, "row 0: 'entailment' is none of 0, 1"),
        ("a.zip", {"STS-B.tsv": [float("nan")] * 1379}, "row 0: nan is no number from 0 to 5"),
        ("a.zip", {"STS-B.tsv": [5.5] * 1379}, "STS-B.tsv, row 0: 5.5 is no number from 0 to 5"),
    ],
)
def test_writer_refuses(path: str, predictions: dict[str, Any], told: str, tmp_path: Path):
    with pytest.raises(UserError, match=told):
        write_submission(str(tmp_path / path), predictions)
    assert list(tmp_path.iterdir()) == []


def _test_file(folder: Path, task: str, rows: int) -> None:
    """A test set of GLUE's layout with as many rows as are wanted."""
    layout, schema = GLUE[task].layout, GLUE[task].schema
    columns = [layout.column(column) for column in schema.text_columns]
    lines = ["\t".join(["index", *columns])]
    texts = ["the cat runs .", "a dog sleeps here"]
    for row in range(rows):
        lines.append(
            "\t".join([str(row), *(texts[(row + i) % 2] + " ." * (row % 3) for i in (0, 1))])
        )
    (folder / layout.folder).mkdir(parents=True, exist_ok=True)
    (folder / layout.folder / layout.files["test"]).write_text("\n".join(lines) + "\n")


class _Scripted:
    """A model that gives the answers it was made with."""

    def __init__(self, task: str, answers: Iterable[dict[str, Any]]):
        self.task, self._answers = SimpleNamespace(name=task), list(answers)
        self.seen: list[Any] = []

    def answers(self, records: Iterable[Any], batch_size: int) -> Iterable[dict[str, Any]]:
        self.seen = list(records)
        return iter(self._answers)


def _scripted(task: str, answers: Iterable[dict[str, Any]]) -> Any:
    return _Scripted(task, answers)


def test_scores_are_brought_into_the_server_s_range(tmp_path: Path):
    _test_file(tmp_path, "stsb", 1379)
    model = _scripted("stsb", ({"score": row / 100 - 3} for row in range(1379)))
    found = predictions_of(model, "stsb", f"files:{tmp_path}")
    assert [found[0], found[301], found[-1]] == pytest.approx([0.0, 0.01, 5.0])
    assert GLUE["stsb"].texts(model.seen[1]) == ("a dog sleeps here .", "the cat runs . .")
    answers = [{"score": 1.0}] * 1379
    answers[7] = {"score": float("nan")}
    with pytest.raises(UserError, match=r"row 7 of STS-B.tsv with nan: it has diverged"):
        predictions_of(_scripted("stsb", answers), "stsb", f"files:{tmp_path}")


def test_diagnostics_are_answered_by_the_model_of_mnli(tmp_path: Path):
    _test_file(tmp_path, "ax", 1104)
    labels = ("contradiction", "entailment", "neutral")
    answers = [{"label": labels[row % 3], "probabilities": {"a": 1.0}} for row in range(1104)]
    found = predictions_of(_scripted("mnli", answers), "ax", f"files:{tmp_path}")
    assert found == [answer["label"] for answer in answers]
    with pytest.raises(UserError, match=r"AX.tsv needs a model of mnli, not of rte"):
        predictions_of(_scripted("rte", answers), "ax", f"files:{tmp_path}")


def test_a_test_set_of_another_length_or_name(tmp_path: Path):
    _test_file(tmp_path, "rte", 2999)
    with pytest.raises(UserError, match=r"has 2,999 rows for RTE.tsv, not the 3,000 of"):
        predictions_of(_scripted("rte", []), "rte", f"files:{tmp_path}")
    with pytest.raises(UserError, match=r"server has no rte/validation"):
        predictions_of(_scripted("rte", []), "rte", f"files:{tmp_path}", "validation")


@pytest.fixture(scope="module")
def wnli_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(
        tmp_path_factory.mktemp("wnli") / "model",
        head=HeadConfig("classification", 2),
        labels=("not_entailment", "entailment"),
        initializer_range=0.5,
        max_positions=128,
        num_layers=1,
    )


def test_from_a_model_to_a_valid_zip(wnli_model: Path, tmp_path: Path):
    data = f"files:{tmp_path}"
    _test_file(tmp_path, "wnli", 146)
    _test_file(tmp_path, "rte", 10)
    path = str(tmp_path / "out.zip")
    notes = make_submission(path, {"wnli": str(wnli_model), "rte": "nowhere"}, data, batch_size=146)
    assert len(notes) == 10
    assert any("RTE.tsv is filled with entailment" in note and "10 rows" in note for note in notes)
    task = GLUE["wnli"]
    texts = [task.texts(record) for record in task.open(data, "test")]
    labels = [
        answer["label"] for answer in bertjax.load(str(wnli_model), "wnli").predict(texts, 146)
    ]
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("WNLI.tsv").decode().splitlines()
    words = {"not_entailment": "0", "entailment": "1"}
    assert lines[1:] == [f"{row}\t{words[label]}" for row, label in enumerate(labels)]
    assert len(set(labels)) == 2
    told = json.loads((tmp_path / "out.json").read_text())["files"]
    digest = hashlib.sha256((wnli_model / "model.safetensors").read_bytes()).hexdigest()
    assert told["WNLI.tsv"] == {"rows": 146, "model": str(wnli_model), "sha256": digest}
    with pytest.raises(UserError, match=r"GLUE's server has no task 'cols'; did you mean 'cola'"):
        make_submission(path, {"cols": "runs"}, data)


REAL = os.environ.get("BERTJAX_DATA", "")
PRESENT = ("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QNLI.tsv", "RTE.tsv", "WNLI.tsv")


@pytest.mark.skipif(not REAL, reason="needs BERTJAX_DATA")
@pytest.mark.parametrize(
    "file", [FILES[name] for name in (*PRESENT, "AX.tsv")], ids=lambda file: file.name
)
def test_real_test_sets_have_the_official_rows(file: ServerFile):
    task = GLUE[file.task]
    assert len(task.open(f"files:{REAL}/glue", "test")) == file.rows
    path = Path(REAL, "glue", task.layout.folder, task.layout.files["test"])
    lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    assert [line.split("\t")[0] for line in lines[1:]] == [str(row) for row in range(file.rows)]


@pytest.mark.skipif(not REAL, reason="needs BERTJAX_DATA")
@pytest.mark.parametrize("name", ["CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "RTE.tsv", "WNLI.tsv"])
def test_the_filling_is_the_training_set_s_most_frequent_class(name: str):
    file = FILES[name]
    records = GLUE[file.task].open(f"files:{REAL}/glue", "train")
    counts = collections.Counter(record["label"] for record in records)
    assert file.filling == (file.words[counts.most_common(1)[0][0]],)


@pytest.mark.skipif(not REAL, reason="needs BERTJAX_DATA")
def test_a_submission_from_real_data(wnli_model: Path, tmp_path: Path):
    path = tmp_path / "real.zip"
    notes = make_submission(
        str(path), {"wnli": str(wnli_model)}, f"files:{REAL}/glue", batch_size=146
    )
    assert len(notes) == 10
    validate_submission(str(path))


def test_command_line(wnli_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _test_file(tmp_path, "wnli", 146)
    path = tmp_path / "out.zip"
    flags = [f"--models=wnli={wnli_model}", f"--data=files:{tmp_path}", f"--output={path}"]
    assert cli.main(["submission", *flags, "--batch_size=146"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 11
    assert said[0] == "CoLA.tsv is filled with 1: there is no model of cola"
    assert said[-1] == f"{path} is whole; its format is checked"
    assert cli.main(["submission", f"--check={path}"]) == 0
    assert capsys.readouterr().out == f"{path} is what GLUE's server takes\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "bertjax submission needs --models, or --check=ZIP alone"),
        (["--models=rte=a", "--data=files:b"], "bertjax submission needs --output"),
        (["--check=a.zip", "--output=b.zip"], "give --check, or --models, --data and --output"),
        (["--models=rte", "--data=files:b", "--output=c.zip"], "'rte' is not written TASK=FOLDER"),
        (["--models=rte=a,rte=b", "--data=files:b", "--output=c.zip"], "task 'rte' twice"),
        (["--check=nowhere.zip"], "there is no file nowhere.zip"),
        (["--models=rte=a", "--data=files:b", "--output=c"], "is a zip: write c.zip"),
        (["--models=rte=a", "--data=files:b", "--output=/proc/c.zip"], "cannot write /proc/c.zip"),
        (["--models=rte=a/b,colar=c", "--data=files:b", "--output=c.zip"], "no task 'colar'"),
    ],
)
def test_command_line_errors(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["submission", *flags]) == 2
    assert told in capsys.readouterr().err
