"""The flags that say which raw text is read, and how; ``vocab`` and ``prepare`` share them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from bertjax.cli.flags import Command

if TYPE_CHECKING:
    from bertjax.corpus.inputs import Reading


def declare_inputs(command: Command) -> None:
    """Adds the flags of :func:`reading_of`, and ``--input``."""
    command.text(
        "input",
        "Files with text: paths, globs or folders, with commas between; .gz, .bz2, .xz and .zst "
        "are decompressed.",
        required=True,
    )
    command.choice(
        "format",
        "What a file holds: text (a blank line between documents), file (one document), extractor "
        "(Wikipedia's <doc ...>), or jsonl (an object a line); auto looks at its ending and first "
        "line.",
        ["auto", "text", "file", "extractor", "jsonl"],
        default="auto",
    )
    command.text("field", "The field of a JSON object that holds the text.", default="text")
    command.choice(
        "errors",
        "What to do about bytes that are not UTF-8: stop, or replace them.",
        ["strict", "replace"],
        default="strict",
    )
    command.integer("max_line", "The longest line that is read, in bytes.", default=16 << 20)


def reading_of(flags: SimpleNamespace) -> Reading:
    """How the text is read, by the flags."""
    from bertjax.corpus.inputs import Reading

    return Reading(flags.format, flags.field, flags.errors, flags.max_line)
