"""From raw text to the shards of a prepared corpus, one part of the text at a time.

Files that follow one another are grouped up to the size of a part; a group is read from its first
document to its last and cut into parts wherever the size is reached; a part becomes one shard,
``documents-GGGGG-PPPPP``. So a shard depends on nothing but the inputs and the settings: neither on
how many processes make them, nor on which, nor in what order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from etils import epath

from bertjax.corpus.inputs import Reading, TextFile, read_documents
from bertjax.corpus.sentences import split_sentences, splitter_version
from bertjax.data.documents import LENGTHS, RECORDS, Document, Shard, encode_document
from bertjax.folders import first_line
from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError, from_mapping

PROGRESS = "progress"
OPTIONS = "group_size:1,zstd:3"
BATCH = 1 << 17
"""Characters that are tokenized in one call: enough for speed, little enough for memory."""
BLOCK = 1 << 20
"""Bytes of text that are pickled together."""

Text = list[str]
"""A document: its paragraphs."""
Watch = Callable[[int, int], None]
"""Is told of bytes of text and of documents that have been tokenized."""
Row = tuple[list[int], list[int | None]]
"""Ids of a sentence, and the word of each where the text marks the words."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How raw text becomes a corpus: everything but the inputs that decides the shards' bytes."""

    reading: Reading = dataclasses.field(default_factory=Reading)
    sentences: str = "split"
    """``split``: paragraphs are split into sentences; ``lines``: each paragraph is a sentence."""
    language: str = "en"
    words: str = "vocabulary"
    """``vocabulary``: the tokens tell the words; ``spaces``: the white space of the text does."""
    shard_size: int = 16 << 20
    """Bytes of UTF-8 text at which a shard is full."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UserError(f"--shard_size={self.shard_size} leaves no text; give at least 1 byte")

    def settings(self) -> dict[str, Any]:
        """What the manifest tells of it."""
        splits = self.sentences == "split"
        return {
            **dataclasses.asdict(self.reading),
            "sentences": self.sentences,
            "language": self.language if splits else None,
            "splitter": splitter_version() if splits else None,
            "words": self.words,
            "shard_size": self.shard_size,
        }


@dataclasses.dataclass(frozen=True)
class Group:
    """Files that are read one after the other."""

    paths: list[str]
    key: str
    """A hash of all that decides the bytes of its shards."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The text of one shard."""

    name: str
    key: str
    """Of its group."""
    last: bool
    """Whether its group ends with it."""
    blocks: list[bytes]
    """Documents, pickled some at a time: as objects they would take several times the memory."""

    def documents(self) -> Iterator[Text]:
        """The documents, in order."""
        for block in self.blocks:
            yield from pickle.loads(block)


@dataclasses.dataclass(frozen=True)
class Finished:
    """The record of a shard that has been written."""

    shard: Shard
    last: bool
    key: str
    """Of its group: the record is of no use for another."""

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Finished:
        """The record that a file holds.

        Raises:
          UserError, ValueError or TypeError: if it holds none.
        """
        value = json.loads(text)
        return from_mapping(cls, value | {"shard": from_mapping(Shard, value["shard"])})


def group_files(files: Sequence[TextFile], size: int) -> list[list[str]]:
    """Paths in order; a group is closed when its files have ``size`` bytes on the disk."""
    groups: list[list[str]] = []
    filled = size
    for file in files:
        if filled >= size:
            groups.append([])
            filled = 0
        groups[-1].append(file.path)
        filled += file.size
    return groups


def part_name(group: int, number: int) -> str:
    """The name of a shard."""
    return f"documents-{group:05}-{number:05}"


