"""``bertjax vocab``: a tokenizer's vocabulary from raw text."""

from __future__ import annotations

import shlex
import time

from bertjax.cli.flags import Command
from bertjax.cli.inputs import declare_inputs, reading_of

COMMAND = Command(
    "vocab",
    "Learns the vocabulary of a tokenizer from raw text, and writes the tokenizer's folder, which "
    "transformers loads too. The text is read twice and never held in memory. The same text gives "
    "the same vocabulary.",
    examples=[
        "bertjax vocab --input='wiki/*.jsonl.xz' --size=30522 --lower_case --output=vocabulary",
        "bertjax vocab --input=books/ --format=file --kind=byte_bpe --size=50265 --output=bpe",
    ],
)
declare_inputs(COMMAND)
COMMAND.text("output", "The folder to write, or one that the command wrote before.", required=True)
COMMAND.integer("size", "Of the vocabulary, special tokens counted.", default=30522)
COMMAND.choice(
    "kind",
    "wordpiece (BERT), byte_bpe (RoBERTa) or unigram (ALBERT).",
    ["wordpiece", "byte_bpe", "unigram"],
    default="wordpiece",
)
COMMAND.switch("lower_case", "Lower-case the text; not for byte_bpe.")
COMMAND.choice(
    "strip_accents",
    "Take the accents off letters; auto: where the text is lower-cased.",
    ["auto", "true", "false"],
    default="auto",
)
COMMAND.integer(
    "unused",
    "Reserve so many [unused0], [unused1], ... for later; wordpiece only. BERT's own vocabularies "
    "have 99 to 994.",
    default=0,
)
COMMAND.integer(
    "min_frequency",
    "Join what occurs together at least so often (default: 2); not for unigram.",
)
COMMAND.integer(
    "alphabet",
    "Keep so many different characters, the most frequent ones; rarer ones become unknown "
    "(default: those that make up 99.99 % of the text, in at most half of the vocabulary); not for "
    "byte_bpe, which knows every byte.",
)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    flags = COMMAND.parse(argv)
    from bertjax.corpus.inputs import find_inputs
    from bertjax.corpus.vocabulary import VocabularySettings
    from bertjax.corpus.vocabulary_folder import make_vocabulary

    settings = VocabularySettings(
        kind=flags.kind,
        size=flags.size,
        lower_case=flags.lower_case,
        strip_accents={"auto": None, "true": True, "false": False}[flags.strip_accents],
        unused=flags.unused,
        min_frequency=flags.min_frequency,
        alphabet=flags.alphabet,
    )
    begin = time.monotonic()
    done = make_vocabulary(find_inputs(flags.input), reading_of(flags), settings, flags.output)
    seconds = time.monotonic() - begin
    print(
        f"{done.size:,} tokens from {done.characters / 1e6:,.1f} million characters in "
        f"{done.paragraphs:,} paragraphs ({seconds:,.0f} s)"
    )
    if done.size < flags.size:
        print(f"that is fewer than {flags.size:,}: the text has no more pieces that occur often")
    print(
        f"on a sample of the text: {done.tokens_a_word:.2f} tokens a word, "
        f"{done.characters_a_token:.2f} characters a token, {done.unknown:.2%} unknown"
    )
    print(f"written: {flags.output}")
    source, tokenizer = shlex.quote(flags.input), shlex.quote(flags.output)
    print(f"next: bertjax prepare --input={source} --tokenizer={tokenizer} --output=corpus")
    return 0
