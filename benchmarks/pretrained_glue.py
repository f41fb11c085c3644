"""What a pretraining was worth: GLUE dev scores after it, and from random weights.

    python benchmarks/pretrained_glue.py --model=runs/tiny --data=GLUE --workdir=runs/tiny-glue

Fine-tunes both by the same recipe (4 epochs; learning rates and batch size from the grid of Turc et
al. 2019), over seeds. Runs that are done already are read; ``--report`` only prints the table: of
every task the best learning rate by the mean over seeds, and its mean and spread.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from pathlib import Path
from typing import Any

TASKS = {
    "stsb": ("pearson", "spearman"),
    "mrpc": ("f1", "accuracy"),
    "rte": ("accuracy",),
    "sst2": ("accuracy",),
}
PUBLISHED = {"sst2": "83.2", "mrpc": "81.1 / 71.1", "stsb": "74.3 / 73.6", "rte": "57.2"}
"""BERT-Tiny, GLUE test: google-research/bert's table of the miniatures."""
STARTS = ("random", "pretrained")


def random_weights(model: str, folder: Path) -> None:
    """Writes the model's shape with weights as they are before any training."""
    import jax
    from etils import epath

    from bertjax.convert import save_huggingface
    from bertjax.exchange import read_model
    from bertjax.models import Model
    from bertjax.optim import OptimConfig
    from bertjax.sharding import MeshConfig, make_mesh
    from bertjax.train.state import create_state

    found = read_model(model)
    shape = Model(found.config, tuple(found.heads.items()))
    state = create_state(shape, OptimConfig(), make_mesh(MeshConfig()), seed=0)
    params = jax.device_get(state.params)
    place = str(epath.Path(folder))
    save_huggingface(place, found.config, params, found.heads, tokenizer=found.tokenizer)


def run(flags: argparse.Namespace, start: str, task: str, rate: float, seed: int) -> dict[str, Any]:
    """One fine-tuning; its result is read where it is done."""
    from bertjax.train.config import FinetuneConfig
    from bertjax.train.finetune import finetune

    model = flags.model if start == "pretrained" else str(Path(flags.workdir) / "random")
    config = FinetuneConfig(
        model=model,
        data=f"files:{flags.data}",
        task=task,
        epochs=4,
        batch_size=flags.batch_size,
        learning_rate=rate,
        seed=seed,
        save_every=10**9,
        export=False,
    )
    return finetune(config, str(Path(flags.workdir) / f"{start}-{task}-{rate:g}-{seed}"))


def collect(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """The finished runs in the workdir, each with the metrics of its last step."""
    rows = []
    for path in sorted(Path(flags.workdir).glob("*-*-*-*/result.json")):
        start, task, rest = path.parent.name.split("-", 2)
        rate, seed = rest.rsplit("-", 1)
        metrics = json.loads(path.read_text())["last_metrics"]
        scores = {name.split("/")[1]: value for name, value in metrics.items()}
        rows.append({"start": start, "task": task, "rate": rate, "seed": int(seed), **scores})
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, in percent."""
    lines = [
        "| task | metric | random weights | pretrained here | n | BERT-Tiny, published (test) |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for task, metrics in TASKS.items():
        best = {start: _best(rows, start, task, metrics[0]) for start in STARTS}
        counts = " / ".join(str(len(found)) for found in best.values())
        for number, metric in enumerate(metrics):
            cells = [_cell(best[start], metric) for start in STARTS]
            published = PUBLISHED[task] if number == 0 else ""
            lines.append(f"| {task} | {metric} | {' | '.join(cells)} | {counts} | {published} |")
    return "\n".join(lines)


def _best(rows: list[dict[str, Any]], start: str, task: str, metric: str) -> list[dict[str, Any]]:
    """The runs of the learning rate whose mean is the best."""
    mine = [row for row in rows if (row["start"], row["task"]) == (start, task)]
    rates = {row["rate"] for row in mine}
    groups = [[row for row in mine if row["rate"] == rate] for rate in rates]
    return max(groups, key=lambda g: statistics.mean(row[metric] for row in g), default=[])


def _cell(rows: list[dict[str, Any]], metric: str) -> str:
    if not rows:
        return "–"
    values = [100 * row[metric] for row in rows]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread} (lr {rows[0]['rate']})"


def main() -> None:
    """Runs what is asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rates", default="3e-4,1e-4")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--starts", default=",".join(STARTS))
    parser.add_argument("--report", action="store_true")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if not flags.report:
        folder = Path(flags.workdir) / "random"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            random_weights(flags.model, folder)
        for task in flags.tasks.split(","):
            for seed in map(int, flags.seeds.split(",")):
                for rate in map(float, flags.rates.split(",")):
                    for start in flags.starts.split(","):
                        result = run(flags, start, task, rate, seed)
                        print(start, task, f"{rate:g}", seed, result["last_metrics"], flush=True)
    print(report(collect(flags)))


if __name__ == "__main__":
    main()
