"""``bertjax pretrain``: trains an encoder on prepared text and writes a workdir."""

from __future__ import annotations

from typing import Any

from bertjax.cli.flags import Command

COMMAND = Command(
    "pretrain",
    "Pretrains an encoder on text that bertjax prepare made ready: masked LM with or without a "
    "sentence task, or replaced tokens. Run the same command again to go on after an interruption. "
    "The workdir then holds config.json, metrics.jsonl, TensorBoard events, the newest checkpoint, "
    "result.json, and the model as a Hugging Face folder; it is itself accepted wherever a model "
    "is. The ARGUMENT of --config is a recipe: bert_tiny, bert_base, roberta_base, albert_base, "
    "electra_small, one_gpu_day, tpu_pod_lamb, and others that the file lists. One of steps, "
    "tokens and minutes is the budget; the others are 0.",
    examples=[
        "bertjax pretrain --config=configs/pretrain.py:bert_tiny --config.data=prepared "
        "--workdir=runs/tiny",
        "bertjax pretrain --config=configs/pretrain.py:bert_base --config.model=bert-base-uncased "
        "--config.data=prepared --config.phases='()' --config.steps=20000 --workdir=runs/domain",
    ],
)
COMMAND.text("workdir", "Folder of the run.", required=True)
COMMAND.processes()
COMMAND.config("configs/pretrain.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    from bertjax.distributed import is_first
    from bertjax.train.pretrain import pretrain
    from bertjax.train.pretrain_config import PretrainConfig

    result = pretrain(PretrainConfig.from_mapping(fields_of(values.config)), values.workdir)
    if is_first():
        print(summary(result, values.workdir))
    return 0


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of an experiment; those of the architecture that are not set are left out."""
    fields = config.to_dict()
    changes = fields["architecture"].items()
    fields["architecture"] = {name: value for name, value in changes if value is not None}
    return fields


def summary(result: dict[str, Any], workdir: str) -> str:
    """The result in a few lines, with what to do next."""
    rows = [f"  {name:<36} {value:.4f}" for name, value in result["metrics"].items()]
    return "\n".join(
        [
            f"pretrained {result['parameters']:,} parameters for {result['steps']:,} steps:",
            *rows,
            f"everything is in {workdir}; try:",
            f"  bertjax finetune --config=configs/finetune.py:task=sst2 --config.model={workdir} "
            "--config.data=files:glue --workdir=runs/sst2",
        ]
    )
