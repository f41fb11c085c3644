"""The tables of docs/planning.md, from ``bertjax plan``.

    python benchmarks/plan_tables.py --cells=plans

Each cell is one process that compiles for a topology, a minute or two; its answer is kept in the
folder ``--cells``, so that an interrupted run goes on, and a cell is computed anew by deleting its
file. ``--only=WORDS`` computes the cells whose names hold them. Tables are written between the
marks of docs/planning.md from the cells that are there. Needs libtpu.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GUIDE = HERE.parent / "docs" / "planning.md"
CONFIGS = HERE.parent / "configs"
GIB = 2**30
TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v4:4x4x8", "v4:16x16x16", "v5p:4x4x8", "v6e:16x16")
ROWS = {  # a chip
    ("bert_base", 128): 64,
    ("bert_base", 512): 16,
    ("bert_large", 128): 32,
    ("bert_large", 512): 8,
}
WEAK = ("v4:2x2x2", "v4:4x4x4", "v4:8x8x8", "v4:16x16x16")
WEAK_ROWS = 8
MLPERF = {8: 1_283, 64: 10_206, 4096: 596_125}
"""Sequences a second of BERT-large in JAX on TPU v4, by chips (MLPerf Training)."""


def chips(topology: str) -> int:
    count = 1
    for size in topology.partition(":")[2].split("x"):
        count *= int(size)
    return count


def cells() -> dict[str, list[str]]:
    """The flags of each cell, by its name."""
    found: dict[str, list[str]] = {}
    for (recipe, length), rows in ROWS.items():
        for topology in TOPOLOGIES:
            found[f"{recipe}-{length}-{topology}"] = pretraining(recipe, length, topology, rows)
    for length in (128, 512):
        found[f"finetune-{length}-v5e:1x1"] = [
            f"--config={CONFIGS / 'finetune.py'}:task=mnli",
            *("--config.model=preset:bert_large", "--config.dtype=bfloat16"),
            *(f"--length={length}", "--topology=v5e:1x1"),
        ]
    for topology in WEAK:
        found[f"weak-{topology}"] = pretraining("bert_large", 512, topology, WEAK_ROWS)
    return found


def pretraining(recipe: str, length: int, topology: str, rows: int) -> list[str]:
    # libtpu 0.0.42 crashes on a loop over layers of 512 tokens with dropout for v6e.
    unroll = ["--config.unroll=2"] * (length == 512 and topology.startswith("v6e"))
    return [
        *unroll,
        f"--config={CONFIGS / 'pretrain.py'}:{recipe}",
        *(f"--length={length}", f"--topology={topology}"),
        f"--global_batch={rows * chips(topology)}",
    ]


def answer(flags: list[str]) -> dict[str, Any]:
    """What ``bertjax plan`` says; of a step that does not fit, with what it suggests."""
    found = ask(flags)
    if found["fits"] or not found["suggestions"][0]:
        return found
    return ask([*flags, *found["suggestions"][0].split()]) | {"added": found["suggestions"][0]}


def ask(flags: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bertjax", "plan", "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def load(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / f"{name.replace(':', '-')}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


HEADER = (
    "| topology | chips | rows a step | micro-batches | parameters | optimizer | temporaries "
    "| total | of | compiled ÷ model | sent, MB | step, ms | tokens/s | of the peak "
    "| compiled in |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def row(found: dict[str, Any]) -> str:
    """One line of a table; memory in GiB."""
    plan = found["plans"][0]
    memory, topology = plan["memory"], plan["topology"]
    parts = [memory[n] for n in ("parameters", "optimizer", "temporaries", "total", "capacity")]
    words = [topology["name"], f"{topology['chips']:,}", f"{plan['rows']:,}"]
    words += [str(plan["accumulation"]), *(f"{size / GIB:.2f}" for size in parts)]
    if plan["estimate"] is None:
        return "| " + " | ".join([*words, *["does not fit"] + ["–"] * 5]) + " |"
    sent = sum(moved["bytes"] for moved in plan["transfers"])
    words += [f"{plan['flops_ratio']:.3f}", f"{sent / 1e6:,.0f}"]
    words += [f"{1e3 * plan['estimate']['step_seconds']:.1f}"]
    words += [f"{plan['tokens_per_second']:,.0f}", f"{plan['utilisation']:.1%}"]
    return "| " + " | ".join([*words, f"{plan['compile_seconds']:.0f} s"]) + " |"


def tables(folder: Path) -> str:
    """All tables, from the cells that are there."""
    blocks = []
    for recipe, length in ROWS:
        names = [f"{recipe}-{length}-{topology}" for topology in TOPOLOGIES]
        blocks.append(table(folder, f"`{recipe}`, rows of {length} tokens", names))
    names = [f"finetune-{length}-v5e:1x1" for length in (128, 512)]
    title = "Fine-tuning BERT-large on MNLI, one v5e chip, rows of 128 and of 512 tokens"
    return "\n\n".join([*blocks, table(folder, title, names), weak_scaling(folder)])


def table(folder: Path, title: str, names: list[str]) -> str:
    lines = [row(found) for name in names if (found := load(folder, name))]
    return "\n".join([f"**{title}**", "", HEADER, *lines])


def weak_scaling(folder: Path) -> str:
    """Rows a second and a chip, of those with the fewest chips."""
    lines = [
        f"**Weak scaling, BERT-large, {WEAK_ROWS} rows of 512 tokens a chip, TPU v4**",
        "",
        "| chips | step, ms | of it, waiting for collectives | rows/s | efficiency "
        "| MLPerf, sequences/s | efficiency |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    first = 0.0
    for topology in WEAK:
        found = load(folder, f"weak-{topology}")
        if found is None or found["plans"][0]["estimate"] is None:
            continue
        plan, count = found["plans"][0], chips(topology)
        guess = plan["estimate"]
        rate = plan["rows"] / guess["step_seconds"]
        first = first or rate / count
        measured = MLPERF.get(count)
        theirs = measured and measured / count / (MLPERF[8] / 8)
        beside = f"{measured:,} | {theirs:.1%}" if measured else "– | –"
        lines.append(
            f"| {count:,} | {1e3 * guess['step_seconds']:.1f} | "
            f"{1e3 * guess['exposed_seconds']:.2f} | {rate:,.0f} | {rate / count / first:.1%} | "
            f"{beside} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the tables of docs/planning.md.")
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.cells.mkdir(parents=True, exist_ok=True)
    for name, flags in cells().items():
        if args.only in name and load(args.cells, name) is None:
            print(name, flush=True)
            path = args.cells / f"{name.replace(':', '-')}.json"
            path.write_text(json.dumps(answer(flags), indent=1), encoding="utf-8")
    text = GUIDE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- tables -->\n")
    _, mark, after = rest.partition("<!-- end of tables -->")
    body = f"{before}<!-- tables -->\n\n{tables(args.cells)}\n\n{mark}{after}"
    GUIDE.write_text(body, encoding="utf-8")


if __name__ == "__main__":
    main()
