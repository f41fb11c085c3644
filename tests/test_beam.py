"""The preparation as an Apache Beam pipeline: the shards of the local runner, byte for byte."""

from __future__ import annotations

import builtins
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_errors import refused
from test_prepare import hashes, paragraphs
from tiny import WORDS

from bertjax.cli import main as cli
from bertjax.corpus.beam import told
from bertjax.tokenizers import wordpiece_tokenizer
from bertjax.types import UserError

FILES = 6


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """``prepare`` without its output: three groups of two files, each of several parts."""
    folder, draw = tmp_path_factory.mktemp("given"), random.Random(0)
    (folder / "text").mkdir()
    for number in range(FILES):
        text = "\n\n".join("\n".join(paragraphs(draw)) for _ in range(8))
        (folder / "text" / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "vocabulary").mkdir()
    wordpiece_tokenizer(WORDS).save(folder / "vocabulary")
    flags = [f"--input={folder / 'text'}", f"--tokenizer={folder / 'vocabulary'}"]
    return ["prepare", *flags, "--shard_size=3000"]


@pytest.fixture(scope="module")
def local(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "corpus"
    assert cli.main([*command, "--workers=1", f"--output={folder}"]) == 0
    return folder


@pytest.fixture
def beam() -> None:
    pytest.importorskip("apache_beam", reason="Apache Beam is missing: pip install 'bertjax[beam]'")


@pytest.mark.usefixtures("beam")
def test_the_shards_are_the_same(command: list[str], local: Path, tmp_path: Path):
    assert cli.main([*command, "--runner=beam", f"--output={tmp_path / 'corpus'}"]) == 0
    assert len(hashes(local)) > 4 + 2 * FILES
    assert hashes(tmp_path / "corpus") == hashes(local)


@pytest.mark.usefixtures("beam")
def test_either_runner_goes_on_with_what_the_other_made(
    command: list[str], local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "corpus"
    shutil.copytree(local, folder)
    (folder / "documents-00001-00001.array_record").unlink()
    capsys.readouterr()
    assert cli.main([*command, "--runner=beam", f"--output={folder}"]) == 0
    assert f"{len(list(local.glob('*.npy'))) - 1} shards are there" in capsys.readouterr().err
    assert hashes(folder) == hashes(local)


@pytest.mark.usefixtures("beam")
def test_bad_text_is_told_in_one_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.txt").write_bytes(b"A \xff cat.")
    changed = [f"--input={tmp_path / 'a.txt'}", "--runner=beam", f"--output={tmp_path / 'corpus'}"]
    sentence = refused([*command, *changed], capsys)
    assert "a.txt:1 is not UTF-8 at byte 2" in sentence
    assert sentence.endswith("read it with --errors=replace")


def test_without_beam_it_says_what_to_install(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    before = builtins.__import__

    def without_beam(name: str, *rest: Any) -> Any:
        if name.startswith("apache_beam"):
            raise ImportError(name)
        return before(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_beam)
    changed = ["--runner=beam", f"--output={tmp_path / 'corpus'}"]
    assert "pip install 'bertjax[beam]'" in refused([*command, *changed], capsys)


@pytest.mark.parametrize(
    "error",
    [
        UserError("a.txt:1 is bad; mend it [while running 'read and cut']"),
        RuntimeError("Traceback\\nbertjax.types.UserError: a.txt:1 is bad; mend it\\n\\nDuring"),
        RuntimeError("Traceback\nbertjax.types.UserError: a.txt:1 is bad; mend it\n"),
    ],
)
def test_the_sentence_is_found_in_what_beam_says(error: Exception):
    assert isinstance(told(error), UserError)
    assert str(told(error)) == "a.txt:1 is bad; mend it"


def test_other_errors_of_beam_stay_as_they_are():
    error = RuntimeError("the service is not there")
    assert told(error) is error
