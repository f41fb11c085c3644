"""``bertjax convert``: a trained model as a Hugging Face folder."""

from __future__ import annotations

import sys

from bertjax.cli.flags import Command
from bertjax.types import UserError

COMMAND = Command(
    "convert",
    "Writes a model in another format: safetensors, config.json and tokenizer, as transformers "
    "loads them.",
    examples=["bertjax convert --from=runs/mrpc --to=mrpc-model --format=huggingface"],
)
COMMAND.text("from", "A trained workdir, a Hugging Face folder or a hub name.", required=True)
COMMAND.text("to", "The folder to write; it must not exist yet, or be empty.", required=True)
COMMAND.choice("format", "What to write.", ["huggingface"], default="huggingface")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = vars(COMMAND.parse(argv))
    from etils import epath

    target = epath.Path(values["to"])
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; name a new folder with --to")
    import jax

    from bertjax.convert import save_huggingface
    from bertjax.predict import load

    model = load(values["from"])
    for note in model.notes:
        print(note, file=sys.stderr)
    task = model.task
    folder = save_huggingface(
        values["to"],
        model.model.config,
        jax.device_get(model.params),
        dict(model.model.head_configs),
        labels=task.labels if task is not None and task.kind == "classification" else None,
        tokenizer=model.tokenizer,
    )
    print(f"written: {folder}")
    return 0
