"""Which tokens make a word: by the vocabularies of every kind, and against the tokenizer itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from bertjax.data.words import Joins
from bertjax.tokenizers import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def wrapped(model: models.Model, decoder: decoders.Decoder | None = None) -> Tokenizer:
    """A tokenizer of a model whose first five words are special."""
    backend = tokenizers.Tokenizer(model)
    if decoder is not None:
        backend.decoder = decoder
    size = backend.get_vocab_size()
    return Tokenizer(backend, {}, 0, 2, 3, 4, size, tuple(range(5)))


def numbered(words: list[str]) -> dict[str, int]:
    return {word: index for index, word in enumerate([*SPECIAL, *words])}


def marked(tokenizer: Tokenizer, words: list[str]) -> str:
    """The tokens, a bar before each that begins a word."""
    token_ids = np.array([tokenizer.backend.token_to_id(word) for word in words])
    starts = Joins.of(tokenizer).starts(token_ids)
    return "".join("|" * int(start) + word for start, word in zip(starts, words, strict=True))


def test_wordpiece():
    words = ["[CLS]", "play", "##ing", "##s", ",", "well", "-", "known", "[UNK]", "##s", "[SEP]"]
    tokenizer = wordpiece_tokenizer([*SPECIAL, *sorted({*words} - {*SPECIAL})])
    expected = "|[CLS]|play##ing##s|,|well|-|known|[UNK]|##s|[SEP]"
    assert marked(tokenizer, words) == expected


def test_bytes():
    """A letter in pieces of its bytes goes on; punctuation and line ends are words."""
    words = ["[CLS]", "Hel", "lo", "Ġwor", "ld", ",", "Ġdon", "'t", "Ġ(", "æ", "Ŀ±", "!", "Ċ", "x"]
    model = models.BPE(numbered([word for word in words if word not in SPECIAL]), [])
    expected = "|[CLS]|Hello|Ġworld|,|Ġdon't|Ġ(|æĿ±|!|Ċ|x"
    assert marked(wrapped(model, decoders.ByteLevel()), words) == expected


def test_pieces_with_spaces():
    words = ["[CLS]", "▁play", "ing", ".", "▁", "東", "京", "[UNK]", "s", "▁(", "a", "[SEP]"]
    pieces = [(word, 0.0) for word in numbered([w for w in words if w not in SPECIAL])]
    tokenizer = wrapped(models.Unigram(pieces, 1, byte_fallback=False))
    assert marked(tokenizer, words) == "|[CLS]|▁playing|.|▁東京|[UNK]|s|▁(|a|[SEP]"


def test_vocabularies_of_words_and_of_nothing_known():
    words = wrapped(models.WordLevel(numbered(["a", "b"]), "[UNK]"))
    assert not Joins.of(words).before.any()
    with pytest.raises(UserError, match="does not tell where words begin; set mask_unit"):
        Joins.of(wrapped(models.BPE(numbered(["a", "b"]), [])))


@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-chinese"])
def test_wordpiece_agrees_with_the_tokenizer(data_folder: Path, name: str):
    """The library itself tells which word a piece is of."""
    vocabulary = (data_folder / "vocab" / f"{name}-vocab.txt").read_text(encoding="utf-8")
    tokenizer = wordpiece_tokenizer(vocabulary.splitlines())
    text = (data_folder / "corpus" / "sample_text.txt").read_text(encoding="utf-8")
    encoding = tokenizer.backend.encode(
        text + "\n東京タワー £5° naïve re-run", add_special_tokens=False
    )
    numbers = np.array(encoding.word_ids)
    starts = Joins.of(tokenizer).starts(np.array(encoding.ids))
    assert np.array_equal(starts, np.diff(numbers, prepend=-1) != 0)
    assert 0.05 < np.mean(~starts) < 0.5


def test_bytes_agree_with_the_text(data_folder: Path, tmp_path: Path):
    """RoBERTa's own vocabulary: words are what lies between spaces and punctuation."""
    for name in ("vocab.json", "merges.txt"):
        source = data_folder / "vocab" / "roberta-base" / name
        (tmp_path / name).write_bytes(source.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    tokenizer = load_tokenizer(tmp_path)
    text = (data_folder / "corpus" / "sample_text.txt").read_text(encoding="utf-8")
    text = "".join(character for character in text if character.isascii())
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    starts = Joins.of(tokenizer).starts(np.array(encoding.ids))
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)
    begins = {span[0] for _, span in split}
    for (begin, end), start in zip(encoding.offsets, starts, strict=True):
        word = text[begin:end]
        if word.strip() and (any(map(str.isalnum, word)) and word.strip()[0].isalnum()):
            place = begin + len(word) - len(word.lstrip())
            assert start == (place in begins), (text[begin - 20 : begin], word)
