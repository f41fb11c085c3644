"""A prepared corpus: documents as sentence-delimited token ids, in sharded ArrayRecord files.

A folder holds ``manifest.json``, ``tokenizer/`` and, for each shard, ``NAME.array_record`` (one
record a document) and ``NAME.lengths.npy`` (the sentence lengths of all its documents, uint32, a 0
after each document), so that what to read can be planned without reading any tokens.

A record is little-endian: the number of sentences and the length of each (uint32), then the tokens
of all sentences one after the other (uint16 where the vocabulary allows, else uint32). Where the
corpus says which tokens go on with a word (``words = "marked"``), a bit a token follows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from bertjax.tokenizers import Tokenizer, load_tokenizer
from bertjax.types import UserError, from_mapping

SCHEMA = 1
MANIFEST = "manifest.json"
RECORDS, LENGTHS = ".array_record", ".lengths.npy"
RECENT = 4096
"""Documents that are kept in memory once they were read."""
AGAIN = "run bertjax prepare again"


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
    """Sentences of token ids, without special tokens."""

    tokens: np.ndarray
    """``[tokens]``, all sentences one after the other; of any integer type."""
    lengths: np.ndarray
    """``[sentences]``, likewise."""
    continues: np.ndarray | None = None
    """bool ``[tokens]``: the token goes on with the word of the one before; None: not stored."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of documents, as the manifest lists it."""

    name: str
    documents: int
    sentences: int
    tokens: int
    size: int
    """Of the record file, in bytes."""
    sha256: str
    """Of the record file."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared corpus says of itself."""

    tokenizer: str
    """:func:`tokenizer_hash` of the tokenizer."""
    vocab_size: int
    words: str
    """``vocabulary``: words are known by their tokens; ``marked``: by bits in the records."""
    settings: dict[str, Any]
    """How it was prepared; the same settings and inputs give the same shards."""
    shards: tuple[Shard, ...]
    schema: int = SCHEMA

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def sentences(self) -> int:
        """Sentences in all shards."""
        return sum(shard.sentences for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in all shards, special tokens not counted."""
        return sum(shard.tokens for shard in self.shards)

    def to_json(self) -> str:
        """The text of ``manifest.json``; the same manifest gives the same text."""
        totals = {"documents": self.documents, "sentences": self.sentences, "tokens": self.tokens}
        value = {**dataclasses.asdict(self), "totals": totals}
        return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def token_dtype(vocab_size: int) -> np.dtype:
    """How a token is stored."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def encode_document(document: Document, vocab_size: int) -> bytes:
    """The record of a document."""
    head = np.array([len(document.lengths), *document.lengths], "<u4")
    tokens = document.tokens.astype(token_dtype(vocab_size))
    marks = b"" if document.continues is None else np.packbits(document.continues).tobytes()
    return head.tobytes() + tokens.tobytes() + marks


def decode_document(record: bytes, vocab_size: int) -> Document:
    """The document of a record.

    Raises:
      ValueError: if the record is not whole.
    """
    (sentences,) = np.frombuffer(record, "<u4", 1)
    lengths = np.frombuffer(record, "<u4", int(sentences), 4)
    dtype, count, offset = token_dtype(vocab_size), int(lengths.sum()), 4 + 4 * int(sentences)
    tokens = np.frombuffer(record, dtype, count, offset)
    offset += dtype.itemsize * count
    if offset == len(record):
        return Document(tokens, lengths)
    marks = np.unpackbits(np.frombuffer(record, np.uint8, offset=offset), count=count)
    return Document(tokens, lengths, marks.astype(bool))


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A hash of everything that decides a text's ids: vocabulary, normalisation, special tokens."""
    special = sorted(tokenizer.special_ids)
    # Reading JSON changes a unigram model's scores in their last bit, once: so it is read first.
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    text = json.dumps([json.loads(backend.to_str()), special], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: epath.Path) -> Manifest:
    """The manifest of a prepared corpus.

    Raises:
      UserError: if the folder holds none, or one that cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{folder} is no prepared corpus (it has no {MANIFEST}); {AGAIN}")
    try:
        value = json.loads(path.read_text())
        value.pop("totals")
        value["shards"] = tuple(from_mapping(Shard, shard) for shard in value["shards"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {AGAIN}") from None
    if value.get("schema") != SCHEMA:
        raise UserError(f"{path} is of another version of bertjax; {AGAIN}")
    return from_mapping(Manifest, value, str(path))


class Corpus(Sequence[Document]):
    """The documents of a prepared corpus, in order, read when they are asked for.

    Raises:
      UserError: if a shard is missing or was changed since, or if ``tokenizer`` is another one
        than the corpus was prepared with.
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        for shard in self.manifest.shards:
            self._check(shard)
        self._ends = np.cumsum([shard.documents for shard in self.manifest.shards])

    def _check(self, shard: Shard) -> None:
        path = self.folder / (shard.name + RECORDS)
        if not path.exists():
            raise UserError(f"the shard {path} is missing; restore it, or {AGAIN}")
        if (size := path.stat().length) != shard.size:
            raise UserError(
                f"the shard {path} has {size} bytes where the manifest says {shard.size}: it was "
                f"cut off or changed; remove it and {AGAIN}"
            )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the corpus was prepared with.

        Raises:
          UserError: if the one in the folder is another.
        """
        tokenizer = load_tokenizer(str(self.folder / "tokenizer"))
        self.check_tokenizer(tokenizer, f"the one in {self.folder / 'tokenizer'}")
        return tokenizer

    def check_tokenizer(self, tokenizer: Tokenizer, name: str) -> None:
        """Raises UserError where a tokenizer is not the corpus's; ``name`` is for the message."""
        if tokenizer_hash(tokenizer) != self.manifest.tokenizer:
            raise UserError(
                f"the corpus {self.folder} was prepared with another tokenizer than {name}; "
                "prepare it anew with this one, or use the one it was prepared with"
            )

    def lengths(self) -> np.ndarray:
        """Sentence lengths of all documents, uint32, a 0 after each document."""
        return np.concatenate([self._lengths(shard) for shard in self.manifest.shards])

    def _lengths(self, shard: Shard) -> np.ndarray:
        path = self.folder / (shard.name + LENGTHS)
        try:
            with path.open("rb") as file:
                lengths = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}); {AGAIN}") from None
        if (lengths == 0).sum() != shard.documents or lengths.sum() != shard.tokens:
            raise UserError(f"{path} does not fit the manifest; {AGAIN}")
        return lengths

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Document:
        return self._document(int(index))

    @functools.lru_cache(maxsize=RECENT)  # noqa: B019  a corpus lives as long as its run
    def _document(self, index: int) -> Document:
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.manifest.shards[number]
        first = int(self._ends[number]) - shard.documents
        try:
            record = self._reader(number).read([index - first])[0]
            return decode_document(record, self.manifest.vocab_size)
        except (ValueError, RuntimeError, IndexError) as error:
            path = self.folder / (shard.name + RECORDS)
            raise UserError(f"the shard {path} is damaged ({error}); {AGAIN}") from None

    @functools.lru_cache(maxsize=64)  # noqa: B019  a corpus lives as long as its run
    def _reader(self, number: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        path = self.folder / (self.manifest.shards[number].name + RECORDS)
        return ArrayRecordReader(str(path), options="readahead_buffer_size:0")
