"""The mesh and the tables that map logical axes to it.

Parameters and activations name their axes (:mod:`bertjax.models`). :data:`ACTIVATIONS` says which
mesh axis those of activations go to, a preset of :data:`RULES` where parameters, and with them the
optimizer's state, lie. The mesh has Auto axis types: XLA's partitioner fills in what is not said.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bertjax.types import UserError

BATCH_AXES = ("data", "fsdp")

ACTIVATIONS: tuple[tuple[str, Any], ...] = (
    ("activation_batch", BATCH_AXES),
    ("activation_heads", "tensor"),
    ("activation_mlp", "tensor"),
)
"""Logical axis of an activation to mesh axis; axes that are not listed are not sharded."""
TENSOR = (("vocab", "tensor"), ("heads", "tensor"), ("mlp", "tensor"))
FSDP = (("embed", "fsdp"),)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where parameters and optimizer state lie."""

    parameters: tuple[tuple[str, str], ...] = ()
    """Logical axis to mesh axis; axes that are not listed are not sharded."""
    split_optimizer: bool = False
    """The optimizer's state is split over the batch axes too, where the parameters are whole: each
    device updates its part of them (ZeRO-1, Rajbhandari et al. 2020; weight-update sharding, Xu et
    al. 2020)."""


RULES: dict[str, Rules] = {
    "data": Rules(),
    "zero1": Rules(split_optimizer=True),
    "fsdp": Rules(FSDP),
    "tensor": Rules(TENSOR),
    "zero1_tensor": Rules(TENSOR, split_optimizer=True),
    "fsdp_tensor": Rules((*TENSOR, *FSDP)),
}
"""The presets, by the name that a config gives them. A mesh axis of size 1 splits nothing, so
``fsdp_tensor`` on the mesh (8, 1, 1) is data parallelism."""
DEFAULT_RULES = "fsdp_tensor"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices stand along each axis; one of them may be -1: what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over ``devices`` (default: all).

    Raises:
      UserError: when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if any(size < 1 for size in sizes) or int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh: data={config.data}, fsdp={config.fsdp}, tensor={config.tensor} does not "
            f"multiply to the {len(devices)} devices here; give sizes that do, "
            "one of them -1 for what is left"
        )
    return _mesh_of(sizes, devices)


def _mesh_of(sizes: Sequence[int], devices: Sequence[Any]) -> Mesh:
    """The mesh of known sizes; where the devices stand in several slices the data axis is across
    them, because their network is slower than the one within a slice.
    """
    axes, types = ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(sizes), axes, types, devices=list(devices))
    if sizes[0] % slices and devices[0].platform != "tpu":  # machines with GPUs: any axis
        return Mesh(np.array(devices, object).reshape(sizes), axes, axis_types=types)
    if sizes[0] % slices:
        raise UserError(
            f"mesh: data={sizes[0]} is not a multiple of the {slices} slices; only the data axis "
            "goes across slices, so give one that is"
        )
    within = (sizes[0] // slices, *sizes[1:])
    grid = mesh_utils.create_hybrid_device_mesh(
        within, (slices, 1, 1), devices, allow_split_physical_axes=True
    )
    return Mesh(grid, axes, axis_types=types)


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """Compiles and runs with this mesh in force, and the rules of the activations.

    The embedding tables have rules among them: they are gathered by width before they are used.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules((*ACTIVATIONS, *TENSOR)):
        yield


def batch_divisor(mesh: Mesh) -> int:
    """How many ways a batch is split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_rules(name: str, mesh: Mesh) -> None:
    """Raises UserError if a preset leaves an axis of the mesh without work."""
    used = {axis for _, axis in RULES[name].parameters}
    if mesh.shape["tensor"] > 1 and "tensor" not in used:
        raise UserError(
            f"config field 'rules': '{name}' splits nothing over the mesh's tensor axis of "
            f"{mesh.shape['tensor']}; set mesh.tensor=1, or take a preset whose name has 'tensor'"
        )


def param_shardings(boxed: Any, mesh: Mesh, rules: str = DEFAULT_RULES) -> Any:
    """Shardings of a tree of shapes that still carries its axis names.

    ``boxed`` comes from ``jax.eval_shape`` of ``init``; ``rules`` names a preset. Axes that the
    mesh size does not divide stay whole.
    """
    specs = nn.get_partition_spec(boxed)
    shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES[rules].parameters)
    return jax.tree.map(
        lambda leaf, sharding: _divisible(leaf.shape, sharding), nn.unbox(boxed), shardings
    )


def _divisible(shape: tuple[int, ...], sharding: NamedSharding) -> NamedSharding:
    mesh, spec = sharding.mesh, sharding.spec
    kept = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for size, axis in zip(shape, (*spec, *[None] * (len(shape) - len(spec))), strict=True)
    ]
    return NamedSharding(mesh, PartitionSpec(*kept))


def update_sharding(shape: tuple[int, ...], sharding: NamedSharding, rules: str) -> NamedSharding:
    """Where the optimizer's state of one parameter lies, and with it the gradient.

    Like the parameter, unless the preset splits it further. Then each batch axis splits the longest
    axis whose part it divides; a parameter that none divides stays whole.
    """
    mesh = sharding.mesh
    if not RULES[rules].split_optimizer:
        return sharding
    given = (*sharding.spec, *[None] * (len(shape) - len(sharding.spec)))
    axes: list[tuple[str, ...]] = [() if axis is None else (str(axis),) for axis in given]
    taken = [int(np.prod([mesh.shape[name] for name in names])) for names in axes]
    left = [size // parts for size, parts in zip(shape, taken, strict=True)]
    for batch_axis in BATCH_AXES:
        parts = mesh.shape[batch_axis]
        fitting = [i for i, size in enumerate(left) if parts > 1 and size % parts == 0]
        if fitting:
            longest = max(fitting, key=lambda i: left[i])
            axes[longest] += (batch_axis,)
            left[longest] //= parts
    return NamedSharding(mesh, PartitionSpec(*[names or None for names in axes]))


def place(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A global array of a host array that every process has; each puts in its devices' part."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def shard_batch(batch: Mapping[str, Any], mesh: Mesh, lead: int = 0) -> dict[str, Any]:
    """Global arrays of a whole batch, split along axis ``lead`` over the batch axes.

    A batch may hold batches, one for each of several tasks.
    """
    sharding = _batch_sharding(mesh, lead)
    return jax.tree.map(lambda value: place(value, sharding), dict(batch))


def _batch_sharding(mesh: Mesh, lead: int) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*[None] * lead, BATCH_AXES))


def rows_here(mesh: Mesh, rows: int) -> np.ndarray:
    """Which of a batch's rows the devices of this process hold, in ascending order."""
    held = _batch_sharding(mesh, 0).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in held if index]))


def join_rows(batch: Mapping[str, np.ndarray], mesh: Mesh, lead: int = 0) -> dict[str, jax.Array]:
    """As :func:`shard_batch`, where each process has only the rows of :func:`rows_here`."""
    sharding = _batch_sharding(mesh, lead)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
