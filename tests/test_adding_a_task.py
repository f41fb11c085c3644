"""Does what docs/adding-a-task.md says, block by block, so that the guide stays true."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model

from bertjax.cli import main as cli
from bertjax.tasks import registry
from bertjax.types import UserError

STEPS = ("--config.steps=2", "--config.batch_size=8", "--config.max_length=24")
"""What the guide's training is cut down to."""


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    """The guide's blocks of code by heading."""
    guide = Path(__file__).resolve().parents[1] / "docs" / "adding-a-task.md"
    sections = re.split(r"^## ", guide.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        section.partition(" ")[0]: re.findall(r"^```\w+\n(.*?)^```", section, re.DOTALL | re.M)
        for section in sections
    }


def run(source: str, name: str) -> types.ModuleType:
    """A module made of that source."""
    module = types.ModuleType(name)
    exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    return module


def patched(source: str, difference: str) -> str:
    """The source after a diff, whose lines stand in it in this order, from the file's top on."""
    lines, at = source.splitlines(), 0
    for line in difference.splitlines():
        sign, text = line[0], line[1:]
        if sign == "+":
            lines.insert(at, text)
        else:
            assert text in lines[at:], f"the file has no line '{text}'"
            at = lines.index(text, at)
        if sign == "-":
            del lines[at]
        else:
            at += 1
    return "\n".join(lines) + "\n"


@pytest.fixture
def sick(blocks: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is entered as the guide says."""
    [entry], [difference] = blocks["1."], blocks["2."]
    monkeypatch.setitem(sys.modules, "bertjax.tasks.sick", run(entry, "bertjax.tasks.sick"))
    source = Path(registry.__file__).read_text(encoding="utf-8")
    changed: Any = run(patched(source, difference), "changed_registry")
    assert set(changed.TASKS) - set(registry.TASKS) == {"sick"}
    assert set(registry.TASKS) <= set(changed.TASKS)
    monkeypatch.setitem(registry.TASKS, "sick", changed.TASKS["sick"])
    monkeypatch.setattr(registry, "TASK_NAMES", changed.TASK_NAMES)


def test_a_difference_is_applied() -> None:
    assert patched("a\nb\nc\ne\n", " a\n+x\n-c\n+d\n") == "a\nx\nb\nd\ne\n"
    with pytest.raises(AssertionError, match="the file has no line 'z'"):
        patched("a\n", "-z\n")


def test_the_entry_and_its_test(blocks: dict[str, list[str]], sick: None, tmp_path: Path) -> None:
    """They run; and the test sees a class that the entry does not know."""
    [source] = blocks["3."]
    written: Any = run(source, "test_sick")
    written.test_sick(tmp_path)
    written.TABLE = written.TABLE.replace("NEUTRAL", "NEUTER")
    with pytest.raises(UserError, match=r"SICK_train\.txt:4: unknown label 'NEUTER'"):
        written.test_sick(tmp_path)


@pytest.mark.slow
def test_the_commands(
    blocks: dict[str, list[str]],
    sick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The guide's commands and its lines of Python, on its own three rows and a tiny model."""
    [source] = blocks["3."]
    written: Any = run(source, "test_sick")
    (tmp_path / "SICK").mkdir()
    for name in written.FILES:
        (tmp_path / "SICK" / name).write_text(written.TABLE)
    tiny_model(tmp_path / "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    commands, python = blocks["4."]
    finetune, evaluate, piped = commands.splitlines()
    assert cli.main([*shlex.split(finetune)[1:], *STEPS]) == 0
    capsys.readouterr()
    assert cli.main(shlex.split(evaluate)[1:]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 3
    given, _, predict = piped.partition(" | ")
    text = shlex.split(given)[1].encode().decode("unicode_escape")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert cli.main(shlex.split(predict)[1:]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["probabilities"]) == ["entailment", "neutral", "contradiction"]
    run(python, "from_python")
    assert capsys.readouterr().out.startswith(answer["label"])
