"""A prepared corpus of real text: the first articles of the shared Wikipedia corpus."""

from __future__ import annotations

import itertools
import lzma
from pathlib import Path

from bertjax.corpus.prepare import prepare
from bertjax.data.documents import Corpus
from bertjax.tokenizers import wordpiece_tokenizer

ARTICLES = 300


def real_corpus(data_folder: Path, folder: Path) -> Corpus:
    """Prepares about 1.3 million tokens in ``folder``, with BERT's uncased vocabulary."""
    words = (data_folder / "vocab" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8")
    (folder / "tokenizer").mkdir()
    wordpiece_tokenizer(words.split("\n")[:-1]).save(str(folder / "tokenizer"))
    text = folder / "text.jsonl"
    with lzma.open(data_folder / "corpus" / "enwiki.jsonl.xz", "rt", encoding="utf-8") as lines:
        text.write_text("".join(itertools.islice(lines, ARTICLES)), encoding="utf-8")
    prepare(str(text), str(folder / "tokenizer"), folder / "prepared", workers=1)
    return Corpus(folder / "prepared")
