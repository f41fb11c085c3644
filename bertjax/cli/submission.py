"""``bertjax submission``: the zip for GLUE's server, from models that are there, or its check."""

from __future__ import annotations

from bertjax.cli.flags import Command
from bertjax.types import UserError

COMMAND = Command(
    "submission",
    "Writes the zip that gluebenchmark.com/submit takes, from one trained model for each task. The "
    "server refuses a zip that lacks a file: those of other tasks are filled, and named. The "
    "diagnostic set is answered by the model of MNLI. With --check alone it checks a zip.",
    examples=[
        "bertjax submission --models=cola=runs/cola,rte=runs/rte --data=files:./glue "
        "--output=glue.zip",
        "bertjax submission --check=glue.zip",
    ],
)
COMMAND.text("models", "TASK=RUN,TASK=RUN: trained workdirs or Hugging Face folders.")
COMMAND.text("data", "files:DIR, tfds:glue/{task} or hf:nyu-mll/glue/{task}: the test sets.")
COMMAND.text("output", "The zip to write; a .json beside it tells what is from where.")
COMMAND.text("check", "A zip to check in place of writing one.")
COMMAND.integer("max_length", "Longer texts are cut; 0: as in training.", default=0)
COMMAND.integer("batch_size", "Examples at a time.", default=32)
COMMAND.choice("dtype", "Of the computation.", ["float32", "bfloat16"], default="float32")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    writing = {name: getattr(values, name) or "" for name in ("models", "data", "output")}
    if values.check and any(writing.values()):
        raise UserError("give --check, or --models, --data and --output, not both")
    for name, value in writing.items():
        if not value and not values.check:
            raise UserError(f"bertjax submission needs --{name}, or --check=ZIP alone")
    if values.batch_size < 1:
        raise UserError(f"--batch_size={values.batch_size} must be at least 1")
    models = parse_models(writing["models"])
    length: int = values.max_length
    if values.check:
        from bertjax.glue.validator import validate_submission

        validate_submission(values.check)
        print(f"{values.check} is what GLUE's server takes")
        return 0
    from bertjax.glue.submission import make_submission

    notes = make_submission(
        writing["output"],
        models,
        writing["data"],
        max_lengths=dict.fromkeys(models, length),
        batch_size=values.batch_size,
        dtype=values.dtype,
    )
    print(*notes, f"{values.output} is whole; its format is checked", sep="\n")
    return 0


def parse_models(text: str) -> dict[str, str]:
    """The folders of ``cola=runs/cola,rte=runs/rte`` by task.

    Raises:
      UserError: for a part that is not written so, or a task twice.
    """
    from bertjax.tasks.glue import GLUE

    models: dict[str, str] = {}
    last = ""
    for part in filter(None, text.split(",")):
        task, _, folder = part.partition("=")
        if task not in GLUE and "=" in models.get(last, "").rpartition("/")[2]:
            models[last] += f",{part}"  # The folder of a grid's point with several fields.
            continue
        last = task
        if not task or not folder:
            raise UserError(f"--models: '{part}' is not written TASK=FOLDER")
        if task in models:
            raise UserError(f"--models names task '{task}' twice; give one model a task")
        models[task] = folder
    return models
