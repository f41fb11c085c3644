"""The zip that https://gluebenchmark.com/submit takes: one file of predictions a test set.

The server refuses a zip that lacks a file, so the files of tasks without a model are filled: with
the class that is most frequent in the training set (for WNLI this is what BERT's authors
submitted), with the first one where the classes are as good as even (MNLI, AX, QNLI), and for STS-B
with 0 to 5 in turn, because a constant has no correlation. What is filled is told, to the caller
and in a JSON file beside the zip: those scores say nothing of the models, nor does the
leaderboard's mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.glue.validator import validate_submission
from bertjax.predict import Predictor, load
from bertjax.tasks import GLUE
from bertjax.types import UserError, nearest

Prediction = str | float
_DIGITS = ("0", "1")
_INFERENCE = ("entailment", "neutral", "contradiction")
_PAIR = ("entailment", "not_entailment")
_SCORES = ("0.000", "1.000", "2.000", "3.000", "4.000", "5.000")
_PART = 2**24
"""Bytes that are read at a time."""
_BEFORE_TIME = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class ServerFile:
    """One file of a submission."""

    name: str
    task: str
    """Whose test set it answers."""
    rows: int
    words: tuple[str, ...]
    """For each class id, what the server calls it; empty: a number from 0 to 5."""
    filling: tuple[str, ...]
    """What stands in it without a model, in turn."""
    split: str = "test"

    @property
    def model(self) -> str:
        """The task whose model answers it: the diagnostics ask the one of MNLI."""
        return "mnli" if self.task == "ax" else self.task


SERVER_FILES = (
    ServerFile("CoLA.tsv", "cola", 1_063, _DIGITS, ("1",)),
    ServerFile("SST-2.tsv", "sst2", 1_821, _DIGITS, ("1",)),
    ServerFile("MRPC.tsv", "mrpc", 1_725, _DIGITS, ("1",)),
    ServerFile("STS-B.tsv", "stsb", 1_379, (), _SCORES),
    ServerFile("QQP.tsv", "qqp", 390_965, _DIGITS, ("0",)),
    ServerFile("MNLI-m.tsv", "mnli", 9_796, _INFERENCE, ("entailment",)),
    ServerFile("MNLI-mm.tsv", "mnli", 9_847, _INFERENCE, ("entailment",), "test_mismatched"),
    ServerFile("QNLI.tsv", "qnli", 5_463, _PAIR, ("entailment",)),
    ServerFile("RTE.tsv", "rte", 3_000, _PAIR, ("entailment",)),
    ServerFile("WNLI.tsv", "wnli", 146, _DIGITS, ("0",)),
    ServerFile("AX.tsv", "ax", 1_104, _INFERENCE, ("entailment",)),
)


def make_submission(
    path: str,
    models: Mapping[str, str],
    data: str,
    *,
    max_lengths: Mapping[str, int] | None = None,
    batch_size: int = 32,
    dtype: str = "float32",
) -> list[str]:
    """Predicts every test set that has a model and data, writes the zip, and checks it.

    Args:
      path: of the zip, ``NAME.zip``; what is in it is told in ``NAME.json`` beside it.
      models: by task, a trained workdir or a Hugging Face folder.
      data: ``files:DIR``, GLUE's own files, or ``tfds:glue/{task}`` or ``hf:nyu-mll/glue/{task}``;
        a test set that is not there is filled.
      max_lengths: by task, the tokens at which texts are cut, for folders that do not tell it: a
        workdir cuts as in training, a Hugging Face folder at all its positions.
      batch_size: examples at a time.
      dtype: of the computation, ``float32`` or ``bfloat16``.

    Returns:
      A sentence for each file that is filled.

    Raises:
      UserError: for another task than GLUE's, a model that cannot be read or is another task's, one
        that answers with nan, or a place that cannot be written.
    """
    known = {file.model for file in SERVER_FILES}
    for task in models:
        if task not in known:
            raise UserError(f"GLUE's server has no task '{task}'{nearest(task, known)}")
    _check_place(epath.Path(path))
    predictions: dict[str, list[Prediction]] = {}
    reasons: dict[str, str] = {}
    for task, folder in models.items():
        tests, missing = tests_of(task, data)
        reasons |= missing
        if tests:
            model = load(folder, task, max_length=(max_lengths or {}).get(task, 0), dtype=dtype)
            for file, records in tests.items():
                predictions[file.name] = _predictions(model, file, records, batch_size)
    told = {task: described(folder) for task, folder in models.items()}
    sources = {file.name: told[file.model] for file in SERVER_FILES if file.model in told}
    notes = write_submission(path, predictions, reasons, sources)
    validate_submission(path)
    return notes


def described(folder: str) -> dict[str, str]:
    """A model's folder, and where its weights are in one file of it the ``sha256`` of those."""
    weights = epath.Path(folder) / "model.safetensors"
    if not weights.exists():
        return {"model": folder}
    digest = hashlib.sha256()
    with weights.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return {"model": folder, "sha256": digest.hexdigest()}


def predictions_of(
    model: Predictor, task: str, data: str, split: str = "test", batch_size: int = 32
) -> list[Prediction]:
    """What ``model`` answers to a test set, in its order and in the server's words.

    Args:
      model: of the task; for ``ax`` of MNLI.
      task: one of GLUE's.
      data: where the test set lies.
      split: ``test``, or MNLI's ``test_mismatched``.
      batch_size: examples at a time.

    Returns:
      A word each, or for STS-B a number from 0 to 5.

    Raises:
      UserError: if the model is another task's or answers with nan, the data cannot be read, or
        the server has no such test set, or one of another length.
    """
    found = [file for file in SERVER_FILES if (file.task, file.split) == (task, split)]
    if not found:
        known = [f"{file.task}/{file.split}" for file in SERVER_FILES]
        raise UserError(f"GLUE's server has no {task}/{split}{nearest(f'{task}/{split}', known)}")
    return _predictions(model, found[0], _records(found[0], data), batch_size)


