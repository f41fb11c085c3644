"""Floating-point operations of a model, and how many of them a device can do in a second.

Counted is what the model needs, not what a program does: matrix products, a multiply-add as two
operations, over whole rows, padding included. Looking up embeddings, biases, norms, softmax and
activations count nothing, nor does what is computed a second time to save memory. So the ratio of
this count to a device's peak is the model-FLOP utilisation of Chowdhery et al. 2022, appendix B.

Letters: L length, T tokens, D model width, F feed-forward width, E width of the embedding tables,
V vocabulary, P predictions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bertjax.types import HeadConfig, ModelConfig

PEAKS: tuple[tuple[str, float], ...] = (
    ("TPU v2", 22.5e12),
    ("TPU v3", 61.5e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite|TPU v5e", 197e12),
    ("TPU v5|TPU v5p", 459e12),
    ("TPU v6 lite|TPU v6e", 918e12),
    (r".*\bA100\b.*", 312e12),
    (r".*\b(H100|H200) NVL\b.*", 835e12),
    (r".*\bH100 PCIe\b.*", 756e12),
    (r".*\b(H100|H200)\b.*", 989e12),
    (r".*\bL4\b.*", 121e12),
    (r".*\bT4\b.*", 65e12),
    (r".*\bV100-PCIE\b.*", 112e12),
    (r".*\bV100\b.*", 125e12),
)
"""By regular expression of JAX's ``device_kind``, the first that matches as a whole."""
SIZES = {"cpu": ((1024, 1), (2048, 1))}
LARGE = ((8192, 16),)
"""Width of the matrices and how many products in a row are timed, for :func:`measured_peak`."""


def forward_flops(
    config: ModelConfig,
    rows: int,
    length: int,
    predictions: int = 0,
    heads: Iterable[HeadConfig] = (),
    examples: int | None = None,
) -> int:
    """Operations of encoding ``rows`` of ``length`` tokens once and applying each of ``heads``.

    Args:
      config: the model's shape.
      rows: of the batch, all micro-batches and devices together.
      length: of a row.
      predictions: positions of the whole batch at which a masked-LM head predicts.
      heads: the heads that a step evaluates.
      examples: of the whole batch, for heads that read one vector a text; default: one a row.
    """
    heads = tuple(heads)
    examples = rows if examples is None else examples
    tokens, width = rows * length, config.hidden_size
    layer = _dense(tokens, width, 4 * width)  # query, key, value and output
    layer += 2 * _dense(tokens, width, length)  # scores and their mixture
    layer += 2 * _dense(tokens, width, config.intermediate_size)
    total = config.num_layers * config.inner_layers * layer
    if config.projects_embeddings:
        total += _dense(tokens, config.embedding_width, width)
    if any(config.pools(head.kind) for head in heads):
        total += _dense(examples, width, width)
    return total + sum(_head(config, head, tokens, examples, predictions) for head in heads)


def step_flops(
    config: ModelConfig,
    rows: int,
    length: int,
    predictions: int = 0,
    heads: Iterable[HeadConfig] = (),
    examples: int | None = None,
) -> int:
    """Operations of a training step: forward and, twice as many, backward.

    Each product has two operands, and the gradient of each is one product of the same size.
    Arguments as :func:`forward_flops`. The optimizer's own are not counted.
    """
    return 3 * forward_flops(config, rows, length, predictions, heads, examples)


def _dense(vectors: int, inputs: int, outputs: int) -> int:
    return 2 * vectors * inputs * outputs


def _head(config: ModelConfig, head: HeadConfig, tokens: int, examples: int, masked: int) -> int:
    """Of one head, after the encoder and the pooler."""
    width, table = config.hidden_size, config.embedding_width
    match head.kind:
        case "masked_lm":
            return _dense(masked, width, table) + _dense(masked, table, config.vocab_size)
        case "replaced_token":
            return _dense(tokens, width, width) + _dense(tokens, width, 1)
        case "token_classification" | "span":
            return _dense(tokens, width, head.size)
        case "classification" | "regression" | "multi_label":
            dense = config.classification_dense
        case "multiple_choice":
            dense = config.choice_dense
        case "next_sentence" | "sentence_order":
            dense = None
    return _dense(examples, width, head.size) + (_dense(examples, width, width) if dense else 0)


def peak_flops(device_kind: str) -> float | None:
    """Operations a second of one JAX device, dense, in bfloat16; None where it is not known.

    The vendors' numbers, without sparsity. Of the T4 and the V100 those of float16: they have no
    units for bfloat16. A TPU v2 or v3 chip is two JAX devices, and so each has half of its number.

    Sources: Google, ``docs.cloud.google.com/tpu/docs/v2`` to ``/v6e``, "peak compute per chip";
    NVIDIA's data sheets of the A100, H100, H200, L4, T4 and V100 and the white paper of the H100
    (half of the number where it is given with sparsity).
    """
    return next((peak for kind, peak in PEAKS if re.fullmatch(kind, device_kind)), None)


def measured_peak(
    dtype: DTypeLike = jnp.float32,
    sizes: Iterable[tuple[int, int]] | None = None,
    repeats: int = 5,
) -> float:
    """The best rate, in operations a second, of square matrix products on one device, measured.

    It is the peak of what this process was given: a device of unknown kind, or a few of a CPU's
    cores. Takes a second or two on a CPU.

    Args:
      dtype: of the matrices.
      sizes: pairs of the matrices' width and of the products that are timed in one call; default:
        by platform.
      repeats: calls of each pair, after one that compiles and warms up.
    """
    sizes = SIZES.get(jax.default_backend(), LARGE) if sizes is None else sizes
    return max(_rate(dtype, size, products, repeats) for size, products in sizes)


def _rate(dtype: DTypeLike, size: int, products: int, repeats: int) -> float:
    """Operations a second of the fastest of ``repeats`` calls."""

    @jax.jit
    def multiply(left: jax.Array, right: jax.Array) -> jax.Array:
        for _ in range(products):
            left = left @ right
        return left

    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    right = matrix / jnp.asarray(size**0.5, dtype)  # so that a product is as large as its factor
    multiply(matrix, right).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(matrix, right).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return products * _dense(size, size, size) / min(seconds)
