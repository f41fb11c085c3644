"""The mesh and the one table that maps logical axes to it.

Parameters and activations name their axes (:mod:`bertjax.models`); :data:`RULES` says which mesh
axis each goes to. The mesh has Auto axis types: XLA's partitioner fills in what is not said.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bertjax.types import UserError

BATCH_AXES = ("data", "fsdp")

RULES: tuple[tuple[str, Any], ...] = (
    ("activation_batch", BATCH_AXES),
    ("activation_heads", "tensor"),
    ("activation_mlp", "tensor"),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
)
"""Logical axis to mesh axis; axes that are not listed are not sharded."""


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
    return jax.make_mesh(
        tuple(sizes), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=list(devices)
    )


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
    """Compiles and runs with this mesh and :data:`RULES` in force."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def batch_divisor(mesh: Mesh) -> int:
    """How many ways a batch is split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Shardings of a tree of shapes that still carries its axis names.

    ``boxed`` comes from ``jax.eval_shape`` of ``init``. Axes that the mesh size does not divide
    stay whole.
    """
    specs = nn.get_partition_spec(boxed)
    shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
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


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, lead: int = 0) -> dict[str, jax.Array]:
    """Global arrays from this process's share, split along axis ``lead`` over the batch axes."""
    spec = PartitionSpec(*[None] * lead, BATCH_AXES)
    sharding = NamedSharding(mesh, spec)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
