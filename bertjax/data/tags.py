"""Tags of words and the spans they mark: IOB1, IOB2, BIOES and their other spellings.

A tag is ``O``, or a letter and a type with a hyphen between them: ``B-PER``. Letters:

* ``B`` begins a span, ``I`` goes on with one, ``E`` ends one, ``S`` is a span of one word.
* BILOU writes ``L`` for ``E`` and ``U`` for ``S``; BMES and BMEWO write ``M`` for ``I`` and ``W``
  for ``S``.
* IOB1 (Ramshaw and Marcus, 1995, https://aclanthology.org/W95-0107) writes ``B`` only where a span
  follows another of its type at once, IOB2 at every beginning.

Which spans a sequence of tags marks is decided by the rules of conlleval, the script of the CoNLL
shared tasks (https://www.clips.uantwerpen.be/conll2000/chunking/output.html), extended to ``E`` and
``S`` as seqeval does: every sequence means something, a wrong one too. These rules read all the
schemes alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Scheme = Literal["iob1", "iob2", "bioes"]

OUTSIDE = "O"
_LETTERS = {**{letter: letter for letter in "BIES"}, "L": "E", "U": "S", "M": "I", "W": "S"}
_ORDER = "BIES"


class Span(NamedTuple):
    """A span of words: ``start`` is its first, ``stop`` the one after its last."""

    type: str
    start: int
    stop: int


def split_tag(tag: str) -> tuple[str, str]:
    """The letter (``O``, ``B``, ``I``, ``E`` or ``S``) and the type of a tag.

    Raises:
      ValueError: if it is no tag of a scheme.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    letter, hyphen, kind = tag.partition("-")
    if letter not in _LETTERS or bool(hyphen) != bool(kind):
        raise ValueError(f"'{tag}' is neither {OUTSIDE} nor like B-TYPE or I-TYPE")
    return _LETTERS[letter], kind


def canonical(tag: str) -> str:
    """The tag with a letter of BIOES: ``E-PER`` for ``L-PER``.

    Raises:
      ValueError: if it is no tag of a scheme.
    """
    letter, kind = split_tag(tag)
    return f"{letter}-{kind}" if kind else letter


def spans_of(tags: Iterable[str]) -> list[Span]:
    """The spans that the tags of one sentence mark, in order.

    A span begins at ``B`` and ``S``, after ``O``, ``E`` and ``S``, and where the type changes; it
    ends before ``O`` and before the next one.

    Raises:
      ValueError: for what :func:`split_tag` does not read.
    """
    spans: list[Span] = []
    start, last, last_type = 0, OUTSIDE, ""
    place = -1
    for place, (letter, kind) in enumerate(map(split_tag, tags)):
        begins = letter in "BS" or last in "OES" or kind != last_type
        if last != OUTSIDE and (letter == OUTSIDE or begins):
            spans.append(Span(last_type, start, place))
        if letter != OUTSIDE and begins:
            start = place
        last, last_type = letter, kind
    if last != OUTSIDE:
        spans.append(Span(last_type, start, place + 1))
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: Scheme) -> list[str]:
    """The tags of ``length`` words of which those of ``spans``, in order, are tagged."""
    tags = [OUTSIDE] * length
    before = Span("", -1, -1)
    for span in spans:
        for place in range(span.start, span.stop):
            letter = _letter(span, place, scheme, before)
            tags[place] = f"{letter}-{span.type}" if span.type else letter
        before = span
    return tags


def _letter(span: Span, place: int, scheme: Scheme, before: Span) -> str:
    first, last = place == span.start, place == span.stop - 1
    if scheme == "bioes":
        if first and last:
            return "S"
        return "B" if first else "E" if last else "I"
    if scheme == "iob1":
        touches = before.stop == span.start and before.type == span.type
        return "B" if first and touches else "I"
    return "B" if first else "I"


def convert(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The tags of one sentence, of any scheme, in another.

    Raises:
      ValueError: for what :func:`split_tag` does not read.
    """
    return tags_of(spans_of(tags), len(tags), scheme)


def scheme_of(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme in which tags are written: BIOES where one ends or is alone, else IOB1 or IOB2.

    IOB1 shows where a span begins with ``I``. Tags that mark no span are taken for IOB2.

    Raises:
      ValueError: for what :func:`split_tag` does not read.
    """
    found: Scheme = "iob2"
    for tags in sentences:
        letters = [split_tag(tag)[0] for tag in tags]
        if "E" in letters or "S" in letters:
            return "bioes"
        if any(letters[span.start] == "I" for span in spans_of(tags)):
            found = "iob1"
    return found


def ordered(tags: Iterable[str]) -> tuple[str, ...]:
    """Distinct tags in the order of their class ids: ``O``, then by type, ``B I E S`` in each.

    Raises:
      ValueError: for what :func:`split_tag` does not read.
    """

    def key(tag: str) -> tuple[str, int]:
        letter, kind = split_tag(tag)
        return kind, _ORDER.index(letter)

    return (OUTSIDE, *sorted(set(tags) - {OUTSIDE}, key=key))
