r"""bertjax beside transformers + PyTorch on GLUE's dev sets, paired by seed.

Both sides start from the same weights, head included, and see the same examples in the same order;
dropout alone differs. The recipe: batch size 32, learning rate 5e-5, 3 epochs, length 128, linear
decay after 10 % warm-up, weight decay 0.01, clip 1.0, scores of the last step. Finished runs are
kept in WORKDIR and not run again.

    python benchmarks/glue.py --model=FOLDER --data=GLUE --workdir=DIR \
        --runs=mrpc:1,mrpc:2,mrpc:3,stsb:1,stsb:2,stsb:3,rte:1,rte:2,cola:1,cola:2
    python benchmarks/glue.py --workdir=DIR --report
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

PEER = Path(__file__).with_name("peer.py")
CONFIG = Path(__file__).parents[1] / "configs" / "finetune.py"
HEADLINE = {
    "mrpc": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
    "rte": ("accuracy",),
    "cola": ("matthews",),
    "sst2": ("accuracy",),
}


def results(workdir: Path) -> dict[tuple[str, str, int], dict]:
    """(side, task, seed) -> what was measured."""
    path = workdir / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(row["side"], row["task"], row["seed"]): row for row in rows}


def peer_arguments(args, task: str, seed: int) -> list[str]:
    init = args.workdir / "init" / f"{task}-{seed}"
    return [
        sys.executable, str(PEER), f"--model={args.model}", f"--data={args.data}",
        f"--task={task}", f"--seed={seed}", f"--init={init}", f"--epochs={args.epochs}",
        f"--output={args.workdir / 'results.jsonl'}",
        *([f"--dropout={args.dropout}"] if args.dropout is not None else []),
    ]  # fmt: skip


def run_bertjax(args, task: str, seed: int) -> None:
    """Fine-tunes from the peer's initial weights and appends the result."""
    init = args.workdir / "init" / f"{task}-{seed}"
    if not (init / "config.json").exists():
        subprocess.run([*peer_arguments(args, task, seed), "--init-only"], check=True)
    folder = args.workdir / "bertjax" / f"{task}-{seed}"
    fields = {
        "model": init, "data": f"files:{args.data}", "seed": seed, "epochs": float(args.epochs),
        "eval_every": 10**9, "save_every": 10**9, "export": False,
    }  # fmt: skip
    if args.dropout is not None:
        fields["dropout"] = args.dropout
    command = [sys.executable, "-m", "bertjax", "finetune", f"--config={CONFIG}:task={task}"]
    command += [f"--workdir={folder}"] + [f"--config.{k}={v}" for k, v in fields.items()]
    subprocess.run(command, check=True)
    result = json.loads((folder / "result.json").read_text())
    metrics = {k.removeprefix("validation/"): v for k, v in result["last_metrics"].items()}
    row = {"side": "bertjax", "task": task, "seed": seed, "steps": result["steps"], **metrics}
    row["train_seconds"] = result["seconds"]
    row["peak_rss_mib"] = result["peak_rss_mib"]
    with (args.workdir / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def report(workdir: Path) -> str:
    """A Markdown table: mean of each side, mean paired difference with its 95 % interval."""
    found = results(workdir)
    lines = [
        "| task | metric | n | transformers | bertjax | difference | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, metrics in HEADLINE.items():
        seeds = [s for side, t, s in found if t == task and side == "bertjax"]
        seeds = sorted(s for s in seeds if ("transformers", task, s) in found)
        for metric in metrics if seeds else ():
            theirs = np.array([found["transformers", task, s][metric] for s in seeds])
            ours = np.array([found["bertjax", task, s][metric] for s in seeds])
            lines.append(
                f"| {task} | {metric} | {len(seeds)} | {theirs.mean():.4f} | {ours.mean():.4f} "
                f"| {(ours - theirs).mean():+.4f} | {interval(ours - theirs)} |"
            )
    return "\n".join(lines)


def interval(differences: np.ndarray) -> str:
    """Student's 95 % interval of the mean; a dash for a single pair."""
    n = len(differences)
    if n < 2:
        return "–"
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return f"[{differences.mean() - half:+.4f}, {differences.mean() + half:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="the pretrained folder")
    parser.add_argument("--data", type=Path, help="GLUE's folder")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--runs", default="", help="TASK:SEED, separated by commas")
    parser.add_argument("--sides", default="bertjax,transformers")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--dropout", type=float, help="one rate for all; 0: the two sides agree")
    parser.add_argument("--report", action="store_true", help="only print the table")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for run in args.runs.split(",") if args.runs and not args.report else ():
        task, _, seed = run.partition(":")
        for side in args.sides.split(","):
            if (side, task, int(seed)) in results(args.workdir):
                continue
            if side == "bertjax":
                run_bertjax(args, task, int(seed))
            else:
                subprocess.run(peer_arguments(args, task, int(seed)), check=True)
    print(report(args.workdir))


if __name__ == "__main__":
    main()
