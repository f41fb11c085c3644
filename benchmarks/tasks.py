r"""bertjax beside transformers + PyTorch on spans, tags, Chinese sentiment and multiple choice.

Both sides start from the same weights, head included, and see the same examples in the same order;
dropout alone differs. Scores are those of the last step. SQuAD 1.1: the first 10,000 questions of
the training file, all of dev; ChnSentiCorp begins with random weights, and its test file has no
labels. Recipes: ``RECIPES`` of ``peer_data.py``. Finished runs are kept in WORKDIR and not run
again.

    python benchmarks/tasks.py --model=FOLDER --vocab=CHINESE_VOCAB --data=DIR --workdir=DIR \
        --runs=conll2003:1,wikiann:1,chnsenticorp:1,squad:1,dream:1,dream:2,dream:3
    python benchmarks/tasks.py --workdir=DIR --report

With ``--steps=10 --dropout=0`` so many steps are made without anything random but the order, and
the losses of the two sides are compared in place of scores.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from etils import epath
from peer_data import RECIPES, Squad

PEER = Path(__file__).with_name("peer_tasks.py")
CONFIG = Path(__file__).parents[1] / "configs" / "finetune.py"
FOLDERS = {
    "conll2003": "conll2003",
    "wikiann": "wikiann-fr",
    "chnsenticorp": "chnsenticorp",
    "squad": "squad",
    "dream": "dream",
}
OPTIONS = {
    "conll2003": {"stride": 126},  # Windows without overlap, as the peer's.
    "wikiann": {"stride": 126},
    "chnsenticorp": {},
    "squad": {"stride": Squad.STRIDE, "max_query_length": Squad.QUESTION},
    "dream": {"cloze": False},
}
# task -> what is reported: the peer's name of it, ours, and ours times what is percent
SCORES = {
    "conll2003": (("validation/f1", "validation/f1", 100), ("test/f1", "test/f1", 100)),
    "wikiann": (("validation/f1", "validation/f1", 100), ("test/f1", "test/f1", 100)),
    "chnsenticorp": (("validation/accuracy", "validation/accuracy", 100),),
    "squad": (
        ("validation/exact_match", "validation/exact", 1),
        ("validation/f1", "validation/f1", 1),
    ),
    "dream": (
        ("validation/accuracy", "validation/accuracy", 100),
        ("test/accuracy", "test/accuracy", 100),
    ),
}


def results(workdir: Path) -> dict[tuple[str, str, int], dict]:
    """(side, task, seed) -> what was measured."""
    path = workdir / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(row["side"], row["task"], row["seed"]): row for row in rows}


def peer_command(args, task: str, seed: int) -> list[str]:
    model = args.vocab if task == "chnsenticorp" else args.model
    command = [sys.executable, str(PEER), f"--model={model}", f"--data={args.data}"]
    command += [f"--task={task}", f"--seed={seed}", f"--workdir={args.workdir}"]
    command += [f"--steps={args.steps}"] if args.steps else []
    return command + ([f"--dropout={args.dropout}"] if args.dropout is not None else [])


def fields(args, task: str, seed: int) -> dict:
    """The config of bertjax, which goes on from the peer's initial weights."""
    recipe = RECIPES[task]
    found = {
        "model": str(args.workdir / "init" / f"{task}-{seed}"),
        "data": f"files:{args.data / FOLDERS[task]}",
        "seed": seed,
        **dataclasses.asdict(recipe),
        "epochs": float(recipe.epochs),
        "options": OPTIONS[task],
        "eval_every": 10**9,
        "save_every": 10**9,
        "export": False,
    }
    if task == "squad":
        found["max_train_examples"] = Squad.TRAIN_QUESTIONS
    return found if args.dropout is None else {**found, "dropout": args.dropout}


def write_init(args, task: str, seed: int) -> None:
    """The peer's initial weights, where they are not there yet."""
    if not (args.workdir / "init" / f"{task}-{seed}" / "config.json").exists():
        subprocess.run([*peer_command(args, task, seed), "--init-only"], check=True)


