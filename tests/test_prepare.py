"""Prepared corpora: what is in them, the same bytes however they were made, and bad input."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from test_errors import refused
from tiny import WORDS
from tokenizers import decoders, models, pre_tokenizers, trainers

from bertjax.cli import main as cli
from bertjax.corpus import shards
from bertjax.corpus.inputs import Reading, TextFile
from bertjax.corpus.prepare import Prepared, prepare
from bertjax.corpus.sentences import LANGUAGES, check_language, split_sentences
from bertjax.corpus.shards import Group, Preparation, group_files, read_parts, text_bytes
from bertjax.corpus.workers import run_local
from bertjax.data.documents import Corpus, tokenizer_hash
from bertjax.tokenizers import load_tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

SMALL = Preparation(shard_size=2000)


def sentence(draw: random.Random) -> str:
    words = [*WORDS[5:15], "好的", "Zürich", "cats"]
    return " ".join(draw.choices(words, k=draw.randint(3, 9))).capitalize() + "."


def paragraphs(draw: random.Random) -> list[str]:
    return [" ".join(sentence(draw) for _ in range(3)) for _ in range(draw.randint(1, 4))]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    wordpiece_tokenizer(WORDS).save(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large file, several small ones, and one that is compressed."""
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    for name, documents in {"a.txt": 60, "b.txt": 3, "c.txt": 4, "d.txt": 2}.items():
        text = "\n\n".join("\n".join(paragraphs(draw)) for _ in range(documents))
        (folder / name).write_text(text, encoding="utf-8")
    rows = [json.dumps({"text": "\n\n".join(paragraphs(draw))}) for _ in range(20)]
    (folder / "e.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode(), mtime=0))
    return folder


@pytest.fixture(scope="module")
def finished(texts: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "corpus"
    prepare(str(texts), str(vocabulary), folder, SMALL, workers=1)
    return folder


@pytest.fixture
def corpus(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished corpus, for a test to damage."""
    shutil.copytree(finished, tmp_path / "corpus")
    return tmp_path / "corpus"


def hashes(folder: Path) -> dict[str, str]:
    """The contents of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def sentences_of(corpus: Corpus) -> list[list[str]]:
    """The text of every sentence, by document."""
    decode = corpus.tokenizer().backend.decode
    documents = [corpus[index] for index in range(len(corpus))]
    split = [np.split(one.tokens, np.cumsum(one.lengths)[:-1]) for one in documents]
    return [[decode(tokens.tolist()) for tokens in document] for document in split]


# What is in a corpus.


def test_a_corpus_holds_the_sentences(vocabulary: Path, tmp_path: Path):
    source = write(tmp_path / "a.txt", "The cat runs. A dog sings.", "The bird.", "", "", "Here.")
    prepare(str(source), str(vocabulary), tmp_path / "corpus", workers=1)
    corpus = Corpus(tmp_path / "corpus")
    assert sentences_of(corpus) == [
        ["the cat runs.", "a dog sings.", "the bird."],
        ["here."],
    ]
    assert corpus.lengths().tolist() == [4, 4, 3, 0, 2, 0]
    assert corpus.manifest.words == "vocabulary"
    assert (corpus.manifest.documents, corpus.manifest.sentences) == (2, 4)
    assert corpus.manifest.tokens == 13


def test_lines_are_sentences_where_it_is_said(vocabulary: Path, tmp_path: Path):
    source = write(tmp_path / "a.txt", "The cat runs. A dog sings.", "The bird")
    lines = Preparation(sentences="lines")
    made = prepare(str(source), str(vocabulary), tmp_path / "corpus", lines, workers=1)
    assert Corpus(tmp_path / "corpus").lengths().tolist() == [8, 2, 0]
    assert made.manifest.settings["language"] is None


def test_nothing_is_truncated_and_no_text_is_a_special_token(vocabulary: Path, tmp_path: Path):
    source = write(tmp_path / "a.txt", "cat " * 5000 + "[MASK] [SEP]")
    prepare(str(source), str(vocabulary), tmp_path / "corpus", workers=1)
    tokens = Corpus(tmp_path / "corpus")[0].tokens
    assert (tokens[:5000] == WORDS.index("cat")).all()
    assert len(tokens) > 5005
    assert not {WORDS.index("[MASK]"), WORDS.index("[SEP]")} & set(tokens.tolist())


def test_the_text_marks_the_words(tmp_path: Path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"使用语言模型", "play", "##ing"]
    wordpiece_tokenizer(words).save(tmp_path)
    source = write(tmp_path / "a.txt", "使用 语言 模型 playing", "语言")
    marked = Preparation(sentences="lines", words="spaces")
    prepare(str(source), str(tmp_path), tmp_path / "corpus", marked, workers=1)
    corpus = Corpus(tmp_path / "corpus")
    document = corpus[0]
    assert corpus.manifest.words == "marked"
    assert [words[i] for i in document.tokens] == [*"使用语言模型", "play", "##ing", *"语言"]
    assert document.continues is not None
    assert document.continues.tolist() == [bool(i) for i in (0, 1, 0, 1, 0, 1, 0, 1, 0, 1)]


def test_documents_of_any_size_are_read_back(finished: Path, texts: Path):
    corpus = Corpus(finished)
    assert len(corpus) == 60 + 3 + 4 + 2 + 20
    assert len(corpus.manifest.shards) > 6
    lengths = corpus.lengths()
    ends = np.flatnonzero(lengths == 0)
    assert len(ends) == len(corpus)
    for index in (0, 59, 60, len(corpus) - 1):
        first = 0 if index == 0 else ends[index - 1] + 1
        assert corpus[index].lengths.tolist() == lengths[first : ends[index]].tolist()
    names = [shard.name for shard in corpus.manifest.shards]
    assert set(hashes(finished)) == {
        *(f"{name}.array_record" for name in names),
        *(f"{name}.lengths.npy" for name in names),
        *("manifest.json", "tokenizer/vocab.txt", "tokenizer/tokenizer.json"),
        *("tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"),
    }


def test_groups_and_parts_follow_from_sizes(tmp_path: Path):
    files = [
        TextFile(name, size) for name, size in zip("abcdef", (30, 5, 5, 12, 1, 1), strict=True)
    ]
    assert group_files(files, 10) == [["a"], ["b", "c"], ["d"], ["e", "f"]]
    documents = [["x" * 40], ["y" * 40], ["é" * 10, "z"], ["w"]]
    for name, some in {"1.txt": documents[:2], "2.txt": documents[2:]}.items():
        write(tmp_path / name, "\n\n".join("\n".join(one) for one in some))
    paths = [str(tmp_path / "1.txt"), str(tmp_path / "2.txt")]
    parts = list(read_parts(7, Group(paths, "key"), Preparation(shard_size=60)))
    assert [list(part.documents()) for part in parts] == [documents[:2], documents[2:]]
    assert [part.name for part in parts] == ["documents-00007-00000", "documents-00007-00001"]
    assert [part.last for part in parts] == [False, True]
    assert text_bytes(documents[2]) == 20 + 1 + 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Smith came. He left!", ["Mr. Smith came.", "He left!"]),
        ("Mr.\xa0J. Smith came.\u3000He left.", ["Mr.\xa0J. Smith came.", "He left."]),
        ("   ", []),
    ],
)
def test_sentences_are_split(text: str, expected: list[str]):
    assert split_sentences(text, "en") == expected


def test_no_text_stops_the_splitter():
    """A panic of sentencex is no Exception."""
    draw = random.Random(0)
    characters = "aB. !?。\u0300\u200d😀\"'()[]…;:\n\t\x00\x85\u2028ß9-é\u3000\xa0،؟।A.B"
    for language in LANGUAGES.split():
        for _ in range(300):
            text = "".join(draw.choices(characters, k=20))
            kept = "".join(split_sentences(text, language))
            assert "".join(kept.split()) == "".join(text.split())


def test_languages():
    assert check_language("de") is None
    assert "no rules of its own for 'zh-hant'" in (check_language("zh-hant") or "")
    with pytest.raises(UserError, match="--language=English is not a language code"):
        check_language("English")


# The same bytes.


def test_any_number_of_processes_makes_the_same_bytes(
    texts: Path, vocabulary: Path, finished: Path, tmp_path: Path
):
    prepare(str(texts), str(vocabulary), tmp_path / "corpus", SMALL, workers=3)
    assert hashes(tmp_path / "corpus") == hashes(finished)


def test_the_place_does_not_matter(texts: Path, vocabulary: Path, finished: Path, tmp_path: Path):
    shutil.copytree(texts, tmp_path / "elsewhere")
    prepare(str(tmp_path / "elsewhere"), str(vocabulary), tmp_path / "corpus", SMALL, workers=1)
    assert hashes(tmp_path / "corpus") == hashes(finished)


def test_a_unigram_model_is_the_same_for_all(texts: Path, tmp_path: Path):
    """Reading one from JSON changes its scores in their last bit."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train([str(texts / "a.txt")], trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    first, second = tmp_path / "first", tmp_path / "second"
    prepare(str(texts), str(tmp_path), first, SMALL, workers=1)
    prepare(str(texts), str(tmp_path), second, SMALL, workers=2)
    assert hashes(first) == hashes(second)
    Corpus(first).check_tokenizer(load_tokenizer(str(tmp_path)), "the given one")
    fresh = dataclasses.replace(load_tokenizer(str(tmp_path)), backend=backend)
    assert tokenizer_hash(fresh) == tokenizer_hash(pickle.loads(pickle.dumps(fresh)))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text that takes some seconds."""
    folder, draw = tmp_path_factory.mktemp("many"), random.Random(1)
    documents = ["\n".join(paragraphs(draw)) for _ in range(400)]
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("\n\n".join(documents * 20), encoding="utf-8")
    return folder


def test_killed_five_times_it_ends_with_the_same_bytes(
    many: Path, vocabulary: Path, tmp_path: Path
):
    draw = random.Random(time.time_ns())
    folder, size = tmp_path / "killed", 200_000
    command = [sys.executable, "-m", "bertjax", "prepare", f"--input={many}", "--workers=2"]
    command += [f"--tokenizer={vocabulary}", f"--output={folder}", f"--shard_size={size}"]
    counts = [0]
    for number in range(5):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(records(folder)) > counts[-1])
        time.sleep(draw.random() * 0.2)
        # Either all processes at once, or the one alone that the others depend on.
        (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        counts.append(len(records(folder)))
    assert not (folder / "manifest.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = Preparation(shard_size=size)
    prepare(str(many), str(vocabulary), tmp_path / "whole", whole, workers=2)
    assert len(Corpus(folder).manifest.shards) > counts[-1] >= 5
    assert hashes(folder) == hashes(tmp_path / "whole")


def records(folder: Path) -> list[Path]:
    return list((folder / "progress").glob("documents-*.json"))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# Running it again.


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that are written from now on."""
    written: list[str] = []
    before = shards.write_shard

    def write_shard(part: shards.Part, *rest: Any) -> None:
        written.append(part.name)
        before(part, *rest)

    monkeypatch.setattr(shards, "write_shard", write_shard)
    return written


def test_again_nothing_is_done(
    texts: Path, vocabulary: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
):
    before, written = hashes(corpus), counted(monkeypatch)
    made = prepare(str(texts), str(vocabulary), corpus, SMALL, workers=1)
    assert made.was_done
    assert not written
    assert hashes(corpus) == before


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


NAME = "documents-00000-00002"
DAMAGE: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "cut off": (f"{NAME}.array_record", cut_off, [NAME]),
    "flipped": (f"{NAME}.array_record", flip, [NAME]),
    "missing": (f"{NAME}.array_record", Path.unlink, [NAME]),
    "lengths cut off": (f"{NAME}.lengths.npy", cut_off, [NAME]),
    "lengths flipped": (f"{NAME}.lengths.npy", flip, [NAME]),
    "tokenizer": ("tokenizer/tokenizer.json", cut_off, []),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_only_what_is_spoilt_is_made_again(
    kind: str, texts: Path, vocabulary: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
):
    before, written = hashes(corpus), counted(monkeypatch)
    name, damage, expected = DAMAGE[kind]
    damage(corpus / name)
    assert hashes(corpus) != before
    prepare(str(texts), str(vocabulary), corpus, SMALL, workers=1)
    assert written == expected
    assert hashes(corpus) == before


@pytest.mark.parametrize("damage", [cut_off, Path.unlink])
def test_a_spoilt_manifest_is_made_again(
    damage: Callable[[Path], None], texts: Path, vocabulary: Path, corpus: Path
):
    before = hashes(corpus)
    damage(corpus / "manifest.json")
    prepare(str(texts), str(vocabulary), corpus, SMALL, workers=1)
    assert hashes(corpus) == before


def test_other_bytes_than_before_are_refused(
    texts: Path, vocabulary: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
):
    (corpus / f"{NAME}.array_record").unlink()
    monkeypatch.setattr(shards, "OPTIONS", "group_size:1,zstd:9")
    with pytest.raises(UserError, match="made again are others than before"):
        prepare(str(texts), str(vocabulary), corpus, SMALL, workers=1)


def test_documents_without_tokens_are_left_out(vocabulary: Path, tmp_path: Path):
    for number in range(3):
        write(tmp_path / f"{number}.txt", "\u200b\u200b" * 50 if number == 1 else "The cat.")
    given = (str(tmp_path / "*.txt"), str(vocabulary), tmp_path / "corpus")
    made = prepare(*given, Preparation(shard_size=1), workers=1)
    assert [s.name for s in made.manifest.shards] == [
        "documents-00000-00000",
        "documents-00002-00000",
    ]
    assert Corpus(tmp_path / "corpus").lengths().tolist() == [3, 0, 3, 0]
    assert prepare(*given, Preparation(shard_size=1), workers=1).was_done


# The command, and what it refuses.


@dataclasses.dataclass(frozen=True)
class Given:
    """A command that is right, and a folder in which a test may make it wrong."""

    folder: Path
    vocabulary: Path

    def command(self, *changes: str) -> list[str]:
        source, target = self.folder / "text", self.folder / "corpus"
        flags = [f"--input={source}", f"--tokenizer={self.vocabulary}", f"--output={target}"]
        return ["prepare", *flags, "--workers=1", *changes]


@pytest.fixture
def given(vocabulary: Path, tmp_path: Path) -> Given:
    (tmp_path / "text").mkdir()
    write(tmp_path / "text" / "a.txt", "The cat runs. A dog sings.", "", "A bird.")
    return Given(tmp_path, vocabulary)


def test_the_command_tells_what_it_made(given: Given, capsys: pytest.CaptureFixture[str]):
    assert cli.main(given.command("--workers=2")) == 0
    out = capsys.readouterr().out
    assert "2 documents, 3 sentences, 11 tokens (3.7 a sentence) in 1 shards" in out
    assert f"--config.data={given.folder / 'corpus'}" in out
    assert cli.main(given.command()) == 0
    assert "is prepared already, and whole" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_that_are_not_utf8(given: Given, workers: int, capsys: pytest.CaptureFixture[str]):
    path = given.folder / "text" / "b.txt"
    path.write_bytes(b"The dog.\n\nA \xff cat.\n")
    command = given.command("--shard_size=1", f"--workers={workers}")
    assert f"{path}:3 is not UTF-8 at byte 12" in refused(command, capsys)
    assert len(records(given.folder / "corpus")) >= 2  # what came before is kept
    shutil.rmtree(given.folder / "corpus")
    assert cli.main([*command, "--errors=replace"]) == 0
    assert len(Corpus(given.folder / "corpus")) == 4


BAD: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "binary": (
        lambda folder: (folder / "b.txt").write_bytes(b"\x7fELF\x00\x00\x01"),
        [],
        "it is binary or not UTF-8",
    ),
    "a line of 100 MB": (
        lambda folder: (folder / "b.txt").write_bytes(b"cat " * 25_000_000),
        [],
        "b.txt:1 is a line of more than 16777216 bytes",
    ),
    "no text": (lambda folder: write(folder / "a.txt", "", "  ", ""), [], "hold no text"),
    "no file": (lambda folder: (folder / "a.txt").unlink(), [], "no file matches"),
    "not JSON": (lambda folder: write(folder / "b.jsonl", "{cat}"), [], "b.jsonl:1 is not JSON"),
    "language": (lambda _: None, ["--language=German"], "is not a language code"),
    "shard size": (lambda _: None, ["--shard_size=0"], "leaves no text"),
    "workers": (lambda _: None, ["--workers=0"], "does no work"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_text_is_told_in_one_sentence(
    kind: str, given: Given, capsys: pytest.CaptureFixture[str]
):
    spoil, flags, expected = BAD[kind]
    spoil(given.folder / "text")
    assert expected in refused(given.command(*flags), capsys)


def test_empty_documents_are_left_out(given: Given):
    rows = [{"text": ""}, {"text": " \n\n "}, {"text": "The cat."}]
    write(given.folder / "text" / "b.jsonl", *map(json.dumps, rows))
    assert cli.main(given.command()) == 0
    assert len(Corpus(given.folder / "corpus")) == 3


def without_mask(folder: Path) -> Path:
    folder.mkdir()
    write(folder / "vocab.txt", *(word for word in WORDS if word != "[MASK]"))
    return folder


def byte_level(folder: Path) -> Path:
    folder.mkdir()
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the cat sings"] * 3, trainer)
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    ("make", "flags", "expected"),
    [
        (without_mask, [], "has no mask token"),
        (byte_level, ["--words=spaces"], "tells words by the space before them"),
        (lambda folder: folder, [], "there is no folder"),
    ],
)
def test_tokenizers_of_no_use(
    make: Callable[[Path], Path],
    flags: list[str],
    expected: str,
    given: Given,
    capsys: pytest.CaptureFixture[str],
):
    folder = make(given.folder / "other")
    assert expected in refused(given.command(f"--tokenizer={folder}", *flags), capsys)


def other_text(given: Given) -> list[str]:
    write(given.folder / "text" / "a.txt", "The dog runs. A cat sings.", "", "A bird.")
    return []


def other_tokenizer(given: Given) -> list[str]:
    folder = given.folder / "other"
    folder.mkdir()
    wordpiece_tokenizer([*WORDS, "new"]).save(folder)
    return [f"--tokenizer={folder}"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: ["--language=de"], "(language: en there, de here)"),
        (lambda _: ["--sentences=lines", "--errors=replace"], "errors: strict there, replace here"),
        (other_text, "(inputs: 1 files of 35 bytes with hash"),
        (other_tokenizer, "(another tokenizer)"),
    ],
)
def test_other_settings_than_before_are_named(
    change: Callable[[Given], list[str]],
    expected: str,
    given: Given,
    capsys: pytest.CaptureFixture[str],
):
    assert cli.main(given.command()) == 0
    sentence = refused(given.command(*change(given)), capsys)
    assert "holds a corpus that was prepared otherwise" in sentence
    assert expected in sentence


def test_what_was_begun_goes_on_with_mended_text(
    given: Given, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    command, bad = given.command("--shard_size=20"), given.folder / "text" / "b.txt"
    write(given.folder / "text" / "c.txt", "A child sings here.")
    bad.write_bytes(b"The \xff bird.")
    refused(command, capsys)
    write(bad, "The tiny bird.")
    written = counted(monkeypatch)
    assert cli.main(command) == 0
    assert written == ["documents-00001-00000"]  # b.txt and c.txt; a.txt is kept
    assert cli.main(given.command("--shard_size=20", f"--output={given.folder / 'new'}")) == 0
    assert hashes(given.folder / "new") == hashes(given.folder / "corpus")


def test_what_was_begun_goes_on_with_bytes_replaced(
    given: Given, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (given.folder / "text" / "b.txt").write_bytes(b"A \xff cat.")
    command = given.command("--shard_size=20")
    refused(command, capsys)
    written = counted(monkeypatch)
    sentence = refused([*command, "--errors=replace", "--language=de"], capsys)
    assert "(language: en there, de here)" in sentence
    assert cli.main([*command, "--errors=replace", f"--max_line={1 << 25}"]) == 0
    assert written == ["documents-00001-00000"]
    assert "errors: replace there, strict here" in refused(command, capsys)


def test_a_place_of_something_else(given: Given, capsys: pytest.CaptureFixture[str]):
    taken = given.folder / "corpus"
    taken.touch()
    assert "is a file" in refused(given.command(), capsys)
    taken.unlink()
    taken.mkdir()
    (taken / "photo.jpg").touch()
    assert "something else than a prepared corpus ('photo.jpg')" in refused(given.command(), capsys)


def test_two_at_once_are_refused(given: Given, capsys: pytest.CaptureFixture[str]):
    import fcntl

    (given.folder / "corpus" / "progress").mkdir(parents=True)
    with open(given.folder / "corpus" / "progress" / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process prepares" in refused(given.command(), capsys)
    assert cli.main(given.command()) == 0


def test_a_corpus_that_was_changed_since(given: Given):
    assert cli.main(given.command()) == 0
    folder = given.folder / "corpus"
    path = folder / "documents-00000-00000.array_record"
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(
        UserError, match="was cut off or changed; remove it and run bertjax prepare"
    ):
        Corpus(folder)
    path.write_bytes(content)
    wordpiece_tokenizer([*WORDS, "new"]).save(folder / "tokenizer")
    with pytest.raises(UserError, match="was prepared with another tokenizer"):
        Corpus(folder).tokenizer()


def test_a_killed_worker_is_told(given: Given, monkeypatch: pytest.MonkeyPatch):
    def die(job: shards.Job, watch: shards.Watch) -> None:
        fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
        run_local(Deadly(**fields), 2, watch)

    with pytest.raises(UserError, match="was killed, perhaps for want of memory"):
        prepare(str(given.folder / "text"), str(given.vocabulary), given.folder / "o", run=die)


class Deadly(shards.Job):
    """A job that kills its process."""

    def encoder(self) -> shards.Encoder:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_full_disk(
    given: Given, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    class Full:
        """What ArrayRecord raises on a full disk, word for word."""

        def __init__(self, *_: str):
            pass

        def write(self, _: bytes) -> None:
            pass

        def close(self) -> None:
            raise RuntimeError("write() failed: No space left on device; writing x; at byte 307200")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", Full)
    place = given.folder / "corpus"
    sentence = refused(given.command(), capsys)
    assert sentence.startswith(f"No space left on device: {place}; free some space and run the")
    monkeypatch.undo()
    assert cli.main(given.command()) == 0


def test_real_text(data_folder: Path, minilm_folder: Path, tmp_path: Path):
    source = data_folder / "corpus" / "sample_text.txt"
    if not source.exists():
        pytest.skip("the corpus is missing from BERTJAX_DATA")
    lines = Preparation(Reading("text"), sentences="lines")
    made: Prepared = prepare(str(source), str(minilm_folder), tmp_path / "corpus", lines, workers=1)
    documents = [part.split("\n") for part in source.read_text().strip().split("\n\n")]
    assert made.manifest.documents == len(documents)
    assert made.manifest.sentences == sum(map(len, documents))
    corpus = Corpus(tmp_path / "corpus")
    tokenizer = load_tokenizer(str(minilm_folder))
    for index, document in enumerate(documents):
        expected = [
            tokenizer.backend.encode(line, add_special_tokens=False).ids for line in document
        ]
        assert corpus[index].tokens.tolist() == [i for ids in expected for i in ids]
