"""The recipes and guides for launching hold commands that are real: our parsers accept them."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from bertjax.train.config import FinetuneConfig
from bertjax.train.pretrain_config import PretrainConfig

RECIPES = ("docs/tpu.md", "tools/xpk.md")


def parse(words: list[str]) -> None:
    """Raises UserError if ``bertjax WORDS`` has a flag, a field or a value that is wrong."""
    command, *arguments = words
    module = importlib.import_module(f"bertjax.cli.{command}")
    values = module.COMMAND.parse(arguments)
    if command == "pretrain":
        PretrainConfig.from_mapping(module.fields_of(values.config))
    elif command == "finetune":
        FinetuneConfig.from_mapping(values.config.to_dict())


def shell_lines(text: str) -> list[str]:
    """The commands of a shell script; lines that go on are joined."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.strip() for line in lines if line.strip()]


def documented(path: Path) -> list[str]:
    """The commands in the ``sh`` blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in shell_lines(block)]


def bertjax_words(line: str) -> list[str]:
    """The words after ``bertjax`` in a command, also in one that starts it elsewhere; or none."""
    words = shlex.split(line)
    if words[0] == "bertjax":
        return words[1:]
    if words[0] == "tools/tpu.sh" and "--" in words:
        return words[words.index("--") + 1 :]
    for word in words:
        if word.startswith("--command=") and " exec bertjax " in word:
            return shlex.split(word.partition(" exec bertjax ")[2])
    return []


@pytest.mark.parametrize(("page", "count"), [(RECIPES[0], 5), (RECIPES[1], 1)])
def test_documented_commands_are_real(repository: Path, page: str, count: int):
    found = [words for line in documented(repository / page) if (words := bertjax_words(line))]
    assert len(found) == count
    for words in found:
        parse(words)


def test_documented_launches_are_real(repository: Path):
    lines = [line for line in documented(repository / RECIPES[0]) if line.startswith("tools/tpu")]
    assert len(lines) == 9
    for line in lines:
        if "${" in line:
            continue
        program, subcommand, *rest = shlex.split(line)
        flags = ["--dry-run", "--package=bertjax"]
        done = subprocess.run(
            ["bash", str(repository / program), subcommand, *flags, *rest],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_sky_runs_a_real_command(repository: Path):
    task = yaml.safe_load((repository / "tools" / "sky.yaml").read_text(encoding="utf-8"))
    assert set(task) == {
        *("name", "envs", "workdir", "resources", "file_mounts", "setup", "run"),
    }
    text = task["run"]
    for name, value in task["envs"].items():
        assert f"${name}" in text
        text = text.replace(f"${name}", value)
    enter, line = shell_lines(text)
    program, *words = shlex.split(line)
    assert (enter, program) == ("cd ~", "~/bertjax-env/bin/bertjax")
    parse(words)
    assert "--workdir=gs://my-bucket/runs/base" in words
    folder = next(word for word in words if word.startswith("--config.data=")).partition("=")[2]
    assert list(task["file_mounts"]) == [f"~/{folder}"]
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_sky_has_a_tpu_and_a_gpu(repository: Path):
    task = yaml.safe_load((repository / "tools" / "sky.yaml").read_text(encoding="utf-8"))
    resources = task["resources"]
    assert resources["use_spot"] is True
    tpu, gpu = resources["ordered"]
    assert tpu["accelerators"].startswith("tpu-v5litepod-")
    assert tpu["accelerator_args"]["runtime_version"] == "v2-alpha-tpuv5-lite"
    assert gpu["accelerators"] == "A100-80GB:8"