def read_parts(number: int, group: Group, preparation: Preparation) -> Iterator[Part]:
    """The parts of a group, at least one; none but the last is smaller than the shard size.

    Raises:
      UserError: if a file cannot be read or is not what its form says.
    """
    blocks: list[bytes] = []
    batch: list[Text] = []
    part = size = held = 0
    for path in group.paths:
        for document in read_documents(path, preparation.reading):
            is_full = size >= preparation.shard_size
            if is_full or held >= BLOCK:
                blocks.append(pickle.dumps(batch))
                batch, held = [], 0
            if is_full:
                yield Part(part_name(number, part), group.key, False, blocks)
                blocks, size, part = [], 0, part + 1
            batch.append(document)
            size += text_bytes(document)
            held += text_bytes(document)
    blocks.append(pickle.dumps(batch))
    yield Part(part_name(number, part), group.key, True, blocks)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process needs to know to make shards; it can be pickled."""

    folder: str
    preparation: Preparation
    tokenizer: Tokenizer
    groups: dict[int, Group]
    """The groups of which something is missing."""
    finished: frozenset[str]
    """Names of the shards that are there."""

    def parts(self, number: int, group: Group) -> Iterator[Part]:
        """The parts of a group whose shards are missing.

        Raises:
          UserError: as :func:`read_parts`.
        """
        parts = read_parts(number, group, self.preparation)
        return (part for part in parts if part.name not in self.finished)

    def encoder(self) -> Encoder:
        """What tokenizes the parts; its tokenizer is a copy."""
        return Encoder(pickle.loads(pickle.dumps(self.tokenizer)), self.preparation)

    def write(self, part: Part, encoder: Encoder, watch: Watch) -> None:
        """Writes a shard and its record, as :func:`write_shard`."""
        write_shard(part, encoder, epath.Path(self.folder), watch)


def text_bytes(document: Text) -> int:
    """Bytes of a document as UTF-8, a line end after each paragraph."""
    sizes = (len(line) if line.isascii() else len(line.encode()) for line in document)
    return sum(sizes) + len(document)


class Encoder:
    """Splits and tokenizes documents. A special token's name in a text is text like any other."""

    def __init__(self, tokenizer: Tokenizer, preparation: Preparation):
        self.vocab_size = tokenizer.vocab_size
        self._preparation = preparation
        self._backend = tokenizer.backend
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True

    def encode(self, documents: Iterable[Text], watch: Watch) -> Iterator[Document]:
        """The documents as tokens; those without any are left out.

        Raises:
          UserError: if the tokenizer refuses a text.
        """
        marked = self._preparation.words == "spaces"
        for batch in _batches(documents, lambda document: sum(map(len, document))):
            split = [self._sentences(document) for document in batch]
            encoded = self._encoded(itertools.chain.from_iterable(split))
            for sentences in split:
                found = [row for row in itertools.islice(encoded, len(sentences)) if row[0]]
                if found:
                    yield _document(found, marked)
            watch(sum(map(text_bytes, batch)), len(batch))

    def _sentences(self, document: Text) -> list[str]:
        if self._preparation.sentences == "lines":
            return document
        language = self._preparation.language
        return [text for line in document for text in split_sentences(line, language)]

    def _encoded(self, sentences: Iterable[str]) -> Iterator[Row]:
        for batch in _batches(sentences, len):
            try:
                yield from self._encode_batch(batch)
            except Exception as error:  # the library raises bare Exceptions
                raise UserError(
                    f"the tokenizer refuses a text ({first_line(error)}); take another --tokenizer"
                ) from None

    def _encode_batch(self, sentences: list[str]) -> list[Row]:
        if self._preparation.words == "spaces":
            words = [sentence.split() for sentence in sentences]
            encoded = self._backend.encode_batch(
                words, is_pretokenized=True, add_special_tokens=False
            )
            return [(one.ids, one.word_ids) for one in encoded]
        encoded = self._backend.encode_batch_fast(sentences, add_special_tokens=False)
        return [(one.ids, []) for one in encoded]


def _batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _document(found: list[Row], marked: bool) -> Document:
    tokens = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in found), np.int32)
    lengths = np.array([len(ids) for ids, _ in found], np.int64)
    if not marked:
        return Document(tokens, lengths)
    continues = np.zeros(len(tokens), bool)
    words = np.fromiter(itertools.chain.from_iterable(words for _, words in found), np.int64)
    continues[1:] = words[1:] == words[:-1]
    continues[np.cumsum(lengths)[:-1]] = False
    return Document(tokens, lengths, continues)


def write_shard(part: Part, encoder: Encoder, folder: epath.Path, watch: Watch) -> None:
    """Writes the shard of a part and then its record; a file appears under its name when whole.

    Raises:
      UserError: if the tokenizer refuses a text.
      OSError: if the disk is full or the folder cannot be written.
    """
    remote = "://" in str(folder)
    with tempfile.TemporaryDirectory(dir=None if remote else folder / PROGRESS) as place:
        records, lengths = Path(place, RECORDS), Path(place, LENGTHS)
        totals = _write_files(part, encoder, records, lengths, watch)
        with records.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        shard = Shard(part.name, **totals, size=records.stat().st_size, sha256=sha256)
        finished = Finished(shard, part.last, part.key)
        record = Path(place, "record")
        record.write_text(finished.to_json(), encoding="utf-8")
        publish(records, folder / (part.name + RECORDS))
        publish(lengths, folder / (part.name + LENGTHS))
        publish(record, folder / PROGRESS / (part.name + ".json"))


def publish(staged: Path, target: epath.Path) -> None:
    """Puts a whole file in its place at once, over an old one."""
    if "://" in str(target):  # object stores show a file only when it is whole
        target.write_bytes(staged.read_bytes())
    else:
        os.replace(staged, target)


def _write_files(
    part: Part, encoder: Encoder, records: Path, lengths: Path, watch: Watch
) -> dict[str, int]:
    """Writes both files; returns how many documents, sentences and tokens they hold."""
    from array_record.python.array_record_module import ArrayRecordWriter

    found: list[np.ndarray] = []
    try:
        writer = ArrayRecordWriter(str(records), OPTIONS)
        try:
            for document in encoder.encode(part.documents(), watch):
                writer.write(encode_document(document, encoder.vocab_size))
                found += [document.lengths, np.zeros(1, np.int64)]
        finally:
            writer.close()
    except RuntimeError as error:  # of ArrayRecord; its text names the system's reason
        _raise_system_error(error, records.parent.parent.parent)
    flat = np.concatenate([np.zeros(0, np.int64), *found])
    with lengths.open("wb") as file:
        np.save(file, flat.astype("<u4"))
    documents = len(found) // 2
    return {"documents": documents, "sentences": len(flat) - documents, "tokens": int(flat.sum())}


def _raise_system_error(error: RuntimeError, folder: Path) -> None:
    import errno

    for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO):
        if os.strerror(number) in str(error):
            raise OSError(number, os.strerror(number), str(folder)) from None
    raise error
