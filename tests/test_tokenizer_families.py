"""The tokenizers of every family give the ids and types of transformers' AutoTokenizer."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from bertjax.tokenizers import Tokenizer, check_vocabulary, load_tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

transformers = pytest.importorskip("transformers", reason="needs transformers")

COUNT = 2000
HOSTILE = [
    *(
        "",
        " ",
        "\n\t \r\n",
        "\u3000\u00a0\u2003",
        "\x00",
        "\ufeff",
        "\u200b",
        "\u00ad",
        "\ufffd",
        "▁",
    ),
    *("▁▁ a ▁", "##s ##cat", "Ġthe Ċ", "''quoted`` text''", "1,000 9, 12,", "don't I'm we'll"),
    *("[SEP]", "[CLS] a [SEP] b [PAD]", "a[MASK]b", "a [MASK] b", " [UNK] ", "[unused1]", "[mask]"),
    *(
        "</s>",
        "<s> a </s></s> b <pad>",
        "a<mask>b",
        "a  <mask>  b",
        "<unk>",
        "<MASK>",
        "<mask><mask>",
    ),
    *("<s>NOTUSED a </s>NOTUSED", "<unk>NOTUSED", "The  double  spaces   and\ttabs\n\nlines "),
    *(
        "naïve café résumé ÀÉÎÕÜ ẞß İstanbul ŒUVRE Straße",
        "e\u0301 vs \u00e9 a\u0323\u0301\u0302\u0303",
    ),
    *(
        "\u0301\u0301\u0301",
        "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 👍🏽",
        "🧑🏿‍🚀" * 50,
        "中文字符和English混合。",
        "日本語カタカナ 한국어",
    ),
    *("שלום עולם مرحبا بالعالم", "\u202eright to left\u202c", "ﷺ ﬁ Ⅷ ½ ²³ ℌ", "Ａｂｃ１２３ ｶﾞ"),
    *(
        "\U00020000\U0002f800 𝕬𝖑𝖕𝖍𝖆",
        "\x07bell\x1b[31m\x7f\x80\x9f",
        "a\u2028b\u2029c\u0085d\u000bе",
    ),
    *("ก็ กำ हिन्दी தமிழ் ქართული አማርኛ", "\U0010ffff\ue000\ufdd0\uffff", "<b>&amp;</b> $1.00 50%"),
    *("a" * 10_000, "ab" * 5_000, "é" * 10_000, "中" * 10_000, "🙂" * 10_000, "\u0301" * 10_000),
    *(
        "word " * 2_000,
        " " * 10_000,
        "." * 10_000,
        "[MASK]" * 500,
        "<mask> " * 500,
        "Aa1.中" * 2_000,
    ),
]
PIECES = [
    *(
        "the",
        "Cat",
        " ",
        "  ",
        "\t",
        "\n",
        ".",
        ",",
        "'s",
        "[MASK]",
        "<mask>",
        "</s>",
        "[SEP]",
        "é",
    ),
    *(
        "e\u0301",
        "中",
        "文",
        "かな",
        "한",
        "ש",
        "م",
        "🙂",
        "👩‍👧",
        "\u200b",
        "\u200d",
        "\x00",
        "\x07",
    ),
    *(
        "1",
        "2,0",
        "##",
        "▁",
        "Ġ",
        "''",
        "ß",
        "İ",
        "ﬁ",
        "½",
        "\u00a0",
        "\u3000",
        "-",
        "_",
        "%",
        "NOTUSED",
    ),
]


def lines_of(path: Path) -> list[str]:
    """The longest field of each line."""
    text = path.read_text(encoding="utf-8", errors="ignore")
    return [max(line.split("\t"), key=len) for line in text.split("\n") if line.strip()]


def sentences_of(path: Path) -> list[str]:
    """The sentences of a file with a word a line."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [
        " ".join(line.split()[0].removeprefix("fr:") for line in block.splitlines() if line.split())
        for block in blocks
    ]


def squad_of(path: Path) -> list[str]:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in data for paragraph in article["paragraphs"]]
    return [p["context"] for p in paragraphs] + [
        q["question"] for p in paragraphs for q in p["qas"]
    ]


def drawn(texts: Sequence[str], count: int) -> list[str]:
    return [texts[index * len(texts) // count] for index in range(count)]


@pytest.fixture(scope="session")
def data() -> Path | None:
    """The folder of real data, or None: then all strings are made here."""
    folder = os.environ.get("BERTJAX_DATA")
    return Path(folder).expanduser() if folder else None


@pytest.fixture(scope="session")
def strings(data: Path | None) -> list[str]:
    """2,000 strings: of the real data where there is any, the hostile ones, and random ones."""
    texts = list(HOSTILE)
    if data is not None:
        sources = [
            *(lines_of(data / "glue" / name) for name in ("SST-2/train.tsv", "QNLI/dev.tsv")),
            *(lines_of(data / "glue" / name) for name in ("CoLA/train.tsv", "AX/diagnostic.tsv")),
            squad_of(data / "squad/dev-v2.0.json"),
            sentences_of(data / "conll2003/valid.txt"),
            sentences_of(data / "wikiann-fr/dev"),
            lines_of(data / "chnsenticorp/dev.tsv"),
            lines_of(data / "corpus/sample_text.txt"),
        ]
        texts += [text for source in sources for text in drawn(source, 190)]
    draw = random.Random(0)
    while len(texts) < COUNT:
        letters = [chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000))))]
        texts.append("".join(draw.choice(PIECES + letters) for _ in range(draw.randrange(1, 40))))
    assert len(texts) == COUNT
    return texts


