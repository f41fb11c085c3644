"""The command line as a clumsy user meets it: quick, and one sentence an error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bertjax
from bertjax.cli import main as cli
from bertjax.cli.experiment import find_config, load_config
from bertjax.cli.flags import Command
from bertjax.cli.models import parse_options
from bertjax.types import UserError

CONFIG = """
from ml_collections import ConfigDict, config_dict

from bertjax.types import UserError


def get_config(argument="task=mrpc"):
    if argument == "task=nothing":
        raise UserError("there is no task 'nothing'")
    config = ConfigDict(
        dict(task=argument.removeprefix("task="), learning_rate=1e-3, epochs=3, early=True,
             freeze=("a",), resume=None, model=dict(dropout=0.1))
    )
    config.steps = config_dict.placeholder(int)
    config.columns = config_dict.placeholder(tuple)
    return config
"""


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


@pytest.fixture
def command(config_file: str) -> Command:
    command = Command("train", "Trains.", examples=["bertjax train --workdir=run"])
    command.config(f"{config_file}:task=mrpc")
    command.text("workdir", "Folder of the run.", required=True)
    command.integer("rows", "How many.", default=8)
    command.number("share", "How much.")
    command.switch("quiet", "Say nothing.")
    command.choice("format", "How to write.", ["huggingface", "bertjax"], default="bertjax")
    return command


def run_python(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The finished process and its processor seconds, which other load does not stretch."""
    before = os.times()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    after = os.times()
    return done, sum(after[2:4]) - sum(before[2:4])


def test_help_is_quick_and_lists_every_command():
    done, seconds = run_python("-m", "bertjax.cli.main", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    assert seconds < 2


def test_import_is_quick_and_light():
    code = "import sys, bertjax; print(*sys.modules)"
    done, seconds = run_python("-c", code)
    assert seconds < 1.5
    loaded = set(done.stdout.split())
    assert not loaded & {"jax", "numpy", "flax", "torch", "transformers", "tensorflow", "absl"}


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name: str):
    done, seconds = run_python("-m", "bertjax.cli.main", name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bertjax {name}")
    assert seconds < 2


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"bertjax {bertjax.__version__}\n"


def test_unknown_command(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["finetunne"]) == 2
    expected = "bertjax: error: there is no command 'finetunne'; did you mean 'finetune'?\n"
    assert capsys.readouterr().err == expected


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        bertjax.lod  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def raising(error: BaseException):
    def main(argv: list[str]) -> int:
        raise error

    return types.SimpleNamespace(main=main)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("the file is empty"), 2, "bertjax: error: the file is empty\n"),
        (OSError(errno.ENOSPC, "", "run/x"), 2, "No space left on device: run/x; free some space"),
        (PermissionError(errno.EACCES, "", "run"), 2, "Permission denied: run; choose another"),
        (OSError(errno.EROFS, "", "run"), 2, "Read-only file system: run; choose a place"),
        (ValueError("RESOURCE: No space left on device\n[x]"), 2, "device [x]; free some space"),
        (KeyboardInterrupt(), 130, "bertjax: interrupted\n"),
    ],
)
def test_errors_become_sentences(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: raising(error))
    assert cli.main(["predict"]) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bertjax.cli.main", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: raising(ValueError("bug")))
    with pytest.raises(ValueError, match="bug"):
        cli.main(["predict"])


