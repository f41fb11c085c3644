"""A first look at a corpus: how often each character occurs, and a sample of its paragraphs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tokenizers import normalizers

_MANY = 1 << 20
_CODES = 0x110000
_SAMPLE = 1000
_LONGEST = 2000


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one pass over a corpus tells."""

    counts: np.ndarray
    """int64 ``[0x110000]``: how often each character occurs."""
    paragraphs: int
    sample: tuple[str, ...]
    """Up to 1,000 paragraphs from everywhere in the corpus, cut to 2,000 characters."""

    @property
    def characters(self) -> int:
        """How many characters there are in all."""
        return int(self.counts.sum())


def survey(paragraphs: Iterable[str]) -> Survey:
    """Reads paragraphs once; memory does not grow with them."""
    counts, sample, stride = np.zeros(_CODES, np.int64), [], 1
    waiting: list[str] = []
    size = number = 0
    for number, text in enumerate(paragraphs, start=1):
        waiting.append(text)
        size += len(text)
        if size > _MANY:
            _count(waiting, counts)
            waiting, size = [], 0
        if (number - 1) % stride == 0:
            sample.append(text[:_LONGEST])
            if len(sample) == 2 * _SAMPLE:
                sample, stride = sample[::2], stride * 2
    _count(waiting, counts)
    return Survey(counts, number, tuple(sample[:: 1 + (len(sample) > _SAMPLE)]))


def _count(texts: list[str], counts: np.ndarray) -> None:
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    found = np.bincount(codes)
    counts[: len(found)] += found


def letters(survey: Survey, normalizer: normalizers.Normalizer) -> dict[str, int]:
    """How often each character occurs in the normalised text, the most frequent first.

    Normalisers work on one character at a time, so the text need not be read again. White space is
    left out; equally frequent characters come in the order of their codes.
    """
    found: dict[str, int] = {}
    for code in np.flatnonzero(survey.counts):
        for character in normalizer.normalize_str(chr(code)):
            if not character.isspace():
                found[character] = found.get(character, 0) + int(survey.counts[code])
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def choose_letters(
    counts: dict[str, int], most: int | None, room: int, rows: Callable[[str], int]
) -> list[str]:
    """The characters that a vocabulary keeps, the most frequent first.

    Args:
      counts: from :func:`letters`.
      most: how many are kept; None: those that make up 99.99 % of the text, unless they take more
        than ``room`` rows.
      room: in rows of the vocabulary.
      rows: how many rows a character takes.
    """
    if most is not None:
        return list(counts)[:most]
    kept: list[str] = []
    covered, used, total = 0, 0, sum(counts.values())
    for character, count in counts.items():
        used += rows(character)
        if used > room or covered * 10_000 >= total * 9_999:
            break
        kept.append(character)
        covered += count
    return kept


def without_rare(
    paragraphs: Iterable[str],
    survey: Survey,
    normalizer: normalizers.Normalizer,
    kept: Iterable[str],
) -> Iterator[str]:
    """Paragraphs with a space for each character that is not made of ``kept`` ones."""
    known = {*kept, " "}
    rare = [
        chr(code)
        for code in np.flatnonzero(survey.counts)
        if not chr(code).isspace() and not set(normalizer.normalize_str(chr(code))) <= known
    ]
    if not rare:
        yield from paragraphs
        return
    pattern = re.compile(f"[{''.join(map(re.escape, rare))}]")
    for text in paragraphs:
        yield pattern.sub(" ", text)
