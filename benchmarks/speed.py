"""Training speed and memory beside transformers + PyTorch, side by side in one run.

MRPC from the same weights: the two sides take turns in fresh processes, so a noisy machine is
noisy for both. Speed is examples a second from step 21 on (a shape that is compiled later than
that counts); memory is the largest resident size of each process.

    python benchmarks/speed.py --model=FOLDER --data=GLUE --workdir=DIR
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

HERE = Path(__file__).parent
WARM = 20


def run_peer(args) -> dict[str, float]:
    output = args.workdir / "peer.jsonl"
    command = [
        sys.executable, str(HERE / "peer.py"), f"--model={args.model}", f"--data={args.data}",
        "--task=mrpc", f"--output={output}", f"--max-steps={args.steps}", f"--warm-steps={WARM}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(output.read_text().splitlines()[-1])


def run_bertjax(args) -> dict[str, float]:
    folder = args.workdir / "bertjax"
    shutil.rmtree(folder, ignore_errors=True)
    fields = {
        "model": args.model, "data": f"files:{args.data}", "steps": args.steps,
        "eval_every": 10**9, "log_every": WARM, "export": False, "pack": args.pack,
    }  # fmt: skip
    command = [sys.executable, "-m", "bertjax", "finetune", f"--workdir={folder}"]
    command += [f"--config={HERE.parent / 'configs' / 'finetune.py'}:task=mrpc"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [
        row["examples_per_second"] for row in rows if row["step"] > WARM and "train/loss" in row
    ]
    result = json.loads((folder / "result.json").read_text())
    return {
        "examples_per_second": len(rates) / sum(1 / rate for rate in rates),
        "peak_rss_mib": result["peak_rss_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="GLUE's folder")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pack", default="True", choices=["True", "False"])
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    sides = {"transformers": run_peer, "bertjax": run_bertjax}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(1, args.rounds + 1):
        for name, run in sides.items():
            rows[name].append(run(args))
            row = rows[name][-1]
            print(
                f"round {number} {name:<13} {row['examples_per_second']:6.1f} examples/s "
                f"{row['peak_rss_mib']:6.0f} MiB",
                flush=True,
            )
    speed = {name: mean(row["examples_per_second"] for row in rows[name]) for name in sides}
    memory = {name: max(row["peak_rss_mib"] for row in rows[name]) for name in sides}
    print(f"speed  {speed['bertjax'] / speed['transformers']:.2f} x the peer's")
    print(f"memory {memory['bertjax'] / memory['transformers']:.2f} x the peer's")


if __name__ == "__main__":
    main()
