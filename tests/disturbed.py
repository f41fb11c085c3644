"""Stops a run at a random moment and compares what becomes of it with an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

SPEEDS = {"examples_per_second", "tokens_per_second", "steps_per_second", "flops_per_second"}
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
"""The exit code after each signal."""


def disturb(
    arguments: list[str], workdir: Path, number: signal.Signals, before: int, repository: Path
) -> None:
    """Sends a signal to the command at a random moment after a random step below ``before``."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # pytest shows it if the test fails
    moment, log = random.Random(seed), workdir.with_name("log")
    process = start(arguments, repository, log)
    wait_for_step(process, workdir, moment.randint(1, before - 1))
    time.sleep(moment.uniform(0, 0.05))
    process.send_signal(number)
    assert process.wait(timeout=240) == CODES[number], log.read_text()
    assert not (workdir / "result.json").exists()
    assert ("run the same command again to go on" in log.read_text()) == (number != signal.SIGKILL)


def start(
    arguments: list[str], repository: Path, log: Path, **settings: str
) -> subprocess.Popen[bytes]:
    """The command in a session of its own, with as many devices as this process."""
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    devices = {"PYTHONPATH": paths, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "bertjax", *arguments],
            cwd=repository,
            env=os.environ | devices | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait_for_step(process: subprocess.Popen[bytes], workdir: Path, step: int) -> None:
    """Returns when ``metrics.jsonl`` has that many lines."""
    path = workdir / "metrics.jsonl"
    until = time.monotonic() + 240
    while not path.exists() or path.read_bytes().count(b"\n") < step:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.001)


def lines(workdir: Path) -> list[dict[str, float]]:
    """``metrics.jsonl`` without the speeds."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in values.items() if k not in SPEEDS} for values in found]


def assert_same(workdir: Path, undisturbed: Path) -> dict[str, Any]:
    """Last checkpoint, export, metrics and result are the same to the last bit; the result."""
    mine, theirs = (
        json.loads((folder / "result.json").read_text()) for folder in (workdir, undisturbed)
    )
    changing = {"seconds", "peak_rss_mib"}
    assert {k: mine[k] for k in mine.keys() - changing} == {
        k: theirs[k] for k in theirs.keys() - changing
    }
    assert digests(workdir, mine["steps"]) == digests(undisturbed, mine["steps"])
    assert mine["seconds"] >= _meta(workdir, mine["steps"])["position"]["seconds"] - 0.1
    for name in ("model.safetensors", "config.json"):
        ours, others = (folder / "huggingface" / name for folder in (workdir, undisturbed))
        assert ours.read_bytes() == others.read_bytes()
    assert lines(workdir) == lines(undisturbed)
    return mine


def digests(workdir: Path, step: int) -> dict[str, int]:
    """Of every array of a checkpoint, the optimizer's too."""
    return _meta(workdir, step)["digest"]


def _meta(workdir: Path, step: int) -> dict[str, Any]:
    return json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())
