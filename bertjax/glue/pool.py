"""One process for each run, as many at a time as there are places for."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from etils import epath

from bertjax.glue.devices import Slot
from bertjax.glue.folders import beside, folder_of, forget_failure, note_failure
from bertjax.glue.grid import Run

COMMAND = (sys.executable, "-m", "bertjax.glue.worker")
POLL = 0.1
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
"""Codes of processes that a signal has ended."""
TOLD = 2
"""The code of a process that has written down why its run failed."""


@dataclasses.dataclass
class Pool:
    """Starts processes, passes signals on to them, and outlives them all.

    A process whose pool is gone, even by SIGKILL, saves its run and ends: the pipe ``alive``
    tells it.
    """

    workdir: epath.Path
    slots: Sequence[Slot]
    settings: Mapping[str, str]
    """Environment variables for all."""
    signal: int = 0
    """The signal that ended it; 0: none."""

    def __enter__(self) -> Pool:
        self._alive, self._end = os.pipe()
        self._busy: dict[int, tuple[subprocess.Popen[Any], Run]] = {}
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._pass_on) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for process, _run in self._busy.values():
            process.send_signal(signal.SIGTERM)
        for process, _run in self._busy.values():
            process.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._alive)
        os.close(self._end)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        for process, _ in self._busy.values():
            process.send_signal(number)

    def go(self, runs: Sequence[Run]) -> Iterator[Run]:
        """Each run when its process has ended, finished or failed; none that a signal ended."""
        waiting = deque(runs)
        while waiting or self._busy:
            if self.signal:
                waiting.clear()
            for index in range(len(self.slots)):
                if index not in self._busy and waiting and not self.signal:
                    run = waiting.popleft()
                    process = self._start(run, self.slots[index])
                    self._busy[index] = process, run
                    if self.signal:  # It came before the process was known to _pass_on.
                        process.send_signal(self.signal)
            time.sleep(POLL)
            for index, (process, run) in list(self._busy.items()):
                if (code := process.poll()) is not None:
                    del self._busy[index]
                    if not self._was_stopped(code):
                        self._note_crash(run, code)
                        yield run

    def _was_stopped(self, code: int) -> bool:
        """Whether a process ended by a signal; one that was sent to it alone ends all."""
        if code in STOPPED and not self.signal:
            self._pass_on(signal.SIGTERM, None)
        return code in STOPPED

    def _note_crash(self, run: Run, code: int) -> None:
        if code not in (0, TOLD):
            killed = f" (killed by {signal.Signals(-code).name})" if code < 0 else ""
            folder = folder_of(self.workdir, run)
            log = beside(folder, ".log")
            note_failure(folder, f"its process ended with code {code}{killed}; see {log}", False)

    def _start(self, run: Run, slot: Slot) -> subprocess.Popen[Any]:
        folder = folder_of(self.workdir, run)
        forget_failure(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        order = {
            "folder": str(folder),
            "experiment": dataclasses.asdict(run.config),
            "cores": slot.cores,
            "alive": self._alive,
        }
        with open(beside(folder, ".log"), "ab") as log:
            process = subprocess.Popen(
                COMMAND,
                env={**os.environ, **self.settings, **slot.environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(self._alive,),
                start_new_session=True,  # a terminal's Ctrl-C comes from here, once
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        return process
