"""Several processes of one run: joining them, agreeing between them, ending together.

:func:`join` is called once, before JAX looks for devices. Without it, and in a run of one process,
everything here is immediate: the one process is the first, and it agrees with itself.

Texts and numbers that the processes tell one another go through the key-value store of
``jax.distributed``'s coordinator, not over the devices, so they wait for no computation.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bertjax.clusters import checked, from_environment, in_cluster, wait_for
from bertjax.types import UserError

T = TypeVar("T")

LOST = 75
"""The exit code of a process that ends because another one has; EX_TEMPFAIL: try again."""
LONGEST_WAIT = 6 * 3600
"""Seconds that the others wait for what the first process does alone, such as an export."""
POLL = 0.5
"""Seconds between two looks whether another process has ended."""
GRACE = 5.0
"""Seconds that processes give one another to end by themselves."""

_LOST_PEER = re.compile(
    r"gloo|connection (reset|closed|refused)|heartbeat|coordination|unavailable|barrier|"
    r"deadline.exceeded|socket closed|preempted",
    re.IGNORECASE,
)


class _State:
    """What this process knows of the others; ``count`` is 0 until it has joined them."""

    index: int = 0
    count: int = 0
    turns: int = 0


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    heartbeat_timeout: int = 60,
    join_timeout: int = 300,
) -> None:
    """Joins the other processes of the run, if there are any.

    They are named by the arguments, by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or by a cluster that JAX knows: a TPU pod, SLURM, Open MPI, Kubernetes. Where
    none of these says so nothing is done.

    Args:
      coordinator: ``host:port`` of process 0, which opens that port.
      processes: how many there are.
      process: the number of this one, from 0.
      heartbeat_timeout: seconds after which a silent process counts as lost; JAX then ends the
        others.
      join_timeout: seconds to wait for the coordinator and the other processes.

    Raises:
      UserError: if the arguments do not fit together, or the others cannot be reached.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    found = {name: value for name, value in given.items() if value is not None}
    found = checked(found or from_environment(), heartbeat_timeout)
    if not found and not in_cluster():
        return
    if found and found["process"]:
        wait_for(found["coordinator"], join_timeout)
    import jax

    # SIGTERM has one owner, the training loop; JAX's preemption service would be another.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    how = {}
    if found:
        names = ("coordinator_address", "num_processes", "process_id")
        how = dict(zip(names, found.values(), strict=True), cluster_detection_method="deactivate")
    try:
        jax.distributed.initialize(
            **how,
            initialization_timeout=join_timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=heartbeat_timeout,
        )
    except Exception as error:
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"cannot join the other processes ({what}); see that all of them run, that process 0 "
            "can be reached, and that its port is free"
        ) from error
    _begin()


def _begin() -> None:
    import jax

    _keep_output_clean()
    _State.index, _State.count = jax.process_index(), jax.process_count()
    if _State.index:
        logging.getLogger("bertjax").setLevel(logging.ERROR)
    threading.Thread(target=_watch, daemon=True).start()