def test_cpu_is_chosen_only_without_an_accelerator(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("TPU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli.glob, "glob", lambda pattern: [])
    assert not cli.has_accelerator()
    monkeypatch.setattr(cli.glob, "glob", lambda pattern: ["0"] if "nvidia" in pattern else [])
    assert cli.has_accelerator()
    monkeypatch.setattr(cli.glob, "glob", lambda pattern: [])
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert cli.has_accelerator()


@pytest.mark.skipif(sys.platform != "linux", reason="the choice is made on Linux only")
@pytest.mark.parametrize("given", [None, "tpu"])
def test_platform_is_set_unless_given(given: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    if given:
        monkeypatch.setenv("JAX_PLATFORMS", given)
    monkeypatch.setattr(cli, "has_accelerator", lambda: False)
    done = types.SimpleNamespace(main=lambda argv: None)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: done)
    assert cli.main(["predict"]) == 0
    assert os.environ["JAX_PLATFORMS"] == (given or "cpu")


def test_values(command: Command, config_file: str):
    values = command.parse(
        [
            *("--workdir=w", "--rows=3", "--share=1", "--noquiet"),
            *("--config.learning_rate=2", "--config.steps", "7", "--config.freeze=('b', 'c')"),
            *("--config.resume=4", "--config.model.dropout=0", "--config.columns=('a', 'b')"),
        ]
    )
    assert (values.workdir, values.rows, values.share, values.quiet) == ("w", 3, 1.0, False)
    assert values.config_source == f"{config_file}:task=mrpc"
    assert values.config.to_dict() == {
        "task": "mrpc",
        "learning_rate": 2.0,
        "epochs": 3,
        "early": True,
        "freeze": ("b", "c"),
        "resume": 4,
        "model": {"dropout": 0.0},
        "steps": 7,
        "columns": ("a", "b"),
    }
    assert values.config.is_locked


def test_parsing_twice_forgets_the_first_time(command: Command):
    command.parse(["--workdir=w", "--rows=3", "--config.learning_rate=2", "--config.epochs=1"])
    values = command.parse(["--workdir=v", "--config.epochs=2"])
    assert (values.workdir, values.rows) == ("v", 8)
    assert (values.config.learning_rate, values.config.epochs) == (1e-3, 2)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--workdirr=w", "bertjax train has no flag '--workdirr'; did you mean 'workdir'?"),
        ("--rows=many", "--rows=many is not a whole number"),
        ("--share=much", "--share=much is not a number"),
        ("--quiet=perhaps", "--quiet=perhaps is not true or false"),
        ("--format=hugingface", "is not one of the choices; did you mean 'huggingface'?"),
        ("--rows", "--rows needs a value: --rows=VALUE"),
        ("mrpc", "bertjax train does not know what to do with 'mrpc'; flags are written"),
        ("--config.learning_rat=1", "has no field 'learning_rat'; did you mean 'learning_rate'?"),
        ("--config.model.droput=1", "has no field 'model.droput'; did you mean 'model.dropout'?"),
        ("--config.task.name=1", "has no field 'task.name'"),
        ("--config.learning_rate=fast", "--config.learning_rate=fast is not a number"),
        ("--config.steps=1.5", "--config.steps=1.5 is not a whole number"),
        ("--config.early=perhaps", "--config.early=perhaps is not true or false"),
        ("--config.learning_rate", "--config.learning_rate needs a value"),
        ("--config.model=3", "--config.model=3"),
        ("--config=absent.py", "there is no config file 'absent.py'"),
        ("--config=", "there is no config file ''"),
    ],
)
def test_wrong_flags(command: Command, flag: str, words: str):
    with pytest.raises(UserError) as error:
        command.parse(["--workdir=w", flag])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_flag(command: Command):
    with pytest.raises(UserError, match="bertjax train needs --workdir=TEXT"):
        command.parse([])


def test_override_without_config():
    command = Command("score", "Scores.")
    command.config()
    assert command.parse([]).config is None
    with pytest.raises(UserError, match=r"--config.seed needs --config=FILE.py beside it"):
        command.parse(["--config.seed=1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:", "line 1: SyntaxError"),
        ("\ndef get_config():\n    return 1 / 0", "line 3: ZeroDivisionError"),
        ("config = 1", "defines no function get_config"),
        ("def get_config():\n    return 3", "returns int, not a ConfigDict"),
        ("def get_config(task):\n    return {}", "TypeError"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
        ("def get_config():\n    return {}['x']", "line 2: KeyError"),
    ],
)
def test_broken_experiments(tmp_path: Path, text: str, words: str):
    path = tmp_path / "broken.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_config(str(path))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_experiments_own_error_is_kept(config_file: str):
    with pytest.raises(UserError, match=r"^there is no task 'nothing'$"):
        load_config(f"{config_file}:task=nothing")


def test_config_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/finetune.py").is_file()


def test_help_page(command: Command, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        command.parse(["--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    for words in (
        "usage: bertjax train --workdir=TEXT [flags]",
        "Folder of the run. (required)",
        "--rows=INTEGER",
        "How many. (default: 8)",
        "--format=huggingface|bertjax",
        "  learning_rate = 0.001",
        "  model.dropout = 0.1",
        "  bertjax train --workdir=run",
    ):
        assert words in page


def test_options_of_a_trained_model():
    text = "cloze=False, deep=true,n_best=5,null_threshold=None,separator=tab,path=a=b"
    expected = {"cloze": False, "deep": True, "n_best": 5, "null_threshold": None}
    assert parse_options(text) == {**expected, "separator": "tab", "path": "a=b"}
    assert parse_options(None) == {}
    for wrong in ("cloze", "=5", "cloze="):
        with pytest.raises(UserError, match=f"write NAME=VALUE, not '{wrong}'"):
            parse_options(f"n_best=5,{wrong}")
