"""Keeps what a library writes on standard error away from the terminal, and lets it be read."""

from __future__ import annotations

import contextlib
import os
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
