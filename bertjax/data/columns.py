r"""Column files: a word a line with its tag in another column, a blank line between sentences.

So the CoNLL shared tasks, WikiANN and Universal Dependencies lie. Only the bytes ``\n`` and
``\r\n`` end a line, and only spaces and TABs are white space: a no-break space is a word.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from etils import epath

from bertjax.data.files import data_folder, find_file
from bertjax.data.layout import Layout
from bertjax.data.tables import reading
from bertjax.types import UserError

Tags = Literal["required", "optional", "ignored"]
"""What is done about tags: ``optional`` ones may be missing from a whole file, not from a line."""

Kind = Literal["word", "blank", "document", "skipped"]

DOCUMENT = "-DOCSTART-"
NEW_DOCUMENT = "newdoc"
AUTO = "auto"
_LANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]+)*|simple):")
_NO_WORD = re.compile(r"\d+(?:-|\.)\d+")
_ENDINGS = ("", ".txt", ".conll", ".conllu", ".iob", ".iob2", ".bio", ".tsv")
_STEMS = {
    "train": ("train",),
    "validation": ("dev", "valid", "validation", "testa"),
    "test": ("test", "testb"),
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where the words and the tags stand in a column file."""

    word: int = 0
    """Column of the word, from 0; a negative one is counted from the end."""
    tag: int = -1
    separator: str = "whitespace"
    """``whitespace`` (any run of spaces and TABs), ``tab``, or the separating characters."""
    comment: str = ""
    """A line that begins so is skipped; if it goes on with ``newdoc``, a document begins."""
    prefix: str = ""
    """What is stripped from the beginning of each word; ``auto``: a language code and a colon
    (``fr:``) where the first word begins so."""
    conllu: bool = False
    """Whether multiword ranges (``1-2``), empty nodes (``1.1``) and comments (``#``) of CoNLL-U are
    skipped."""

    def of(self, path: str) -> Columns:
        """As they are, or for a file that ends in ``.conllu`` :attr:`universal`."""
        return self.universal if path.lower().endswith(".conllu") else self

    @property
    def universal(self) -> Columns:
        """For CoNLL-U: what is at its default becomes what Universal Dependencies have.

        These are FORM and UPOS (https://universaldependencies.org/format.html).
        """
        mine = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return dataclasses.replace(Columns(1, 3, "tab"), **mine, conllu=True)

    def split(self, line: str) -> tuple[Kind, list[str]]:
        """What a line is, and the cells of a word's."""
        for mark in (self.comment, "#" if self.conllu else ""):
            if mark and line.startswith(mark):
                rest = line.removeprefix(mark).split()
                return "document" if rest[:1] == [NEW_DOCUMENT] else "skipped", []
        if not line.strip(" \t"):
            return "blank", []
        if self.separator == "whitespace":
            cells = re.split(r"[ \t]+", line.strip(" \t"))
        else:
            cells = line.split("\t" if self.separator == "tab" else self.separator)
        if cells[0] == DOCUMENT:
            return "document", []
        skipped = self.conllu and _NO_WORD.fullmatch(cells[0])
        return "skipped" if skipped else "word", cells


@dataclasses.dataclass
class Sentence:
    """The words of one sentence with their tags."""

    name: str
    """The file, or another place, for messages."""
    document: int = -1
    """From 0; a document begins at ``-DOCSTART-``. -1 before the first one."""
    words: list[str] = dataclasses.field(default_factory=list)
    tags: list[str] | None = dataclasses.field(default_factory=list)
    """None where the file has none."""
    lines: list[int] = dataclasses.field(default_factory=list)
    """The line of each word, from 1; empty where there are no lines."""

    def place(self, word: int) -> str:
        """Names the place of a word, for messages."""
        return f"{self.name}:{self.lines[word]}" if self.lines else self.name


def find_columns(location: str, split: str, folder: str = "") -> str:
    """The path of one split's column file.

    Args:
      location: what follows ``files:``: a folder, or ``train=PATH,test=PATH``.
      split: ``train``, ``validation`` or ``test``.
      folder: the data set's own folder, which may lie in the one named.

    A file's name is a split's (``train``; ``dev``, ``valid``, ``testa``; ``test``, ``testb``), as a
    whole or after other words (``eng.train``, ``fr_gsd-ud-dev.conllu``). A treebank's bare text, a
    ``.txt`` beside the ``.conllu`` of that name, is passed over.

    Raises:
      UserError: where no file, or more than one, can be meant.
    """
    if re.match(r"\w+=", location):
        return find_file(location, split, Layout())
    with reading(location):
        root = data_folder(location, split)
        places = [root, root / folder] if folder and (root / folder).is_dir() else [root]
        names = [(place, path.name) for place in places for path in place.iterdir()]
    stems, endings = "|".join(_STEMS[split]), "|".join(map(re.escape, _ENDINGS))
    for before in ("", r".*[._-]"):
        pattern = re.compile(f"{before}(?:{stems})(?:{endings})")
        found = sorted(str(place / name) for place, name in names if pattern.fullmatch(name))
        found = [path for path in found if _treebank(path) not in found]
        if len(found) > 1:
            raise UserError(
                f"both {found[0]} and {found[1]} may be meant for '{split}'; "
                f"name one, as in files:{split}=PATH"
            )
        if found:
            return found[0]
    raise UserError(
        f"{root} holds no file for '{split}'; looked for {' or '.join(_STEMS[split])} with one of "
        f"the endings{', '.join(_ENDINGS)}, or name it by files:{split}=PATH"
    )


