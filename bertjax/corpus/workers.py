"""Makes shards in several processes: readers cut the text into parts, workers tokenize them.

A reader holds one part ready and goes on when it has been taken; a worker holds one part. The
process that started them passes a part on when a worker is free, so memory does not grow with the
corpus. Every process ends when that one does, however it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from bertjax.corpus.shards import Job, Watch
from bertjax.data.workers import end_with_parent
from bertjax.types import UserError

WORKERS_A_READER = 8
"""So many workers a reader fills easily: text is read more than ten times as fast as tokenized."""


def run_local(job: Job, workers: int, watch: Watch) -> None:
    """Makes the shards of a job.

    Raises:
      UserError: if a text cannot be read or tokenized, or a process is killed; the shards that
        were begun are finished before.
    """
    if workers == 1:
        _run_here(job, watch)
        return
    readers = min(len(job.groups), 1 + (workers - 1) // WORKERS_A_READER)
    with contextlib.ExitStack() as stack:
        shares = [sorted(job.groups)[number::readers] for number in range(readers)]
        reading = [stack.enter_context(_process(_read, job, share)) for share in shares]
        writing = [stack.enter_context(_process(_write, job)) for _ in range(workers)]
        _Exchange(reading, writing, watch).run()


def _run_here(job: Job, watch: Watch) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoder = job.encoder()
    for number, group in job.groups.items():
        for part in job.parts(number, group):
            job.write(part, encoder, watch)
            part.blocks.clear()  # the next one is read before this one is let go


class _Exchange:
    """Passes parts from readers to workers, until both have nothing left or one has failed."""

    def __init__(self, readers: list[Connection], workers: list[Connection], watch: Watch):
        self._readers = set(readers)
        self._idle = list(workers)
        self._busy: set[Connection] = set()
        self._watch = watch
        self._error: Exception | None = None

    def run(self) -> None:
        while self._readers or self._busy:
            waiting = self._busy | (self._readers if self._idle else set())
            for connection in wait(list(waiting)):
                assert isinstance(connection, Connection)
                if connection in self._busy:
                    self._hear_worker(connection)
                elif self._idle:
                    self._hear_reader(connection)
        if self._error is not None:
            raise self._error

    def _hear_worker(self, worker: Connection) -> None:
        kind, value = _receive(worker)
        if kind == "progress":
            self._watch(*value)
            return
        self._busy.remove(worker)
        if kind == "error":
            self._fail(value)
        else:
            self._idle.append(worker)

    def _hear_reader(self, reader: Connection) -> None:
        kind, value = _receive(reader)
        if kind == "part":
            worker = self._idle.pop()
            try:
                worker.send(value)
                for _ in range(value[1]):
                    worker.send_bytes(reader.recv_bytes())
            except (EOFError, OSError):
                self._fail(_ended())
            else:
                self._busy.add(worker)
            return
        self._readers.remove(reader)
        if kind == "error":
            self._fail(value)

    def _fail(self, error: Exception) -> None:
        """Nothing new is begun; what has been begun goes on to its end."""
        self._error = self._error or error
        self._readers.clear()


def _receive(connection: Connection) -> tuple[str, Any]:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return "error", _ended()


def _ended() -> UserError:
    return UserError(
        "a process of the preparation was killed, perhaps for want of memory; run the same command "
        "again, with fewer --workers if need be"
    )


@contextlib.contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A process and the connection to it; it is ended when the context is left."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_enter, args=(target, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()


def _enter(target: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has gone
        try:
            target(connection, *arguments)
        except (EOFError, BrokenPipeError):
            raise
        except (UserError, OSError) as error:
            connection.send(("error", error))
        except Exception:
            connection.send(("error", RuntimeError(traceback.format_exc())))


def _read(connection: Connection, job: Job, numbers: list[int]) -> None:
    for number in numbers:
        for part in job.parts(number, job.groups[number]):
            connection.send(("part", (dataclasses.replace(part, blocks=[]), len(part.blocks))))
            for block in part.blocks:
                connection.send_bytes(block)
            part.blocks.clear()  # the next one is read before this one is let go
    connection.send(("end", None))


def _write(connection: Connection, job: Job) -> None:
    encoder = job.encoder()

    def watch(size: int, documents: int) -> None:
        connection.send(("progress", (size, documents)))

    while True:
        part, count = connection.recv()
        part.blocks.extend(connection.recv_bytes() for _ in range(count))
        job.write(part, encoder, watch)
        part.blocks.clear()
        connection.send(("done", None))
