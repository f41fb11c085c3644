"""Raw text: four forms, four compressions, every mistake told, and memory that stays flat."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax.corpus import inputs
from bertjax.corpus.files import _zstd
from bertjax.corpus.inputs import Reading, TextFile, detect_form, find_inputs, read_documents
from bertjax.types import UserError

DOCUMENTS = [["Anarchism", "It is a word.", "Zwei Wörter: 中文."], ["Second 🦓 one"]]
TEXT = "\n\nAnarchism\n  It is a word. \nZwei Wörter: 中文.\n \t\n\nSecond 🦓 one\n\n"
EXTRACTOR = (
    '<doc id="12" url="x" title="Anarchism">\nAnarchism\n\nIt is a word.\n\nZwei Wörter: 中文.\n'
    '</doc>\n<doc id="13" title="Empty">\n\n</doc>\n\n<doc id="14" title="B">\nSecond 🦓 one\n'
    "</doc>\n"
)
JSONL = "".join(
    json.dumps({"id": 1, "text": text}, ensure_ascii=ascii) + "\n"
    for text, ascii in (
        ("Anarchism\n\n It is a word.\r\nZwei Wörter: 中文.\n", False),
        (" \n", False),
        ("Second 🦓 one", True),
    )
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: _zstd().compress(data),
}


def write(folder: Path, name: str, data: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def read(path: str, **settings: object) -> list[list[str]]:
    return list(read_documents(path, Reading(**settings)))  # pyright: ignore[reportArgumentType]


def sentence(path: str, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    told = str(caught.value)
    assert path in told
    assert "\n" not in told
    return told.replace(path, "FILE")


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize(
    ("name", "form", "data"),
    [
        ("a.txt", "text", TEXT),
        ("wiki_00", "extractor", EXTRACTOR),
        ("a.jsonl", "jsonl", JSONL),
        ("a.JSON", "jsonl", JSONL),
        ("wiki_01", "jsonl", JSONL),
    ],
)
def test_forms_and_compressions(tmp_path: Path, name: str, form: str, data: str, ending: str):
    for newline, mark in (("\n", ""), ("\r\n", "\ufeff")):
        content = (mark + data.replace("\n", newline)).encode()
        path = write(tmp_path, name + ending, PACK[ending](content))
        assert detect_form(path) == form
        assert read(path) == read(path, form=form) == DOCUMENTS


def test_a_file_is_one_document(tmp_path: Path):
    path = write(tmp_path, "book.txt", TEXT)
    assert read(path, form="file") == [[line for document in DOCUMENTS for line in document]]


def test_the_last_line_may_lack_its_end(tmp_path: Path):
    for name, data in (("a.txt", TEXT), ("b", EXTRACTOR), ("c.jsonl", JSONL)):
        assert read(write(tmp_path, name, data.rstrip())) == DOCUMENTS


@pytest.mark.parametrize("data", ["", "\n \r\n\t\n", "\ufeff"])
def test_no_text_is_no_document(tmp_path: Path, data: str):
    assert read(write(tmp_path, "a.txt", data)) == []
    assert read(write(tmp_path, "a.jsonl", data)) == []


def test_blocks_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [
        write(tmp_path, name, data)
        for name, data in (("a.txt", "\ufeff" + TEXT), ("b", EXTRACTOR), ("c.jsonl", JSONL))
    ]
    for size in (1, 2, 3, 7, 16, 64):
        monkeypatch.setattr("bertjax.corpus.files.read_chunk", _small_chunks(size))
        assert [read(path) for path in paths] == [DOCUMENTS] * 3


def _small_chunks(most: int) -> Callable[..., bytes]:
    return lambda file, path, offset, size=0: file.read(most)


def test_another_field(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"text": 3, "body": "Hello\\nyou"}\n')
    assert read(path, field="body") == [["Hello", "you"]]


def test_a_huge_document_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "MAX_DOCUMENT", 20)
    lines = [f"line number {number}" for number in range(5)]
    cut = [lines[:2], lines[2:4], lines[4:]]
    plain = "\n".join(lines)
    assert read(write(tmp_path, "a.txt", plain)) == cut
    assert read(write(tmp_path, "b.txt", plain), form="file") == cut
    assert read(write(tmp_path, "c", f'<doc id="1">\n{plain}\n</doc>\n')) == cut


def test_replaced_bytes(tmp_path: Path):
    path = write(tmp_path, "a.txt", b"caf\xe9 au lait\n\nnext\n")
    assert read(path, errors="replace") == [["caf\ufffd au lait"], ["next"]]
    path = write(tmp_path, "a.jsonl", '{"text": "half \\ud83d of it"}\n')
    assert read(path, errors="replace") == [["half \ufffd of it"]]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n\x00\x00", "holds a NUL byte at byte 8, so it is binary"),
        ("a.txt", "Text".encode("utf-16"), "holds a NUL byte at byte 3, so it is binary or not"),
        ("a.txt", b"ok\n\nbad \xff here\n", "FILE:3 is not UTF-8 at byte 8; save the file as"),
        ("a.txt", b"\xef\xbb\xbfok\nbad \xff", "FILE:2 is not UTF-8 at byte 10; save"),
        (
            "a.gz",
            gzip.compress(b"bad \xff", mtime=0),
            "is not UTF-8 at byte 4 of its decompressed text",
        ),
        ("a.txt", "x" * 30 + "\n" + "y" * 200, "FILE:2 is a line of more than 100 bytes; break"),
        ("a.txt", "x\n" * 80 + "y" * 200 + "\nz", "FILE:81 is a line of more than 100 bytes"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "a"\n', "FILE:3 is not JSON (Expecting ',' delim"),
        ("a.jsonl", "[" * 90 + "\n", "FILE:1 is not JSON (Expecting value at column 91); mend"),
        ("a.jsonl", '["text"]\n', "FILE:1 is not a JSON object with named fields; mend or"),
        ("a.jsonl", '{"txt": "a"}', "FILE:1 has no field 'text' (--field); did you mean 'txt'?"),
        ("a.jsonl", '{"b": 1, "a": 2}', "has no field 'text' (--field); known: a, b"),
        ("a.jsonl", "{}", "FILE:1 has no field 'text' (--field); it is empty"),
        ("a.jsonl", '{"text": null}', "FILE:1: the field 'text' holds null, not text; mend"),
        ("a.jsonl", '{"text": ["a"]}', "FILE:1: the field 'text' holds list, not text; mend"),
        ("a.jsonl", '{"text": "\\ud83d"}', "FILE:1 holds half of a character (a lone surrogate)"),
        ("wiki", '<doc id="1">\nA\n', "FILE:1: the document that begins here has no </doc>; get"),
        ("wiki", '<doc id="1">\nA\n<doc id="2">\n', "FILE:1: the document that begins here has"),
        ("wiki", '<doc id="1">\nA\n</doc>\n\nstray\n', "FILE:5 is outside of <doc ...> and </doc>"),
        ("wiki", '<doc id="1">\nA\n</doc>\n</doc>\n', "FILE:4 is outside of <doc ...>"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, data: str | bytes, words: str):
    assert words in sentence(write(tmp_path, name, data), max_line=100)


def test_deep_json_is_a_sentence(tmp_path: Path):
    assert "is not JSON (" in sentence(write(tmp_path, "a.jsonl", "[" * 200_000))
    assert "is not JSON (" in sentence(write(tmp_path, "b.jsonl", '{"text": ' + "9" * 5000 + "}"))


@pytest.mark.parametrize("ending", [ending for ending in PACK if ending])
def test_damaged_compression(tmp_path: Path, ending: str):
    data = "".join(f"{number * 7919 % 104729} is a number\n\n" for number in range(20_000))
    whole = PACK[ending](data.encode())
    cut = sentence(write(tmp_path, f"cut.txt{ending}", whole[: len(whole) // 2]), form="text")
    assert "cannot be decompressed after byte " in cut
    assert "(it is cut off); get the file anew" in cut
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    flipped[len(whole) // 2 + 1] ^= 0xFF
    told = sentence(write(tmp_path, f"bad.txt{ending}", bytes(flipped)), form="text")
    assert "FILE" in told
    told = sentence(write(tmp_path, f"none.txt{ending}", b"not compressed at all, no"), form="text")
    assert "cannot be decompressed after byte 0 of its text" in told
    told = sentence(write(tmp_path, f"auto{ending}", b"not compressed at all, no"))
    assert "cannot be decompressed after byte 0" in told


def test_a_missing_file(tmp_path: Path):
    assert sentence(str(tmp_path / "none.txt")) == "there is no file FILE"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"form": "jsonn"}, "there is no form 'jsonn'; did you mean 'jsonl'?"),
        ({"errors": "ignore"}, "errors cannot be 'ignore'; known: replace, strict"),
        ({"max_line": 0}, "max_line=0 allows no line; give at least 1"),
    ],
)
def test_wrong_readings(settings: dict[str, object], words: str):
    with pytest.raises(UserError) as caught:
        Reading(**settings)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == words


def test_a_reading_can_be_pickled():
    reading = Reading("jsonl", "body", "replace", 5)
    assert pickle.loads(pickle.dumps(reading)) == reading


def peak(work: Callable[[], object]) -> float:
    """The most that Python's allocators held meanwhile, in MB."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_a_line_of_100_mb_is_not_read(tmp_path: Path):
    path = write(tmp_path, "a.txt.zst", _zstd().compress(b"word " * 20_000_000))
    told = []
    assert peak(lambda: told.append(sentence(path, max_line=1 << 20))) < 8
    assert "FILE:1 is a line of more than 1048576 bytes" in told[0]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str):
    text = "\n".join([*("Some words of a paragraph. " * 12 for _ in range(40)), "\n"])
    part = json.dumps({"text": text}) + "\n" if name == "a.jsonl" else text
    pack = PACK[".gz" if name.endswith(".gz") else ""]
    small, large = (
        write(tmp_path, f"{times}_{name}", pack(part.encode() * times)) for times in (300, 3000)
    )

    def count(path: str) -> int:
        return sum(1 for _ in read_documents(path, Reading()))

    assert count(large) == 3000
    assert peak(lambda: count(large)) < 1.1 * peak(lambda: count(small)) + 0.5


