"""The peak of a piece of work's memory, in a process of its own.

Counted is what malloc has handed out and not got back. What the kernel tells of a process misleads
here. The peak of ``getrusage`` begins with that of the process which started this one. The peak in
``/proc`` counts the libraries' pages too, which go whenever another process needs the room. And all
its figures count what is free again but still with the process: where Python finds no bytecode,
what the compiler used for the imports, twenty megabytes, which later work then takes for its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Mallinfo(ctypes.Structure):
    """What ``mallinfo2`` of glibc 2.33 and later tells (mallinfo(3)), sizes in bytes."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split(" ")]


mallinfo: Any = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "mallinfo2", None)
if mallinfo is not None:
    mallinfo.restype = Mallinfo
needs_mallinfo = pytest.mark.skipif(mallinfo is None, reason="the C library has no mallinfo2")


def occupied() -> int:
    """Bytes in use now."""
    now = mallinfo()
    return now.uordblks + now.hblkhd


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


def told(code: str, *arguments: str) -> float:
    """The number that Python code prints in a new process, which may import this module.

    There malloc gives Python's small objects their memory too, so that they are counted.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONMALLOC": "malloc"},
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
