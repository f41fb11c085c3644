"""The flags that name a trained model, shared by the commands that use one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from bertjax.cli.flags import Command
from bertjax.types import UserError

if TYPE_CHECKING:
    from bertjax.predict import Predictor

SPELT = {"True": "true", "False": "false", "None": "null"}
"""Python's words, as a config takes them, in JSON."""


def add_model_flags(command: Command) -> None:
    """Adds ``--workdir``, ``--model``, ``--task``, ``--max_length`` and ``--dtype``."""
    command.text("workdir", "Folder of a finished or running run.")
    command.text("model", "Instead of --workdir: a Hugging Face folder or a hub name.")
    command.text(
        "task",
        "With --model: the task its head was trained for. With the --workdir of several: which.",
    )
    command.integer("max_length", "Longer texts are cut; 0: as in training.", default=0)
    command.choice("dtype", "Of the computation.", ["float32", "bfloat16"], default="float32")
    command.text("options", "The task's own, such as null_threshold=-1.5,n_best=5.")


def load_model(values: Any) -> Predictor:
    """The model that the flags name.

    Raises:
      UserError: if they name none or two, it cannot be read, or ``--batch_size`` is below 1.
    """
    from bertjax.distributed import is_first
    from bertjax.predict import load
    from bertjax.train.workdir import experiment_of

    if values.batch_size < 1:
        raise UserError(f"--batch_size={values.batch_size} must be at least 1")
    if bool(values.workdir) == bool(values.model):
        raise UserError("name the model by one of --workdir=RUN and --model=FOLDER")
    if values.workdir:
        experiment_of(values.workdir)
    predictor = load(
        values.workdir or values.model,
        values.task,
        max_length=values.max_length,
        dtype=values.dtype,
        options=parse_options(values.options),
    )
    for note in predictor.notes if is_first() else ():
        print(note, file=sys.stderr)
    return predictor


def parse_options(text: str | None) -> dict[str, Any]:
    """Options by name, from ``NAME=VALUE,NAME=VALUE``.

    A value is JSON, or ``True``, ``False`` or ``None`` as in a config; anything else is a word.

    Raises:
      UserError: for a part without a name or a value.
    """
    options: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, sign, value = map(str.strip, part.partition("="))
        if not (name and sign and value):
            raise UserError(f"--options={text}: write NAME=VALUE, not '{part}'")
        try:
            options[name] = json.loads(SPELT.get(value, value))
        except ValueError:
            options[name] = value
    return options


def data_of(values: Any) -> str:
    """``--data``, else the data of the run that ``--workdir`` names.

    Raises:
      UserError: if there is neither.
    """
    from bertjax.tasks.several import of_task
    from bertjax.train.workdir import experiment_of

    data = values.data
    if not data and values.workdir:
        data = of_task(experiment_of(values.workdir), values.task)["data"]
    if not data:
        raise UserError("say of what data: --data=files:DIR, tfds:NAME or hf:NAME")
    return data
