"""Plots held-out curves of pretraining: ``python benchmarks/curves.py RUN… --to=FILE.png``.

Reads each run's ``metrics.jsonl``. Needs the extra ``viz``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

PANELS = (
    ("masked_lm_loss", "masked LM loss (nats)"),
    ("masked_lm_accuracy", "masked LM accuracy"),
    ("next_sentence_accuracy", "next-sentence accuracy"),
)


def read(run: Path) -> list[dict[str, float]]:
    """The held-out evaluations of a run, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any(name.startswith("validation") for name in line)]


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--tokens_per_step", type=int, required=True)
    flags = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.6), constrained_layout=True)
    for run in flags.runs:
        lines = read(run)
        tokens = [line["step"] * flags.tokens_per_step / 1e6 for line in lines]
        for axis, (name, title) in zip(axes, PANELS, strict=True):
            values = [line.get(f"validation/{name}") for line in lines]
            axis.plot(tokens, values, marker="o", markersize=3, label=run.name)
            axis.set(title=title, xlabel="tokens (millions)")
            axis.grid(alpha=0.3)
    if len(flags.runs) > 1:
        axes[0].legend()
    figure.savefig(flags.to, dpi=120)


if __name__ == "__main__":
    main()
