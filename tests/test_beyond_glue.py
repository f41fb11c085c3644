"""XNLI, IMDb, ChnSentiCorp and one's own files without a header: as they lie, and every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import WORDS

from bertjax.data.hub import HubSplit, open_hub
from bertjax.tasks import TASKS, TextTask, get_task
from bertjax.tasks.beyond_glue import LANGUAGES, xnli_layout
from bertjax.tokenizers import wordpiece_tokenizer
from bertjax.types import UserError

XNLI_HEADER = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tmatch"
XNLI_ROWS = (
    'fr\tneutral\t\tEt il a dit, "maman.\tIl a appelé.\tTrue',
    'de\tneutral\t\tUnd er hat gesagt, "Mama.\tEr rief an.\tTrue',
    "fr\tcontradiction\t\tA\tB\tTrue",
)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def xnli(tmp_path: Path) -> str:
    """The two archives, unpacked into one folder."""
    for name in ("dev", "test"):
        write(tmp_path / "XNLI-1.0" / f"xnli.{name}.tsv", XNLI_HEADER, *XNLI_ROWS)
    train = tmp_path / "XNLI-MT-1.0" / "multinli" / "multinli.train.fr.tsv"
    write(train, "premise\thypo\tlabel", 'Le "prix\tA\tcontradictory', "B\tC\tentailment")
    return f"files:{tmp_path}"


def test_xnli_reads_one_language(xnli: str):
    french = get_task("xnli", options={"language": "fr"})
    assert french.open(xnli, "train")[:] == [
        {"index": 0, "premise": 'Le "prix', "hypothesis": "A", "label": 2},
        {"index": 1, "premise": "B", "hypothesis": "C", "label": 0},
    ]
    for split in ("validation", "test"):
        first, second = french.open(xnli, split)
        assert first["premise"] == 'Et il a dit, "maman.'
        assert (first["hypothesis"], first["label"]) == ("Il a appelé.", 1)
        assert (second["index"], second["label"]) == (1, 2)
    [german] = get_task("xnli", options={"language": "de"}).open(xnli, "test")
    assert german["hypothesis"] == "Er rief an."


def test_xnli_names_what_is_missing(xnli: str):
    with pytest.raises(UserError, match=r"neither .*multinli/multinli\.train\.en\.tsv nor"):
        get_task("xnli").open(xnli, "train")
    with pytest.raises(UserError, match=r"xnli\.dev\.tsv has no row whose language is 'en'; known"):
        get_task("xnli").open(xnli, "validation")
    with pytest.raises(UserError, match="task 'xnli' has no language 'frr'; did you mean 'fr'"):
        get_task("xnli", options={"language": "frr"})
    assert len(LANGUAGES) == 15


def test_xnli_of_the_hubs_holds_every_language(monkeypatch: pytest.MonkeyPatch):
    """TFDS: a text by language, and two lists; Hugging Face: one language, as plain text."""
    asked = []
    features = {"premise": None, "hypothesis": None, "label": None}
    nested = {
        "premise": {"de": b"Gut", "fr": b"Bon"},
        "hypothesis": {"language": [b"de", b"fr"], "translation": [b"Ja", b"Oui"]},
        "label": "neutral",
    }

    def open_split(data: str, split: str) -> HubSplit:
        asked.append((data, split))
        row = {"premise": "Bon", "hypothesis": "Oui", "label": "neutral"}
        return HubSplit(data, [row if data.startswith("hf:") else nested], features)

    monkeypatch.setattr("bertjax.data.hub.open_split", open_split)
    task = get_task("xnli", options={"language": "fr"})
    for data in ("tfds:xtreme_xnli", "hf:facebook/xnli/fr"):
        for split in ("train", "validation"):
            assert task.open(data, split)[:] == [
                {"index": 0, "premise": "Bon", "hypothesis": "Oui", "label": 1}
            ]
    assert asked == [
        ("tfds:xtreme_xnli", "train"),
        ("tfds:xnli", "validation"),
        ("hf:facebook/xnli/fr", "train"),
        ("hf:facebook/xnli/fr", "validation"),
    ]
    assert isinstance(task, TextTask)
    swahili = open_hub("tfds:xnli", "test", task.schema, xnli_layout("sw"))
    with pytest.raises(UserError, match="tfds:xnli, row 0 has no language 'sw'; known: de, fr"):
        _ = swahili[0]


def test_imdb_is_a_folder_a_class(tmp_path: Path):
    root = tmp_path / "aclImdb"
    for split in ("train", "test"):
        for name, text in (("neg/10_2", "Bad"), ("neg/9_1", "Worse<br />"), ("pos/0_10", "é")):
            write(root / split / f"{name}.txt", f"{split} {text}")
    write(root / "train" / "unsup" / "0_0.txt", "not read")
    task = get_task("imdb")
    rows = [(0, "Worse<br />"), (0, "Bad"), (1, "é")]
    for split, folder in (("train", "train"), ("validation", "test"), ("test", "test")):
        for data in (f"files:{tmp_path}", f"files:{root}", f"files:{split}={root / folder}"):
            assert task.open(data, split)[:] == [
                {"index": index, "text": f"{folder} {text}\n", "label": label}
                for index, (label, text) in enumerate(rows)
            ]


def test_imdb_names_what_is_missing(tmp_path: Path):
    task, train = get_task("imdb"), tmp_path / "train"
    with pytest.raises(UserError, match=r"neither .*aclImdb/train nor .*/train; name the folder"):
        task.open(f"files:{tmp_path}", "train")
    write(train / "neg" / "0_1.txt", "a")
    with pytest.raises(UserError, match=r"there is no folder .*/train/pos with the texts of 'pos'"):
        task.open(f"files:{tmp_path}", "train")
    (train / "pos").mkdir()
    with pytest.raises(UserError, match=r"/train/pos holds no \.txt file"):
        task.open(f"files:{tmp_path}", "train")
    (train / "pos" / "0_9.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"0_9\.txt is not UTF-8"):
        task.open(f"files:{tmp_path}", "train")


def test_chnsenticorp_has_no_header(tmp_path: Path):
    write(tmp_path / "train.tsv", '"还不错\tpositive', "很差\tnegative")
    write(tmp_path / "test.tsv", "qid\ttext_a", "0\t很差")
    task = get_task("chnsenticorp")
    assert task.open(f"files:{tmp_path}", "train")[:] == [
        {"index": 0, "text": '"还不错', "label": 1},
        {"index": 1, "text": "很差", "label": 0},
    ]
    assert task.open(f"files:{tmp_path}", "test")[:] == [
        {"index": 0, "text": "很差", "label": None}
    ]


@pytest.mark.parametrize(
    ("split", "count"), [("train", 9600), ("validation", 1200), ("test", 1200)]
)
def test_real_chnsenticorp_reads_whole(data_folder: Path, split: str, count: int):
    records = get_task("chnsenticorp").open(f"files:{data_folder}", split)
    assert len(records) == count
    assert {record["label"] for record in records} == ({None} if split == "test" else {0, 1})
    assert min(len(record["text"]) for record in records) > 0


def own_files(folder: Path) -> str:
    write(folder / "train.tsv", "a cat\t0\tbad", "a dog\t1\tgood", "a\t2\tgood")
    write(folder / "dev.csv", '"a, cat",0,bad')
    return f"files:{folder}"


def test_own_files_without_a_header(tmp_path: Path):
    options = {"columns": ["text", "row", "label"]}
    data = own_files(tmp_path)
    task = get_task("classification", options=options, data=data)
    assert task.class_names == ("bad", "good")
    assert [record["label"] for record in task.open(data, "train")] == [0, 1, 1]
    assert task.open(data, "validation")[:] == [{"index": 0, "text": "a, cat", "label": 0}]
    numbers = get_task("regression", label_column="row", options=options).open(data, "train")
    assert [record["label"] for record in numbers] == [0.0, 1.0, 2.0]


def test_a_header_that_is_a_row_is_hinted_at(tmp_path: Path):
    data = own_files(tmp_path)
    with pytest.raises(UserError) as raised:
        get_task("classification", data=data)
    assert str(raised.value) == (
        f"{tmp_path}/train.tsv:1: the header has no column 'label'; if 'a cat | 0 | bad' is a row "
        "already, name the columns, as in --config.options.columns=\"('text','label')\""
    )
    write(tmp_path / "train.tsv", "txt\tlabel", "a\tb")
    with pytest.raises(UserError, match="has no column 'text'; did you mean 'txt'"):
        get_task("classification", labels=["a", "b"]).open(data, "train")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mrpc",
            {"columns": ("a",)},
            "task 'mrpc' has its own columns; leave options.columns away",
        ),
        (
            "regression",
            {"columns": "text,label"},
            "option columns is 'text,label'; set it to a list",
        ),
        ("regression", {"columns": ("text",)}, "options.columns text name no 'label'; name every"),
        ("sst2", {"truncation": "middle"}, "there is no truncation 'middle'; known: head, head_ta"),
        ("sst2", {"head_length": 3}, "head_length goes with the truncation 'head_tail' only"),
        ("sst2", {"colums": ()}, "task 'sst2' has no option 'colums'; did you mean 'columns'?"),
        ("stsb", {"class_weights": "balanced"}, "task 'stsb' has no classes to weigh; class_weig"),
        ("multi_label", {"class_weights": "balanced"}, "task 'multi_label' has no option 'class_w"),
        (
            "sst2",
            {"class_weights": "balance"},
            "there are no class_weights 'balance'; did you mean",
        ),
        ("sst2", {"class_weights": (1, 0)}, "class_weights must be 'balanced' or numbers above 0"),
        ("sst2", {"class_weights": (1, 2, 3)}, "there are 3 class_weights for the 2 classes negat"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], message: str):
    with pytest.raises(UserError) as raised:
        get_task(name, options=options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("train.tsv", ["text\tlabel", "a\tb"], "train.tsv:1 is a header line that names the same"),
        ("train.tsv", ["a\tb\tc"], "train.tsv:1 has 3 columns where 2 are expected; mend or remo"),
        ("train.jsonl", ['{"text": "a"}'], "train.jsonl: JSON lines name their columns; leave the"),
    ],
)
def test_files_that_do_not_fit_the_columns(
    tmp_path: Path, name: str, lines: list[str], message: str
):
    write(tmp_path / name, *lines)
    task = get_task("classification", options={"columns": ("text", "label")}, labels=["b", "c"])
    with pytest.raises(UserError, match=message):
        task.open(f"files:{tmp_path}", "train")


def test_every_text_task_can_cut_a_text():
    tokenizer = wordpiece_tokenizer(WORDS)
    for name, task in TASKS.items():
        if not isinstance(task, TextTask):
            continue
        tail = get_task(name, options={"truncation": "tail"})
        assert isinstance(tail, TextTask)
        record = tail.record(["b c d e f", "b c d e f"][: len(tail.schema.text_columns)])
        [head], [end] = (one.encode(record, tokenizer, 8) for one in (task, tail))
        assert len(head["token_ids"]) == len(end["token_ids"])
        if len(tail.schema.text_columns) == 2:  # 5 of 10 letters have room
            words = [tokenizer.backend.id_to_token(i) for i in end["token_ids"]]
            assert words == ["[CLS]", "e", "f", "[SEP]", "d", "e", "f", "[SEP]"]
            assert not np.array_equal(head["token_ids"], end["token_ids"])
