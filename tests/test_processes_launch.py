"""Launched processes that are stopped, or lose one of them, and go on to the same result."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import assert_same, lines, start, wait_for_step
from tiny_pretraining import command

STEPS = 40
HEARTBEAT = 20
COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc"),
]

Launch = Callable[[Path], subprocess.Popen[bytes]]


@pytest.fixture(params=COUNTS)
def launch(
    request: pytest.FixtureRequest,
    tiny_prepared: Path,
    repository: Path,
) -> Launch:
    """Starts ``bertjax launch`` of a pretraining into a workdir; it logs into ``log`` beside it."""
    flags = ["launch", f"--processes={request.param}", f"--heartbeat_timeout={HEARTBEAT}", "--"]
    changes = {"steps": STEPS, "dropout": 0.1, "eval_every": 9, "save_every": 4}
    devices = {"JAX_NUM_CPU_DEVICES": str(4 // request.param)}

    def begin(workdir: Path) -> subprocess.Popen[bytes]:
        arguments = [*flags, *command(tiny_prepared, workdir, **changes)]
        log = workdir.with_name("log")
        return start(arguments, repository, log, **devices)

    return begin


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that the launcher has started, in their order."""
    return list(
        map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    )


def ends(process: subprocess.Popen[bytes], numbers: list[int], seconds: float) -> int:
    """The exit code, once the launcher and its children have gone; they must be that quick."""
    began = time.monotonic()
    code = process.wait(timeout=240)
    assert time.monotonic() - began < seconds
    assert not [number for number in numbers if Path(f"/proc/{number}").exists()]
    return code


def test_a_run_of_several_processes_survives(launch: Launch, tmp_path: Path):
    """SIGTERM; then a process is killed; then the launcher; then the same command to the end."""
    undisturbed, workdir, log = tmp_path / "undisturbed", tmp_path / "run", tmp_path / "log"
    assert launch(undisturbed).wait(timeout=240) == 0, log.read_text()
    assert [line["step"] for line in lines(undisturbed) if "train/loss" in line] == list(
        range(1, STEPS + 1)
    )

    process = launch(workdir)
    wait_for_step(process, workdir, 3)
    numbers = children(process)
    process.send_signal(signal.SIGTERM)
    assert ends(process, numbers, HEARTBEAT) == 143, log.read_text()
    [stopped] = [line for line in log.read_text().splitlines() if line.startswith("bertjax: ")]
    found = re.fullmatch(r"bertjax: stopped at step (\d+); run the same .* to go on", stopped)
    assert found is not None, stopped
    step = int(found[1])
    assert (workdir / "checkpoints" / str(step)).exists()

    process = launch(workdir)
    wait_for_step(process, workdir, step + 4)
    numbers = children(process)
    os.kill(numbers[-1], signal.SIGKILL)
    assert ends(process, numbers, HEARTBEAT) == 137, log.read_text()
    beginning = "bertjax: error: process "
    [sentence] = [line for line in log.read_text().splitlines() if line.startswith(beginning)]
    last = len(numbers) - 1
    assert sentence == (
        f"bertjax: error: process {last} of {len(numbers)} ended with code 137 (killed by SIGKILL) "
        "and the others were ended; run the same command again to go on from the last checkpoint"
    )

    process = launch(workdir)
    wait_for_step(process, workdir, step + 6)
    numbers = children(process)
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        assert time.monotonic() < until, "a process goes on without its launcher"
        time.sleep(0.1)

    assert launch(workdir).wait(timeout=240) == 0, log.read_text()
    assert_same(workdir, undisturbed)
