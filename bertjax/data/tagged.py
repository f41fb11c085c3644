"""Tagged sentences, wherever they lie: column files, TFDS or Hugging Face."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bertjax.data.columns import Columns, Sentence, find_columns, read_columns
from bertjax.data.hub import open_split, plain, text_cell
from bertjax.data.layout import SPLITS, may_lack_labels
from bertjax.data.sources import split_source
from bertjax.data.tags import Scheme, convert, scheme_of, split_tag
from bertjax.types import UserError, nearest


@dataclasses.dataclass(frozen=True)
class TaggedLayout:
    """How tagged sentences lie in each kind of source."""

    columns: Columns = dataclasses.field(default_factory=Columns)
    """Of files."""
    folder: str = ""
    """The data set's own folder under the root that ``files:`` names."""
    words: str = "tokens"
    """The column with the list of words at TFDS and Hugging Face."""
    tags: tuple[str, ...] = ("ner_tags", "ner", "tags")
    """The column with the list of tags there: the first that exists."""
    splits: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """What a source, named as the user does, calls a split, where it is something else."""


def open_tagged(data: str, split: str, layout: TaggedLayout) -> list[Sentence]:
    """The sentences of one split, in memory.

    Args:
      data: ``files:DIR``, ``files:train=PATH,test=PATH``, ``tfds:NAME`` or ``hf:NAME``.
      split: ``train``, ``validation`` or ``test``; only a test split may lack its tags.
      layout: where words and tags stand.

    Raises:
      UserError: for a source, split, file, column, row or line that is not as it must be.
    """
    kind, location = split_source(data)
    if split not in SPLITS:
        raise UserError(f"there is no split '{split}'{nearest(split, SPLITS)}")
    if kind == "files":
        path = find_columns(location, split, layout.folder)
        tags = "optional" if may_lack_labels(split) else "required"
        return read_columns(path, layout.columns, tags)
    return _from_hub(data, split, layout)


def learned_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme in which tags are learned: BIOES where they are written so, else IOB2.

    Raises:
      ValueError: for a tag of no scheme.
    """
    return "bioes" if scheme_of(sentences) == "bioes" else "iob2"


def rewrite(sentences: Sequence[Sentence], scheme: Scheme | None) -> None:
    """Rewrites the tags of all sentences in a scheme; None: the :func:`learned_scheme` of theirs.

    Raises:
      UserError: for a tag of no scheme, by its place.
    """
    for sentence in sentences:
        for word, tag in enumerate(sentence.tags or ()):
            check_tag(tag, sentence.place(word))
    scheme = scheme or learned_scheme(sentence.tags or () for sentence in sentences)
    for sentence in sentences:
        if sentence.tags is not None:
            sentence.tags = convert(sentence.tags, scheme)


def check_tag(tag: str, place: str) -> None:
    """Raises UserError for a tag of no scheme."""
    try:
        split_tag(tag)
    except ValueError as error:
        raise UserError(
            f"{place}: {error}; set the option tag_column, or use task 'pos' for tags of words"
        ) from None


def _from_hub(data: str, split: str, layout: TaggedLayout) -> list[Sentence]:
    opened = open_split(data, layout.splits.get(data, {}).get(split, split))
    opened.check(layout.words)
    column = next((name for name in layout.tags if name in opened.features), None)
    if column is None and not may_lack_labels(split):
        opened.check(layout.tags[0])
    names = _names(opened.features[column]) if column else ()
    sentences = []
    for row in range(len(opened.rows)):
        cells, place = opened.rows[row], opened.place(row)
        words = [text_cell(word, layout.words, place) for word in cells[layout.words]]
        tags = None if column is None else [_tag(tag, names, place) for tag in cells[column]]
        if tags is not None and len(tags) != len(words):
            raise UserError(f"{place} has {len(words)} words but {len(tags)} tags")
        if words:  # TFDS's conll2003 ends in a row without any
            sentences.append(Sentence(place, words=words, tags=tags))
    return sentences


def _names(feature: Any) -> tuple[str, ...]:
    """The class names of a list of classes; of a list of words there are none."""
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def _tag(value: Any, names: tuple[str, ...], place: str) -> str:
    tag = plain(value)
    if isinstance(tag, str):
        return tag
    if isinstance(tag, int) and 0 <= tag < len(names):
        return names[tag]
    raise UserError(f"{place}: {tag!r} is no tag; the data set names {len(names)} of them")
