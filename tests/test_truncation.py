"""What is kept of texts that are too long: token for token, in every family's own layout."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
from tiny import WORDS
from tokenizers import pre_tokenizers

from bertjax.tokenizer_layout import Keep, Truncation, shares
from bertjax.tokenizers import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

CLS, SEP = 2, 3
LONG = " ".join(WORDS[19 + index % 25] for index in range(700))
"""700 letters, one token each."""
SHORT = "the cat sleeps ."


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return wordpiece_tokenizer(WORDS)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token a byte."""
    folder = tmp_path_factory.mktemp("roberta")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    return load_tokenizer(str(folder))


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """All tokens of a text, without special ones."""
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


def encoded(
    tokenizer: Tokenizer, texts: tuple[str, ...], length: int, keep: Truncation | None = None
) -> tuple[list[int], list[int]]:
    token_ids, type_ids = tokenizer.encode(*texts, max_length=length, truncation=keep)
    return token_ids.tolist(), type_ids.tolist()


def test_the_three_cuts_of_512(bert: Tokenizer):
    """Sun et al. 2019: 128 + 382 of the 510 that two special tokens leave."""
    tokens = plain(bert, LONG)
    assert len(tokens) == 700
    for keep, kept in (
        (Truncation("head"), tokens[:510]),
        (Truncation("tail"), tokens[190:]),
        (Truncation("head_tail"), tokens[:128] + tokens[700 - 382 :]),
        (Truncation("head_tail", head_length=509), tokens[:509] + tokens[699:]),
    ):
        assert encoded(bert, (LONG,), 512, keep) == ([CLS, *kept, SEP], [0] * 512)


@pytest.mark.parametrize("keep", ["head", "tail", "head_tail"])
def test_a_text_that_fits_is_whole(bert: Tokenizer, keep: Keep):
    tokens = plain(bert, LONG)
    assert encoded(bert, (LONG,), 702, Truncation(keep))[0] == [CLS, *tokens, SEP]
    assert len(encoded(bert, (LONG,), 701, Truncation(keep))[0]) == 701
    assert encoded(bert, ("",), 3, Truncation(keep))[0] == [CLS, SEP]


def test_of_a_pair_the_longer_text_is_cut_on_its_side(bert: Tokenizer):
    tokens, short = plain(bert, LONG), plain(bert, SHORT)
    found = encoded(bert, (SHORT, LONG), 64, Truncation("tail"))
    kept = tokens[-(64 - 3 - len(short)) :]
    assert found[0] == [CLS, *short, SEP, *kept, SEP]
    assert found[1] == [0] * (len(short) + 2) + [1] * (len(kept) + 1)
    both = encoded(bert, (LONG, LONG), 64, Truncation("head_tail"))[0]
    first, second = tokens[:8] + tokens[-22:], tokens[:8] + tokens[-23:]
    assert both == [CLS, *first, SEP, *second, SEP]


def test_robertas_own_layout(roberta: Tokenizer):
    text, other = "A fine film, " * 9, "x" * 60
    tokens, others = plain(roberta, text), plain(roberta, other)
    found = encoded(roberta, (text,), 42, Truncation("head_tail"))
    assert found == ([0, *tokens[:10], *tokens[-30:], 2], [0] * 42)
    found = encoded(roberta, (text, other), 44, Truncation("tail"))
    assert found == ([0, *tokens[-20:], 2, 2, *others[-20:], 2], [0] * 44)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_first_tokens_are_those_of_the_library(family: str, request: pytest.FixtureRequest):
    """Also the odd token that is left over between two texts."""
    tokenizer: Tokenizer = request.getfixturevalue(family)
    library = pickle.loads(pickle.dumps(tokenizer.backend))
    texts = ["", "b", "b c d", "b c d e f", "the cat [SEP] <s> sleeps", "b " * 40]
    for length in (5, 6, 7, 8, 11, 40):
        for side, keep in (("right", Truncation("head")), ("left", Truncation("tail"))):
            library.enable_truncation(length, strategy="longest_first", direction=side)
            for first in texts:
                for second in (None, *texts):
                    wanted = library.encode(first, second)
                    given = (first,) if second is None else (first, second)
                    assert encoded(tokenizer, given, length, keep) == (wanted.ids, wanted.type_ids)


def test_the_tokenizers_own_side_is_the_default(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    tokenizer = load_tokenizer(str(tmp_path))
    assert encoded(tokenizer, ("b c d e",), 4)[0] == [CLS, *plain(tokenizer, "d e"), SEP]
    asked = encoded(tokenizer, ("b c d e",), 4, Truncation("head"))[0]
    assert asked == [CLS, *plain(tokenizer, "b c"), SEP]


def test_a_batch_is_its_single_texts(bert: Tokenizer):
    texts, pairs, keep = [LONG, SHORT, ""], [SHORT, LONG, LONG], Truncation("head_tail", 5)
    batch = bert.encode_batch(texts, pairs, max_length=20, truncation=keep)
    for (token_ids, type_ids), *given in zip(batch, texts, pairs, strict=True):
        assert (token_ids.tolist(), type_ids.tolist()) == encoded(bert, tuple(given), 20, keep)


def test_two_long_texts_need_no_more_than_their_length(bert: Tokenizer):
    """The library's own truncation makes each combination of the pieces it cuts off: 3 GB here."""
    resource = pytest.importorskip("resource", reason="the system does not tell a peak of memory")
    text = "b c d e " * 1_250
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    token_ids, _ = bert.encode(text, text, max_length=32)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert len(token_ids) == 32
    assert grown < 100e6


@pytest.mark.parametrize(
    ("first", "second", "room", "expected"),
    [(3, 4, 7, (3, 4)), (9, 9, 7, (3, 4)), (9, 8, 7, (4, 3)), (2, 9, 7, (2, 5)), (9, 0, 7, (7, 0))],
)
def test_shares_of_a_pair(first: int, second: int, room: int, expected: tuple[int, int]):
    assert shares(first, second, room) == expected


def test_what_cannot_be(bert: Tokenizer):
    with pytest.raises(UserError, match="no truncation 'headtail'; did you mean 'head_tail'"):
        Truncation("headtail")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="head_length goes with the truncation 'head_tail' only"):
        Truncation("tail", head_length=3)
    with pytest.raises(UserError, match="head_length -1 must not be negative"):
        Truncation("head_tail", head_length=-1)
    with pytest.raises(UserError, match="head_length 62 leaves no tail of the 62 tokens"):
        bert.encode(LONG, max_length=64, truncation=Truncation("head_tail", 62))
