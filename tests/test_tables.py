"""TSV, CSV and JSON lines: what is read, and that every mistake names its file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from bertjax.data.inputs import read_rows, read_texts
from bertjax.data.tables import parse_table, read_table, reading
from bertjax.types import UserError

TEXT = ("text",)
BOTH = ("text", "label")


def write(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.tsv", b"text\tlabel\none\t1\ntwo\t0\n", ["one", "two"]),
        ("a.txt", b"label\ttext\n1\tone\n0\ttwo", ["one", "two"]),
        ("a.csv", b"text,label\none,1\ntwo,0\n", ["one", "two"]),
        ("a.jsonl", b'{"text": "one", "label": 1}\n{"label": 0, "text": "two"}\n', ["one", "two"]),
        pytest.param("a.TSV", b"text\none\ntwo\n", ["one", "two"], id="ending in capitals"),
        pytest.param("a.tsv", b"text\r\none\r\ntwo\r\n", ["one", "two"], id="tsv, Windows"),
        pytest.param("a.csv", b"text\r\none\r\ntwo\r\n", ["one", "two"], id="csv, Windows"),
        pytest.param("a.tsv", b"\xef\xbb\xbftext\none\n", ["one"], id="tsv, byte-order mark"),
        pytest.param("a.csv", b"\xef\xbb\xbftext\none\n", ["one"], id="csv, byte-order mark"),
        pytest.param("a.jsonl", b'\xef\xbb\xbf{"text": "one"}\n', ["one"], id="jsonl, mark"),
        pytest.param("a.tsv", b"text\tx\none\t1\n\n\n", ["one"], id="tsv, blank lines at the end"),
        pytest.param("a.csv", b"text,x\none,1\n\n\n", ["one"], id="csv, blank lines at the end"),
        pytest.param("a.jsonl", b'{"text": "one"}\n\n', ["one"], id="jsonl, blank line at the end"),
        pytest.param("a.tsv", b"text\tx\n\t1\n", [""], id="an empty cell is an empty text"),
        pytest.param("a.tsv", "text\ná\u2028é\x85 \n".encode(), ["á\u2028é\x85 "], id="only \\n"),
        pytest.param("a.tsv", b'text\n"a\nb" "\n', ['"a', 'b" "'], id="tsv: quotes are text"),
        pytest.param("a.csv", b'text,x\n"a, ""b""\nc",1\n', ['a, "b"\nc'], id="csv: quotes quote"),
    ],
)
def test_reads_what_is_there(
    tmp_path: Path, name: str, content: bytes, texts: Sequence[str]
) -> None:
    assert read_table(write(tmp_path, name, content), TEXT).columns == {"text": list(texts)}


def test_a_given_header_makes_the_first_line_a_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", b"1\tone\n0\ttwo\n")
    table = read_table(path, TEXT, header=("label", "text"))
    assert table.columns == {"text": ["one", "two"]}
    assert table.place(1) == f"{path}:2"


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_optional_columns_are_read_where_they_are(tmp_path: Path, name: str) -> None:
    with_label = {
        "a.tsv": b"text\tlabel\none\tx\n",
        "a.csv": b"text,label\none,x\n",
        "a.jsonl": b'{"text": "one", "label": "x"}\n',
    }[name]
    without = b'{"text": "one"}\n' if name == "a.jsonl" else b"text\none\n"
    read = [
        read_table(write(tmp_path, name, content), TEXT, optional=("label",)).columns
        for content in (with_label, without)
    ]
    assert read == [{"text": ["one"], "label": ["x"]}, {"text": ["one"]}]


def test_a_place_is_the_line_where_a_row_begins(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b'text\n"one\nmore"\n"two\nmore"\nthree\n')
    table = read_table(path, TEXT)
    assert [table.place(row) for row in range(3)] == [f"{path}:2", f"{path}:4", f"{path}:6"]


def test_json_values_keep_their_type() -> None:
    lines = [b'{"text": "one", "label": 1.5}\n', b'{"text": "two", "label": true}\n']
    assert parse_table(lines, "stdin", "jsonl", BOTH).columns["label"] == [1.5, True]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A file that cannot be read and what the message says after the file's name."""

    what: str
    name: str
    content: bytes
    message: str


