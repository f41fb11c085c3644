"""Masking: the shares of BERT's recipe, and that a generator alone decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertjax.data.masking import Masking
from bertjax.tokenizers import wordpiece_tokenizer
from bertjax.types import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MASKING = Masking(mask_id=4, special_ids=(0, 1, 2, 3, 4), vocab_size=1000)


def example(length: int, seed: int = 0) -> dict[str, Any]:
    words = np.random.default_rng(seed).integers(5, 1000, length - 2)
    token_ids = np.array([2, *words, 3], np.int32)
    return {"token_ids": token_ids, "type_ids": np.zeros(length, np.int32)}


def test_shares():
    """15 % are chosen; 80 % of them become [MASK], 10 % another word, 10 % stay."""
    before, after, chosen, words = [], [], 0, 0
    for seed in range(400):
        plain = example(102, seed)
        masked = MASKING(plain, np.random.default_rng(seed))
        positions = masked["prediction_positions"]
        before.append(masked["prediction_labels"])
        after.append(masked["token_ids"][positions])
        chosen, words = chosen + len(positions), words + 100
        untouched = np.setdiff1d(np.arange(102), positions)
        assert np.array_equal(masked["token_ids"][untouched], plain["token_ids"][untouched])
        assert np.array_equal(masked["prediction_labels"], plain["token_ids"][positions])
    old, new = np.concatenate(before), np.concatenate(after)
    assert chosen / words == pytest.approx(0.15, abs=0.001)
    assert np.mean(new == 4) == pytest.approx(0.8, abs=0.02)
    assert np.mean(new == old) == pytest.approx(0.1, abs=0.015)
    replaced = new[(new != 4) & (new != old)]
    assert len(replaced) / len(new) == pytest.approx(0.1, abs=0.015)
    assert replaced.min() >= 5
    assert len(np.unique(replaced)) > 300


def test_every_place_is_as_likely_as_another():
    counts = np.zeros(22)
    for seed in range(4000):
        counts[MASKING(example(22), np.random.default_rng(seed))["prediction_positions"]] += 1
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] / 4000 == pytest.approx(0.15, abs=0.03)


def test_number_is_right_on_average_for_short_texts():
    """15 % of 10 words is one and a half."""
    counts = [
        len(MASKING(example(12), np.random.default_rng(seed))["prediction_labels"])
        for seed in range(2000)
    ]
    assert set(counts) == {1, 2}
    assert np.mean(counts) == pytest.approx(1.5, abs=0.05)


def test_special_tokens_are_never_chosen():
    plain = {"token_ids": np.array([2, 3, 7, 1, 3, 0, 0], np.int32)}
    for seed in range(50):
        masked = Masking(4, (0, 1, 2, 3, 4), 1000, rate=1.0)(plain, np.random.default_rng(seed))
        assert masked["prediction_positions"].tolist() == [2]
    nothing = MASKING({"token_ids": np.array([2, 3], np.int32)}, np.random.default_rng(0))
    assert len(nothing["prediction_positions"]) == 0


def test_generator_decides_and_the_example_is_left_alone():
    plain = example(60)
    copy = plain["token_ids"].copy()
    first, again, other = (MASKING(plain, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(plain["token_ids"], copy)
    for name in ("token_ids", "prediction_positions", "prediction_labels"):
        assert np.array_equal(first[name], again[name])
        assert first[name].dtype == np.int32
    assert not np.array_equal(first["token_ids"], other["token_ids"])
    assert np.all(np.diff(first["prediction_positions"]) > 0)


def test_a_tokenizer_without_a_mask_token_is_refused():
    tokenizer = wordpiece_tokenizer([*SPECIAL[:4], "a"])
    with pytest.raises(UserError, match="no mask token"):
        Masking.of(tokenizer)
    masking = Masking.of(wordpiece_tokenizer([*SPECIAL, "a"]))
    assert (masking.mask_id, masking.vocab_size) == (4, 6)
    assert masking.special_ids == (0, 1, 2, 3, 4)
