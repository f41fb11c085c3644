"""Words to tokens, and long sentences to windows in which every word is answered once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_family_finetune import write_tokenizer
from tiny import WORDS

from bertjax.data.word_windows import Window, _ranges, windows_of, word_pieces
from bertjax.tokenizers import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

ODD = ["\u200b", "", "\ufeff", "\x00", "\u00ad", "\ufffd", "\u202e"]
"""Of these BERT's tokenizer leaves nothing."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece_tokenizer(WORDS)


def check(windows: list[Window], words: list[str], tokenizer: Tokenizer, length: int) -> None:
    """Every word is answered once, in order, where its first token stands."""
    pieces = word_pieces(words, tokenizer)
    owned = [word for window in windows for word in window.words.tolist()]
    assert owned == list(range(len(words)))
    for window in windows:
        assert len(window.token_ids) <= length
        assert window.token_ids[0] == tokenizer.cls_id
        assert window.token_ids[-1] == tokenizer.sep_id
        firsts = [pieces[word][0] for word in window.words]
        assert window.token_ids[window.places].tolist() == firsts


@pytest.mark.parametrize("count", [0, 1, 2, 14, 15, 1000])
@pytest.mark.parametrize("length", [3, 4, 16, 128])
@pytest.mark.parametrize("stride", [0, 1, 5, 1000])
def test_every_word_is_answered_once(
    count: int, length: int, stride: int, tokenizer: Tokenizer
) -> None:
    random = np.random.default_rng(count)
    known = [*WORDS[5:19], "bcd", "xyzzyqwert", "\u200b"]
    words = [str(word) for word in random.choice(known, count)]
    check(windows_of(words, tokenizer, length, stride), words, tokenizer, length)


def test_a_sentence_that_fits_is_one_window(tokenizer: Tokenizer) -> None:
    words = ["the", "cat", "sleeps", "bcd", "."]
    (window,) = windows_of(words, tokenizer, 9)
    assert window.token_ids.tolist() == tokenizer.encode(" ".join(words), max_length=9)[0].tolist()
    assert window.places.tolist() == [1, 2, 3, 4, 7]
    (empty,) = windows_of([], tokenizer, 9)
    assert (len(empty.token_ids), len(empty.words), len(empty.places)) == (2, 0, 0)


def test_a_word_is_answered_where_it_sees_most(tokenizer: Tokenizer) -> None:
    """Against the rule said in words: the smaller of the contexts left and right is largest."""
    words = ["cat"] * 50
    windows = windows_of(words, tokenizer, 12, 4)  # ten words a window, every four words
    starts = [*range(0, 40, 4), 40]
    assert len(windows) == len(starts)
    assert all(len(window.token_ids) == 12 for window in windows)  # the last is filled up
    for number, window in enumerate(windows):
        for word in window.words:
            seen = [
                min(word - start, start + 9 - word) if start <= word < start + 10 else -1
                for start in starts
            ]
            assert seen[number] == max(seen)
            assert min(word, 49 - word, 3) <= seen[number]


@pytest.mark.parametrize("seed", range(5))
def test_words_and_places_are_those_of_the_definition(seed: int, tokenizer: Tokenizer) -> None:
    """Words of 1 to 7 tokens; of windows that see as much of a word, the first answers it."""
    random = np.random.default_rng(seed)
    words = ["b" * int(n) for n in random.integers(1, 8, 400)]
    offsets = np.cumsum([0, *map(len, word_pieces(words, tokenizer))]).tolist()
    length, stride = int(random.integers(12, 60)), int(random.integers(0, 30))
    spans = _ranges(offsets, length - 2, stride or (length - 2) // 2)
    expected: list[list[tuple[int, int]]] = [[] for _ in spans]
    for word in range(len(words)):
        sees = [
            min(offsets[word] - offsets[start], offsets[stop] - offsets[word + 1])
            if start <= word < stop
            else -1
            for start, stop in spans
        ]
        best = sees.index(max(sees))
        expected[best].append((word, offsets[word] - offsets[spans[best][0]] + 1))
    windows = windows_of(words, tokenizer, length, stride)
    found = [list(zip(w.words.tolist(), w.places.tolist(), strict=True)) for w in windows]
    assert found == expected
    assert {w.words.dtype for w in windows} | {w.places.dtype for w in windows} == {np.dtype("i4")}


def test_a_word_longer_than_the_window_keeps_its_first_tokens(tokenizer: Tokenizer) -> None:
    words = ["the", "b" * 60, "cat"]
    windows = windows_of(words, tokenizer, 16)
    check(windows, words, tokenizer, 16)
    assert max(len(window.token_ids) for window in windows) == 16


def test_words_of_which_nothing_is_left_become_unknown(tokenizer: Tokenizer) -> None:
    words = ["cat", *ODD, "dog"]
    unknown = tokenizer.backend.token_to_id("[UNK]")
    assert word_pieces(words, tokenizer)[1:-1] == [[unknown]] * len(ODD)
    (window,) = windows_of(words, tokenizer, 32)
    assert len(window.words) == len(words)


def test_a_window_without_room(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="max_length 2 leaves no room for a word beside the 2"):
        windows_of(["cat"], tokenizer, 2)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "albert"])
def test_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """With ``is_split_into_words``; RoBERTa's is to be told to put a space before each word."""
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    write_tokenizer(family, tmp_path)
    ours = load_tokenizer(tmp_path)
    if family == "bert":
        ours.save(tmp_path)  # a vocabulary alone does not tell transformers whose it is
    theirs = transformers.AutoTokenizer.from_pretrained(
        tmp_path, **({"add_prefix_space": True} if family == "roberta" else {})
    )
    words = ["the", "theatre", "a", "b.c", "é", "the", "x" * 20, "the\u00a0a"]
    (window,) = windows_of(words, ours, 200)
    expected = theirs(words, is_split_into_words=True)
    assert window.token_ids.tolist() == expected["input_ids"]
    firsts = [expected.word_ids().index(word) for word in range(len(words))]
    assert window.places.tolist() == firsts
