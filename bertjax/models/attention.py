"""One attention function with three implementations; ``segment_ids`` tell padding and packing.

``xla`` is an einsum and runs anywhere; ``cudnn`` is NVIDIA's fused kernel; ``splash`` is Pallas'
fused kernel for TPUs (:mod:`bertjax.models.splash`). They compute the same. The fused ones keep
none of the attention weights for the backward pass, and drop none of them.

Einsum letters: B batch (rows), L query length, M key length, N heads, H head width.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.sharding import AbstractMesh, PartitionSpec
from jax.typing import DTypeLike

from bertjax.models.splash import LANES, splash
from bertjax.types import UserError

logger = logging.getLogger(__name__)

Implementation = Literal["xla", "cudnn", "splash"]
WANTED = ("auto", "xla", "cudnn", "splash")
"""What a config can ask for."""
BY_PLATFORM: dict[str, Implementation] = {"tpu": "splash", "gpu": "cudnn"}
"""What ``auto`` means; ``xla`` on any other platform."""
MULTIPLES: dict[str, int] = {"splash": LANES, "cudnn": 2}
"""Of what the lengths are multiples that an implementation takes."""
MASKED = -1e9
"""Added to the score of a pair that may not attend; its softmax weight is exactly 0."""
CUDNN_WIDEST = 128
"""The widest head that cuDNN takes before Hopper."""
CUDNN_CAPABILITY = 8.0
"""The first compute capability (Ampere) with cuDNN's fused attention."""


def resolve_attention(
    wanted: str,
    platform: str,
    dtype: DTypeLike,
    head_dim: int,
    dropout: float,
    length: int,
    capability: str | None = None,
) -> tuple[Implementation, str | None]:
    """The implementation of a run, and a notice where it is not the one that was asked for.

    Args:
      wanted: one of :data:`WANTED`; ``auto`` is the platform's.
      platform: of the devices that will compute: ``cpu``, ``gpu`` or ``tpu``.
      dtype: of the computation.
      head_dim: the width of one head.
      dropout: the rate of dropout of the attention weights.
      length: the longest rows, in tokens.
      capability: a GPU's compute capability, such as "8.0"; None: unknown.

    Raises:
      UserError: if a fused implementation is asked for by name and ``dropout`` is above 0.
    """
    name = BY_PLATFORM.get(platform, "xla") if wanted == "auto" else wanted
    if name not in ("cudnn", "splash"):
        return "xla", None
    if dropout > 0:
        lacks = f"{name} cannot drop attention weights, and this run's rate is {dropout:g}"
        remedy = "config field 'dropout' or the model's attention_dropout to 0"
        if wanted != "auto":
            raise UserError(f"config field 'attention': {lacks}; set {remedy}, or choose 'xla'")
        return "xla", f"attention runs on the xla path: {lacks} (set {remedy} for {name})"
    if name == "cudnn":
        problem = _cudnn_problem(platform, dtype, head_dim, capability)
    else:
        problem = "it needs a TPU" if platform == "gpu" else None
    if problem := problem or _length_problem(name, length):
        return "xla", f"attention runs on the xla path, not {name}: {problem}"
    if name == "splash" and platform == "cpu":
        return "splash", "splash attention is interpreted on a CPU, which is for tests and slow"
    return name, None


def _cudnn_problem(
    platform: str, dtype: DTypeLike, head_dim: int, capability: str | None
) -> str | None:
    """What of a run cuDNN does not support, or None."""
    if platform != "gpu":
        return "it needs an NVIDIA GPU"
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        return f"it computes in 16 bits, and this run in {jnp.dtype(dtype).name}"
    if head_dim % 8 or head_dim > CUDNN_WIDEST:
        return f"its heads are a multiple of 8 wide, up to {CUDNN_WIDEST}, not {head_dim}"
    if capability is not None and not _at_least_ampere(capability):
        return f"it needs compute capability {CUDNN_CAPABILITY}, and this GPU has {capability}"
    return None


def _at_least_ampere(capability: str) -> bool:
    try:
        return float(capability) >= CUDNN_CAPABILITY
    except ValueError:  # AMD's are called gfx90a
        return False


def _length_problem(name: str, length: int) -> str | None:
    """Why an implementation cannot take rows of this length, or None."""
    multiple = MULTIPLES.get(name, 1)
    if length % multiple == 0:
        return None
    return f"it takes rows of a multiple of {multiple} tokens, not {length}"


