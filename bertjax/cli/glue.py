"""``bertjax glue``: every task with every hyper-parameter and seed, a report, a submission."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from bertjax.cli.flags import Command
from bertjax.types import UserError

COMMAND = Command(
    "glue",
    "Fine-tunes a model on GLUE: every task with every value of the grid and every seed. Run the "
    "same command again to go on after an interruption: finished runs are not repeated, and a "
    "larger grid adds runs. The workdir then holds runs/TASK/POINT/seed=N, report.md and "
    "report.html, and the submission for the GLUE server.",
    examples=[
        "bertjax glue --model=bert-base-uncased --data=tfds:glue/{task} --workdir=runs/glue",
        "bertjax glue --model=./my-model --data=files:./glue --tasks=mrpc,rte --seeds=3 "
        "--grid='learning_rate:2e-5,3e-5,5e-5;batch_size:16,32' --workdir=runs/small",
        "bertjax glue --model=./my-model --data=files:./glue --per_task='sst2:seeds=1;"
        "rte:epochs=10' --config.max_length=64 --workdir=runs/glue",
    ],
)
COMMAND.text("model", "A Hugging Face folder, a trained workdir, or a hub name.", required=True)
COMMAND.text("data", "files:DIR, tfds:glue/{task} or hf:nyu-mll/glue/{task}.", required=True)
COMMAND.text("workdir", "Folder of all runs and of the report.", required=True)
COMMAND.text("tasks", "Names with commas between, or all of which there is data.", default="all")
COMMAND.text("seeds", "A count (5: the seeds 1 to 5), or a list such as 1,2,7.", default="1")
COMMAND.text(
    "grid",
    "Fields of a run and their values: FIELD:VALUE,VALUE;FIELD:VALUE,VALUE.",
    default="learning_rate:2e-5,3e-5,5e-5",
)
COMMAND.text(
    "per_task",
    "Fields for single tasks, in place of the config's and the grid's: TASK:FIELD=VALUE,"
    "FIELD=VALUE;TASK:FIELD=VALUE. The word seeds is a count of seeds.",
    default="",
)
COMMAND.integer(
    "parallel", "Runs side by side, each on a device of its own; 0: one a device.", default=0
)
COMMAND.choice(
    "keep",
    "Models that stay: of the best seed of each grid point, or all, with their checkpoints.",
    ["best", "all"],
    default="best",
)
COMMAND.switch("submission", "Write the zip for GLUE's server, submission.zip.", default=True)
COMMAND.config("configs/finetune.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    from etils import epath

    workdir = epath.Path(values.workdir).expanduser()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"the workdir {workdir} is a file; choose another --workdir")
    runs, left_out = plan(values)
    from bertjax.glue.conclude import make_zip
    from bertjax.glue.devices import make_slots
    from bertjax.glue.report import Heading, write_report
    from bertjax.glue.runs import run_grid

    command = shlex.join(["bertjax", "glue", *argv])
    heading = Heading(values.model, values.data, command, len(runs), tuple(left_out))
    slots = make_slots(values.parallel)
    run_grid(workdir, runs, slots, values.keep, lambda: write_report(workdir, heading))
    tasks = write_report(workdir, heading)
    if values.submission:
        notes = make_zip(workdir, tasks, values.data)
        write_report(workdir, dataclasses.replace(heading, submission=notes))
    print(f"the report is in {workdir / 'report.md'} and {workdir / 'report.html'}")
    return 0


def plan(values: Any) -> tuple[list[Any], list[str]]:
    """The runs that the flags ask for, and why tasks are left out."""
    from bertjax.glue.grid import choose_tasks, parse_grid, parse_per_task, parse_seeds, plan_runs

    fields = values.config.to_dict()
    if fields["task"] or fields["seed"]:
        raise UserError("bertjax glue sets task and seed by --tasks and --seeds, not by the config")
    if not fields["export"]:
        raise UserError("bertjax glue decides which models stay by --keep, not by config.export")
    fields |= {"model": values.model, "data": values.data}
    tasks, missing = choose_tasks(values.tasks, values.data)
    left_out = [f"{task} is left out: {why}" for task, why in missing.items()]
    for sentence in left_out:
        print(sentence, flush=True)
    axes = parse_grid(values.grid, fields)
    per_task = parse_per_task(values.per_task, fields)
    return plan_runs(tasks, axes, parse_seeds(values.seeds), per_task, fields), left_out
