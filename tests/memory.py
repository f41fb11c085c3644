"""The peak of a piece of work's memory, in a process of its own.

Counted is the memory that no file stands behind. What the kernel tells of itself misleads here: the
peak of ``getrusage`` begins with that of the process which started this one, and the peak in
``/proc`` counts the libraries' pages too, which go whenever another process needs the room.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
needs_status = pytest.mark.skipif(not STATUS.exists(), reason=f"memory is read from {STATUS}")


def occupied() -> int:
    """Bytes in use now."""
    lines = STATUS.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def peak(work: Callable[[], object]) -> int:
    """Bytes in use at most while the work is done, seen every millisecond or so."""
    seen, over = [occupied()], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            seen.append(occupied())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return max(seen)


def told(code: str, *arguments: str, **settings: str) -> float:
    """The number that Python code prints in a new process, which may import this module."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
