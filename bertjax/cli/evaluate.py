"""``bertjax evaluate``: the task's metrics on a split."""

from __future__ import annotations

from bertjax.cli.flags import Command
from bertjax.cli.models import add_model_flags, data_of, load_model
from bertjax.types import UserError

COMMAND = Command(
    "evaluate",
    "Scores a trained model on a labelled split: the loss and the task's metrics, as one JSON "
    "object. Every example counts once, on any number of devices.",
    examples=[
        "bertjax evaluate --workdir=runs/mrpc",
        "bertjax evaluate --model=./mrpc-model --task=mrpc --data=files:./glue --split=validation",
    ],
)
add_model_flags(COMMAND)
COMMAND.text("data", "files:DIR, tfds:NAME or hf:NAME; default: the data of the run.")
COMMAND.text("split", "The split to score.", default="validation")
COMMAND.integer("batch_size", "Examples at a time.", default=64)
COMMAND.processes()


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    model = load_model(values)
    from bertjax.distributed import is_first
    from bertjax.train.evaluate import Evaluator
    from bertjax.train.workdir import to_json

    if model.task is None:
        raise UserError("this model has no trained head to score; fine-tune it first")
    data = data_of(values)
    task = model.task
    records = task.open(data, values.split)
    forward = model.forward(values.batch_size)
    evaluator = Evaluator.of(
        task, values.split, records, model.tokenizer, model.max_length, forward
    )
    metrics = evaluator(model.params)
    if is_first():
        print(to_json({"examples": len(records), **metrics}))
    return 0