Train = Callable[[str], Any]


@pytest.fixture(scope="session")
def train(strings: list[str]) -> Train:
    """Trains a small vocabulary of a kind; once."""
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            made[kind] = trained(kind, strings)
        return made[kind]

    return get


def trained(kind: str, strings: list[str]) -> Any:
    """Words and ids of WordPiece; those and merges of BPE; words and scores of unigram."""
    counts = collections.Counter("".join(strings))
    usual = {letter for letter, count in counts.items() if count >= 8}
    short = [text for text in strings if len(text) < 2_000]
    texts = ["".join(c if c in usual else " " for c in text) for text in short]
    if kind == "WordPiece":
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special)
    elif kind == "BPE":
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=1000,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    else:
        backend = tokenizers.Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        spaces = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
        trainer = trainers.UnigramTrainer(
            vocab_size=3000, unk_token="<unk>", special_tokens=["<unk>"]
        )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    if kind == "BPE":
        return model["vocab"], [tuple(merge) for merge in model["merges"]]
    if kind == "WordPiece":
        return dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    return [tuple(piece) for piece in model["vocab"] if piece[0] != "<unk>"]


def words_in(path: Path) -> dict[str, int]:
    return {word: index for index, word in enumerate(path.read_text("utf-8").split("\n")[:-1])}


@dataclasses.dataclass(frozen=True)
class Case:
    """A folder: its model type, the class that writes it, that class's arguments."""

    model_type: str
    kind: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    real: str | None = None
    """A real vocabulary in the shared data, taken where there is one."""
    keep: tuple[str, ...] = ()
    """The tokenizer's files that stay; none: those that transformers writes."""


