"""Column files: where words and tags stand, what is skipped, and every mistake by its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bertjax.data.columns import Columns, Sentence, find_columns, parse_columns, read_columns
from bertjax.data.tagged import TaggedLayout, open_tagged
from bertjax.types import UserError


def parsed(text: str, columns: Columns | None = None, **options: Any) -> list[Sentence]:
    lines = text.encode().splitlines(keepends=True)
    return list(parse_columns(lines, "f", columns or Columns(), **options))


def pairs(sentences: Sequence[Sentence]) -> list[list[tuple[str, str]]]:
    return [list(zip(s.words, s.tags or [], strict=True)) for s in sentences]


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter NNP B-NP B-PER

-DOCSTART- -X- -X- O

Rome NNP B-NP B-LOC"""


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n \t\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("windows", [False, True])
def test_conll(end: str, mark: str, windows: bool) -> None:
    text = mark + CONLL + end
    data = (text.replace("\n", "\r\n") if windows else text).encode()
    sentences = list(parse_columns(data.splitlines(keepends=True), "f", Columns()))
    assert pairs(sentences) == [
        [("EU", "B-ORG"), ("rejects", "O")],
        [("Peter", "B-PER")],
        [("Rome", "B-LOC")],
    ]
    assert [sentence.document for sentence in sentences] == [0, 0, 1]
    assert sentences[0].place(1) == "f:4"


def test_documents_that_follow_at_once() -> None:
    text = "a O\n-DOCSTART- O\nb O\nc O\n-DOCSTART- O\n\n-DOCSTART- O\nd O\n"
    assert [(s.words, s.document) for s in parsed(text)] == [
        (["a"], -1),
        (["b", "c"], 0),
        (["d"], 2),
    ]


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("word NOUN O", Columns(0, 1)),
        ("word NOUN O", Columns(-3, -2)),
        ("  word \t NOUN   O ", Columns(0, 1)),
        ("word\t\tNOUN", Columns(0, 2, "tab")),
        ("1|word|NOUN", Columns(1, 2, "|")),
        ("fr:word\tNOUN", Columns(separator="tab", prefix="fr:")),
        ("fr:word\tNOUN", Columns(separator="tab", prefix="auto")),
        ("be-x-old:word\tNOUN", Columns(separator="tab", prefix="auto")),
        ("word\tNOUN", Columns(separator="tab", prefix="auto")),
    ],
)
def test_where_words_and_tags_stand(line: str, columns: Columns) -> None:
    found = pairs(parsed(f"{line}\n{line}\n\n{line}", columns))
    assert found == [[("word", "NOUN")] * 2, [("word", "NOUN")]]


def test_wikiann_words_keep_their_colons() -> None:
    columns = Columns(separator="tab", prefix="auto")
    text = "fr:fr:a\tO\nfr:http://b c\tO\nfr:\tO\n"
    assert pairs(parsed(text, columns)) == [[("fr:a", "O"), ("http://b c", "O"), ("", "O")]]


def test_unicode_is_not_white_space() -> None:
    odd = ["\u00a0", "\u2028", "\u3000", "\u0085", "\u200b", "e\u0301", "a\u00a0b", "\x1c"]
    text = "".join(f"{word} O\n" for word in odd)
    (sentence,) = parse_columns(text.encode().split(b"\n"), "f", Columns())
    assert sentence.words == odd


CONLLU = """# newdoc id = a
# text = vámonos
1-2\tvámonos\t_\t_\t_
1\tvamos\tir\tVERB\t_
2\tnos\tnosotros\tPRON\t_
2.1\tnada\t_\tX\t_

# newdoc
# text = # $
1\t#\t#\tSYM\t_
"""


def test_universal_dependencies(tmp_path: Path) -> None:
    path = tmp_path / "es_x-ud-dev.conllu"
    path.write_text(CONLLU, encoding="utf-8")
    assert find_columns(str(tmp_path), "validation") == str(path)
    sentences = read_columns(str(path), Columns())
    assert pairs(sentences) == [[("vamos", "VERB"), ("nos", "PRON")], [("#", "SYM")]]
    assert [sentence.document for sentence in sentences] == [0, 1]


