"""``bertjax vocab``: three kinds that transformers and bertjax read alike, the same each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from memory import needs_mallinfo, told
from tokenizers import normalizers

from bertjax.cli import main as cli
from bertjax.corpus.characters import choose_letters, letters, survey, without_rare
from bertjax.corpus.inputs import Reading, read_documents
from bertjax.corpus.vocabulary import KINDS, SPECIAL, VocabularySettings
from bertjax.tokenizers import load_tokenizer
from bertjax.types import UserError

HOSTILE = [
    "",
    " ",
    "\t\n \r\n",
    "a",
    "\u200b\u00ad\ufeff",
    "\u0000\ufffd\u0007",
    "e\u0301 é É ﬁ Ⅷ ß İ ı",
    "ＦＵＬＬ　ｗｉｄｔｈ",
    "한국어 조선말",
    "नमस्ते العربية עברית",
    "👩‍👩‍👧‍👦🇫🇷🦓",
    "中文字没有空格。「」",
    "``quoted'' ''twice``",
    "Don't   stop... (now!)  ",
    "[MASK] <mask> [CLS]</s><s><unk>[UNK] [PAD]",
    "x[MASK]y a <mask>b [unused0] [unused1]",
    "▁ ▁▁ under_score Ġ Ċ ##ing",
    "x" * 101,
    "word " * 200 + "end",
    "https://example.org/a?b=c&d=%20#e",
    "\U0001f3f4\U000e0067\U000e0062\U0010ffff",
]
COMMON = ["--size=2000", "--alphabet=900"]


def sentences(data_folder: Path) -> list[str]:
    """English, French and Chinese, a few hundred of each."""
    wiki = read_documents(str(data_folder / "corpus" / "enwiki.jsonl.xz"), Reading())
    english = [text[:400] for _ in range(30) for text in next(wiki)][:300]
    rows = (data_folder / "wikiann-fr" / "dev").read_text(encoding="utf-8").split("\n\n")[:400]
    french = [" ".join(line.split(" ")[0] for line in row.split("\n")) for row in rows]
    reviews = data_folder / "chnsenticorp" / "dev.tsv"
    chinese = reviews.read_text(encoding="utf-8").split("\n")[1:250]
    return [text.strip() for text in [*english, *french, *chinese] if text.strip()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text without any data folder: the sentences of this repository's own docstrings."""
    from bertjax.data.python_text import collect

    texts = [s for passage in collect(["python"], 300) for s in passage.sentences]
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(
        "\n\n".join([*texts, "naïve café ÉTÉ 中文 中国 «ça» 3,14"] * 2), encoding="utf-8"
    )
    return path


