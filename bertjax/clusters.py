"""What flags and the environment say of several processes: whether there are any, and where.

JAX detects its clusters itself, but it also takes a single TPU VM for one, and asks Google's
metadata server for minutes where there is none. So it is asked only where a look at the environment
finds more than one process.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from bertjax.types import UserError

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
METADATA_SECONDS = 2
TRY_SECONDS, PAUSE = 5.0, 0.5
"""How long one try to reach process 0 takes at most, and what lies between two."""
TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")


def in_cluster(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this is a task of SLURM, Open MPI, Kubernetes or a TPU pod with several processes."""
    variables = os.environ if environment is None else environment
    return (
        _in_slurm(variables)
        or _in_open_mpi(variables)
        or _in_tpu_pod(variables)
        or _in_kubernetes(variables)
    )


def _in_slurm(variables: Mapping[str, str]) -> bool:
    """In a step of ``srun`` with several tasks; in ``sbatch``'s own script there is no step."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
    if not all(name in variables for name in (*needed, "SLURM_LOCALID")):
        return False
    return int(variables.get("SLURM_STEP_NUM_TASKS", variables["SLURM_NTASKS"])) > 1


def _in_open_mpi(variables: Mapping[str, str]) -> bool:
    several = int(variables.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    return several and "OMPI_MCA_orte_hnp_uri" in variables


def _in_kubernetes(variables: Mapping[str, str]) -> bool:
    """In an indexed job, where the library is installed that JAX asks with."""
    indexed = "KUBERNETES_SERVICE_HOST" in variables and "JOB_COMPLETION_INDEX" in variables
    return indexed and importlib.util.find_spec("kubernetes") is not None


def _in_tpu_pod(variables: Mapping[str, str]) -> bool:
    """On one of several hosts of a slice, or in one of several slices."""
    if variables.get("JAX_PLATFORMS", "").startswith("cpu"):
        return False
    if int(variables.get("MEGASCALE_NUM_SLICES", "1")) > 1:
        return True
    workers = variables.get("TPU_PROCESS_ADDRESSES") or variables.get("TPU_WORKER_HOSTNAMES")
    if workers is not None:  # GKE says so, and so do Colab and Kaggle, with one
        return "," in workers
    if "TPU_SKIP_MDS_QUERY" in variables or not any(map(glob.glob, TPU_DEVICES)):
        return False
    slices = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env"))
    return (slices is not None and int(slices[1]) > 1) or "," in _metadata(
        "worker-network-endpoints"
    )


def _metadata(name: str) -> str:
    """An attribute of this virtual machine; empty where there is no such server."""
    import urllib.request

    request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:
            return answer.read().decode()
    except (OSError, ValueError):
        return ""


def from_environment() -> dict[str, Any]:
    """What JAX's own variables say; empty unless all three are set."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    texts = [os.environ.get(name) for name in names]
    if not all(texts):
        return {}
    try:
        return {
            "coordinator": texts[0],
            "processes": int(texts[1] or ""),
            "process": int(texts[2] or ""),
        }
    except ValueError:
        raise UserError(f"{names[1]} and {names[2]} must be whole numbers; set them anew") from None


def checked(found: dict[str, Any], heartbeat_timeout: int) -> dict[str, Any]:
    """``coordinator``, ``processes`` and ``process`` in this order, or nothing; else UserError."""
    if heartbeat_timeout < 1:
        raise UserError(f"--heartbeat_timeout={heartbeat_timeout} must be at least 1 second")
    if not found:
        return found
    missing = [name for name in ("coordinator", "processes", "process") if name not in found]
    if missing:
        flags = " and ".join(f"--{name}" for name in missing)
        raise UserError(
            f"{flags} is missing: a run of several processes needs --coordinator=HOST:PORT, "
            "--processes=N and --process=I"
        )
    coordinator, count, index = (found[name] for name in ("coordinator", "processes", "process"))
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT; add the port of process 0")
    if count < 1:
        raise UserError(f"--processes={count} must be at least 1")
    if not 0 <= index < count:
        raise UserError(
            f"--process={index} is out of range; with --processes={count} it is 0 to {count - 1}"
        )
    return {"coordinator": coordinator, "processes": count, "process": index}


def wait_for(coordinator: str, seconds: int) -> None:
    """Returns when process 0 has opened its port; JAX would abort if it never does."""
    host, _, port = coordinator.rpartition(":")
    until, reason = time.monotonic() + seconds, "no answer"
    while time.monotonic() < until:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=TRY_SECONDS).close()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return
        time.sleep(PAUSE)
    raise UserError(
        f"cannot reach process 0 at {coordinator} within {seconds} s ({reason}); see that it runs, "
        "and that --coordinator names its host and port"
    )
