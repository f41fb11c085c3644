"""Checkpoints of training state, by orbax: asynchronous, atomic, checked when they are read.

A checkpoint holds three items: ``params``, ``optimizer`` and ``meta`` (JSON: schema version, the
loop's own numbers, and an integer digest of every array). The digest does not depend on the mesh.
The latest and the best checkpoint are kept.

A training saves and restores device arrays. A conversion saves and restores the parameters as host
arrays, in little more memory than they take themselves. Several processes save and restore
together: each writes and reads what its devices hold, in a folder that all of them see.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from bertjax.digests import digest_table
from bertjax.distributed import everyone_comes, from_first
from bertjax.optim import path_of
from bertjax.types import UserError

SCHEMA = 1
REMEDY = "; remove it and run the same command again to use another"

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held."""

    step: int
    params: Any
    optimizer: Any
    meta: dict[str, Any]


def absolute(folder: epath.PathLike) -> epath.Path:
    """The folder by its whole path, which orbax asks for; ``gs://`` stays as it is."""
    text = os.fspath(folder)
    return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


@dataclasses.dataclass
class _LatestAndBest:
    """Orbax's preservation policy: the newest checkpoint, the best so far, and every so many."""

    best: int | None = None
    every: int = 0

    def should_preserve(self, checkpoints: Sequence[Any], **_: Any) -> list[bool]:
        """Which of ``checkpoints``, ordered by step, are kept."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {step for step in steps if self.every and step % self.every == 0}
        return [step in kept | {self.best, steps[-1]} for step in steps]


class Checkpoints:
    """The checkpoints of one run, in ``folder/checkpoints``; see :class:`_LatestAndBest`."""

    def __init__(self, folder: epath.PathLike, *, read_only: bool = False, keep_every: int = 0):
        self.folder = absolute(folder) / "checkpoints"
        self._policy = _LatestAndBest(every=keep_every)
        self._read_only = read_only
        self._abandoned = False
        if not isinstance(sys.unraisablehook, _LateAnswers):
            sys.unraisablehook = _LateAnswers(sys.unraisablehook)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy, create=not read_only, read_only=read_only
        )
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, handler_registry=_handlers()
        )

    @property
    def best(self) -> int | None:
        """The step to keep beside the newest; the loop says which it is."""
        return self._policy.best

    @best.setter
    def best(self, step: int | None) -> None:
        self._policy.best = step

    def save(self, step: int, params: Any, optimizer: Any | None, meta: Mapping[str, Any]) -> None:
        """Begins to write a checkpoint; the write goes on beside the training.

        Without an ``optimizer`` it can be read but not be trained on. Parameters that are host
        arrays are written from where they lie: they stay as they are until ``wait`` returns.

        Raises:
          UserError: when this write, or the one before it, met a full or read-only disk.
        """
        arrays = {"params": params}
        if optimizer is not None:
            arrays["optimizer"] = optimizer
        document = {**meta, "schema": SCHEMA, "digest": digest_table(arrays)}
        items: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params)):
            items["params"] = ocp.args.PyTreeSave(params)
        items["meta"] = ocp.args.JsonSave(document)
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Returns when all that was begun is on the disk."""
        if self._abandoned:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error

    def abandon(self) -> None:
        """Waits for nothing any more: a process failed, and what it should write never comes."""
        self._abandoned = True

    def close(self) -> None:
        """Ends the background threads.

        Raises:
          UserError: when the last write met a full or read-only disk.
        """
        if self._abandoned:
            return
        try:
            self._manager.close()
        except Exception as error:
            raise self._write_error(error) from error

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, newest first."""
        self._manager.reload()
        return from_first(lambda: sorted(self._manager.all_steps(), reverse=True))

    def restore_latest(self, params: Any, optimizer: Any) -> Restored | None:
        """The newest checkpoint that is whole; a damaged one is named and put aside.

        Args:
          params: the tree to fill, of ``jax.ShapeDtypeStruct`` with shardings.
          optimizer: likewise.

        Returns:
          None where there is no checkpoint at all.

        Raises:
          UserError: when there are checkpoints and none of them can be read.
        """
        steps = self.steps()
        for step in steps:
            try:
                found = self.restore(step, params, optimizer)
            except UserError as error:
                if not everyone_comes(f"damaged-{step}"):
                    raise  # the others read their parts of it, and cannot be called back
                logger.warning("%s", str(error).removesuffix(REMEDY))
                continue
            self._put_aside([newer for newer in steps if newer > step])
            if step != steps[0]:
                logger.warning("going on from the checkpoint of step %d", step)
            return found
        if steps:
            raise UserError(
                f"no checkpoint in {self.folder} can be read; remove the folder to begin anew"
            )
        return None

    def _put_aside(self, steps: Sequence[int]) -> None:
        """Moves damaged checkpoints out of the way: the run will reach their steps anew."""
        if not steps or self._read_only:
            return

        def move() -> None:
            for step in steps:
                aside = self.folder.with_name(f"damaged-{step}")
                if aside.exists():
                    aside.rmtree()
                (self.folder / str(step)).rename(aside)

        from_first(move)
        self._manager.reload()

    def restore(self, step: int, params: Any, optimizer: Any | None = None) -> Restored:
        """One checkpoint; without ``optimizer`` only its parameters are read.

        Raises:
          UserError: if it is damaged, of another schema, or of another shape.
        """
        items = {"meta": ocp.args.JsonRestore(), "params": ocp.args.StandardRestore(params)}
        if optimizer is not None:
            items["optimizer"] = ocp.args.StandardRestore(optimizer)
        found = self._read(step, items)
        meta = self._checked_meta(step, found["meta"])
        arrays = {name: found[name] for name in ("params", "optimizer") if name in items}
        self._check_digests(step, meta, arrays)
        return Restored(step, found["params"], found.get("optimizer"), meta)

    def restore_on_host(self, step: int, params: Any) -> Restored:
        """The parameters of one checkpoint, as host arrays, in little more memory than they take.

        They are read one by one, the largest first: what reading an array takes beside it is the
        most while the least is there already.

        Args:
          step: of the checkpoint.
          params: the tree to fill, of ``jax.ShapeDtypeStruct``.

        Raises:
          UserError: if it is damaged, of another schema, or of another shape.
        """
        meta = self.read_meta(step)
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        kinds = structure.unflatten([ocp.RestoreArgs(restore_type=np.ndarray)] * len(paths))
        arrays: list[Any] = [None] * len(paths)
        for place in sorted(range(len(paths)), key=lambda place: -paths[place][1].size):
            path, wanted = paths[place]
            leaves: list[Any] = [ocp.PLACEHOLDER] * len(paths)
            leaves[place] = wanted
            args = ocp.args.PyTreeRestore(structure.unflatten(leaves), restore_args=kinds)
            array = jax.tree.leaves(self._read(step, {"params": args})["params"])[place]
            name = f"params/{path_of(path)}"
            if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                has, asked = (f"{a.dtype}{list(a.shape)}" for a in (array, wanted))
                raise self._damaged(step, f": '{name}' is {has} and not {asked}")
            self._check_digests(step, meta, {name: array})
            arrays[place] = array
        return Restored(step, structure.unflatten(arrays), None, meta)

    def read_meta(self, step: int) -> dict[str, Any]:
        """The ``meta`` that one checkpoint was saved with, and no arrays.

        Raises:
          UserError: if it is damaged, or of another schema.
        """
        return self._checked_meta(step, self._read(step, {"meta": ocp.args.JsonRestore()})["meta"])

    def _read(self, step: int, items: Mapping[str, Any]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise self._damaged(step, f" ({_reason(error)})") from error

    def _checked_meta(self, step: int, found: Mapping[str, Any]) -> dict[str, Any]:
        if (schema := found.get("schema")) != SCHEMA:
            where = f"checkpoint {self.folder / str(step)}"
            raise UserError(f"{where} has schema {schema}, this bertjax reads {SCHEMA}")
        return dict(found)

    def _check_digests(self, step: int, meta: Mapping[str, Any], arrays: Any) -> None:
        for name, value in digest_table(arrays).items():
            if meta.get("digest", {}).get(name) != value:
                raise self._damaged(step, f": '{name}' is not what was saved")

    def _damaged(self, step: int, how: str) -> UserError:
        return UserError(f"checkpoint {self.folder / str(step)} is damaged{how}{REMEDY}")

    def _write_error(self, error: Exception) -> UserError:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = os.strerror(errno.ENOSPC) if full else _reason(error)
        remedy = "free some space" if full else "see that the folder can be written"
        return UserError(
            f"cannot write a checkpoint to {self.folder} ({reason}); {remedy} and run the same "
            "command again: it goes on from the last complete checkpoint"
        )


def _handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    """How orbax handles parameters: the arguments say whether they are on devices or on the host.

    Host arrays are neither copied nor compressed: compressing saves 8 % of a float32 model's size
    and holds all that is compressed until the disk has taken it.
    """
    on_device = ocp.StandardCheckpointHandler()
    known = [
        (kind, ocp.type_handlers.get_type_handler(kind))
        for kind in (jax.Array, type(ocp.PLACEHOLDER))
    ]
    uncopied = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    on_host = ocp.PyTreeCheckpointHandler(
        use_compression=False,
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            *known, (np.ndarray, uncopied)
        ),
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add("params", ocp.args.StandardSave, on_device)
    registry.add("params", ocp.args.StandardRestore, on_device)
    registry.add("params", ocp.args.PyTreeSave, on_host)
    registry.add("params", ocp.args.PyTreeRestore, on_host)
    return registry


@dataclasses.dataclass(frozen=True)
class _LateAnswers:
    """Drops what tensorstore's threads raise once a failure has ended orbax's event loop.

    What else was being read or written still answers to that loop, each with a traceback.
    """

    before: Callable[[Any], Any]

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.before(unraisable)


def _reason(error: Exception) -> str:
    """The kind of the error and the last file it names, or else its first line."""
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if files := re.findall(r'local file "([^"]+)"', text):
        return f"{text.partition(':')[0]} in {files[-1]}"
    return (text.splitlines() or [type(error).__name__])[0][:200]
