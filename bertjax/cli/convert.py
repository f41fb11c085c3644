"""``bertjax convert``: a model in another format."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bertjax.cli.flags import Command
from bertjax.types import UserError

if TYPE_CHECKING:
    from bertjax.analysis.verify import Difference

COMMAND = Command(
    "convert",
    "Writes a model in another format: for transformers (safetensors, config.json, tokenizer), as "
    "a bertjax checkpoint, or for Google's original TensorFlow code.",
    examples=[
        "bertjax convert --from=runs/mrpc --to=mrpc-model",
        "bertjax convert --from=bert-base-uncased --to=bert --format=bertjax --verify",
        "bertjax convert --from=uncased_L-12_H-768_A-12 --to=bert-hf --dtype=bfloat16",
    ],
)
COMMAND.text(
    "from",
    "A trained workdir, a Hugging Face folder or hub name, or a TensorFlow checkpoint's folder.",
    required=True,
)
COMMAND.integer("step", "Of a workdir's checkpoint (default: its best, or newest).")
COMMAND.text("to", "The folder to write; it must not exist yet, or be empty.", required=True)
COMMAND.choice(
    "format", "What to write.", ["huggingface", "bertjax", "tensorflow"], default="huggingface"
)
COMMAND.choice(
    "dtype",
    "Of the numbers in a Hugging Face folder.",
    ["float32", "float16", "bfloat16"],
    default="float32",
)
COMMAND.integer("max_shard_mb", "Cut Hugging Face weights into files of so many MB.", default=5000)
COMMAND.switch(
    "verify",
    "Run the model on both sides, on random and on real text, and print the largest differences; "
    "Hugging Face folders are run by transformers, which needs torch.",
)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    flags = COMMAND.parse(argv)
    source, target = vars(flags)["from"], flags.to
    from etils import epath

    place = epath.Path(target)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{target} exists already; name a new folder with --to")
    from bertjax.exchange import read_model, write_model

    model = read_model(source, flags.step)
    for note in model.notes:
        print(note, file=sys.stderr)
    size = flags.max_shard_mb * 10**6
    note = write_model(model, target, flags.format, dtype=flags.dtype, max_shard_bytes=size)
    if note:
        print(note, file=sys.stderr)
    print(f"written: {target}")
    if flags.verify:
        from bertjax.analysis.verify import verify

        report(verify(source, target, flags.dtype, flags.step))
    return 0


def report(rows: list[Difference]) -> None:
    """Prints the differences.

    Raises:
      UserError: if one is above its tolerance.
    """
    print(f"{'output':24} {'text':8} {'largest':>9} {'allowed':>9}  sides")
    for row in rows:
        mark = "" if row.passed else "  <- too large"
        print(
            f"{row.output:24} {row.text:8} {row.largest:9.1e} {row.allowed:9.1e}  {row.sides}{mark}"
        )
    if failed := [row for row in rows if not row.passed]:
        worst = max(failed, key=lambda row: row.largest / row.allowed)
        raise UserError(
            f"the written model differs: {worst.output} by {worst.largest:.1e} on {worst.text} "
            f"text, where {worst.allowed:.1e} is allowed; do not use it"
        )
