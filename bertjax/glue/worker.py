"""One run in a process of its own, which :mod:`bertjax.glue.pool` starts.

The order comes as JSON on standard input; what the run says goes to its log. Exit codes: 0 done, 2
failed and written down, 130 and 143 interrupted with the state saved.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading

from etils import epath

from bertjax.glue.folders import note_failure
from bertjax.types import Diverged, Interrupted, UserError


def main() -> int:
    """Reads the order and runs it; returns the exit code."""
    order = json.load(sys.stdin)
    threading.Thread(target=_end_with_pool, args=(order["alive"],), daemon=True).start()
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])  # before JAX counts them
    notes = logging.getLogger("bertjax")
    notes.addHandler(logging.StreamHandler(sys.stderr))
    notes.setLevel(logging.INFO)
    notes.propagate = False

    from bertjax.train.config import FinetuneConfig
    from bertjax.train.finetune import finetune

    try:
        finetune(FinetuneConfig.from_mapping(order["experiment"]), order["folder"])
    except UserError as error:
        print(error, file=sys.stderr)
        note_failure(epath.Path(order["folder"]), str(error), isinstance(error, Diverged))
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
    return 0


def _end_with_pool(pipe: int) -> None:
    """The pool holds the pipe's other end; once it is gone, the loop saves and stops."""
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
