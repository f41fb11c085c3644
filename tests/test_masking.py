"""Masking: the shares of BERT's recipe, whole words, and that a generator alone decides."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data.masking import UNITS, Masking, MaskUnit
from bertjax.data.words import Joins
from bertjax.tokenizers import Tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MASKING = Masking(mask_id=4, special_ids=(0, 1, 2, 3, 4), vocab_size=1000)
TOKENS = 1_050_000


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


def reference(plain: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Token by token, from the definition, with the draws in the order that runs rely on."""
    token_ids = plain["token_ids"].copy()
    candidates = [place for place, token in enumerate(token_ids) if token > 4]
    count = max(1, int(len(candidates) * 0.15 + generator.random()))
    positions = sorted(generator.choice(candidates, count, replace=False))
    labels = token_ids[positions]
    draws, others = generator.random(count), generator.integers(995, size=count)
    for place, draw, other in zip(positions, draws, others, strict=True):
        if draw < 0.9:
            token_ids[place] = 4 if draw < 0.8 else 5 + other
    return {"token_ids": token_ids, "prediction_positions": positions, "prediction_labels": labels}


def test_tokens_are_drawn_as_ever():
    """A run that began with an earlier version goes on with the same masks."""
    for seed in range(50):
        plain = example(20 + seed, seed)
        masked = MASKING(plain, np.random.default_rng(seed))
        for name, expected in reference(plain, np.random.default_rng(seed)).items():
            assert np.array_equal(masked[name], expected)