def run_bertjax(args, task: str, seed: int) -> None:
    """Fine-tunes, scores every split and appends the result."""
    write_init(args, task, seed)
    folder = args.workdir / "bertjax" / f"{task}-{seed}"
    given = fields(args, task, seed)
    given |= {f"options.{name}": value for name, value in given.pop("options").items()}
    command = [sys.executable, "-m", "bertjax", "finetune", f"--config={CONFIG}:task={task}"]
    set_fields = {k: v for k, v in given.items() if v is not None}
    command += [f"--workdir={folder}", *(f"--config.{k}={v}" for k, v in set_fields.items())]
    subprocess.run(command, check=True)
    result = json.loads((folder / "result.json").read_text())
    row = {"side": "bertjax", "task": task, "seed": seed, "dropout": given["dropout"]}
    row |= {name: result[name] for name in ("train_examples", "steps", "peak_rss_mib")}
    row |= {"seconds": result["seconds"], **result["last_metrics"]}
    if any(name.startswith("test/") for _, name, _ in SCORES[task]):
        command = [sys.executable, "-m", "bertjax", "evaluate", f"--workdir={folder}"]
        found = subprocess.run([*command, "--split=test"], check=True, stdout=subprocess.PIPE)
        row |= {k: v for k, v in json.loads(found.stdout).items() if k.startswith("test/")}
    with (args.workdir / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def report(workdir: Path) -> str:
    """A Markdown table: the scores in percent of every seed that a side has, and their means."""
    found = results(workdir)
    lines = [
        "| task | metric | seed | transformers | bertjax | difference |",
        "|---|---|---|---|---|---|",
    ]
    for task, scores in SCORES.items():
        for peers, name, percent in scores:
            pairs = []
            for seed in sorted({seed for _, other, seed in found if other == task}):
                left = found.get(("transformers", task, seed), {}).get(peers)
                right = found.get(("bertjax", task, seed), {}).get(name)
                right = None if right is None else right * percent
                both = "–" if left is None or right is None else f"{right - left:+.2f}"
                lines.append(table_row(task, peers, str(seed), shown(left), shown(right), both))
                pairs += [] if both == "–" else [(left, right)]
            if len(pairs) > 1:
                lines.append(mean_row(task, peers, np.array(pairs)))
    return "\n".join(lines)


def mean_row(task: str, metric: str, pairs: np.ndarray) -> str:
    """Means of both sides, and of the difference with its 95 % interval (Student's t, paired).

    Args:
      pairs: the peer's score and ours, ``[seeds, 2]``.
    """
    from scipy import stats

    apart, count = pairs[:, 1] - pairs[:, 0], len(pairs)
    width = stats.t.ppf(0.975, count - 1) * apart.std(ddof=1) / count**0.5
    left, right = (f"{mean:.2f}" for mean in pairs.mean(0))
    return table_row(
        task, metric, f"mean of {count}", left, right, f"{apart.mean():+.2f} ± {width:.2f}"
    )


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def compare(args, task: str, seed: int) -> str:
    """How far the losses of the two sides are apart at most over the first steps."""
    from bertjax.checkpoint import Checkpoints
    from bertjax.tasks import get_task
    from bertjax.train.config import FinetuneConfig
    from bertjax.train.finetune import assemble, run

    subprocess.run(peer_command(args, task, seed), check=True)
    config = FinetuneConfig(task=task, steps=args.steps, log_every=1, **fields(args, task, seed))
    known = get_task(task, options=config.options, data=config.data)
    parts = assemble(config, [known])
    tasks = tuple(dataclasses.replace(part, evaluators=()) for part in parts.tasks)
    parts = dataclasses.replace(parts, tasks=tasks)
    ours = args.workdir / "bertjax" / f"{task}-{seed}"
    shutil.rmtree(ours, ignore_errors=True)
    with contextlib.closing(Checkpoints(epath.Path(ours))) as checkpoints:
        run(parts, epath.Path(ours), checkpoints)
    rows = map(json.loads, (ours / "metrics.jsonl").read_text().splitlines())
    right = [row["train/loss"] for row in rows if "train/loss" in row]
    theirs = args.workdir / "transformers" / f"{task}-{seed}" / "losses.txt"
    left = [float(line.split()[1]) for line in theirs.read_text().splitlines()]
    apart = max(abs(a - b) for a, b in zip(left, right, strict=True))
    return f"{task}: losses {left[0]:.4f} to {left[-1]:.4f}, {apart:.1e} apart at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="the pretrained folder")
    parser.add_argument("--vocab", type=Path, help="vocab.txt of ChnSentiCorp's model")
    parser.add_argument("--data", type=Path, help="the folder with the tasks' folders")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--runs", default="", help="TASK:SEED, separated by commas")
    parser.add_argument("--sides", default="bertjax,transformers")
    parser.add_argument("--dropout", type=float, help="one rate for all")
    parser.add_argument("--steps", type=int, default=0, help="compare the losses of so many steps")
    parser.add_argument("--report", action="store_true", help="only print the table")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for run in args.runs.split(",") if args.runs and not args.report else ():
        task, _, seed = run.partition(":")
        if args.steps:
            print(compare(args, task, int(seed)), flush=True)
            continue
        for side in args.sides.split(","):
            if (side, task, int(seed)) in results(args.workdir):
                continue
            if side == "bertjax":
                run_bertjax(args, task, int(seed))
            else:
                subprocess.run(peer_command(args, task, int(seed)), check=True)
    if not args.steps:
        print(report(args.workdir))


if __name__ == "__main__":
    main()