@pytest.mark.parametrize(
    ("columns", "text", "expected"),
    [
        (Columns(tag=4), "1\ta\tb\tX\tY\t_\n", ("a", "Y")),
        (Columns(word=2), "1\ta\tb\tX\tY\t_\n", ("b", "X")),
        (Columns(separator="|"), "1|a|b|X\n", ("a", "X")),
        (Columns(prefix="fr:"), "1\tfr:a\tb\tX\n", ("a", "X")),
        (Columns(comment="%"), "% x\n1\ta\tb\tX\n", ("a", "X")),
    ],
)
def test_options_go_before_universal_dependencies(
    tmp_path: Path, columns: Columns, text: str, expected: tuple[str, str]
) -> None:
    """What is not set stays theirs: comments, multiword ranges and empty nodes are no words."""
    skipped = f"# text = a\n{text.splitlines()[-1].replace('1', '1-2', 1)}\n"
    (tmp_path / "train.CONLLU").write_text(skipped + text)
    assert pairs(read_columns(str(tmp_path / "train.CONLLU"), columns)) == [[expected]]


def test_comments() -> None:
    columns = Columns(comment="%")
    assert pairs(parsed("% a\na O\n% b\nb O\n\n%\n\n", columns)) == [[("a", "O"), ("b", "O")]]


def test_tags_may_be_absent_or_of_no_matter() -> None:
    assert [s.tags for s in parsed("a\nb\n\nc\n", tags="optional")] == [None, None]
    assert [s.tags for s in parsed("a O\n", tags="optional")] == [["O"]]
    with pytest.raises(UserError, match=r"^f:2 has 2 columns where the file's first word has 1; "):
        parsed("a\nb B-X\nc O\n", tags="optional")
    ragged = parsed("a O\nb\n\nc X Y\n", tags="ignored")
    assert [(s.words, s.tags) for s in ragged] == [(["a", "b"], None), (["c"], None)]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a O\nb\n", Columns(), "f:2 has 1 column where the file's first word has 2; mend"),
        ("a\n", Columns(), "f:1 has a word but no tag; mend it, or set the option separator"),
        ("a O\n", Columns(0, 2), "f:1 has 2 columns and none of number 2, where the tag should"),
        ("a O\n", Columns(5), "f:1 has 2 columns and none of number 5, where the word should"),
        ("a O\nb\tO\n", Columns(separator="tab"), "f:1 has a word but no tag"),
        ("a\tO\nb\t\n", Columns(separator="tab"), "f:2 has a word but no tag; mend it, or set"),
        ("fr:a\tO\nb\tO\n", Columns(separator="tab", prefix="auto"), "f:2: the word 'b' does not"),
        ("a O\n", Columns(prefix="fr:"), "f:1: the word 'a' does not begin with 'fr:'; mend it"),
    ],
)
def test_mistakes_name_their_line(text: str, columns: Columns, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parsed(text, columns)
    assert str(raised.value).startswith(message)


def test_bytes_that_are_not_utf_8() -> None:
    with pytest.raises(UserError, match=r"^f:2 is not UTF-8; save the file as UTF-8$"):
        list(parse_columns([b"a O\n", b"\xe9 O\n"], "f", Columns()))


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("-DOCSTART- O\n\n\n")
    with pytest.raises(UserError, match="train holds no sentence"):
        read_columns(str(tmp_path / "train"), Columns())


@pytest.mark.parametrize(
    ("split", "name"),
    [
        *(("train", n) for n in ("train", "train.txt", "eng.train", "fr_gsd-ud-train.conllu")),
        *(("validation", n) for n in ("dev", "valid.txt", "eng.testa", "validation.conll")),
        *(("test", n) for n in ("test", "test.tsv", "eng.testb", "test.iob2")),
    ],
)
def test_files_are_found_by_their_split(tmp_path: Path, split: str, name: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for other in ("latest.md", "train.py", "protest.tsv.gz", name):
        (folder / other).write_text("a O\n")
    assert find_columns(str(folder), split) == str(folder / name)
    assert find_columns(str(tmp_path), split, "own") == str(folder / name)
    assert find_columns(f"{split}={folder / 'train.py'}", split) == str(folder / "train.py")


def test_the_text_beside_a_treebank_is_not_meant(tmp_path: Path) -> None:
    for name in ("fr_gsd-ud-train.conllu", "fr_gsd-ud-train.txt"):
        (tmp_path / name).write_text("a O\n")
    assert find_columns(str(tmp_path), "train") == str(tmp_path / "fr_gsd-ud-train.conllu")
    (tmp_path / "fr_pud-ud-train.txt").write_text("a O\n")
    with pytest.raises(UserError, match=r"gsd-ud-train\.conllu and .*pud-ud-train\.txt may be"):
        find_columns(str(tmp_path), "train")


def test_files_that_are_not_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder nowhere; to name a file write files:"):
        find_columns("nowhere", "train")
    with pytest.raises(UserError, match="holds no file for 'test'; looked for test or testb with"):
        find_columns(str(tmp_path), "test")
    for name in ("dev.txt", "testa.txt"):
        (tmp_path / name).write_text("a O\n")
    with pytest.raises(UserError, match=r"dev\.txt and .*testa\.txt may be meant"):
        find_columns(str(tmp_path), "validation")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    """A Hugging Face data set of two sentences; gives what was asked for."""
    datasets = pytest.importorskip("datasets", reason="needs pip install 'bertjax[hf]'")
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(names),
            "upos": datasets.Sequence(datasets.Value("string")),
            "short": datasets.Sequence(datasets.Value("string")),
        }
    )
    rows: Mapping[str, Any] = {
        "tokens": [["Ada", "Byron", "wrote"], [], ["Yes"]],
        "ner_tags": [[1, 2, 0], [], [0]],
        "upos": [["PROPN", "PROPN", "VERB"], [], ["INTJ"]],
        "short": [["X"], [], ["X"]],
    }
    asked = []

    def load_dataset(path: str, name: str | None, split: str) -> object:
        asked.append((path, name, split))
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hugging_face(hub: list[tuple[str, str | None, str]]) -> None:
    sentences = open_tagged("hf:unimelb-nlp/wikiann/fr", "validation", TaggedLayout())
    assert hub == [("unimelb-nlp/wikiann", "fr", "validation")]
    assert pairs(sentences) == [
        [("Ada", "B-PER"), ("Byron", "I-PER"), ("wrote", "O")],
        [("Yes", "O")],
    ]
    layout = TaggedLayout(tags=("pos", "upos"), splits={"hf:x": {"validation": "dev"}})
    sentences = open_tagged("hf:x", "validation", layout)
    assert hub[-1] == ("x", None, "dev")
    assert sentences[0].tags == ["PROPN", "PROPN", "VERB"]
    with pytest.raises(UserError, match=r"^hf:x, row 0 has 3 words but 1 tags$"):
        open_tagged("hf:x", "train", TaggedLayout(tags=("short",)))
    with pytest.raises(UserError, match=r"^hf:x has no column 'ner'; known: ner_tags, "):
        open_tagged("hf:x", "train", TaggedLayout(tags=("ner",)))
    with pytest.raises(UserError, match=r"^hf:x, row 0: column 'ner_tags' holds 1, not text$"):
        open_tagged("hf:x", "train", TaggedLayout(words="ner_tags"))
    assert open_tagged("hf:x", "test", TaggedLayout(tags=("ner",)))[0].tags is None


