"""``tfds:glue/mrpc``, built by TFDS's own builder from local files and read without TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bertjax.tasks import get_task

ORIGINALS = {
    "msr_paraphrase_train.txt": "msr_paraphrase_train.txt",
    "msr_paraphrase_test.txt": "msr_paraphrase_test.txt",
    "dev_ids.tsv": "data_mrpc_dev_ids.tsv",
}
"""Our file by the name under which TFDS looks for it before it downloads."""

BUILD = """
import sys
import tensorflow_datasets as tfds
import tensorflow_datasets.text
manual, root = sys.argv[1:]
tfds.builder("glue/mrpc", data_dir=root, file_format="array_record").download_and_prepare(
    download_dir=root + "/downloads",
    download_config=tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False),
)
"""

READ = """
import json, sys
from bertjax.tasks import get_task
from bertjax.types import UserError

def error_of(data, *text_columns, labels=("not_equivalent", "equivalent")):
    try:
        task = get_task("classification", text_columns=text_columns, labels=labels)
        task.open(data, "train")
    except UserError as error:
        return str(error)

task = get_task("mrpc")
records = {split: task.open("tfds:glue/mrpc", split)[:] for split in task.splits}
inferred = get_task("classification", text_columns=["sentence1"], data="tfds:glue/mrpc").labels
errors = [
    error_of("tfds:gleu/mrpc", "sentence1"),
    error_of("tfds:glue/mrpc", "sentence1", "sentence_2"),
    error_of("tfds:glue/mrpc", "sentence1", labels=("no", "yes")),
]
print(json.dumps({"records": records, "inferred": inferred, "errors": errors,
                  "tensorflow": "tensorflow" in sys.modules}))
"""


def run(code: str, *arguments: str, tfds_data_dir: Path) -> str:
    """Runs code in a new interpreter, since TFDS reads TFDS_DATA_DIR when it is imported."""
    environment = {**os.environ, "TFDS_DATA_DIR": str(tfds_data_dir)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def from_tfds(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a new interpreter reads from the TFDS data set that another one built."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        pytest.skip("tensorflow-datasets is not installed: pip install 'bertjax[tfds]'")
    manual, root = (tmp_path_factory.mktemp(name) for name in ("manual", "tfds"))
    for ours, theirs in ORIGINALS.items():
        shutil.copyfile(data_folder / "glue" / "MRPC" / ours, manual / theirs)
    run(BUILD, str(manual), str(root), tfds_data_dir=root)
    return json.loads(run(READ, tfds_data_dir=root).splitlines()[-1])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_tfds_gives_the_rows_of_the_files(
    from_tfds: dict[str, Any], data_folder: Path, split: str
) -> None:
    """TFDS shuffles when it builds; the rows are the same, and so is what is kept back."""
    ours = get_task("mrpc").open(f"files:{data_folder / 'glue'}", split)
    theirs = from_tfds["records"][split]
    assert [record["index"] for record in theirs] == list(range(len(ours)))
    assert sorted(map(row_of, theirs)) == sorted(map(row_of, ours))


def row_of(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["sentence1"], record["sentence2"], str(record["label"])


def test_tfds_needs_no_tensorflow(from_tfds: dict[str, Any]) -> None:
    assert not from_tfds["tensorflow"]


def test_labels_come_from_the_declared_names(from_tfds: dict[str, Any]) -> None:
    assert from_tfds["inferred"] == ["not_equivalent", "equivalent"]


def test_tfds_errors_are_sentences(from_tfds: dict[str, Any]) -> None:
    assert from_tfds["errors"] == [
        "cannot read split 'train' of tfds:gleu/mrpc: Dataset gleu not found.",
        "tfds:glue/mrpc has no column 'sentence_2'; did you mean 'sentence2'?",
        "tfds:glue/mrpc has the labels not_equivalent, equivalent where the task has no, yes; "
        "choose another task or set its labels",
    ]
