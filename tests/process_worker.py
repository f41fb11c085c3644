"""One process of several that runs commands one after the other, and starting them.

As a script: ``process_worker.py COORDINATOR PROCESSES PROCESS COMMANDS.json``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Ended = list[tuple[int, str, str]]
"""Exit code, standard output and standard error of each process."""


def run_processes(
    commands: Sequence[Sequence[str]],
    processes: int,
    devices: int,
    folder: Path,
    repository: Path,
) -> Ended:
    """Runs the commands in several processes that have ``devices`` CPU devices together."""
    folder.mkdir(parents=True)
    listed = folder / "commands.json"
    listed.write_text(json.dumps([list(command) for command in commands]))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    environment = {"PYTHONPATH": paths, "JAX_NUM_CPU_DEVICES": str(devices // processes)}
    started = []
    for index in range(processes):
        words = [sys.executable, __file__, coordinator, str(processes), str(index), str(listed)]
        files = [(folder / f"{name}-{index}").open("w+") for name in ("out", "err")]
        started.append(
            subprocess.Popen(
                words,
                cwd=repository,
                env=os.environ | environment,
                stdout=files[0],
                stderr=files[1],
            )
        )
    try:
        codes = [process.wait(timeout=400) for process in started]
    finally:
        for process in started:
            process.kill()
    texts = [
        [(folder / f"{name}-{i}").read_text() for name in ("out", "err")] for i in range(processes)
    ]
    return [(code, out, err) for code, (out, err) in zip(codes, texts, strict=True)]


def main(coordinator: str, processes: str, process: str, listed: str) -> None:
    """Runs every command; the last one's code is the process's."""
    from bertjax import distributed
    from bertjax.cli import main as cli

    distributed.join(coordinator, int(processes), int(process), heartbeat_timeout=30)
    code = 0
    for command in json.loads(Path(listed).read_text()):
        code = cli.main(command)
    if code:
        distributed.end(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
