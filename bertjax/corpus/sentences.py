"""Splits paragraphs into sentences with sentencex (Wikimedia's splitter, rules of 30 languages)."""

from __future__ import annotations

import itertools
import re

from bertjax.types import UserError

# The languages that sentencex 1.0 has rules for; any other takes those of a relative or of English.
LANGUAGES = (
    "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
)

# sentencex 1.0 panics where white space of more than one byte stands before an initial ("Mr. J.").
_WIDE_SPACE = re.compile("[" + "".join(filter(str.isspace, map(chr, range(0x80, 0x3001)))) + "]")


def check_language(language: str) -> str | None:
    """A notice to print about a language code, or None.

    Raises:
      UserError: if it is not a code in small letters such as ``en`` or ``zh-hant``.
    """
    if not re.fullmatch(r"[a-z]{2,3}(-[a-z]+)*", language):
        raise UserError(
            f"--language={language} is not a language code in small letters, such as en, de or zh"
        )
    if language in LANGUAGES.split():
        return None
    return (
        f"sentencex has no rules of its own for '{language}': sentences are split by those of a "
        "related language, or of English"
    )


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of a paragraph, stripped, none of them empty."""
    import sentencex

    text = paragraph if paragraph.isascii() else _WIDE_SPACE.sub(" ", paragraph)
    pieces = sentencex.segment(language, text)  # pyright: ignore[reportAttributeAccessIssue]
    ends = itertools.accumulate(map(len, pieces), initial=0)
    sentences = (paragraph[start:end].strip() for start, end in itertools.pairwise(ends))
    return [sentence for sentence in sentences if sentence]


def splitter_version() -> str:
    """The splitter's name and version, which the shards depend on."""
    from importlib.metadata import version

    return f"sentencex {version('sentencex')}"
