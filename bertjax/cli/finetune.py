"""``bertjax finetune``: trains a task and writes a workdir."""

from __future__ import annotations

from typing import Any

from bertjax.cli.flags import Command

COMMAND = Command(
    "finetune",
    "Fine-tunes a pretrained encoder on a task. Run the same command again to go on after an "
    "interruption. The workdir then holds config.json, metrics.jsonl, TensorBoard events, the "
    "latest and the best checkpoint, result.json, and the best model as a Hugging Face folder.",
    examples=[
        "bertjax finetune --config=configs/finetune.py:task=mrpc --workdir=runs/mrpc "
        "--config.model=bert-base-uncased --config.data=tfds:glue/mrpc",
        "bertjax finetune --config=configs/finetune.py:task=rte --workdir=runs/rte "
        "--config.model=./my-model --config.data=files:./glue --config.learning_rate=3e-5",
        "bertjax finetune --config=configs/finetune.py:task=mnli+rte+mrpc --workdir=runs/three "
        "--config.model=bert-base-uncased --config.data=files:./glue",
    ],
)
COMMAND.text("workdir", "Folder of the run.", required=True)
COMMAND.processes()
COMMAND.config("configs/finetune.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    from bertjax.distributed import is_first
    from bertjax.tasks.several import is_several
    from bertjax.train.config import FinetuneConfig
    from bertjax.train.finetune import finetune

    fields = values.config.to_dict()
    if not is_several(fields):
        fields["data"] = (fields["data"] or "").replace("{task}", fields["task"] or "")
    result = finetune(FinetuneConfig.from_mapping(fields), values.workdir)
    if is_first():
        print(summary(result, values.workdir))
    return 0


def summary(result: dict[str, Any], workdir: str) -> str:
    """The result in a few lines, with what to do next."""
    rows = [f"  {name:<24} {value:.4f}" for name, value in result["metrics"].items()]
    which = f" --task={next(iter(result['tasks']))}" if "tasks" in result else ""
    return "\n".join(
        [
            f"{result['task']}: best at step {result['best_step']} of {result['steps']}",
            *rows,
            f"everything is in {workdir}; try:",
            f"  bertjax predict --workdir={workdir}{which} --input=FILE",
        ]
    )