@struct.dataclass
class Mask:
    """Who attends whom: a token the tokens of its own segment, and padding (0) padding alone."""

    values: Array
    """What the implementation reads: an additive float32 mask ``[B, 1, L, L]`` (xla), a boolean one
    (cudnn), or the segment ids ``[B, L]`` (splash)."""
    implementation: Implementation = struct.field(pytree_node=False)

    @classmethod
    def of(cls, segment_ids: Array, implementation: Implementation) -> Mask:
        """From segment ids ``[B, L]``; for a length that the implementation cannot take, xla's."""
        if _length_problem(implementation, segment_ids.shape[1]):
            _say_once(implementation)
            implementation = "xla"
        if implementation == "splash":
            return cls(segment_ids, implementation)
        same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        if implementation == "cudnn":
            return cls(same, implementation)
        return cls(jnp.where(same, 0.0, MASKED).astype(jnp.float32), implementation)


@functools.cache
def _say_once(implementation: str) -> None:
    """That some rows are too short or too long by a few tokens."""
    logger.info(
        "attention of rows that are no multiple of %d tokens runs on the xla path, not %s",
        MULTIPLES[implementation],
        implementation,
    )


def attention(
    query: Array, key: Array, value: Array, mask: Mask, drop: Callable[[Array], Array]
) -> Array:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1).

    Args:
      query: ``[B, L, N, H]``, as are ``key`` and ``value``.
      mask: who attends whom, and by which implementation.
      drop: dropout of the attention weights, of which the fused implementations know nothing.

    Returns:
      ``[B, L, N, H]`` in the type of ``value``. Scores and softmax are float32.
    """
    query = query * (query.shape[-1] ** -0.5)
    match mask.implementation:
        case "xla":
            return _einsum(query, key, value, mask.values, drop)
        case "cudnn":
            return _per_device(_cudnn, query, key, value, mask.values)
        case "splash":
            return _per_device(_splash, query, key, value, mask.values)


def _einsum(
    query: Array, key: Array, value: Array, bias: Array, drop: Callable[[Array], Array]
) -> Array:
    scores = jnp.einsum("BLNH,BMNH->BNLM", query, key, preferred_element_type=jnp.float32)
    weights = softmax(scores + bias).astype(value.dtype)
    return jnp.einsum("BNLM,BMNH->BLNH", drop(weights), value)


def _cudnn(query: Array, key: Array, value: Array, same: Array) -> Array:
    return jax.nn.dot_product_attention(
        query, key, value, mask=same, scale=1.0, implementation="cudnn"
    )


def _splash(query: Array, key: Array, value: Array, segment_ids: Array) -> Array:
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    kind = jax.devices()[0].device_kind if device is None else device.device_kind
    return splash(query, key, value, segment_ids, interpret=kind == "cpu")


def _per_device(
    kernel: Callable[..., Array], query: Array, key: Array, value: Array, mask: Array
) -> Array:
    """Runs a kernel, which XLA cannot split, on each device's own rows and heads.

    The mesh and the rules are those in force; without a mesh there is one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel(query, key, value, mask)
    names = ("activation_batch", "activation_length", "activation_heads", "activation_kv")
    heads = _spec(names, query.shape, mesh)
    rows = _spec(("activation_batch", *[None] * (mask.ndim - 1)), mask.shape, mesh)
    specs = {"in_specs": (heads, heads, heads, rows), "out_specs": heads}
    # Pallas does not say over which axes of the mesh its results vary, so that is not checked.
    return jax.shard_map(kernel, mesh=mesh, check_vma=False, **specs)(query, key, value, mask)


def _spec(
    names: tuple[str | None, ...], shape: tuple[int, ...], mesh: AbstractMesh
) -> PartitionSpec:
    """Where the rules put an array; an axis that the mesh does not divide stays whole."""
    kept = []
    for axes, size in zip(nn.logical_to_mesh_axes(names) or (), shape, strict=True):
        axes = axes if isinstance(axes, tuple) else (axes,) * (axes is not None)
        ways = 1
        for axis in axes:
            ways *= mesh.shape[axis]
        kept.append(axes if axes and size % ways == 0 else None)
    return PartitionSpec(*kept)


@jax.custom_jvp
def softmax(scores: Array) -> Array:
    """Softmax over the last axis, of which only the result is kept for the backward pass.

    JAX's own keeps the exponentials beside it, which for attention weights is as much again.
    """
    return jax.nn.softmax(scores, axis=-1)


@softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = softmax(*primals)
    change = weights * tangents[0]
    return weights, change - weights * change.sum(axis=-1, keepdims=True)
