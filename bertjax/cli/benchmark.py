"""``bertjax benchmark``: times the pretraining step of a recipe on this machine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bertjax.cli.flags import Command

COMMAND = Command(
    "benchmark",
    "Times the training step of a pretraining recipe on this machine, with made-up rows: tokens a "
    "second, the share of the device's peak that the model's own operations reach, and memory "
    "beside what parameters, optimizer and activations must take. The peak is the maker's where "
    "the device is known, else measured; give it to a run as --config.peak_flops.",
    examples=[
        "bertjax benchmark --config=configs/pretrain.py:bert_mini --config.batch_size=32",
        "bertjax benchmark --config=configs/pretrain.py:bert_base --config.dtype=bfloat16 --json",
    ],
)
COMMAND.integer("steps", "Steps in a round.", default=10)
COMMAND.integer("rounds", "Rounds; the fastest counts.", default=3)
COMMAND.switch("json", "Print one JSON object.")
COMMAND.config("configs/pretrain.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    from bertjax.analysis.benchmark import benchmark
    from bertjax.cli.pretrain import fields_of
    from bertjax.train.pretrain_config import PretrainConfig
    from bertjax.types import UserError

    if values.steps < 1 or values.rounds < 1:
        raise UserError("--steps and --rounds must be at least 1")
    fields = {**fields_of(values.config), "data": ("made up",)}
    measured = benchmark(PretrainConfig.from_mapping(fields), values.steps, values.rounds)
    if values.json:
        found = dataclasses.asdict(measured) | {"memory_ratio": measured.memory_ratio}
        print(json.dumps(found, indent=2))
    else:
        print(summary(measured))
    return 0


def summary(measured: Any) -> str:
    """The figures in a few lines."""
    must = measured.state_bytes + measured.gradient_bytes + measured.activation_bytes
    return "\n".join(
        [
            f"{measured.parameters:,} parameters, {measured.rows} rows of {measured.length} tokens "
            f"a step, on {measured.device}",
            f"  {measured.seconds:.3f} s a step, {measured.tokens_per_second:,.0f} tokens/s",
            f"  {measured.flops_per_step / measured.seconds / 1e9:,.1f} GFLOP/s of the model, "
            f"{measured.utilisation:.1%} of the peak {measured.peak / 1e9:,.1f} GFLOP/s "
            f"({measured.peak_source})",
            f"  {measured.compiled_bytes / 2**20:,.0f} MiB held by the program, "
            f"{measured.memory_ratio:.2f} x the {must / 2**20:,.0f} MiB that it must: "
            f"state {measured.state_bytes / 2**20:,.0f}, gradients "
            f"{measured.gradient_bytes / 2**20:,.0f}, activations "
            f"{measured.activation_bytes / 2**20:,.0f}",
        ]
    )