def english(data_folder: Path) -> tuple[Tokenizer, np.ndarray]:
    """Wikipedia's first tokens with BERT's uncased vocabulary."""
    words = (data_folder / "vocab" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8")
    tokenizer = wordpiece_tokenizer(words.splitlines())
    token_ids: list[int] = []
    with lzma.open(data_folder / "corpus" / "enwiki.jsonl.xz", "rt", encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            token_ids += tokenizer.backend.encode(text, add_special_tokens=False).ids
            if len(token_ids) > TOKENS:
                break
    return tokenizer, np.array(token_ids, np.int32)


def synthetic() -> tuple[Tokenizer, np.ndarray]:
    """Words of one to six pieces, most of them of one."""
    words = (f"w{index}" for index in range(600))
    pieces = (f"##p{index}" for index in range(395))
    tokenizer = wordpiece_tokenizer([*SPECIAL, *words, *pieces])
    random = np.random.default_rng(0)
    goes_on = random.random(TOKENS) < 0.25
    token_ids = np.where(
        goes_on, random.integers(605, 1000, TOKENS), random.integers(5, 605, TOKENS)
    )
    return tokenizer, token_ids.astype(np.int32)


@pytest.fixture(scope="module", params=["synthetic", "english"])
def corpus(request: pytest.FixtureRequest) -> tuple[Tokenizer, np.ndarray]:
    """A tokenizer and more than a million tokens."""
    if request.param == "synthetic":
        return synthetic()
    return english(request.getfixturevalue("data_folder"))


def rows(corpus: tuple[Tokenizer, np.ndarray], length: int) -> Iterator[dict[str, np.ndarray]]:
    """All tokens as ``[CLS] A [SEP] B [SEP]`` of ``length``."""
    tokenizer, token_ids = corpus
    room = length - 3
    for start in range(0, len(token_ids) - room + 1, room):
        a, b = np.split(token_ids[start : start + room], [room // 2])
        row = [[tokenizer.cls_id], a, [tokenizer.sep_id], b, [tokenizer.sep_id]]
        yield {"token_ids": np.concatenate(row).astype(np.int32)}


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("unit", UNITS)
def test_shares_over_a_million_tokens(
    corpus: tuple[Tokenizer, np.ndarray], unit: MaskUnit, length: int
):
    """15.0 +- 0.2 % predicted, of them 80/10/10 +- 1; special tokens never, nor as replacement."""
    tokenizer, _ = corpus
    masking = Masking.of(tokenizer, unit=unit)
    before, after, tokens = [], [], 0
    for index, plain in enumerate(rows(corpus, length)):
        masked = masking(plain, np.random.default_rng([1, index]))
        after.append(masked["token_ids"][masked["prediction_positions"]])
        before.append(masked["prediction_labels"])
        tokens += np.isin(plain["token_ids"], tokenizer.special_ids, invert=True).sum()
    old, new = np.concatenate(before), np.concatenate(after)
    assert tokens > 1_000_000
    assert 100 * len(new) / tokens == pytest.approx(15.0, abs=0.2)
    hidden, kept = new == tokenizer.mask_id, new == old
    assert 100 * hidden.mean() == pytest.approx(80, abs=1)
    assert 100 * kept.mean() == pytest.approx(10, abs=1)
    assert 100 * (~hidden & ~kept).mean() == pytest.approx(10, abs=1)
    assert not np.isin(old, tokenizer.special_ids).any()
    assert not np.isin(new[~hidden], tokenizer.special_ids).any()


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_whole_words_are_whole(corpus: tuple[Tokenizer, np.ndarray], unit: MaskUnit):
    """Judged by the vocabulary's text; what becomes of a word's pieces is drawn for each."""
    tokenizer, _ = corpus
    masking = Masking.of(tokenizer, unit=unit)
    long, mixed = 0, 0
    for index, plain in enumerate(rows(corpus, 128)):
        if index == 300:
            break
        masked = masking(plain, np.random.default_rng(index))
        chosen = set(masked["prediction_positions"].tolist())
        texts = [str(tokenizer.backend.id_to_token(int(token))) for token in plain["token_ids"]]
        for place in range(1, len(texts)):
            if texts[place].startswith("##") and texts[place - 1] not in SPECIAL:
                assert (place in chosen) == (place - 1 in chosen)
                long += place in chosen
                hidden = masked["token_ids"][place - 1 : place + 1] == tokenizer.mask_id
                mixed += place in chosen and hidden.sum() == 1
    assert long > 300
    assert mixed / long == pytest.approx(2 * 0.8 * 0.2, abs=0.08)


def test_lengths_of_ngrams():
    """One, two and three words are as 1 : 1/2 : 1/3; in so long a text two seldom touch."""
    counts = np.zeros(12)
    masking = Masking(4, (0, 1, 2, 3, 4), 1000, rate=0.01, unit="ngram")
    for seed in range(60):
        masked = masking(example(20_000, seed), np.random.default_rng(seed))
        gaps = np.diff(masked["prediction_positions"], prepend=-1, append=30_000)
        lengths = np.diff(np.flatnonzero(gaps > 1))
        counts += np.bincount(lengths, minlength=12)
    assert counts[0] == 0
    assert counts[4:].sum() / counts.sum() < 0.02
    assert counts[1:4] / counts.sum() == pytest.approx(np.array([6, 3, 2]) / 11, abs=0.02)


def test_ngrams_count_whole_words_and_end_at_special_tokens():
    """Up to two words of two pieces each, [UNK] and [SEP] between them never crossed."""
    words = [5, 900, 6, 901, 1, 7, 902, 3, 8, 903, 9, 904, 3]
    plain = {"token_ids": np.array([2, *words], np.int32)}
    goes_on = np.arange(1000) >= 900
    joins = Joins(goes_on, np.arange(1000) > 4)
    masking = Masking(4, (0, 1, 2, 3, 4), 1000, 0.4, "ngram", max_ngram=2, joins=joins)
    seen = set()
    for seed in range(300):
        positions = masking(plain, np.random.default_rng(seed))["prediction_positions"]
        assert len(positions) == 4
        seen.add(tuple(positions.tolist()))
    pairs = [(1, 2), (3, 4), (6, 7), (9, 10), (11, 12)]
    assert seen == {(*a, *b) for i, a in enumerate(pairs) for b in pairs[i + 1 :]}


def test_ngrams_do_not_reach_beyond_a_special_token():
    """Of a b [SEP] c d two are chosen: b and c just as often as two single words, 5 of 36."""
    plain = {"token_ids": np.array([2, 5, 6, 3, 7, 8, 3], np.int32)}
    masking = Masking(4, (0, 1, 2, 3, 4), 1000, 0.5, "ngram", max_ngram=2)
    chosen = [
        tuple(masking(plain, np.random.default_rng(seed))["prediction_positions"].tolist())
        for seed in range(6000)
    ]
    assert chosen.count((2, 4)) / 6000 == pytest.approx(5 / 36, abs=0.02)
    assert chosen.count((1, 2)) / 6000 == pytest.approx(8 / 36, abs=0.02)


@pytest.mark.parametrize("unit", UNITS)
def test_special_tokens_alone(unit: MaskUnit):
    for row in ([2, 3], []):
        plain = {"token_ids": np.array(row, np.int32)}
        masked = Masking(4, (0, 1, 2, 3, 4), 1000, unit=unit)(plain, np.random.default_rng(0))
        assert masked["prediction_positions"].shape == masked["prediction_labels"].shape == (0,)
        assert masked["token_ids"].tolist() == row


@pytest.mark.parametrize("unit", UNITS)
def test_all_can_be_chosen(unit: MaskUnit):
    for seed in range(50):
        masked = Masking(4, (0, 1, 2, 3, 4), 1000, rate=1.0, unit=unit)(
            example(40), np.random.default_rng(seed)
        )
        assert masked["prediction_positions"].tolist() == list(range(1, 39))


@pytest.mark.parametrize("unit", ["word", "ngram"])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("words", [4, 25, 100])
def test_words_that_never_fill_the_number(unit: MaskUnit, size: int, words: int):
    """Where all words have ``size`` tokens their number comes out right only on average."""
    token_ids = np.arange(5, 5 + size * words, dtype=np.int32)
    plain = {"token_ids": token_ids, "continues": np.arange(size * words) % size > 0}
    masking = Masking(4, (0, 1, 2, 3, 4), 1000, unit=unit)
    counts = np.array(
        [
            len(masking(plain, np.random.default_rng(seed))["prediction_labels"])
            for seed in range(3000)
        ]
    )
    assert set(counts % size) == {0}
    assert np.abs(counts - 0.15 * size * words).max() < size + 1
    tolerance = 4 * counts.std() / np.sqrt(len(counts)) / (size * words)
    assert counts.mean() / (size * words) == pytest.approx(0.15, abs=tolerance + 1e-9)


@pytest.mark.parametrize("unit", UNITS)
def test_limit_of_predictions_holds(unit: MaskUnit):
    """Also where a word more would be taken by chance."""
    plain = {**example(128), "continues": np.arange(128) % 4 > 0}
    for limit in (3, 17, 20):
        masking = Masking(4, (0, 1, 2, 3, 4), 1000, unit=unit, max_predictions=limit)
        counts = [
            len(masking(plain, np.random.default_rng(seed))["prediction_labels"])
            for seed in range(200)
        ]
        assert max(counts) <= limit
        assert max(counts) >= min(18, limit) - 3


@pytest.mark.parametrize("unit", UNITS)
def test_passes_differ_and_a_seed_gives_the_same(
    corpus: tuple[Tokenizer, np.ndarray], unit: MaskUnit
):
    masking = Masking.of(corpus[0], unit=unit)
    some = [plain for _, plain in zip(range(50), rows(corpus, 128), strict=False)]

    def run(epoch: int) -> list[dict[str, np.ndarray]]:
        generators = (np.random.default_rng([epoch, index]) for index in range(len(some)))
        return [dict(masking(*pair)) for pair in zip(some, generators, strict=True)]

    first, again, other = run(0), run(0), run(1)
    for one, two, three in zip(first, again, other, strict=True):
        for name in ("token_ids", "prediction_positions", "prediction_labels"):
            assert np.array_equal(one[name], two[name])
        assert not np.array_equal(one["prediction_positions"], three["prediction_positions"])


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_segmentation_goes_before_the_vocabulary(unit: MaskUnit):
    """Chinese characters are words to the vocabulary; the user's segmentation joins them."""
    text = "使用语言模型来预测下一个词的概率"
    tokenizer = wordpiece_tokenizer([*SPECIAL, *sorted(set(text))])
    parts = ["使用", "语言", "模型", "来", "预测", "下", "一个", "词", "的", "概率"]
    assert "".join(parts) == text
    token_ids, _ = tokenizer.encode(text, max_length=64)
    marks = [place > 0 for part in parts for place in range(len(part))]
    plain = {"token_ids": token_ids, "continues": np.array([False, *marks, False])}
    spans, start = set(), 1
    for part in parts:
        spans.add(tuple(range(start, start + len(part))))
        start += len(part)
    masking = Masking.of(tokenizer, unit=unit)
    broken = 0
    for seed in range(200):
        chosen = masking(plain, np.random.default_rng(seed))["prediction_positions"].tolist()
        covered = {place for span in spans if set(span) <= set(chosen) for place in span}
        assert covered == set(chosen)
        without = {"token_ids": token_ids}
        single = masking(without, np.random.default_rng(seed))["prediction_positions"].tolist()
        covered = {place for span in spans if set(span) <= set(single) for place in span}
        broken += covered != set(single)
    assert broken > 100


def test_every_word_is_about_as_likely_as_another():
    """Long words may wait for another turn, but a place is not chosen for where it is."""
    counts = np.zeros(103)
    plain = {**example(103), "continues": np.isin(np.arange(103) % 10, (3, 4, 8))}
    for seed in range(4000):
        masked = Masking(4, (0, 1, 2, 3, 4), 1000, unit="word")(plain, np.random.default_rng(seed))
        counts[masked["prediction_positions"]] += 1
    assert counts[1:-1] / 4000 == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0.0}, "mask_rate is 0.0"),
        ({"rate": 1.5}, "mask_rate is 1.5"),
        ({"rate": float("nan")}, "mask_rate is nan"),
        ({"unit": "words"}, "mask_unit 'words' is unknown; did you mean 'word'?"),
        ({"mask_share": -0.1}, "mask_share is -0.1"),
        ({"random_share": 1.1}, "random_share is 1.1"),
        ({"mask_share": 0.8, "random_share": 0.3}, "mask_share and random_share are 1.1 together"),
        ({"max_ngram": 0}, "max_ngram is 0"),
        ({"max_predictions": -1}, "max_predictions is -1"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        Masking.of(wordpiece_tokenizer([*SPECIAL, "a"]), **fields)
    assert message in str(error.value)


def test_other_shares():
    plain = example(502)
    masking = Masking(4, (0, 1, 2, 3, 4), 1000, rate=0.4, mask_share=0.5, random_share=0.5)
    masked = masking(plain, np.random.default_rng(0))
    new = masked["token_ids"][masked["prediction_positions"]]
    assert len(new) == 200
    assert np.mean(new == 4) == pytest.approx(0.5, abs=0.1)
    assert np.mean(new == masked["prediction_labels"]) < 0.02
