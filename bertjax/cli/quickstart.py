"""``bertjax quickstart``: a very small BERT learns, from nothing, while you watch."""

from __future__ import annotations

from typing import Any

from bertjax.cli.flags import Command

COMMAND = Command(
    "quickstart",
    "Shows the whole way on this machine, without a download, in under three minutes on two CPU "
    "cores: reads the English that comes with Python (help topics and docstrings), trains a "
    "WordPiece vocabulary, pretrains a very small BERT with masked words, fine-tunes it to tell "
    "which library a sentence is about, and compares it with one that was not pretrained. Run the "
    "same command again to go on after an interruption.",
    examples=["bertjax quickstart", "bertjax quickstart --steps=30000 --workdir=runs/longer"],
)
COMMAND.text("workdir", "Folder of the run.", default="quickstart-run")
COMMAND.integer("steps", "Of the pretraining; more take longer and help more.", default=2500)
COMMAND.integer("seed", "Of everything random.", default=0)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    values = COMMAND.parse(argv)
    from bertjax.train.quickstart import QuickstartConfig, quickstart

    config = QuickstartConfig(steps=values.steps, seed=values.seed)
    result = quickstart(config, values.workdir, lambda line: print(line, flush=True))
    print(summary(result, values.workdir))
    return 0


def summary(result: dict[str, Any], workdir: str) -> str:
    """Predictions, the table, and what to try next."""
    return "\n".join([*_predictions(result), "", *_table(result), "", *_next(workdir)])


def _predictions(result: dict[str, Any]) -> list[str]:
    lines = ["", "What the pretrained one says of one test sentence of each library:"]
    for example in result["examples"]:
        text = example["text"]
        text = text if len(text) <= 90 else text[:87] + "..."
        right = example["answer"] == example["library"]
        verdict = "right" if right else f"no, it is {example['library']}"
        lines += [f"  {text}", f"    {example['answer']} ({example['probability']:.0%}): {verdict}"]
    return lines


def _table(result: dict[str, Any]) -> list[str]:
    accuracy = result["accuracy"]
    rows = {
        "fine-tuned after pretraining": accuracy["finetuned"],
        "fine-tuned from random weights": accuracy["finetuned-from-random"],
        "always the same answer": result["majority"],
    }
    return [
        f"Which of {len(result['libraries'])} libraries? {result['test_sentences']:,} test "
        f"sentences, learnt from {result['labelled_sentences']:,} labelled ones:",
        *(f"  {name:<32}{value:>7.1%} right" for name, value in rows.items()),
        f"  ({result['parameters']:,} parameters, {result['seconds']:.0f} s on {result['device']})",
    ]


def _next(workdir: str) -> list[str]:
    return [
        f"Everything is in {workdir}. Try next:",
        "  echo 'Returns the eigenvalues of a sparse matrix.' | "
        f"bertjax predict --workdir={workdir}/finetuned",
        f"  bertjax evaluate --workdir={workdir}/finetuned --split=test",
        "  bertjax quickstart --steps=30000 --workdir=runs/longer",
        "and, after pip install 'bertjax[hf]', on a real task with a real model:",
        "  bertjax finetune --config=configs/finetune.py:task=mrpc --workdir=runs/mrpc "
        "--config.model=google-bert/bert-base-uncased --config.data=hf:nyu-mll/glue/mrpc",
    ]
