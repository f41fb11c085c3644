"""``bertjax plan``: memory, time and cost of a training step on TPUs that are not here."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from bertjax.cli.flags import Command
from bertjax.types import UserError

DOES_NOT_FIT = 3

COMMAND = Command(
    "plan",
    "Compiles the training step of an experiment for TPUs, without one, and tells what it needs "
    "and how long it takes: memory of a chip, operations, what is sent between chips, an estimate "
    "of the step's time with its assumptions, days and chip-hours of the recipe. Needs libtpu (pip "
    "install libtpu), no data and no weights; the model is a preset. Takes about a minute. Ends "
    f"with code {DOES_NOT_FIT} where the step does not fit into a chip, and names a setting that "
    "does. docs/planning.md explains the figures.",
    examples=[
        "bertjax plan --config=configs/pretrain.py:bert_large --topology=v5e:16x16 "
        "--global_batch=4096 --length=512",
        "bertjax plan --config=configs/finetune.py:task=mnli --config.model=preset:bert_large "
        "--topology=v5e:1x1",
    ],
)
COMMAND.text("topology", "Chip and shape of a slice: v5e:2x4, v4:4x4x8 (chips, not cores).")
COMMAND.integer("slices", "Slices, joined by the data-centre network.", default=1)
COMMAND.integer("global_batch", "Rows (or examples) a step, over all chips; 0: the recipe's.", 0)
COMMAND.integer("length", "Tokens of a row; 0: each of the recipe's.", 0)
COMMAND.text("mesh", "Sizes of the mesh, as in data:-1,fsdp:8,tensor:1; default: the config's.")
COMMAND.switch("search", "Try meshes, micro-batches and remat; rank those that fit.")
COMMAND.switch("json", "Print one JSON object.")
COMMAND.config("configs/pretrain.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    In a process of its own: libtpu's compiler can crash.
    """
    from bertjax.analysis.chatter import in_child

    ended = in_child(lambda: _main(argv))
    if not isinstance(ended, signal.Signals):
        return ended
    raise UserError(
        f"libtpu's compiler crashed on this step ({ended.name}); give it another program: "
        "--config.unroll=2, or another --config.remat or --config.attention"
    )


def _main(argv: list[str]) -> int:
    values = COMMAND.parse([_underscored(word) for word in argv])
    from bertjax.analysis.plan_report import Request, report

    if not values.topology:
        raise UserError("bertjax plan needs --topology=TEXT, as in v5e:2x4 or v4:4x4x8")
    request = Request(
        experiment=_experiment(values.config),
        topology=values.topology,
        slices=values.slices,
        global_batch=values.global_batch,
        length=values.length,
        mesh=values.mesh or "",
        search=values.search,
    )
    found = report(request, _note)
    print(json.dumps(found.as_json(), indent=2) if values.json else found.as_text())
    return 0 if found.fits else DOES_NOT_FIT


def _underscored(word: str) -> str:
    """``--global-batch`` is ``--global_batch``."""
    return word.replace("--global-batch", "--global_batch", 1)


def _experiment(config: Any) -> Any:
    """The experiment of a config of either kind, as if its data were there."""
    if "task" in config:
        from bertjax.train.config import FinetuneConfig

        return FinetuneConfig.from_mapping({**config.to_dict(), "data": "none"})
    from bertjax.cli.pretrain import fields_of
    from bertjax.train.pretrain_config import PretrainConfig

    return PretrainConfig.from_mapping({**fields_of(config), "data": ("none",)})


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