def _keep_output_clean() -> None:
    """Leaves standard output to Python: gloo writes on it whom it is connected to."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def is_first() -> bool:
    """Whether this is process 0, the one that writes and speaks; true of a single process."""
    return _State.index == 0


def is_several() -> bool:
    """Whether the run has more than one process."""
    return _State.count > 1


def from_first(work: Callable[[], T]) -> T:
    """Has process 0 do something, and gives what it returns, or raises, to all of them.

    All processes must call this in the same order.

    Args:
      work: returns what JSON can hold. Only process 0 calls it.

    Raises:
      UserError: if ``work`` does, in every process.
    """
    if not is_several():
        return work()
    _State.turns += 1
    key = f"bertjax/turn/{_State.turns}"
    if not is_first():
        said = json.loads(_client().blocking_key_value_get(key, LONGEST_WAIT * 1000))
    else:
        said: dict[str, Any] = {}
        try:
            said["result"] = work()
        except UserError as error:
            said["error"] = str(error)
        _client().key_value_set(key, json.dumps(said))
    if "error" in said:
        raise UserError(said["error"])
    return said["result"]


def everyone_comes(place: str, seconds: float = GRACE) -> bool:
    """Whether all processes call this with the same ``place`` within so many seconds."""
    if not is_several():
        return True
    try:
        _client().wait_at_barrier(f"bertjax/{place}", int(seconds * 1000))
    except Exception:  # the time has passed; JAX raises its runtime error
        return False
    return True


def compile_together(jitted: Any, *arguments: Any) -> None:
    """Compiles a ``jax.jit`` function in every process before it runs in any.

    On CPUs gloo waits half a minute for the other processes when they first meet in a collective,
    and a compilation can take longer in one than in another.
    """
    if is_several():
        jitted.lower(*arguments).compile()
        _State.turns += 1
        everyone_comes(f"compiled/{_State.turns}", LONGEST_WAIT)


def to_host(tree: Any) -> Any:
    """Whole host arrays of a tree of global ones, in every process; all must call it."""
    import jax
    from jax.experimental import multihost_utils

    if not is_several():
        return jax.device_get(tree)
    return jax.tree.map(lambda leaf: multihost_utils.process_allgather(leaf, tiled=True), tree)


class Vote:
    """The largest number that any process has given, learnt one call later.

    The numbers meet in a collective behind the step that was called before; so all processes learn
    the same at the same step, and none waits while its devices have nothing to do.
    """

    def __init__(self) -> None:
        self._pending: Any = None

    def __call__(self, mine: int) -> int:
        """Gives a number for this call; returns the largest of the last call's, 0 at first.

        One process learns its own number at once.
        """
        if not is_several():
            return mine
        before, self._pending = self._pending, self._cast(mine)
        return 0 if before is None else int(before)

    def _cast(self, mine: int) -> Any:
        import jax
        import numpy as np

        split, largest = self._program
        values = np.full(jax.local_device_count(), mine, np.int32)
        return largest(jax.make_array_from_process_local_data(split, values))

    @functools.cached_property
    def _program(self) -> tuple[Any, Any]:
        import jax
        import numpy as np
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
        split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("all",), ()))
        return split, jax.jit(lambda votes: votes.max(), out_shardings=whole)


def lost_peer(error: BaseException) -> str | None:
    """A sentence, if an error of JAX means that another process of the run has ended."""
    import jax

    if not is_several() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if not _LOST_PEER.search(str(error)):
        return None
    what = str(error).splitlines()[0][:200]
    return (
        f"another process of this run has ended ({what}); see what it says, and run the same "
        "command again in all of them to go on"
    )


def leave() -> None:
    """Parts from the others when all of them have come so far."""
    if is_several():
        import jax

        _State.count = 0
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()


def may_speak() -> bool:
    """Whether this process tells why the run ends: the first one that has something to tell.

    The others are ended, if they do not end by themselves.
    """
    if not is_several():
        return True
    try:
        _client().key_value_set("bertjax/ended", str(_State.index))
    except Exception as error:
        return "ALREADY_EXISTS" not in str(error)
    return True


def end(code: int) -> None:
    """Ends a process of several at once, without waiting for the others' work; else returns.

    Process 0 stays a moment: with it goes the coordinator, and JAX aborts who still needs it.
    """
    if not is_several():
        return
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            may_speak()
            until = time.monotonic() + GRACE
            while len(_client().key_value_dir_get("bertjax/gone/")) < _State.count - 1:
                if time.monotonic() > until:
                    break
                time.sleep(POLL / 10)
        else:
            may_speak()
            _client().key_value_set(f"bertjax/gone/{_State.index}", "")
    os._exit(code)


def _watch() -> None:
    """Ends this process when another one has told that it ends."""
    while is_several():
        try:
            who = _client().key_value_try_get("bertjax/ended")
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                return  # without a coordinator JAX itself ends this process
            time.sleep(POLL)
            continue
        time.sleep(GRACE / 5)  # it may be about to end by itself
        if int(who) != _State.index:
            end(LOST)
        return


def _client() -> Any:
    """The key-value store and barriers of ``jax.distributed``; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client
