"""``bertjax prepare``: raw text as a corpus for pretraining."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from bertjax.cli.flags import Command
from bertjax.cli.inputs import declare_inputs, reading_of

if TYPE_CHECKING:
    from bertjax.corpus.prepare import Prepared

COMMAND = Command(
    "prepare",
    "Prepares raw text for pretraining: splits it into sentences, tokenizes it once on all cores, "
    "and writes sharded files with a manifest. A run that was stopped goes on where it was when "
    "the same command is given again, and ends with the same bytes.",
    examples=[
        "bertjax prepare --input='text/*.jsonl.gz' --tokenizer=vocabulary --output=corpus",
        "bertjax prepare --input=books --format=file --tokenizer=roberta-base --output=corpus",
    ],
)
declare_inputs(COMMAND)
COMMAND.text("tokenizer", "A folder or hub name with a fast tokenizer.", required=True)
COMMAND.text("output", "The folder of the corpus.", required=True)
COMMAND.choice(
    "sentences",
    "Split paragraphs into sentences, or take every line as one.",
    ["split", "lines"],
    default="split",
)
COMMAND.text("language", "The code of the language whose sentences are split.", default="en")
COMMAND.choice(
    "words",
    "What tells the words for whole-word masking: the tokens, or the white space of the text (as "
    "for Chinese that was segmented before).",
    ["vocabulary", "spaces"],
    default="vocabulary",
)
COMMAND.integer("shard_size", "Bytes of text in a shard.", default=16 << 20)
COMMAND.integer("workers", "Processes that tokenize (default: one a core).")
COMMAND.choice(
    "runner",
    "What runs it: processes on this machine, or an Apache Beam pipeline (extra beam).",
    ["local", "beam"],
    default="local",
)
COMMAND.text("beam_options", "Apache Beam's own flags, with spaces between.", default="")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    flags = COMMAND.parse(argv)
    from bertjax.corpus.prepare import prepare
    from bertjax.corpus.shards import Preparation

    run = None
    if flags.runner == "beam":
        from bertjax.corpus.beam import run_beam

        run = functools.partial(run_beam, options=flags.beam_options)
    preparation = Preparation(
        reading_of(flags), flags.sentences, flags.language, flags.words, flags.shard_size
    )
    note = functools.partial(print, file=sys.stderr, flush=True)
    places = flags.input, flags.tokenizer, flags.output
    prepared = prepare(*places, preparation, workers=flags.workers, run=run, note=note)
    print("\n".join(summary(prepared, flags.output)))
    return 0


def summary(prepared: Prepared, folder: str) -> list[str]:
    """What was made, how fast, and what comes next."""
    corpus = prepared.manifest
    lines = [
        f"{corpus.documents:,} documents, {corpus.sentences:,} sentences, {corpus.tokens:,} tokens "
        f"({corpus.tokens / corpus.sentences:.1f} a sentence) in {len(corpus.shards)} shards"
    ]
    if prepared.was_done:
        return [f"{folder} is prepared already, and whole", *lines]
    size, seconds = prepared.text_bytes / 1e6, prepared.seconds
    speed = f"{size:,.1f} MB of text in {seconds:,.1f} s ({size / seconds:.2f} MB/s)"
    command = f"bertjax pretrain --config=configs/pretrain.py:bert_tiny --config.data={folder}"
    return [*lines, speed, f"next: {command} --workdir=runs/tiny"]
