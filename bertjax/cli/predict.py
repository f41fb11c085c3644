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
    "Labels texts or pairs of texts with a trained model: one line out for each input, in order, "
    "as JSON with `label` and `probabilities`, or `score`. Plain input is one text a line, or two "
    "separated by TAB where the task takes a pair.",
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
    ["auto", "lines", "tsv", "csv", "jsonl"],
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
    "output_format", "Of the output; auto is TSV for a .tsv file.", ["auto", "jsonl", "tsv"], "auto"
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
    tsv = values.output_format == "tsv" or (
        values.output_format == "auto" and values.output.endswith(".tsv")
    )
    data = data_of(values) if values.data or values.split else ""
    if data and values.input != "-":
        raise UserError("give --input or a split of data, not both")
    if is_several() and values.input == "-" and not data:
        raise UserError("several processes cannot share standard input; name a file by --input")
    with open_output(values.output) if is_first() else open(os.devnull, "w") as file:
        if tsv:
            print(*_header(model.task), sep="\t", file=file)
        for answer in model.stream(_inputs(values, data, model.task), values.batch_size):
            line = "\t".join(_cells(answer)) if tsv else to_json(answer)
            print(line, file=file, flush=values.output == "-")
    return 0


def _inputs(values: Any, data: str, task: Any) -> Iterator[tuple[str, ...]]:
    from bertjax.data.inputs import input_format, open_input, read_texts

    if data:
        yield from map(task.texts, task.open(data, values.split or "test"))
        return
    form = input_format(values.input) if values.format == "auto" else values.format
    columns = values.columns.split(",") if values.columns else task.schema.text_columns
    name = "standard input" if values.input == "-" else values.input
    with open_input(values.input) as stream:
        yield from read_texts(stream, name, form, columns)


def _header(task: Any) -> list[str]:
    return ["score"] if task.kind == "regression" else ["label", *task.labels]


def _cells(answer: dict[str, Any]) -> list[str]:
    if "score" in answer:
        return [str(answer["score"])]
    return [answer["label"], *map(str, answer["probabilities"].values())]
