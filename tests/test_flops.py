"""The count of operations against hand counts, against JAX's programs and against XLA's own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from bertjax.flops import forward_flops, measured_peak, peak_flops, step_flops
from bertjax.models import PRESETS, Model
from bertjax.models.model import example_batch
from bertjax.models.presets import FAMILY_DEFAULTS
from bertjax.types import HeadConfig, HeadKind, ModelConfig

ROWS, LENGTH, PREDICTIONS, EXAMPLES = 3, 16, 5, 7
SMALL: dict[str, Any] = {
    "vocab_size": 56,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 40,
    "max_positions": 32,
}
KINDS: dict[HeadKind, int] = {
    "masked_lm": 0,
    "next_sentence": 2,
    "sentence_order": 2,
    "replaced_token": 0,
    "classification": 3,
    "regression": 1,
    "multiple_choice": 1,
    "token_classification": 5,
    "span": 2,
}


def test_bert_base_by_hand():
    """A step of phase one: 256 rows of 128, 20 predictions a row, next sentences."""
    width, length, rows, masked = 768, 128, 256, 20
    projections = 4 * width * width + 2 * width * 3072
    token = 12 * (projections + 2 * length * width)
    decoder = masked * rows * (width * width + width * 30522)
    pooler = rows * (width * width + width * 2)
    heads = [HeadConfig("masked_lm"), HeadConfig("next_sentence", 2)]
    got = forward_flops(PRESETS["bert_base"], rows, length, masked * rows, heads)
    assert got == 2 * (rows * length * token + decoder + pooler)
    assert step_flops(PRESETS["bert_base"], rows, length, masked * rows, heads) == 3 * got
    # The rule of thumb: 6 operations a parameter of the layers and token, and some for attention.
    layers = forward_flops(PRESETS["bert_base"], rows, length)
    assert 3 * layers / (6 * 12 * projections * rows * length) == pytest.approx(1, abs=0.03)


def test_albert_counts_layers_that_run():
    """Sharing saves parameters, not operations; inner layers run in every repetition."""
    albert = dataclasses.replace(PRESETS["albert_base"], num_layers=6, inner_layers=2)
    bert = dataclasses.replace(PRESETS["bert_base"], num_layers=12)
    projection = 2 * 4 * 8 * 128 * 768
    assert forward_flops(albert, 4, 8) == forward_flops(bert, 4, 8) + projection


def shapes_of(config: ModelConfig, *kinds: HeadKind) -> tuple[Model, Any, dict[str, Any]]:
    """A model of heads named by their kind, its parameters' shapes, and a packed batch's."""
    heads = tuple((kind, HeadConfig(kind, KINDS[kind])) for kind in kinds)
    model = Model(config, heads, unroll=config.num_layers)
    params = jax.eval_shape(
        lambda: nn.unbox(
            model.init(jax.random.key(0), example_batch(config), method="initialise")["params"]
        )
    )
    sizes = {"cls": EXAMPLES, "prediction": PREDICTIONS}
    batch = {
        name: jax.ShapeDtypeStruct(
            (sizes[name.split("_")[0]],) if name.split("_")[0] in sizes else (ROWS, LENGTH),
            value.dtype,
        )
        for name, value in example_batch(config).items()
    }
    return model, params, batch


def product_flops(jaxpr: Any) -> int:
    """Operations of all matrix products of a program, those of a loop as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += runs * sum(map(product_flops, jaxprs_in_params(equation.params)))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = math.prod(left[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
    return total


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "distilbert", "electra"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_program_has_as_many(family: str, kind: HeadKind):
    """Every product of the forward pass and of the gradient, in every family with every head."""
    changes = SMALL | ({"num_layers": 4} if family == "albert" else {})
    if FAMILY_DEFAULTS[family].embedding_size:
        changes["embedding_size"] = 12
    config = dataclasses.replace(FAMILY_DEFAULTS[family], **changes)
    if family == "albert":
        config = dataclasses.replace(config, layer_groups=2, inner_layers=3)
    model, params, batch = shapes_of(config, kind)

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.square(model.apply({"params": params}, batch, kind)).sum()  # type: ignore

    heads = [HeadConfig(kind, KINDS[kind])]
    count = (config, ROWS, LENGTH, PREDICTIONS, heads, EXAMPLES)
    # The vocabulary's bias is added by a product, and its gradient is one: both not counted.
    bias = 2 * PREDICTIONS * config.vocab_size if kind == "masked_lm" else 0
    assert product_flops(jax.make_jaxpr(loss)(params, batch).jaxpr) == forward_flops(*count) + bias
    gradient = jax.make_jaxpr(jax.grad(loss))(params, batch)
    assert product_flops(gradient.jaxpr) == step_flops(*count) + 2 * bias


def test_xla_counts_a_little_more():
    """XLA's own analysis counts norms and softmax too: a few per cent at this width."""
    config = dataclasses.replace(PRESETS["bert_mini"], vocab_size=1000, num_layers=2)
    model, params, batch = shapes_of(config, "masked_lm")
    lowered = jax.jit(lambda p, b: model.apply({"params": p}, b, "masked_lm")).lower(params, batch)
    analysis: Any = lowered.cost_analysis()
    count = forward_flops(config, ROWS, LENGTH, PREDICTIONS, [HeadConfig("masked_lm")])
    assert 1 < analysis["flops"] / count < 1.05


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v2", 22.5),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("TPU v4 lite", None),
        ("NVIDIA L40S", None),
        ("NVIDIA GH200 480GB", None),
        ("cpu", None),
    ],
)
def test_peaks(kind: str, peak: float | None):
    assert peak_flops(kind) == (peak and peak * 1e12)


def test_a_cpu_is_measured():
    """A rate that products really reach: large ones a higher than those of all but overhead."""
    assert peak_flops(jax.devices("cpu")[0].device_kind) is None
    for dtype in (jnp.float32, jnp.bfloat16):
        small = measured_peak(dtype, sizes=[(16, 1)], repeats=3)
        both = measured_peak(dtype, sizes=[(16, 1), (512, 2)], repeats=3)
        assert 1e5 < small < both < 1e14
