"""Every mistake a user can make with the commands: one sentence, exit code 2, nothing left behind.

The mistakes themselves (what a table or a config file may hold) are tested beside their readers;
here they come through the command line, as a user meets them.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import WORDS, tiny_glue, tiny_model

from bertjax.cli import main as cli
from bertjax.train.workdir import to_json
from bertjax.types import HeadConfig

PREFIX = "bertjax: error: "


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command refuses its arguments."""
    capsys.readouterr()
    code = cli.main(argv)
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert code == 2, told
    assert [line.startswith(PREFIX) for line in lines].count(True) == 1, told.err
    assert lines[-1].startswith(PREFIX)
    assert "Traceback" not in told.err
    return lines[-1].removeprefix(PREFIX)


@dataclasses.dataclass(frozen=True)
class Given:
    """What is right, and a folder in which a test may make it wrong."""

    model: Path
    trained: Path
    """A Hugging Face folder with a head for CoLA."""
    glue: Path
    folder: Path

    def finetune(self, task: str = "cola", **fields: object) -> list[str]:
        """Arguments of a run of a few seconds; ``fields`` of the config are changed."""
        config: dict[str, object] = {
            "model": self.model,
            "data": f"files:{self.glue}",
            "max_length": 32,
            "batch_size": 8,
            "steps": 2,
        }
        return [
            "finetune",
            f"--config=configs/finetune.py:task={task}",
            f"--workdir={self.folder / 'run'}",
            *(f"--config.{name}={value}" for name, value in (config | fields).items()),
        ]

    def predict(self, text: str | bytes, name: str = "in.txt", *flags: str) -> list[str]:
        """Arguments to label a file that holds ``text``."""
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["predict", f"--model={self.trained}", "--task=cola", f"--input={path}", *flags]

    def evaluate(self, *flags: str, task: str = "cola") -> list[str]:
        """Arguments to score the trained model."""
        named = [f"--model={self.trained}", f"--task={task}", f"--data=files:{self.glue}"]
        return ["evaluate", *named, *flags]

    def other_model(self, name: str, change: Callable[[bytes], bytes] | None) -> Path:
        """The model with a file changed, or without it."""
        shutil.copytree(self.model, self.folder / "model")
        _change(self.folder / "model" / name, change)
        return self.folder / "model"

    def other_glue(self, name: str, change: Callable[[bytes], bytes] | None) -> str:
        """``files:`` of the data with a file changed, or without it."""
        shutil.copytree(self.glue, self.folder / "glue")
        _change(self.folder / "glue" / name, change)
        return f"files:{self.folder / 'glue'}"


