"""Trains a vocabulary from files, writes it as a tokenizer's folder, and tells how it does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import models
from tqdm import tqdm

from bertjax.corpus.characters import Survey, survey
from bertjax.corpus.files import TextFile
from bertjax.corpus.inputs import Reading, read_documents
from bertjax.corpus.vocabulary import CLASSES, VocabularySettings, train
from bertjax.folders import first_line, write_json
from bertjax.tokenizer_families import FAMILIES, Vocabulary, build
from bertjax.tokenizers import Tokenizer, load_tokenizer
from bertjax.types import UserError

MARK = "vocabulary.json"
"""Says of a folder how its vocabulary was trained, and so that the command may replace it."""
_OWN = {
    MARK,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a new vocabulary does on a sample of the text that it was trained on."""

    size: int
    characters: int
    """In the whole text."""
    paragraphs: int
    tokens_a_word: float
    """Words are what white space separates."""
    characters_a_token: float
    unknown: float
    """The share of tokens that are the unknown one."""


def make_vocabulary(
    files: Sequence[TextFile], reading: Reading, settings: VocabularySettings, output: str
) -> Summary:
    """Trains a vocabulary and writes the folder ``output``, which transformers loads too.

    Raises:
      UserError: if the text cannot be read or gives no vocabulary, or if ``output`` holds files
        that are not such a folder's, or cannot be written.
    """
    folder = _free_folder(output)
    overview = survey(_paragraphs(files, reading))
    vocabulary = train(settings, overview, lambda: _paragraphs(files, reading, quiet=True))
    with _new_folder(folder) as part:
        tokenizer = _write(part, vocabulary, settings)
        record = {"settings": dataclasses.asdict(settings), "size": tokenizer.vocab_size}
        text = {"characters": overview.characters, "paragraphs": overview.paragraphs}
        write_json(part / MARK, {**record, "text": text})
    return _summary(tokenizer, overview)


def _paragraphs(files: Sequence[TextFile], reading: Reading, quiet: bool = False) -> Iterator[str]:
    """Every paragraph of the files; progress is shown on a terminal unless ``quiet``."""
    off = quiet or not sys.stderr.isatty()
    with tqdm(desc="reading", unit=" characters", unit_scale=True, disable=off) as bar:
        for number, file in enumerate(files, start=1):
            bar.set_postfix_str(f"file {number} of {len(files)}", refresh=False)
            for document in read_documents(file.path, reading):
                yield from document
                bar.update(sum(map(len, document)))


def _write(folder: Path, vocabulary: Vocabulary, settings: VocabularySettings) -> Tokenizer:
    """Writes the tokenizer's files; what is read back from them is what is handed out."""
    config = settings.tokenizer()
    backend = build(FAMILIES[CLASSES[settings.kind]], vocabulary, config, "the vocabulary")
    backend.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)
    load_tokenizer(folder).save(folder)
    if isinstance(backend.model, models.BPE):
        backend.model.save(str(folder))
    return load_tokenizer(folder)


def _summary(tokenizer: Tokenizer, overview: Survey) -> Summary:
    found = tokenizer.backend.encode_batch(list(overview.sample), add_special_tokens=False)
    pieces = [piece for encoding in found for piece in encoding.tokens]
    words = sum(len(text.split()) for text in overview.sample)
    tokens = max(len(pieces), 1)
    return Summary(
        size=tokenizer.vocab_size,
        characters=overview.characters,
        paragraphs=overview.paragraphs,
        tokens_a_word=len(pieces) / max(words, 1),
        characters_a_token=sum(map(len, overview.sample)) / tokens,
        unknown=pieces.count(tokenizer.settings["unk_token"]) / tokens,
    )


def _free_folder(output: str) -> Path:
    """The folder to write: a new one, an empty one, or one that this command wrote.

    Raises:
      UserError: for any other.
    """
    if "://" in output:
        raise UserError(f"--output={output} is not on this machine; write here, then copy it there")
    folder = Path(output).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output={output} is a file; name a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = names - _OWN if MARK in names else names
    if foreign:
        raise UserError(
            f"--output={output} holds files that bertjax vocab did not write, such as "
            f"{min(foreign)}; name a new folder"
        )
    return folder


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, which takes its place at the end.

    Raises:
      UserError: if the disk refuses.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the vocabulary to {folder}: {error.strerror or first_line(error)}; "
            "free space there, or name a folder that can be written"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
