"""Tokenizers: equal to transformers', read from every kind of folder, never silently wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertjax.tokenizers import (
    Tokenizer,
    check_vocabulary,
    load_tokenizer,
    wordpiece_tokenizer,
)
from bertjax.types import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
LOWER = [
    *SPECIAL,
    *LETTERS,
    *("##" + letter for letter in LETTERS),
    "the",
    "cat",
    "##s",
    ".",
    "中",
]  # ##s is there twice, as words are in real files
CASED = [*LOWER, "The", "Cat", "é", "##é"]

HOSTILE = [
    "",
    " ",
    "\n\t \r\n",
    "The cats, the CAT's; THE Cat.",
    "naïve café résumé ÀÉÎÕÜ ẞß İstanbul",
    "e\u0301 vs \u00e9 and a\u0323\u0301\u0302\u0303",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 👍🏽",
    "中文字符和 English 混合。日本語カタカナ 한국어",
    "שלום עולם مرحبا بالعالم",
    "\x00null\x07bell\x1b[31m\u200b\u200d\ufeff\ufffd\u00ad",
    "[CLS] injected [SEP] tokens [MASK] [PAD] [UNK] [unused1]",
    "##cat ##s #hash @at $1,000.00 50% <b>&amp;</b>",
    "a" * 10_000,
    "cat" * 40,
    "the cat " * 80,
    "\U00020000\U0002f800 𝕬𝖑𝖕𝖍𝖆 ﬁ Ⅷ ½",
    'a "quoted" tab\tand\u2028line\u2029separators\u00a0nbsp\u3000wide',
    "don't can't won't it's I'm",
]
PAIRS = [(a, b) for a in HOSTILE for b in (HOSTILE[0], HOSTILE[3], HOSTILE[14])]


def folder_with(folder: Path, words: list[str], **settings: object) -> Path:
    """A folder of vocab.txt, and tokenizer_config.json if there are settings."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def assert_equal_to_transformers(tokenizer: Tokenizer, folder: Path) -> None:
    """Every hostile string and pair gives the same ids and types, at several lengths."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    theirs = transformers.BertTokenizerFast.from_pretrained(str(folder))
    for max_length in (4, 5, 8, 17, 128):
        options = {"truncation": "longest_first", "max_length": max_length}
        for texts, pairs in ((HOSTILE, None), tuple(map(list, zip(*PAIRS, strict=True)))):
            expected = theirs(texts, pairs, **options)
            got = tokenizer.encode_batch(texts, pairs, max_length=max_length)
            for index, (token_ids, type_ids) in enumerate(got):
                assert token_ids.dtype == type_ids.dtype == np.int32
                assert token_ids.tolist() == expected["input_ids"][index]
                assert type_ids.tolist() == expected["token_type_ids"][index]


def test_minilm_equals_transformers(minilm_folder: Path) -> None:
    assert_equal_to_transformers(load_tokenizer(minilm_folder), minilm_folder)


@pytest.mark.parametrize("lower", [True, False])
def test_vocabulary_alone_equals_transformers(tmp_path: Path, lower: bool) -> None:
    words = LOWER if lower else CASED
    folder = folder_with(tmp_path / "model", words, do_lower_case=lower)
    tokenizer = load_tokenizer(folder)
    assert_equal_to_transformers(tokenizer, folder)
    the = tokenizer.encode("The", max_length=8)[0].tolist()
    assert the == [2, words.index("the" if lower else "The"), 3]


def test_minilm_vocabulary_alone_equals_its_tokenizer_json(
    tmp_path: Path, minilm_folder: Path
) -> None:
    shutil.copy(minilm_folder / "vocab.txt", tmp_path)
    alone, whole = load_tokenizer(tmp_path), load_tokenizer(minilm_folder)
    assert alone.special_ids == whole.special_ids
    for text, pair in PAIRS:
        one = alone.encode(text, pair, max_length=64)
        other = whole.encode(text, pair, max_length=64)
        assert one[0].tolist() == other[0].tolist()


@pytest.mark.parametrize(("words", "lower"), [(LOWER, True), (CASED, False)])
def test_case_is_seen_in_a_bare_vocabulary(tmp_path: Path, words: list[str], lower: bool) -> None:
    tokenizer = load_tokenizer(folder_with(tmp_path, words))
    assert tokenizer.settings["do_lower_case"] is lower
    other = load_tokenizer(tmp_path, do_lower_case=not lower)
    assert other.settings["do_lower_case"] is not lower


def test_settings_win_over_tokenizer_json(tmp_path: Path) -> None:
    wordpiece_tokenizer(CASED, do_lower_case=True).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    token_ids, _ = load_tokenizer(tmp_path).encode("The", max_length=8)
    assert token_ids.tolist() == [2, CASED.index("The"), 3]


def test_attributes(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_with(tmp_path, LOWER))
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 2, 3, 4)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert tokenizer.vocab_size == len(LOWER)


@pytest.mark.parametrize("keep", ["everything", "vocab.txt", "tokenizer.json"])
def test_save_and_load_again(tmp_path: Path, keep: str) -> None:
    tokenizer = wordpiece_tokenizer(CASED, do_lower_case=False)
    tokenizer.save(tmp_path)
    if keep != "everything":
        for file in tmp_path.iterdir():
            if file.name != keep:
                file.unlink()
    again = load_tokenizer(tmp_path)
    for text, pair in PAIRS:
        expected = tokenizer.encode(text, pair, max_length=32)
        got = again.encode(text, pair, max_length=32)
        assert [array.tolist() for array in got] == [array.tolist() for array in expected]


def test_saved_tokenizer_in_transformers(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer(CASED, do_lower_case=False)
    tokenizer.save(tmp_path)
    assert_equal_to_transformers(tokenizer, tmp_path)


def test_one_call_leaves_no_truncation_for_the_next(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_with(tmp_path, LOWER))
    assert len(tokenizer.encode("the cat " * 20, max_length=8)[0]) == 8
    assert len(tokenizer.encode("the cat " * 20, max_length=128)[0]) == 42
    restored = pickle.loads(pickle.dumps(tokenizer))
    assert restored.encode("the cat", max_length=8)[0].tolist() == [2, 57, 58, 3]


def test_check_vocabulary(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_with(tmp_path, LOWER))
    size = len(LOWER)
    assert check_vocabulary(tokenizer, size) is None
    assert f"the last {128 - size} rows" in (check_vocabulary(tokenizer, 128) or "")
    with pytest.raises(UserError, match="has only 20 rows"):
        check_vocabulary(tokenizer, 20)
    with pytest.raises(UserError, match="too many more to be padding"):
        check_vocabulary(tokenizer, 30522)


def _empty(folder: Path) -> None:
    folder.mkdir()


def _without_cls(folder: Path) -> None:
    folder_with(folder, [word for word in LOWER if word != "[CLS]"])


def _without_padding(folder: Path) -> None:
    folder_with(folder, LOWER[1:])


def _binary_vocabulary(folder: Path) -> None:
    folder_with(folder, LOWER)
    (folder / "vocab.txt").write_bytes(b"\xff\xfe\x00")


def _broken_tokenizer(folder: Path) -> None:
    folder_with(folder, LOWER)
    (folder / "tokenizer.json").write_text('{"version": "1.0"')


def _broken_settings(folder: Path) -> None:
    folder_with(folder, LOWER)
    (folder / "tokenizer_config.json").write_text("do_lower_case: true")


def _a_file(folder: Path) -> None:
    folder.write_text("")


def _nothing(folder: Path) -> None:
    """No such folder."""


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_empty, r"has neither tokenizer\.json nor vocab\.txt; save the model's tokenizer"),
        (_without_cls, r"has no word '\[CLS\]', its cls_token; give the model's own"),
        (_without_padding, r"has no word '\[PAD\]', its pad_token; give the model's own"),
        (_binary_vocabulary, r"vocab\.txt cannot be read as UTF-8 text .*; get the file anew"),
        (_broken_tokenizer, r"tokenizer\.json cannot be read as JSON .*; get the file anew"),
        (_broken_settings, r"tokenizer_config\.json cannot be read as JSON .*; get the file anew"),
        (_a_file, "is a file, but a model is a folder; name the folder"),
        (_nothing, "there is no folder '.*'; check the path"),
    ],
)
def test_bad_folders(tmp_path: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "there is no folder ''"),
        ("nobody/such-model", "and is not in the hub's cache, and the hub cannot be reached"),
        ("not a name", "is not a valid hub name"),
        ("a/b/c", "there is no folder 'a/b/c'"),
        ("./missing", r"there is no folder '\./missing'"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_tokenizer(name)


def test_bad_lengths(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_with(tmp_path, LOWER))
    with pytest.raises(UserError, match=r"max_length 2 leaves no room .* at least 3"):
        tokenizer.encode("the cat", max_length=2)
    with pytest.raises(UserError, match=r"max_length 3 leaves no room .* at least 4"):
        tokenizer.encode("the cat", "the", max_length=3)
    with pytest.raises(UserError, match="2 texts cannot be paired with 1 second texts"):
        tokenizer.encode_batch(["a", "b"], ["c"], max_length=8)
