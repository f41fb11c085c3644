"""GLUE's files as they really are: header lines, columns and label values of its archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjax.tasks import TextTask, get_task

MNLI_FIRST = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
MNLI_ROW = '0\t1\t1n\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)\tAn "a\tA b.'
MNLI_TEXTS = ('An "a', "A b.")
PAIR_HEAD = "index\tsentence1\tsentence2"

OFFICIAL = [
    ("cola", "train", "CoLA/train.tsv", 'gj04\t0\t*\tA "b c.\n', ('A "b c.', 0)),
    ("cola", "validation", "CoLA/dev.tsv", "gj04\t1\t\tA b.\n", ("A b.", 1)),
    ("cola", "test", "CoLA/test.tsv", "index\tsentence\n0\tA b.\n", ("A b.", None)),
    ("sst2", "train", "SST-2/train.tsv", "sentence\tlabel\na b \t1\n", ("a b ", 1)),
    ("sst2", "test", "SST-2/test.tsv", "index\tsentence\n0\ta b\n", ("a b", None)),
    (
        "mrpc",
        "train",
        "MRPC/train.tsv",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\t" A\tB "c" "\r\n',
        ('" A', 'B "c" "', 1),
    ),
    (
        "mrpc",
        "test",
        "MRPC/test.tsv",
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tA\tB\n",
        ("A", "B", None),
    ),
    (
        "stsb",
        "validation",
        "STS-B/dev.tsv",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tnews\tf\t2012\t1\tnone\tnone\tA\tB\t3.750\n",
        ("A", "B", 3.75),
    ),
    (
        "qqp",
        "train",
        "QQP/train.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tA?\t\t1\n",
        ("A?", "", 1),
    ),
    ("qqp", "test", "QQP/test.tsv", "id\tquestion1\tquestion2\n0\tA?\tB?\n", ("A?", "B?", None)),
    (
        "mnli",
        "train",
        "MNLI/train.tsv",
        f"{MNLI_FIRST}\tlabel1\tgold_label\n{MNLI_ROW}\tneutral\tneutral\n",
        (*MNLI_TEXTS, 1),
    ),
    (
        "mnli",
        "validation",
        "MNLI/dev_matched.tsv",
        f"{MNLI_FIRST}\tlabel1\tlabel2\tgold_label\n{MNLI_ROW}\tneutral\tneutral\tentailment\n",
        (*MNLI_TEXTS, 0),
    ),
    (
        "mnli",
        "validation_mismatched",
        "MNLI/dev_mismatched.tsv",
        f"{MNLI_FIRST}\tlabel1\tgold_label\n{MNLI_ROW}\tneutral\tcontradiction\n",
        (*MNLI_TEXTS, 2),
    ),
    (
        "mnli",
        "test",
        "MNLI/test_matched.tsv",
        f"{MNLI_FIRST}\n{MNLI_ROW}\n",
        (*MNLI_TEXTS, None),
    ),
    (
        "mnli",
        "test_mismatched",
        "MNLI/test_mismatched.tsv",
        f"{MNLI_FIRST}\n{MNLI_ROW}\n",
        (*MNLI_TEXTS, None),
    ),
    (
        "qnli",
        "validation",
        "QNLI/dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tA?\tB\tnot_entailment\n",
        ("A?", "B", 1),
    ),
    ("rte", "train", "RTE/train.tsv", f"{PAIR_HEAD}\tlabel\n0\tA\tB\tentailment\n", ("A", "B", 0)),
    ("wnli", "train", "WNLI/train.tsv", f"{PAIR_HEAD}\tlabel\n0\tA\tB\t1\n", ("A", "B", 1)),
    ("ax", "test", "AX/diagnostic.tsv", f"{PAIR_HEAD}\n0\tA\tB\n", ("A", "B", None)),
]
OFFICIAL_IDS = [f"{name}-{split}" for name, split, *_ in OFFICIAL]


def text_task(name: str) -> TextTask:
    task = get_task(name)
    assert isinstance(task, TextTask)
    return task


@pytest.mark.parametrize(("name", "split", "file", "content", "row"), OFFICIAL, ids=OFFICIAL_IDS)
@pytest.mark.parametrize("root", ["the GLUE root", "the task's own folder"])
def test_glue_layouts(
    tmp_path: Path,
    name: str,
    split: str,
    file: str,
    content: str,
    row: tuple[str | float | None, ...],
    root: str,
) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_bytes(content.encode())
    data = f"files:{tmp_path if root == 'the GLUE root' else path.parent}"
    task = text_task(name)
    columns = (*task.schema.text_columns, "label")
    assert task.open(data, split)[:] == [{"index": 0, **dict(zip(columns, row, strict=True))}]


ROWS = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
    "qnli": (None, 5463, 5463),
    "ax": (None, None, 1104),
}
REAL = [
    (name, split, count)
    for name, counts in ROWS.items()
    for split, count in zip(("train", "validation", "test"), counts, strict=True)
    if count
]


@pytest.mark.parametrize(("name", "split", "count"), REAL)
def test_real_glue_files_read_whole(data_folder: Path, name: str, split: str, count: int) -> None:
    task = text_task(name)
    records = task.open(f"files:{data_folder / 'glue'}", split)
    labels = {record["label"] for record in records}
    assert len(records) == count
    assert all(isinstance(text, str) for record in records for text in task.texts(record))
    if split == "test":
        assert labels == {None}
    elif task.kind == "regression":
        assert (min(labels), max(labels)) == (0.0, 5.0)
    else:
        assert labels == set(range(len(task.labels)))


def test_real_msr_original_gives_the_hidden_labels(data_folder: Path) -> None:
    """The original has a byte-order mark and the test labels; a file may be named by its path."""
    original = data_folder / "glue" / "MRPC" / "msr_paraphrase_test.txt"
    records = get_task("mrpc").open(f"files:test={original}", "test")
    hidden = get_task("mrpc").open(f"files:{data_folder / 'glue'}", "test")
    assert sum(record["label"] for record in records) == 1147
    assert [{**record, "label": None} for record in records] == hidden[:]