def write_submission(
    path: str,
    predictions: Mapping[str, Sequence[Prediction]],
    reasons: Mapping[str, str] | None = None,
    sources: Mapping[str, Mapping[str, str]] | None = None,
) -> list[str]:
    """Writes the zip; the same predictions give the same bytes.

    Args:
      path: of the zip, ``NAME.zip``; ``NAME.json`` beside it tells of each file where it is from.
      predictions: by file, such as ``CoLA.tsv``: a word or a number a row. Others are filled.
      reasons: by file, why it is filled, where that is not the lack of a model.
      sources: by file, what is to be told of the model that predicted it.

    Returns:
      A sentence for each file that is filled.

    Raises:
      UserError: for a file that the server does not know, a number of predictions that is not its
        own, a word that it does not take, or a place that cannot be written.
    """
    place = epath.Path(path)
    _check_place(place)
    names = [file.name for file in SERVER_FILES]
    for name in predictions:
        if name not in names:
            raise UserError(f"a submission has no file '{name}'{nearest(name, names)}")
    contents, told, notes = {}, {}, []
    for file in SERVER_FILES:
        if file.name in predictions:
            contents[file.name] = _text(file, predictions[file.name])
            told[file.name] = {"rows": file.rows, **(sources or {}).get(file.name, {})}
        else:
            why = (reasons or {}).get(file.name) or f"there is no model of {file.model}"
            contents[file.name] = _text(file, _filling(file))
            told[file.name] = {"rows": file.rows, "filled": _shown(file), "because": why}
            notes.append(f"{file.name} is filled with {_shown(file)}: {why}")
    report = json.dumps({"files": told}, indent=2, ensure_ascii=False) + "\n"
    _put(place, _zipped(contents))
    _put(place.with_suffix(".json"), report.encode())
    return notes


def _check_place(place: epath.Path) -> None:
    """Raises UserError where a zip cannot be written, before the work of predicting is done."""
    if place.suffix != ".zip":
        raise UserError(f"a submission is a zip: write {place}.zip")
    try:
        _put(place.with_name(f"{place.name}.trial"), b"")
        place.with_name(f"{place.name}.trial").unlink()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write {place} ({why}); choose another place") from error


def tests_of(task: str, data: str) -> tuple[dict[ServerFile, Sequence[Any]], dict[str, str]]:
    """The test sets that a task's model answers, and why others of them cannot be read."""
    records, missing = {}, {}
    for file in SERVER_FILES:
        if file.model == task:
            try:
                records[file] = _records(file, data)
            except UserError as error:
                missing[file.name] = str(error)
    return records, missing


def _records(file: ServerFile, data: str) -> Sequence[Any]:
    records = GLUE[file.task].open(data.replace("{task}", file.task), file.split)
    if len(records) != file.rows:
        raise UserError(
            f"{data} has {len(records):,} rows for {file.name}, not the {file.rows:,} of "
            "https://gluebenchmark.com/tasks"
        )
    return records


def _predictions(
    model: Predictor, file: ServerFile, records: Sequence[Any], batch_size: int
) -> list[Prediction]:
    from tqdm import tqdm

    name = model.task.name if model.task else "no task"
    if name != file.model:
        raise UserError(f"{file.name} needs a model of {file.model}, not of {name}")
    answers = model.answers(records, batch_size)
    shown = tqdm(answers, file.name, len(records), delay=2, disable=None)
    return list(_in_server_words(shown, file, GLUE[file.task].class_names or ()))


def _in_server_words(answers: Any, file: ServerFile, labels: Sequence[str]) -> Iterator[Prediction]:
    words = dict(zip(labels, file.words, strict=True))
    for index, answer in enumerate(answers):
        numbers = answer["probabilities"].values() if words else [answer["score"]]
        if not all(map(math.isfinite, numbers)):
            raise UserError(
                f"the model of {file.model} answers row {index} of {file.name} with nan: it has "
                "diverged; choose another run"
            )
        yield words[answer["label"]] if words else min(max(answer["score"], 0.0), 5.0)


def _filling(file: ServerFile) -> list[str]:
    return list(itertools.islice(itertools.cycle(file.filling), file.rows))


def _shown(file: ServerFile) -> str:
    if len(file.filling) == 1:
        return file.filling[0]
    return f"{file.filling[0]} to {file.filling[-1]} in turn"


def _text(file: ServerFile, predictions: Sequence[Prediction]) -> str:
    if len(predictions) != file.rows:
        raise UserError(f"{file.name} has {file.rows:,} rows, not {len(predictions):,}")
    rows = [f"{row}\t{_cell(file, row, given)}\n" for row, given in enumerate(predictions)]
    return "index\tprediction\n" + "".join(rows)


def _cell(file: ServerFile, row: int, given: Prediction) -> str:
    if file.words:
        if given not in file.words:
            known = ", ".join(file.words)
            raise UserError(f"{file.name}, row {row}: '{given}' is none of {known}")
        return str(given)
    try:
        score = float(given)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise UserError(f"{file.name}, row {row}: {given} is no number from 0 to 5")
    return f"{score + 0.0:.3f}"  # of -0.0 makes 0.0


def _zipped(contents: Mapping[str, str]) -> bytes:
    """Files that lie in no folder and were made at no time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _BEFORE_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name])
    return stream.getvalue()


def _put(place: epath.Path, content: bytes) -> None:
    """Puts the file in its place when it is whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    part.write_bytes(content)
    part.replace(place)