def _treebank(path: str) -> str:
    """The CoNLL-U file whose bare text ``path`` would be; empty: it is no text."""
    return path.removesuffix(".txt") + ".conllu" if path.endswith(".txt") else ""


def read_columns(path: str, columns: Columns, tags: Tags = "required") -> list[Sentence]:
    """The sentences of a file; see :func:`parse_columns`.

    Raises:
      UserError: where the file cannot be read, is not as ``columns`` say, or holds no sentence.
    """
    with reading(path), epath.Path(path).open("rb") as file:
        sentences = list(parse_columns(file, path, columns.of(path), tags))
    if not sentences:
        raise UserError(f"{path} holds no sentence; name a file with a word and its tag a line")
    return sentences


def parse_columns(
    stream: Iterable[bytes], name: str, columns: Columns, tags: Tags = "required"
) -> Iterator[Sentence]:
    """The sentences of a column file, in order, as its lines come.

    Args:
      stream: lines of bytes, UTF-8 with or without a byte-order mark.
      name: what messages call it.
      columns: where words and tags stand.
      tags: whether there must be tags.

    Raises:
      UserError: for a line that is not UTF-8, lacks a column, or a word that lacks its prefix.
    """
    reader = _Reader(name, columns, tags)
    sentence = Sentence(name)
    for number, raw in enumerate(stream, start=1):
        line = _text(raw, f"{name}:{number}", first=number == 1)
        kind, cells = columns.split(line)
        if kind == "word":
            reader.add(sentence, cells, number)
        elif kind != "skipped":
            if sentence.words:
                yield sentence
            sentence = Sentence(name, sentence.document + (kind == "document"))
    if sentence.words:
        yield sentence


class _Reader:
    """Puts the cells of lines into sentences; the first word of a file decides about the others."""

    def __init__(self, name: str, columns: Columns, tags: Tags):
        self._name, self._columns = name, columns
        self._prefix = columns.prefix
        self._tags: Tags = tags
        self._untagged = tags == "ignored"
        self._width = 0

    def add(self, sentence: Sentence, cells: list[str], number: int) -> None:
        """Adds the word and the tag of line ``number``."""
        place = f"{self._name}:{number}"
        if not self._width:
            self._begin(cells, place)
        if self._tags != "ignored" and len(cells) != self._width:
            raise UserError(
                f"{place} has {_counted(cells)} where the file's first word has {self._width}; "
                "mend the line, or set the option separator"
            )
        word = _cell(cells, self._columns.word, place, "word")
        if not word.startswith(self._prefix):
            raise UserError(
                f"{place}: the word '{word}' does not begin with '{self._prefix}'; mend it, or set "
                "the option prefix"
            )
        sentence.words.append(word.removeprefix(self._prefix))
        sentence.lines.append(number)
        if self._untagged or sentence.tags is None:
            sentence.tags = None
            return
        tag = _cell(cells, self._columns.tag, place, "tag") if len(cells) > 1 else ""
        if not tag.strip(" \t"):
            raise UserError(f"{place} has a word but no tag; mend it, or set the option separator")
        sentence.tags.append(tag)

    def _begin(self, cells: list[str], place: str) -> None:
        """Learns from the first word how all are written."""
        self._width = len(cells)
        self._untagged |= self._tags == "optional" and len(cells) == 1
        if self._prefix == AUTO:
            found = _LANGUAGE.match(_cell(cells, self._columns.word, place, "word"))
            self._prefix = found[0] if found else ""


def _cell(cells: list[str], column: int, place: str, what: str) -> str:
    if not -len(cells) <= column < len(cells):
        raise UserError(
            f"{place} has {_counted(cells)} and none of number {column}, where the {what} should "
            f"be; mend the line, or set the option {what}_column"
        )
    return cells[column]


def _counted(cells: list[str]) -> str:
    return f"{len(cells)} column{'s' * (len(cells) != 1)}"


def _text(raw: bytes, place: str, first: bool) -> str:
    """A line's text without its end."""
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return (raw.removeprefix(codecs.BOM_UTF8) if first else raw).decode()
    except UnicodeDecodeError:
        raise UserError(f"{place} is not UTF-8; save the file as UTF-8") from None