def test_tfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As TFDS gives rows: words as bytes, classes as an array, their names one level down."""
    import numpy as np

    from bertjax.data import hub as hubs

    class Feature:
        def __init__(self, names: list[str] | None = None, feature: Any = None):
            self.names, self.feature = names, feature

    tags = Feature(feature=Feature(names=["O", "B-LOC"]))
    row = {"tokens": np.array([b"\xc3\x89vry", b"."], object), "ner": np.array([1, 0])}
    monkeypatch.setitem(
        hubs._LIBRARIES, "tfds", lambda name, split: ([row], {"tokens": Feature(), "ner": tags})
    )
    assert pairs(open_tagged("tfds:conll2003", "train", TaggedLayout())) == [
        [("Évry", "B-LOC"), (".", "O")]
    ]
    row["ner"] = np.array([2, 0])
    with pytest.raises(UserError, match=r"^tfds:x, row 0: 2 is no tag; the data set names 2 of"):
        open_tagged("tfds:x", "train", TaggedLayout())


@pytest.mark.parametrize(
    ("data", "split", "message"),
    [
        ("conll", "train", "does not say where from"),
        ("files:x", "dev", "there is no split 'dev'"),
    ],
)
def test_what_is_no_source(data: str, split: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_tagged(data, split, TaggedLayout())
