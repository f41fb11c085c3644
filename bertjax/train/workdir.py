"""What a run leaves in its folder: config, metrics, TensorBoard events, result."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from etils import epath

import bertjax
from bertjax.distributed import from_first, is_first
from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    *("mesh", "rules", "log_every", "save_every", "keep_every"),
    *("unroll", "attention", "remat", "workers", "peak_flops"),
    "vocab_multiple",
)
"""Fields of the experiment that a resumed run may set anew: they do not change its result."""
CONFIG = "config.json"
WRITTEN_FIRST = (CONFIG, "tokenizer", "metrics.jsonl", "tensorboard")
"""What a run writes before anything is saved."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


def write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file whole: first beside its place, then renamed into it."""
    part = path.with_name(path.name + ".part")
    part.write_text(to_json(value, indent=2) + "\n")
    part.replace(path)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: epath.Path, remedy: str = "restore it from a copy") -> dict[str, Any]:
    """Reads a JSON file of a workdir; ``remedy`` says what to do where it is damaged.

    Raises:
      UserError: if it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object; {remedy}")
    return value


def complete(
    folder: epath.Path,
    document: Mapping[str, Any],
    tokenizer: Tokenizer,
    notes: Iterable[str],
    train: Callable[[], dict[str, Any]],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Has a run trained in its workdir and keeps its result; a finished one is only read.

    ``defaults`` is as in :func:`prepare`.

    Raises:
      UserError: if the folder holds another run, or something else.
    """

    def begin() -> dict[str, Any] | None:
        prepare(folder, document, defaults=defaults)
        if (result := read_result(folder)) is None:
            (folder / "tokenizer").mkdir(exist_ok=True)
            tokenizer.save(str(folder / "tokenizer"))
        return result

    if (found := from_first(begin)) is not None:
        logger.info("the run in %s is finished; its result is read", folder)
        return found
    for note in notes:
        logger.info("%s", note)
    result = train()
    from_first(lambda: write_json(folder / "result.json", result))
    return result


def cost(params: Any, seconds: float) -> dict[str, Any]:
    """What a result says of a run's size: parameters, seconds, memory and devices."""
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seconds": round(seconds, 1),
        "peak_rss_mib": round(peak_rss_mib()),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def read_result(folder: epath.Path) -> dict[str, Any] | None:
    """What ``result.json`` says; None while the run is not finished.

    Raises:
      UserError: if it is damaged.
    """
    path = folder / "result.json"
    remedy = "remove it and run the same command again"
    return read_json(path, remedy) if path.exists() else None


def read_document(folder: epath.Path) -> dict[str, Any]:
    """What ``config.json`` of a workdir says: ``experiment``, ``model``, ``heads`` and more.

    Raises:
      UserError: if there is none, it is damaged, or no run wrote it.
    """
    path = folder / "config.json"
    if not path.exists() or "bertjax" not in (document := read_json(path)):
        raise UserError(f"{folder} is no workdir of a run; for other folders use --model")
    for name in ("experiment", "model", "heads"):
        if not isinstance(document.get(name), dict):
            raise UserError(f"{path} is damaged: it lacks '{name}'; restore it from a copy")
    return document


def check_place(folder: epath.Path, record: str = CONFIG) -> None:
    """Raises UserError where a workdir cannot be: a file, or a folder of other things.

    ``record`` is the name of the file by which a workdir is known.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the workdir {folder} is a file; choose another --workdir")
    if not (folder / record).exists() and folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"the workdir {folder} is not empty and holds no run; choose another --workdir"
        )


def is_workdir(path: str | epath.PathLike) -> bool:
    """Whether a folder was written by a bertjax run."""
    config = epath.Path(path) / "config.json"
    try:
        return config.exists() and "bertjax" in json.loads(config.read_text())
    except (ValueError, OSError):
        return False


def recorded_padding(folder: epath.Path) -> int | None:
    """The ``vocab_padding`` of the run in a folder, which its checkpoints have; None: no run."""
    if not is_workdir(folder):
        return None
    model = read_json(folder / CONFIG).get("model")
    return model.get("vocab_padding", 0) if isinstance(model, dict) else None


def experiment_of(path: str) -> dict[str, Any]:
    """The fields of the experiment that a workdir holds."""
    return read_document(epath.Path(path))["experiment"]


def prepare(
    folder: epath.Path,
    document: Mapping[str, Any],
    record: str = CONFIG,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Makes the workdir and writes ``config.json``, or checks that the run there is the same.

    ``document`` has ``experiment`` (the fields of the config), in pretraining ``corpora`` (a digest
    of each), and whatever reading needs; ``record`` is another name for the file. ``defaults``
    gives the fields that a run may lack because its version of bertjax did not have them yet.

    Raises:
      UserError: if the folder holds another run, or something else.
    """
    path = folder / record
    if path.exists():
        there = read_json(path)
        experiment = there.get("experiment")
        if not isinstance(experiment, dict) or _has_begun(folder, record):
            check_same(folder, experiment, document["experiment"], defaults or {})
            _check_corpora(folder, there.get("corpora"), document.get("corpora", {}))
            return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"bertjax": bertjax.__version__, "versions": versions(), **document})
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {folder} ({error.strerror or error}); "
            "choose another --workdir"
        ) from error