CASES = {
    "bert-uncased": Case("bert", "BertTokenizer", real="bert-base-uncased-vocab.txt"),
    "bert-cased": Case(
        "bert", "BertTokenizer", {"do_lower_case": False}, "bert-base-cased-vocab.txt"
    ),
    "bert-chinese": Case(
        "bert", "BertTokenizer", {"do_lower_case": False}, "bert-base-chinese-vocab.txt"
    ),
    "bert-multilingual": Case(
        "bert",
        "BertTokenizer",
        {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
        "bert-base-multilingual-cased-vocab.txt",
    ),
    "bert-words": Case(
        "bert",
        "BertTokenizer",
        {"do_lower_case": False},
        "bert-base-cased-vocab.txt",
        keep=("vocab.txt", "tokenizer_config.json"),
    ),
    "distilbert": Case("distilbert", "DistilBertTokenizer", real="bert-base-uncased-vocab.txt"),
    "electra": Case("electra", "ElectraTokenizer", {"strip_accents": False}),
    "roberta": Case("roberta", "RobertaTokenizer", real="roberta-base"),
    "roberta-space": Case(
        "roberta", "RobertaTokenizer", {"add_prefix_space": True, "extra_special_tokens": ["the"]}
    ),
    "roberta-words": Case(
        "roberta", "RobertaTokenizer", real="roberta-base", keep=("vocab.json", "merges.txt")
    ),
    "xlm-roberta": Case("xlm-roberta", "XLMRobertaTokenizer"),
    "xlm-roberta-bare": Case("xlm-roberta", "XLMRobertaTokenizer", keep=("tokenizer.json",)),
    "camembert": Case("camembert", "CamembertTokenizer"),
    "albert": Case("albert", "AlbertTokenizer"),
    "albert-cased": Case(
        "albert", "AlbertTokenizer", {"do_lower_case": False, "keep_accents": True}
    ),
}


def vocabulary_of(case: Case, train: Train, data: Path | None) -> dict[str, Any]:
    """The vocabulary arguments of the class."""
    real = data / "vocab" / case.real if data is not None and case.real else None
    if case.kind == "RobertaTokenizer":
        if real is None:
            words, merges = train("BPE")
            return {"vocab": words, "merges": merges}
        lines = (real / "merges.txt").read_text("utf-8").split("\n")[1:]
        words = json.loads((real / "vocab.json").read_text("utf-8"))
        return {"vocab": words, "merges": [tuple(line.split(" ")) for line in lines if line]}
    heads = {
        "XLMRobertaTokenizer": ["<s>", "<pad>", "</s>", "<unk>"],
        "CamembertTokenizer": ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"],
        "AlbertTokenizer": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
    }
    if case.kind not in heads:
        return {"vocab": train("WordPiece") if real is None else words_in(real)}
    pieces = [(token, 0.0) for token in heads[case.kind]]
    if case.kind == "CamembertTokenizer":
        pieces += [("<s>", 0.0), ("</s>", 0.0)]
    pieces += train("Unigram")
    return {"vocab": [*pieces, ("<mask>", 0.0)]}


def write_folder(folder: Path, case: Case, train: Train, data: Path | None) -> Path:
    """A folder as transformers writes it, less the files that the case leaves out."""
    folder.mkdir()
    arguments = vocabulary_of(case, train, data)
    kind = getattr(transformers, case.kind)
    kind(**arguments, **case.settings).save_pretrained(str(folder))
    if "vocab.txt" in case.keep:
        (folder / "vocab.txt").write_text("\n".join(arguments["vocab"]) + "\n", "utf-8")
    if "vocab.json" in case.keep:
        merges = ["#version: 0.2", *(" ".join(pair) for pair in arguments["merges"])]
        (folder / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
        (folder / "vocab.json").write_text(json.dumps(arguments["vocab"]), "utf-8")
    for file in folder.iterdir():
        if case.keep and file.name not in case.keep:
            file.unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": case.model_type}))
    return folder


def assert_equal(
    ours: Tokenizer, theirs: Any, texts: Sequence[str], lengths: Iterable[int]
) -> None:
    """Every text and every pair gives the ids and types that transformers gives."""
    seconds = [texts[(7 * index + 3) % len(texts)] for index in range(len(texts))]
    for max_length in lengths:
        for pairs in (None, seconds):
            expected = theirs(
                list(texts),
                pairs,
                truncation="longest_first",
                max_length=max_length,
                return_token_type_ids=True,
                return_attention_mask=False,
            )
            got = ours.encode_batch(texts, pairs, max_length=max_length)
            token_ids = [ids.tolist() for ids, _ in got]
            wrong = [i for i, ids in enumerate(token_ids) if ids != expected["input_ids"][i]]
            assert not wrong, f"{len(wrong)} texts differ, the first is {texts[wrong[0]][:80]!r}"
            assert [types.tolist() for _, types in got] == expected["token_type_ids"]


def auto(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(
    name: str, tmp_path: Path, strings: list[str], train: Train, data: Path | None
) -> None:
    folder = write_folder(tmp_path / "model", CASES[name], train, data)
    ours, theirs = load_tokenizer(folder), auto(folder)
    assert_equal(ours, theirs, strings, [128])
    sample = [*HOSTILE, *strings[len(HOSTILE) :: 10]]
    # The library makes every pair of the pieces that it cuts off: very slow for long texts.
    short = [text for text in sample if len(text) < 60]
    assert_equal(ours, theirs, short, [5, 8, 17])
    for role in ("pad", "cls", "sep", "mask"):
        assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id")

    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    (saved / "config.json").write_text((folder / "config.json").read_text())
    again = auto(saved)
    assert type(again) is type(theirs)
    assert_equal(ours, again, short, [17, 512])
    assert_equal(load_tokenizer(saved), again, short, [512])


MODEL_FILES = [
    ("xlm-roberta", "sentencepiece.bpe.model", {}),
    ("camembert", "sentencepiece.bpe.model", {}),
    ("albert", "spiece.model", {"user_defined_symbols": ["(", "-"], "pad_id": 0, "unk_id": 1}),
]


@pytest.mark.parametrize(("model_type", "file", "options"), MODEL_FILES)
def test_sentencepiece_file_alone(
    model_type: str, file: str, options: dict[str, Any], tmp_path: Path, strings: list[str]
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    if model_type == "albert":
        options = {**options, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in strings if 0 < len(text) < 2_000]),
        model_prefix=str(tmp_path / "made"),
        vocab_size=3000,
        hard_vocab_limit=False,
        character_coverage=0.98,
        minloglevel=2,
        **options,
    )
    (tmp_path / "made.model").rename(tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    ours, theirs = load_tokenizer(tmp_path), auto(tmp_path)
    assert_equal(ours, theirs, strings, [128])
    ours.save(tmp_path)
    (tmp_path / file).unlink()
    assert_equal(load_tokenizer(tmp_path), auto(tmp_path), strings[::10], [128])
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / file).write_bytes(b"\x0a\xff\x01")
    with pytest.raises(UserError, match="is not a readable SentencePiece unigram model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
        {"tokenizer_config.json": {"word_tokenizer_type": "mecab"}},
        {"config.json": {"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}},
        {"tokenizer_config.json": {"tokenizer_class": "BertweetTokenizer"}},
        {"tokenizer_config.json": {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": []}}},
    ],
)
def test_slow_classes_are_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    wordpiece_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]).save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"which has no fast tokenizer .*; use a model") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_types_must_have_rows(tmp_path: Path, train: Train) -> None:
    words = wordpiece_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    with pytest.raises(UserError, match="2 types of text apart but the model's type_vocab_size"):
        check_vocabulary(words, 5, 1)
    assert check_vocabulary(words, 5, 0) is check_vocabulary(words, 5, 2) is None
    roberta = load_tokenizer(write_folder(tmp_path / "model", CASES["roberta-space"], train, None))
    assert check_vocabulary(roberta, roberta.vocab_size, 1) is None