def _change(path: Path, change: Callable[[bytes], bytes] | None) -> None:
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def _without(text: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(text.encode(), b"other", 1)


def _cut(content: bytes) -> bytes:
    return content[:-1000]


def _header_cut(content: bytes) -> bytes:
    return content[: struct.calcsize("<Q") + 3]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    labels = ("unacceptable", "acceptable")
    head = HeadConfig("classification", 2)
    return Given(
        tiny_model(folder / "model"),
        tiny_model(folder / "trained", head=head, labels=labels),
        tiny_glue(folder / "glue"),
        folder,
    )


@pytest.fixture
def given(base: Given, tmp_path: Path) -> Given:
    return dataclasses.replace(base, folder=tmp_path)


def _vocabulary_of_another(given: Given) -> Path:
    words = "".join(f"{word}\n" for word in (*WORDS, "more", "words"))
    folder = given.other_model("tokenizer.json", None)
    (folder / "vocab.txt").write_text(words)
    return folder


def _three_classes(given: Given) -> Path:
    head = HeadConfig("classification", 3)
    return tiny_model(given.folder / "three", head=head, labels=("a", "b", "c"))


def _config(**fields: object) -> Callable[[Given], list[str]]:
    return lambda given: given.finetune(**fields)  # type: ignore[arg-type]


def _model(
    name: str, change: Callable[[bytes], bytes] | None = None
) -> Callable[[Given], list[str]]:
    return lambda given: given.finetune(model=given.other_model(name, change))


def _data(
    name: str, change: Callable[[bytes], bytes] | None, task: str = "cola"
) -> Callable[[Given], list[str]]:
    return lambda given: given.finetune(task, data=given.other_glue(name, change))


COLA_ROW = b"gj04\t1\t*\tthe cat sleeps here .\n"

WRONG: dict[str, tuple[Callable[[Given], list[str]], str]] = {
    # The model.
    "no weights": (_model("model.safetensors"), "has no weights: none of model.safetensors, "),
    "cut weights": (_model("model.safetensors", _cut), "is not a whole safetensors file"),
    "cut header": (_model("model.safetensors", _header_cut), "is not a whole safetensors file"),
    "empty weights": (_model("model.safetensors", lambda _: b""), "not a whole safetensors file"),
    "no config.json": (_model("config.json"), "has no config.json; name a folder"),
    "cut config.json": (_model("config.json", lambda text: text[:50]), "cannot be read as JSON"),
    "wrong config.json": (
        _model("config.json", _without('"hidden_size": 16')),
        "config.json",
    ),
    "no such folder": (_config(model="/no/such/model"), "no folder '/no/such/model'; check"),
    "hub name offline": (_config(model="bert-base-uncasd"), "the hub cannot be reached"),
    "a file": (lambda g: g.finetune(model=g.model / "config.json"), "a model is a folder; name"),
    "no model": (_config(model=""), "config field 'model' is not set; give --config.model="),
    "another tokenizer": (
        lambda g: g.finetune(model=_vocabulary_of_another(g)),
        f"the tokenizer has {len(WORDS) + 2} tokens but the model's vocabulary has only",
    ),
    "another head": (
        lambda g: g.finetune(model=_three_classes(g)),
        "tensor 'classifier.weight' in .* has shape .3, 16., but .* set new_head to begin",
    ),
    # The data.
    "no column": (
        _data("MRPC/train.tsv", _without("#1 String"), "mrpc"),
        "MRPC/train.tsv:1: the header has no column '#1 String'",
    ),
    "a stray row": (
        _data("CoLA/train.tsv", lambda text: COLA_ROW + b"stray\n" + text),
        "CoLA/train.tsv:2 has 1 column where 4 are expected; mend or remove the row",
    ),
    "a broken row": (
        _data("MRPC/train.tsv", lambda text: text + b"1\t2\n", "mrpc"),
        "MRPC/train.tsv:34 has 2 columns where 5 are expected",
    ),
    "unknown label": (
        _data("CoLA/train.tsv", lambda text: text + COLA_ROW.replace(b"1", b"7")),
        "CoLA/train.tsv:33: unknown label '7'; known: 0, 1",
    ),
    "no number": (
        _data("STS-B/train.tsv", lambda text: text.replace(b".0\n", b".0 of 5\n"), "stsb"),
        "STS-B/train.tsv:2: label '.*' is not a finite number",
    ),
    "empty file": (_data("CoLA/train.tsv", lambda _: b""), "CoLA/train.tsv holds no rows"),
    "empty with header": (_data("MRPC/train.tsv", lambda _: b"", "mrpc"), "train.tsv is empty; it"),
    "only a header": (
        _data("MRPC/train.tsv", lambda text: text.splitlines()[0], "mrpc"),
        "MRPC/train.tsv holds no rows",
    ),
    "not UTF-8": (_data("CoLA/dev.tsv", lambda _: b"x\t1\t*\t\xe9\n"), "dev.tsv:1 is not UTF-8"),
    "no dev file": (_data("CoLA/dev.tsv", None), "there is neither .*/CoLA/dev.tsv nor .*; name"),
    "no data": (_config(data=""), "config field 'data' is not set; give --config.data="),
    "no such data": (_config(data="files:/no/data"), "there is no folder /no/data"),
    "data without a kind": (_config(data="glue"), "does not say where from; write files:glue"),
    "data of a wrong kind": (_config(data="file:glue"), "no source 'file'; did you mean 'files'"),
    # The config.
    "task typo": (_config(task="colla"), "there is no task 'colla'; did you mean 'cola'?"),
    "no task": (_config(task=""), "config field 'task' is not set; give --config.task="),
    "no train split": (_config(task="ax"), "task 'ax' has no train split"),
    "no task=": (
        lambda g: ["finetune", "--config=configs/finetune.py:cola", "--workdir=run"],
        "configs/finetune.py:cola: write configs/finetune.py:task=NAME",
    ),
    "unknown field": (_config(learing_rate=1), "no field 'learing_rate'; did you mean 'learning"),
    "wrong type": (_config(learning_rate="fast"), "--config.learning_rate=fast is not a number"),
    "not whole": (_config(batch_size=8.5), "--config.batch_size=8.5 is not a whole number"),
    "unknown flag": (
        lambda g: [*g.finetune(), "--wrkdir=run"],
        "bertjax finetune has no flag '--wrkdir'; did you mean 'workdir'?",
    ),
    "no workdir": (lambda g: ["finetune"], "bertjax finetune needs --workdir=TEXT"),
    "empty workdir": (lambda g: ["finetune", "--workdir="], "bertjax finetune needs --workdir"),
    "batch and devices": (
        _config(batch_size=12),
        "batch_size 12 is not divisible by .* 8 devices that share it; the next size that is: 16",
    ),
    "accumulation": (_config(accumulation=3), "not divisible by accumulation 3 times the 8 dev"),
    "mesh": (lambda g: [*g.finetune(), "--config.mesh.data=3"], "data=3, fsdp=1, .* to the 8 devi"),
    "long": (_config(max_length=64), "max_length 64 is more than the 32 positions of .*; lower it"),
    "short": (_config(max_length=2), "max_length 2 leaves no room for text .* to at least 3"),
    "freeze nothing": (_config(freeze="('encoder/layer/.*',)"), "'encoder/layer/.*' matches no pa"),
    "freeze nonsense": (_config(freeze="('encoder/(',)"), r"'encoder/\(' is no regular expression"),
    "schedule": (_config(schedule="linaer"), "unknown schedule 'linaer'; did you mean 'linear'?"),
    "optimizer": (_config(optimizer="adam"), "unknown optimizer 'adam'; did you mean 'adamw'?"),
    "dtype": (_config(dtype="fp32"), "'dtype': unknown 'fp32'; known: bfloat16, float32"),
    "warm-up": (_config(warmup_ratio=1.5), r"warmup_ratio must be in \[0, 1\), not 1.5"),
    "learning rate": (_config(learning_rate=-1), "learning_rate must be 0 or more, not -1"),
    "NaN": (_config(learning_rate="nan"), "learning_rate must be 0 or more, not nan"),
    "steps": (_config(steps=-3), "config field 'steps' must be at least 0, not -3"),
    "epochs": (_config(steps=0, epochs=0), "set epochs or steps to a number above 0"),
    "seed": (_config(seed=-1), r"config field 'seed' must be in \[0, 2\*\*32\), not -1"),
    "dropout": (_config(dropout=1.0), r"'dropout' must be in \[0, 1\), not 1.0"),
    # Scoring.
    "hidden labels": (lambda g: g.evaluate("--split=test"), "has hidden labels, so .* use predict"),
    "split": (lambda g: g.evaluate("--split=dev"), "no split 'dev'; known: test, train, valid"),
    "task of another": (lambda g: g.evaluate(task="mnli"), "a classification head of 2, but task"),
    "no head": (lambda g: ["evaluate", f"--model={g.model}"], "no trained head to score; fine-t"),
    "no model named": (lambda g: ["evaluate"], "by one of --workdir=RUN and --model=FOLDER"),
    "no workdir there": (lambda g: ["evaluate", f"--workdir={g.glue}"], "is no workdir of a run"),
    "batch of none": (lambda g: g.evaluate("--batch_size=0"), "--batch_size=0 must be at least 1"),
    "too long": (lambda g: g.evaluate("--max_length=99"), "more than the model's 32 positions"),
    # Labelling.
    "no input": (lambda g: [*g.predict(""), "--input=/no/in.txt"], "there is no file /no/in.txt"),
    "a folder": (lambda g: [*g.predict(""), f"--input={g.glue}"], "cannot read .*: Is a directory"),
    "bytes": (lambda g: g.predict(b"a cat\ncaf\xe9\n"), "in.txt:2 is not UTF-8; save the input as"),
    "one text": (
        lambda g: [*g.predict("a\tb\na\n"), "--task=mrpc"],
        "in.txt:2 has 0 TABs where the task takes 2 texts separated by one; mend the line",
    ),
    "three texts": (lambda g: [*g.predict("a\tb\tc"), "--task=mrpc"], "in.txt:1 has 2 TABs wher"),
    "no text column": (
        lambda g: g.predict("txt,n\na,1\n", "in.csv"),
        "in.csv:1: the header has no column 'sentence'; known: n, txt",
    ),
    "no text": (
        lambda g: g.predict('{"sentence": "a"}\n{"sentence": 3}\n', "in.jsonl"),
        "in.jsonl:2: column 'sentence' is not text",
    ),
    "format": (lambda g: g.predict("", "in.txt", "--format=xml"), "--format=xml is not one of"),
    "output nowhere": (
        lambda g: g.predict("a", "in.txt", "--output=/no/such/folder/out"),
        "there is no folder /no/such/folder; make it, or correct --output",
    ),
    "output is a folder": (
        lambda g: g.predict("a", "in.txt", f"--output={g.folder}"),
        "is a folder; name a file in it",
    ),
    "bare encoder": (lambda g: [*g.predict("a"), f"--model={g.model}"], "no trained head, but"),
    # Converting.
    "nothing to convert": (lambda g: ["convert"], "bertjax convert needs --from=TEXT"),
    "exists": (
        lambda g: ["convert", f"--from={g.trained}", f"--to={g.glue}"],
        "exists already; name a new folder with --to",
    ),
    "target format": (
        lambda g: ["convert", f"--from={g.trained}", f"--to={g.folder / 'x'}", "--format=tf"],
        "--format=tf is not one of the choices; known: bertjax, huggingface, tensorflow",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(name: str, given: Given, capsys: pytest.CaptureFixture[str]):
    arguments, words = WRONG[name]
    sentence = refused(arguments(given), capsys)
    assert re.search(words, sentence), sentence
    assert not (given.folder / "run").exists()


def test_plain_text_files_are_lines(given: Given, capsys: pytest.CaptureFixture[str]):
    assert cli.main(given.predict("the cat sleeps .\nthe dog\n")) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(answer) for answer in answers] == [["label", "probabilities"]] * 2


def test_notes_are_plain_lines_on_standard_error(given: Given, capsys: pytest.CaptureFixture[str]):
    """What was read and what is new is said, once, and libraries say nothing."""
    assert cli.main([*given.finetune(), "--config.export=false"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"{given.model / 'model.safetensors'}: 39 tensors read",
        "  newly initialised: heads/cola",
        "  missing in the file: classifier.weight, classifier.bias",
        "32 training examples, 2 steps of 8",
        told.err.splitlines()[-1],
    ]
    assert told.err.splitlines()[-1].startswith("step 2: validation/loss 0.")
    for line in (given.folder / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_json_has_no_nan():
    value = {"a": float("nan"), "b": [1.5, float("inf")], "c": ({"d": "é"},)}
    assert to_json(value) == '{"a": null, "b": [1.5, null], "c": [{"d": "é"}]}'
