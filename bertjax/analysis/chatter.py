"""What a C++ library does to the process it runs in: it writes past Python, and it can crash."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def unheard() -> Iterator[Callable[[], str]]:
    """Makes file descriptor 2 a temporary file, and gives a function that reads what was written.

    C++ libraries write there, past :data:`sys.stderr`. The function also works afterwards.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept: list[str] = []

        def read() -> str:
            if kept:
                return kept[0]
            file.seek(0)
            return file.read().decode(errors="replace")

        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield read
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            kept.append(read())


def in_child(work: Callable[[], int]) -> int | signal.Signals:
    """The exit code of ``work`` in a copy of this process, or the signal of which that crashed.

    In this very process where JAX is loaded already, as its threads would not be copied.
    """
    if "jax" in sys.modules or not hasattr(os, "fork"):
        return work()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        return work()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child too
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGTERM:
        return 128 - code
    return code if code >= 0 else signal.Signals(-code)
