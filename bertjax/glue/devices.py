"""The devices of this machine, and how one process is shown one of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping

from bertjax.types import UserError

_LOOK = (
    "import jax; d = jax.local_devices(); "
    "print(d[0].platform, len({tuple(getattr(x, 'coords', None) or [x.id]) for x in d}))"
)
_FIRST_TPU_PORT = 8476


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one run at a time."""

    environment: Mapping[str, str]
    """What a process sets to see its device alone."""
    cores: tuple[int, ...] = ()
    """The CPU cores that it may use; none: any."""


def find_devices() -> tuple[str, int]:
    """The platform (``cpu``, ``gpu``, ``tpu``) and its number of devices; a TPU's are its chips.

    A process of its own looks, because the one that has looked holds the devices.

    Raises:
      UserError: where that process fails.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", 1
    found = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True)
    words = found.stdout.split()
    if found.returncode or len(words) != 2:
        last = (found.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise UserError(f"JAX finds no device ({last}); set JAX_PLATFORMS=cpu to do without")
    platform = "gpu" if words[0] in ("cuda", "rocm") else words[0]
    return platform, 1 if platform == "cpu" else int(words[1])


def make_slots(parallel: int) -> list[Slot]:
    """Places for so many runs side by side; 0: one a device. A single one is this process.

    Raises:
      UserError: for a number below 0, or above that of a TPU's chips.
    """
    if parallel < 0:
        raise UserError(f"--parallel={parallel} must be 0 (one run a device) or more")
    if parallel == 1:
        return [Slot({})]
    platform, devices = find_devices()
    count = parallel or devices
    if platform == "tpu" and count > devices:
        raise UserError(f"--parallel={count}: this machine has {devices} TPU chips, one run each")
    if count == 1:
        return [Slot({})]
    match platform:
        case "tpu":
            return [Slot(_tpu(index)) for index in range(count)]
        case "gpu":
            return [Slot(_gpu(index, devices, count)) for index in range(count)]
        case _:
            return [Slot({}, cores) for cores in _shares(count)]


def _gpu(index: int, devices: int, count: int) -> dict[str, str]:
    name = (
        "ROCR_VISIBLE_DEVICES" if "ROCR_VISIBLE_DEVICES" in os.environ else "CUDA_VISIBLE_DEVICES"
    )
    visible = os.environ.get(name) or ",".join(map(str, range(devices)))
    chosen = {name: visible.split(",")[index % devices]}
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if count > devices else {}
    return chosen | shared


def _tpu(index: int) -> dict[str, str]:
    """One chip as a slice of its own."""
    port = _FIRST_TPU_PORT + index
    visible = os.environ.get("TPU_VISIBLE_CHIPS")
    return {
        "TPU_VISIBLE_CHIPS": visible.split(",")[index] if visible else str(index),
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": str(port),
        "CLOUD_TPU_TASK_ID": "0",
    }


def _shares(count: int) -> list[tuple[int, ...]]:
    """The cores shared out; where there are fewer than processes, none is bound to any."""
    if not hasattr(os, "sched_getaffinity"):
        return [()] * count
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        return [()] * count
    return [tuple(cores[index::count]) for index in range(count)]
