"""Several processes of one command on this machine, and what becomes of them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from bertjax.distributed import LOST

LAUNCHED = "BERTJAX_LAUNCHED"
"""Set in the processes that are started: their number and a pipe that ends with the launcher."""
POLL = 0.05
ORDERLY = (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Codes of processes that have told why they end, and whose others end by themselves."""
PATIENCE = 2.0
"""Seconds that the others have after a process that did not end so."""


def launch(command: Sequence[str], processes: int, heartbeat_timeout: int) -> int:
    """Runs ``bertjax COMMAND`` in several processes that are one run; returns the exit code.

    SIGINT and SIGTERM are passed on. When a process is lost the others are ended and one sentence
    says which it was. The processes end with this one, however it ends.
    """
    reading, writing = os.pipe()
    port = _free_port()
    children = []
    for index in range(processes):
        flags = [f"--coordinator=localhost:{port}", f"--processes={processes}"]
        flags += [f"--process={index}", f"--heartbeat_timeout={heartbeat_timeout}"]
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "bertjax", *command, *flags],
                env=os.environ | {LAUNCHED: f"{index}:{reading}"},
                stdin=subprocess.DEVNULL,
                pass_fds=(reading,),
                start_new_session=True,  # a terminal's Ctrl-C comes from here, once
            )
        )
    os.close(reading)
    try:
        with _passing_signals_on(children):
            codes = _wait(children, heartbeat_timeout)
    finally:
        os.close(writing)
    culprit = _culprit(codes)
    code = codes[culprit]
    if code not in ORDERLY:
        print(f"bertjax: error: {_sentence(culprit, code, processes)}", file=sys.stderr)
    return code


def _wait(children: Sequence[subprocess.Popen[bytes]], heartbeat_timeout: int) -> dict[int, int]:
    """The exit codes by number, in the order in which the processes ended.

    When one ends badly the others get a while and are then killed; they are not among the codes.
    """
    codes: dict[int, int] = {}
    until = float("inf")
    while len(codes) < len(children):
        for index, child in enumerate(children):
            if index in codes or (code := child.poll()) is None:
                continue
            codes[index] = 128 - code if code < 0 else code
            if code:
                patience = heartbeat_timeout if codes[index] in ORDERLY else PATIENCE
                until = min(until, time.monotonic() + patience)
        if time.monotonic() > until:
            for child in children:
                child.kill()
                child.wait()
            break
        time.sleep(POLL)
    return codes


def _culprit(codes: Mapping[int, int]) -> int:
    """The process that ended first, of those that did not end because another one had."""
    followed = (0, LOST, 128 + signal.SIGABRT)  # JAX aborts who has lost its coordinator
    own = [index for index, code in codes.items() if code not in followed]
    bad = [index for index, code in codes.items() if code]
    return (own or bad or list(codes))[0]


def _sentence(index: int, code: int, processes: int) -> str:
    killed = f" (killed by {signal.Signals(code - 128).name})" if _is_signal(code) else ""
    return (
        f"process {index} of {processes} ended with code {code}{killed} and the others were ended; "
        "run the same command again to go on from the last checkpoint"
    )


def _is_signal(code: int) -> bool:
    return code - 128 in {number.value for number in signal.Signals}


@contextmanager
def _passing_signals_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        for child in children:
            child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def is_launched() -> bool:
    """Whether this process was started by :func:`launch`."""
    return LAUNCHED in os.environ


def is_spokesman() -> bool:
    """Whether this process was not started by :func:`launch`, or is the first of those."""
    return os.environ.get(LAUNCHED, "0:").startswith("0:")


def end_with_launcher() -> None:
    """Has this process end as soon as the one that launched it has, even by SIGKILL."""
    if is_launched():
        pipe = int(os.environ[LAUNCHED].partition(":")[2])
        threading.Thread(target=_end_at_the_end_of, args=(pipe,), daemon=True).start()


def _end_at_the_end_of(pipe: int) -> None:
    try:
        os.read(pipe, 1)
    except OSError:  # a process that inherited the variable but not the pipe
        return
    os._exit(LOST)
