"""``bertjax launch``: one command in several processes of this machine."""

from __future__ import annotations

import os

from bertjax.cli.flags import Command
from bertjax.types import UserError, nearest

COMMANDS = ("pretrain", "finetune", "evaluate", "predict")

COMMAND = Command(
    "launch",
    "Runs a command in several processes of this machine, which are one run: to try out on CPUs "
    "what several hosts will do. What follows -- is the command. When a process is lost the others "
    "are ended and one line says which it was. On an accelerator one process drives all of a "
    "machine's devices, and nothing has to be launched.",
    examples=[
        "bertjax launch --processes=4 -- pretrain --config=configs/pretrain.py:bert_tiny "
        "--config.data=prepared --workdir=runs/tiny",
    ],
)
COMMAND.integer("processes", "How many.", default=2)
COMMAND.integer(
    "heartbeat_timeout",
    "Seconds after which a silent process counts as lost, and the others end.",
    default=60,
)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    before, command = argv, []
    if "--" in argv:
        place = argv.index("--")
        before, command = argv[:place], argv[place + 1 :]
    values = COMMAND.parse(before)
    _check(values.processes, command)
    from bertjax.launcher import launch

    return launch(command, values.processes, values.heartbeat_timeout)


def _check(processes: int, command: list[str]) -> None:
    from bertjax.cli.main import has_accelerator

    if processes < 1:
        raise UserError(f"--processes={processes} must be at least 1")
    if not command:
        raise UserError("bertjax launch needs a command after --, such as -- pretrain --config=…")
    if command[0] not in COMMANDS:
        raise UserError(f"'{command[0]}' cannot be launched{nearest(command[0], COMMANDS)}")
    if has_accelerator() and os.environ.get("JAX_PLATFORMS") != "cpu":
        raise UserError(
            "one process drives all accelerators of a machine; run the command without launch, or "
            "set JAX_PLATFORMS=cpu to try several processes"
        )
