"""A workdir of ``bertjax glue`` with made-up results, as its runs would have left it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from bertjax.tasks import get_task

STEPS, EVALUATIONS = 120, 3


def canned_run(
    workdir: Path,
    task: str,
    point: str,
    seed: int,
    scores: Sequence[float],
    *,
    last: Sequence[float] | None = None,
    seconds: float = 100.0,
    model: bool = False,
) -> Path:
    """Writes a finished run; ``scores`` are fractions, a metric each, MNLI's for both splits."""
    folder = workdir / "runs" / task / point / f"seed={seed}"
    folder.mkdir(parents=True)
    found = get_task(task)
    splits = [split for split in found.splits if split.startswith("validation")]
    names = [f"{split}/{metric}" for split in splits for metric in found.metrics]
    result = {
        "task": task,
        "metrics": {"validation/loss": 0.5, **dict(zip(names, scores, strict=True))},
        "last_metrics": dict(zip(names, last or scores, strict=True)),
        "seconds": seconds,
        "device": "1 x cpu",
    }
    document = {
        "bertjax": "0",
        "versions": {"jax": "0.10"},
        "experiment": {"seed": seed, "max_length": 128},
        "model": {},
        "heads": {},
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, _lines(names[0], scores[0]))))
    if model:
        (folder / "huggingface").mkdir()
    return folder


def _lines(metric: str, score: float) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []
    for step in range(1, STEPS + 1):
        noise = 0.1 * math.sin(37.0 * step * score)
        lines.append({"step": step, "train/loss": 0.2 + 0.5 * math.exp(-step / 40) + noise})
        if step % (STEPS // EVALUATIONS) == 0:
            lines.append({"step": step, metric: score * (0.7 + 0.3 * step / STEPS)})
    return lines