def test_find_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("b/wiki_01", "b/wiki_00", "a.txt", "c,d.txt", "b/deep/e.jsonl.gz", ".hidden"):
        write(tmp_path, name, "12345")
    write(tmp_path, "b/.cache/x.txt", "no")
    monkeypatch.chdir(tmp_path)

    def names(patterns: str | list[str]) -> list[str]:
        return [Path(file.path).relative_to(tmp_path).as_posix() for file in find_inputs(patterns)]

    root = str(tmp_path)
    inside = ["b/deep/e.jsonl.gz", "b/wiki_00", "b/wiki_01"]
    assert names(f"{root}/b") == inside
    assert names(root) == ["a.txt", *inside, "c,d.txt"]
    assert names(f"{root}/*") == ["a.txt", *inside, "c,d.txt"]
    assert names(f"{root}/**/*.gz") == inside[:1]
    assert names(f"{root}/b/wiki_*, {root}/a.txt") == ["a.txt", *inside[1:]]
    assert names([f"{root}/a.txt", f"{root}/?.txt", f"{root}/b/wiki_0[1]"]) == ["a.txt", inside[2]]
    assert names(f"{root}/c,d.txt") == ["c,d.txt"]
    assert names(",".join([f"{root}/a.txt"] * 300)) == ["a.txt"]
    assert find_inputs("a.txt") == [TextFile("a.txt", 5)]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, "a.txt", "x")
    assert find_inputs("~/a.txt") == find_inputs("~/*.txt") == [TextFile(path, 1)]


@pytest.mark.parametrize("pattern", ["none.txt", "*.none", "empty", "", "a.txt,*.none"])
def test_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str):
    (tmp_path / "empty").mkdir()
    write(tmp_path, "a.txt", "x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no file matches '.*'; check the path and its wildcards"):
        find_inputs(pattern)


@pytest.mark.parametrize("address", ["nope://a/b.txt", "nope://a/*.txt", "nope://a/*,b.txt"])
def test_an_address_that_cannot_be_reached(address: str):
    with pytest.raises(UserError, match=r"cannot reach nope://a/.*; check the address, the netw"):
        find_inputs(address)
    with pytest.raises(UserError, match="cannot reach nope://a/"):
        read(address)


def test_real_wikipedia(data_folder: Path):
    path = str(data_folder / "corpus" / "enwiki.jsonl.xz")
    documents = read_documents(path, Reading())
    first = [next(documents) for _ in range(20)]
    assert all(len(paragraph) == len(paragraph.strip()) > 0 for d in first for paragraph in d)
    assert sum(map(len, first)) > 100