def run(*arguments: str) -> int:
    return cli.main(["vocab", *arguments])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("wordpiece", ["--lower_case", "--unused=7"]),
        ("wordpiece", ["--strip_accents=true"]),
        ("byte_bpe", []),
        ("unigram", ["--lower_case"]),
        ("unigram", ["--strip_accents=false", "--lower_case"]),
        ("unigram", []),
    ],
)
def test_transformers_reads_the_same(data_folder: Path, tmp_path: Path, kind: str, more: list[str]):
    transformers = pytest.importorskip("transformers")
    texts = sentences(data_folder)
    source = tmp_path / "text.txt"
    source.write_text("\n".join(texts), encoding="utf-8")
    flags = COMMON[: 1 + (kind != "byte_bpe")]
    output = tmp_path / "tokenizer"
    assert run(f"--input={source}", f"--output={output}", f"--kind={kind}", *flags, *more) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(str(output))
    ours = load_tokenizer(output)
    assert len(theirs) == ours.vocab_size == 2000
    for text in [*texts, *HOSTILE]:
        token_ids, type_ids = ours.encode(text, max_length=512)
        expected = theirs(text, max_length=512, truncation=True, return_token_type_ids=True)
        assert token_ids.tolist() == expected["input_ids"], text
        assert type_ids.tolist() == expected["token_type_ids"], text
    pair = ours.encode(texts[0], texts[-1], max_length=4096)[0]
    assert pair.tolist() == theirs(texts[0], texts[-1])["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_same_text_same_files(corpus: Path, tmp_path: Path, kind: str):
    """In another process, whose hash tables are in another order, also over other contents."""
    first, second = tmp_path / "first", tmp_path / "second"
    flags = [f"--input={corpus}", f"--kind={kind}", "--size=700"]
    assert run(*flags, f"--output={first}") == 0
    assert run(f"--input={corpus}", "--kind=wordpiece", "--size=300", f"--output={second}") == 0
    command = [sys.executable, "-m", "bertjax", "vocab", *flags, f"--output={second}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert not list(tmp_path.glob(".*"))


def test_wordpiece_folder(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = [f"--input={corpus}", f"--output={tmp_path / 'v'}", "--size=900", "--unused=20"]
    assert run(*flags, "--lower_case", "--alphabet=90") == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert f"next: bertjax prepare --input={corpus} --tokenizer={tmp_path / 'v'}" in told.out
    assert told.out.startswith("900 tokens from ")
    words = (tmp_path / "v" / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(words) == len(set(words)) == 900
    head = (*SPECIAL["wordpiece"], *(f"[unused{number}]" for number in range(20)))
    assert tuple(words[:25]) == head
    assert not any(word != word.lower() for word in words[25:])
    assert not {"##.", "##,", "##中"} & {*words}, "these never go on with a word"
    assert "naïve" not in words
    tokenizer = load_tokenizer(tmp_path / "v")
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.mask_id) == (0, 2, 4)


def test_cased_keeps_case_and_accents(corpus: Path, tmp_path: Path):
    for name, flags in (("cased", []), ("bare", ["--strip_accents=true"])):
        assert run(f"--input={corpus}", f"--output={tmp_path / name}", *flags, "--size=4000") == 0
    cased = load_tokenizer(tmp_path / "cased").backend
    assert {"É", "é", "ï", "中"} <= cased.get_vocab().keys()
    assert cased.encode("naïve ÉTÉ", add_special_tokens=False).tokens == ["naïve", "ÉTÉ"]
    bare = load_tokenizer(tmp_path / "bare").backend
    assert not {"É", "é", "ï"} & bare.get_vocab().keys()
    assert bare.encode("naïve ÉTÉ", add_special_tokens=False).tokens == ["naive", "ETE"]


def test_special_tokens_have_their_first_ids(corpus: Path, tmp_path: Path):
    for kind in KINDS:
        output = tmp_path / kind
        assert run(f"--input={corpus}", f"--output={output}", f"--kind={kind}", "--size=600") == 0
        backend = load_tokenizer(output).backend
        assert tuple(backend.id_to_token(index) for index in range(5)) == SPECIAL[kind]


def test_no_byte_is_unknown_to_byte_bpe(corpus: Path, tmp_path: Path):
    assert run(f"--input={corpus}", f"--output={tmp_path}", "--kind=byte_bpe", "--size=300") == 0
    backend = load_tokenizer(tmp_path).backend
    for text in HOSTILE:
        assert backend.token_to_id("<unk>") not in backend.encode(text.replace("<unk>", "")).ids
    assert backend.decode(backend.encode(HOSTILE[10]).ids) == HOSTILE[10]
    assert {"vocab.json", "merges.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_several_files_and_a_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        rows = [json.dumps({"body": f"{name}word {name}word"}) for _ in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    flags = [f"--input={tmp_path}/*.jsonl", "--field=body", "--size=100"]
    assert run(*flags, f"--output={tmp_path / 'v'}") == 0
    told = capsys.readouterr().out
    assert "fewer than 100" in told
    assert "1.00 tokens a word, 5.50 characters a token, 0.00% unknown" in told
    assert {"aword", "bword"} <= load_tokenizer(tmp_path / "v").backend.get_vocab().keys()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--kind=byte_bpe", "--lower_case"], "--lower_case and --strip_accents are not for byte"),
        (["--kind=byte_bpe", "--alphabet=9"], "--alphabet is not for byte_bpe"),
        (["--kind=byte_bpe", "--size=261"], "--size=261 has no room for words beside 5 special"),
        (["--kind=unigram", "--min_frequency=2"], "--min_frequency is not for unigram"),
        (["--kind=unigram", "--unused=2"], "--unused is for wordpiece alone"),
        (["--kind=unigram", "--size=20", "--alphabet=30"], "--size=20 has no room for words besid"),
        (["--size=40", "--alphabet=30"], "--size=40 has no room for words beside 5 special tokens"),
        (["--size=900", "--unused=994"], "--size=900 has no room for words beside 999 special"),
        (["--size=0"], "--size=0 has no room"),
        (["--unused=-1"], "--unused=-1 is below 0; give 0 or more"),
        (["--min_frequency=-1"], "--min_frequency=-1 is below 0"),
        (["--alphabet=0"], "--alphabet=0 leaves no character; give at least 1"),
        (["--max_line=0"], "max_line=0 allows no line"),
        (["--max_line=10"], "is a line of more than 10 bytes"),
        (["--format=jsonl"], "corpus.txt:1 is not JSON ("),
        (["--input=/no/such/*.txt"], "no file matches '/no/such/*.txt'"),
        (["--output=gs://bucket/v"], "--output=gs://bucket/v is not on this machine; write here"),
        (["--kind=bpe"], "--kind=bpe is not one of the choices; known: byte_bpe, unigram, word"),
    ],
)
def test_mistakes(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
):
    assert run(f"--input={corpus}", f"--output={tmp_path / 'v'}", *flags) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_text_without_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.txt").write_text(" \n\n\r\n", encoding="utf-8")
    for kind in KINDS:
        flags = [f"--input={tmp_path / 'a.txt'}", f"--output={tmp_path / 'v'}", f"--kind={kind}"]
        assert run(*flags) == 2
        assert "the input holds no text; check --input, --format and" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a", "\u200b", "\u00ad \u0301", "a\nb\nc", "中", "x" * 5000])
def test_very_little_text(tmp_path: Path, kind: str, text: str, capsys: Any):
    """A vocabulary, or a sentence that says why there is none."""
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    flags = [f"--input={tmp_path / 'a.txt'}", f"--output={tmp_path / 'v'}", f"--kind={kind}"]
    code = run(*flags, "--size=400", *["--lower_case"] * (kind != "byte_bpe"))
    error = capsys.readouterr().err
    assert (code, error) == (0, "") or (code == 2 and error.count("\n") == 1)
    if code == 0:
        load_tokenizer(tmp_path / "v").encode(text, max_length=9)


def test_the_output_folder(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = [f"--input={corpus}", "--size=300"]
    mine, other, file = tmp_path / "mine", tmp_path / "other", tmp_path / "file"
    other.mkdir()
    (other / "vocab.txt").write_text("precious", encoding="utf-8")
    file.write_text("precious", encoding="utf-8")
    assert run(*flags, f"--output={other}") == 2
    assert "holds files that bertjax vocab did not write, such as vocab.txt" in (
        capsys.readouterr().err
    )
    assert run(*flags, f"--output={file}") == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert run(*flags, f"--output={mine}") == 0
    assert run(*flags, f"--output={mine}", "--kind=byte_bpe") == 0
    assert not (mine / "vocab.txt").exists()
    (mine / "model.safetensors").write_text("precious", encoding="utf-8")
    capsys.readouterr()
    assert run(*flags, f"--output={mine}") == 2
    assert "such as model.safetensors; name a new folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "other", "file"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(corpus: Path, tmp_path: Path, capsys: Any):
    tmp_path.chmod(0o500)
    assert run(f"--input={corpus}", "--size=300", f"--output={tmp_path / 'v'}") == 2
    assert "cannot write the vocabulary to" in capsys.readouterr().err


def test_a_disk_that_refuses(corpus: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert run(f"--input={corpus}", "--size=300", f"--output={tmp_path / 'file' / 'v'}") == 2
    assert "cannot write the vocabulary to" in capsys.readouterr().err


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.BertNormalizer(),
        normalizers.BertNormalizer(lowercase=False),
        normalizers.BertNormalizer(lowercase=False, strip_accents=True),
        normalizers.Sequence(
            [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        ),
    ],
)
def test_letters_are_those_of_the_normalised_text(normalizer: normalizers.Normalizer):
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
    text = "".join(HOSTILE) + every + every[::-1] + every[::7]
    expected = Counter(normalizer.normalize_str(text))
    found = letters(survey([text[:9], text[9:]]), normalizer)
    assert found == {x: n for x, n in expected.items() if not x.isspace()}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_letters_are_chosen_by_share_or_number():
    counts = {"a": 5000, "b": 4000, "c": 999, "d": 1}
    assert choose_letters(counts, 2, 99, len) == ["a", "b"]
    assert choose_letters(counts, 9, 0, len) == ["a", "b", "c", "d"]
    assert choose_letters(counts, None, 99, len) == ["a", "b", "c"]
    assert choose_letters(counts, None, 4, lambda letter: 2) == ["a", "b"]


def test_rare_characters_become_spaces():
    texts = ["abc xyz", "É ab", "clean"]
    normalizer = normalizers.BertNormalizer()
    kept = "abcleanxy"
    assert list(without_rare(texts, survey(texts), normalizer, kept)) == [
        "abc xy ",
        "É ab",
        "clean",
    ]


def test_a_sample_comes_from_everywhere():
    texts = [f"{number} " + "x" * 5000 for number in range(7000)]
    found = survey(texts)
    assert found.paragraphs == 7000
    assert found.characters == sum(map(len, texts))
    assert 500 < len(found.sample) <= 1000
    numbers = [int(text.split()[0]) for text in found.sample]
    assert (numbers[0], numbers[-1]) > (-1, 6900)
    assert max(map(len, found.sample)) == 2000


def test_settings_say_what_they_refuse():
    with pytest.raises(UserError, match="there is no kind 'bpe'"):
        VocabularySettings(kind="bpe")


GROWTH = """
import sys
from memory import peak
from bertjax.corpus.characters import survey
from bertjax.corpus.vocabulary import VocabularySettings, train
part = [f"Some words number {i % 977} and more {'qwertzuiop'[i % 7:]}." for i in range(999)]
times = int(sys.argv[1])
texts = lambda: (f" {text}" for _ in range(times) for text in part)
settings = VocabularySettings(kind=sys.argv[2], size=400)
print(peak(lambda: train(settings, survey(texts()), texts)))
"""


@needs_mallinfo
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_text(kind: str):
    """From 6 to 25 MB, with as many different words."""
    assert told(GROWTH, "640", kind) < 1.1 * told(GROWTH, "160", kind)
