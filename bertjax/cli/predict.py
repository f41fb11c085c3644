"""``bertjax predict``: one answer for each input, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from bertjax.cli.flags import Command
from bertjax.cli.models import add_model_flags, data_of, load_model
from bertjax.types import UserError

COMMAND = Command(
    "predict",
    "Answers inputs with a trained model: one line out for each input, in order, as JSON: `label` "
    "and `probabilities`, or `score`; of questions the answer with its characters in the context; "
    "of words their tags; of options the choice. Plain input is one text a line, or two separated "
    "by TAB where the task takes a pair; questions and options come as JSON lines or in the files "
    "of their data sets.",
    examples=[
        "echo 'A fine film.' | bertjax predict --workdir=runs/sst2",
        "bertjax predict --workdir=runs/mrpc --input=pairs.tsv --output=answers.jsonl",
    ],
)
add_model_flags(COMMAND)
COMMAND.text("input", "File to read, or - for standard input.", default="-")
COMMAND.choice(
    "format",
    "Of the input; auto goes by the file's ending, else plain lines.",
    ["auto", "lines", "tsv", "csv", "jsonl", "json", "conll", "conllu"],
    default="auto",
)
COMMAND.text("columns", "The one or two columns of a table with text, separated by a comma.")
COMMAND.text("data", "Instead of --input: files:DIR, tfds:NAME or hf:NAME, as in training.")
COMMAND.text("split", "The split of --data, or of the data of the run; default: test.")
COMMAND.text(
    "output",
    "File to write, or - for standard output. Until it is whole its name ends in .part.",
    default="-",
)
COMMAND.choice(
    "output_format",
    "Of the output; auto goes by the file's ending. tsv is for labels, choices and tags, json the "
    "official file of SQuAD's predictions, conll a word and its tag a line.",
    ["auto", "jsonl", "tsv", "json", "conll"],
    "auto",
)
COMMAND.integer("batch_size", "Inputs at a time.", default=32)
COMMAND.processes()


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    model = load_model(values)
    from bertjax.data.inputs import open_output
    from bertjax.distributed import is_first, is_several
    from bertjax.train.workdir import to_json

    if model.task is None:
        raise UserError("this model has no trained head; fine-tune it first")
    form = output_form(values)
    model.task.check_output(form)
    data = data_of(values) if values.data or values.split else ""
    if data and values.input != "-":
        raise UserError("give --input or a split of data, not both")
    if is_several() and values.input == "-" and not data:
        raise UserError("several processes cannot share standard input; name a file by --input")
    answers = model.answers(_records(values, data, model.task), values.batch_size)
    lines = map(to_json, answers) if form == "jsonl" else model.task.lines(form, answers)
    with open_output(values.output) if is_first() else open(os.devnull, "w") as file:
        for line in lines:
            print(line, file=file, flush=values.output == "-")
    return 0


def output_form(values: Any) -> str:
    """The format of the output: the one named, else by the file's ending, else ``jsonl``."""
    if values.output_format != "auto":
        return values.output_format
    ending = os.path.splitext(values.output)[1]
    return {".tsv": "tsv", ".json": "json", ".conll": "conll"}.get(ending, "jsonl")


def _records(values: Any, data: str, task: Any) -> Iterator[dict[str, Any]]:
    from bertjax.data.inputs import input_format, open_input

    if data:
        yield from task.open(data, values.split or "test")
        return
    form = input_format(values.input) if values.format == "auto" else values.format
    columns = values.columns.split(",") if values.columns else ()
    name = "standard input" if values.input == "-" else values.input
    with open_input(values.input) as stream:
        yield from task.read(stream, name, form, columns)