BAD = [
    Bad("tsv, empty", "a.tsv", b"", " is empty; it needs a header line and rows"),
    Bad("csv, empty", "a.csv", b"", " is empty; it needs a header line and rows"),
    Bad("jsonl, empty", "a.jsonl", b"", " holds no rows"),
    Bad("tsv, blank lines only", "a.tsv", b"\n\n", " is empty; it needs a header line and rows"),
    Bad("tsv, header only", "a.tsv", b"text\tlabel\n", " holds no rows"),
    Bad("csv, header only", "a.csv", b"text,label\n", " holds no rows"),
    Bad(
        "tsv, column missing",
        "a.tsv",
        b"txet\tlabel\na\tb\n",
        ":1: the header has no column 'text'; did you mean 'txet'?",
    ),
    Bad(
        "csv, column missing",
        "a.csv",
        b"words,label\na,b\n",
        ":1: the header has no column 'text'; known: label, words",
    ),
    Bad(
        "jsonl, column missing",
        "a.jsonl",
        b'{"text": "a", "label": "b"}\n{"test": "a", "label": "b"}\n',
        ":2 has no column 'text'; did you mean 'test'?",
    ),
    Bad(
        "column repeated",
        "a.tsv",
        b"text\tlabel\ttext\na\tb\tc\n",
        ":1: the header has column 'text' more than once; rename one",
    ),
    Bad(
        "tsv, row too wide",
        "a.tsv",
        b"text\tlabel\na\tb\na\tb\tc\n",
        ":3 has 3 columns where 2 are expected; mend or remove the row",
    ),
    Bad(
        "tsv, row too narrow",
        "a.tsv",
        b"text\tlabel\na\n",
        ":2 has 1 column where 2 are expected; mend or remove the row",
    ),
    Bad(
        "csv, row too wide",
        "a.csv",
        b'text,label\n"a\nb",c\na,b,c\n',
        ":4 has 3 columns where 2 are expected; mend or remove the row",
    ),
    Bad("tsv, blank line", "a.tsv", b"text\tlabel\n\na\tb\n", ":2 is blank; remove the line"),
    Bad("csv, blank line", "a.csv", b"text,label\na,b\n\na,b\n", ":3 is blank; remove the line"),
    Bad(
        "jsonl, blank line",
        "a.jsonl",
        b'{"text": "a", "label": 1}\n \n\n{"text": "a", "label": 1}\n',
        ":2 is blank; remove the line",
    ),
    Bad(
        "not UTF-8",
        "a.tsv",
        b"text\tlabel\na\tb\ncaf\xe9\tb\n",
        ":3 is not UTF-8; save the file as UTF-8",
    ),
    Bad("UTF-16", "a.csv", "text,label\n".encode("utf-16"), ":1 is not UTF-8"),
    Bad("csv, open quote", "a.csv", b'text,label\na,b\n"a,b\nc,d\n', ":3 is not CSV: "),
    Bad("csv, stray quote", "a.csv", b'text,label\n"a"b,c\n', ":2 is not CSV: "),
    Bad(
        "jsonl, cut off",
        "a.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "a", "lab\n',
        ":2 is not JSON: ",
    ),
    Bad("jsonl, a list", "a.jsonl", b'["a", 1]\n', ":1 is not a JSON object with named columns"),
    Bad("other ending", "a.xlsx", b"", " ends in '.xlsx': expected one of .tsv, .txt, .csv, "),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.what for bad in BAD])
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, bad: Bad) -> None:
    path = write(tmp_path, bad.name, bad.content)
    with pytest.raises(UserError) as raised:
        read_table(path, BOTH)
    assert str(raised.value).startswith(path + bad.message)


def test_a_key_that_appears_late_is_not_dropped() -> None:
    lines = [b'{"text": "a"}\n', b'{"text": "b", "label": 1}\n']
    with pytest.raises(UserError, match=r"stdin:2 has column 'label', which the rows before lack"):
        parse_table(lines, "stdin", "jsonl", TEXT, optional=("label",))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*missing\.tsv"):
        read_table(str(tmp_path / "missing.tsv"), TEXT)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*a\.tsv: Is a directory"):
        read_table(str(tmp_path / "a.tsv"), TEXT)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "cannot read a.tsv: Permission denied"),
        (ImportError("Please install gcsfs"), "cannot read a.tsv: Please install gcsfs"),
    ],
)
def test_what_a_file_system_raises_is_told(error: Exception, message: str) -> None:
    with pytest.raises(UserError) as raised, reading("a.tsv"):
        raise error
    assert str(raised.value) == message


def test_plain_lines_lose_their_byte_order_mark() -> None:
    lines = [b"\xef\xbb\xbfEU rejects\n", b"\xef\xbb\xbfa\r\n"]
    assert list(read_rows(lines, "f", "lines")) == [("f:1", "EU rejects"), ("f:2", "\ufeffa")]
    assert list(read_texts(lines, "f", "lines", ["text"])) == [("EU rejects",), ("\ufeffa",)]