def _has_begun(folder: epath.Path, record: str) -> bool:
    """Whether there is anything to lose: a run that failed before its first save left nothing."""
    saved = [path for path in folder.iterdir() if path.name not in (*WRITTEN_FIRST, record)]
    return any(path.name != "checkpoints" or any(path.iterdir()) for path in saved)


def check_same(
    folder: epath.Path,
    there: Any,
    here: Mapping[str, Any],
    defaults: Mapping[str, Any],
    but: Iterable[str] = (),
) -> None:
    """Raises UserError where two experiments differ, ``but`` in these fields.

    ``there`` is what ``folder`` holds, ``here`` what is asked for, ``defaults`` as in
    :func:`prepare`.
    """
    if not isinstance(there, dict):
        raise UserError(f"{folder} holds a config.json that no run wrote; choose another --workdir")
    there = json.loads(json.dumps(defaults)) | there
    here = json.loads(json.dumps(here))
    different = [
        f"{name}: {there.get(name)} there, {here.get(name)} here"
        for name in sorted({*there, *here} - {*MAY_CHANGE, *but})
        if there.get(name) != here.get(name)
    ]
    if different:
        raise UserError(
            f"the workdir {folder} holds a run with another config ({'; '.join(different)}); "
            "choose another --workdir, or remove this one"
        )


def _check_corpora(folder: epath.Path, there: Any, here: Mapping[str, str]) -> None:
    """Raises UserError if a corpus is not the one that the run began with."""
    there = there if isinstance(there, dict) else {}
    for name, digest in here.items():
        if there.get(name, digest) != digest:
            raise UserError(
                f"the corpus {name} is another one than when the run in {folder} began; prepare "
                "it as it was, or choose another --workdir"
            )


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def peak_rss_mib() -> float:
    """The largest resident memory this process has had, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Silence:
    """Takes the metrics of a run and writes nothing; for all processes but the first."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def open_writer(folder: epath.Path, step: int) -> Silence | MetricWriter:
    """What writes the metrics of a run that begins at ``step``: something in process 0 alone."""
    return MetricWriter(folder, step) if is_first() else Silence()


class MetricWriter:
    """``metrics.jsonl`` and TensorBoard events of a run.

    After a resume the lines that will be written anew are dropped: those of later steps, and the
    evaluation of the step where the run goes on, which the loop repeats.
    """

    def __init__(self, folder: epath.Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _is_kept(line, step)]
            part = folder / "metrics.jsonl.part"
            part.write_text("".join(line + "\n" for line in kept))
            part.replace(self._path)
        events = folder / "tensorboard"
        events.mkdir(exist_ok=True)
        self._events = EventsWriter(str(events / "events"), f".{step}")
        self._write_event(step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line ``{"step": …, name: value, …}``."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        with self._path.open("a") as file:
            file.write(to_json({"step": step, **values}) + "\n")
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write_event(step, summary=Summary(value=scalars))

    def _write_event(self, step: int, **content: Any) -> None:
        """Writes at once: SummaryWriter's thread would meet a full disk where no one listens."""
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        self._events.write_event(Event(step=step, wall_time=time.time(), **content))
        self._events.flush()

    def close(self) -> None:
        """Closes the events; all of them are written already."""
        with contextlib.suppress(OSError):
            self._events.close()


def _is_kept(line: str, step: int) -> bool:
    """Whether a line was written before the state of ``step`` was saved.

    A line cut off by a crash counts as lost.
    """
    try:
        values = json.loads(line)
        trained = any(name.startswith("train/") for name in values)
        return values["step"] < step or (values["step"] == step and trained)
    except (ValueError, KeyError, TypeError):
        return False
