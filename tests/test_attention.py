"""The implementations of attention: equal to one another, and chosen by what they can do."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import HEADS, TINY, some_batch, some_params
from tiny_pretraining import fields

from bertjax.models import Dropout, Model
from bertjax.models.attention import Implementation, Mask, _say_once, attention, resolve_attention
from bertjax.models.model import all_states, example_batch
from bertjax.sharding import MeshConfig, make_mesh, on_mesh
from bertjax.train.execution import execution
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.types import UserError

LENGTH = 256
SEGMENTS = np.zeros((4, LENGTH), np.int32)
SEGMENTS[0] = 1  # a full row
SEGMENTS[1, :50], SEGMENTS[1, 50:180] = 1, 2  # packed, and padded
SEGMENTS[2, :7] = 1  # mostly padding
SEGMENTS[3, :128], SEGMENTS[3, 128:] = 1, 2


@pytest.fixture(autouse=True)
def forget_notices():
    """What was said once is said again in the next test."""
    _say_once.cache_clear()


def run_attention(
    implementation: Implementation, segments: np.ndarray, heads: int = 2, mesh: Any = None
) -> Any:
    """The mixed values, and the gradients of queries, keys and values."""
    rng = np.random.default_rng(0)
    shape = (*segments.shape, heads, 8)
    *arrays, weight = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(4))

    def loss(query: Any, key: Any, value: Any, segment_ids: Any) -> Any:
        mask = Mask.of(segment_ids, implementation)
        mixed = attention(query, key, value, mask, lambda weights: weights)
        return jnp.sum(mixed * weight), mixed

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    with contextlib.nullcontext() if mesh is None else on_mesh(mesh):
        (_, mixed), gradients = step(*arrays, jnp.asarray(segments))
    return jax.device_get((mixed, *gradients))


def assert_close(got: Any, want: Any) -> None:
    """Equal to 1e-5 forward and 2e-5 in gradients, relative to the largest of each array."""
    assert len(got) == len(want) > 1
    for index, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        atol = (2e-5 if index else 1e-5) * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def by_einsum() -> Any:
    return run_attention("xla", SEGMENTS)


def test_splash_equals_xla(by_einsum: Any):
    """On rows that are packed and padded, padding included."""
    assert_close(run_attention("splash", SEGMENTS), by_einsum)


def test_splash_runs_on_each_device_rows_and_heads(by_einsum: Any):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    assert_close(run_attention("splash", SEGMENTS, mesh=mesh), by_einsum)


def test_what_a_mesh_does_not_divide_stays_whole():
    """Three rows on four devices, and three heads on two."""
    segments, mesh = SEGMENTS[:3, :128], make_mesh(MeshConfig(2, 2, 2))
    got = run_attention("splash", segments, heads=3, mesh=mesh)
    assert_close(got, run_attention("xla", segments, heads=3))


def test_cudnn_is_given_the_scale_and_who_attends_whom(
    by_einsum: Any, monkeypatch: pytest.MonkeyPatch
):
    """By JAX's own einsum in place of cuDNN, which needs a GPU."""
    real, asked = jax.nn.dot_product_attention, []

    def instead(*arrays: Any, implementation: str, **options: Any) -> Any:
        asked.append(implementation)
        return real(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    assert_close(run_attention("cudnn", SEGMENTS), by_einsum)
    assert_close(run_attention("cudnn", SEGMENTS, mesh=make_mesh(MeshConfig(2, 2, 2))), by_einsum)
    assert set(asked) == {"cudnn"}


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")
def test_cudnn_equals_xla():
    """In bfloat16, of whose 8 bits products and sums lose some."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(4, LENGTH, 2, 64)), jnp.bfloat16) for _ in range(3)]

    def loss(arrays: Any, implementation: Implementation) -> Any:
        mask = Mask.of(jnp.asarray(SEGMENTS), implementation)
        query, key, value = arrays
        mixed = attention(query, key, value, mask, lambda weights: weights)
        return jnp.sum(jnp.square(mixed.astype(jnp.float32))), mixed

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    gradients, mixed = zip(*(step(arrays, name) for name in ("cudnn", "xla")), strict=True)
    for ours, theirs in [mixed, *zip(*gradients, strict=True)]:
        ours, theirs = (np.asarray(array, np.float32) for array in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())


def model_gradients(model: Model, params: Any, batch: Any, dropout: Dropout) -> Any:
    """Logits of the masked-LM head, and the gradients of a loss of them."""

    def loss(params: Any, rates: Dropout) -> Any:
        rngs = {"dropout": jax.random.key(3)}
        logits: Any = model.apply({"params": params}, batch, "masked", rates, rngs=rngs)
        return logits.var(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(params, dropout)
    # A key's bias has no gradient but rounding: softmax ignores it.
    gradients["encoder"]["layers"]["attention"]["key"].pop("bias")
    return jax.tree.leaves(jax.device_get((logits, gradients)))


def test_a_model_with_splash_equals_one_with_xla():
    """With dropout on but for the attention weights: the random streams are the same."""
    config = TINY.__class__(**{**vars(TINY), "max_positions": 128})
    params = some_params(Model(config, HEADS))
    batch = some_batch(config, SEGMENTS[1:3, :128])
    rates = jax.tree.map(jnp.float32, Dropout(0.2, 0.0, 0.1))
    got, want = (
        model_gradients(Model(config, HEADS, attention=name), params, batch, rates)
        for name in ("splash", "xla")
    )
    assert_close(got, want)


def test_other_lengths_take_the_xla_path(caplog: pytest.LogCaptureFixture):
    """And that is said once."""
    segments = SEGMENTS[:, :100]
    with caplog.at_level(logging.INFO, "bertjax"):
        got = run_attention("splash", segments)
        assert Mask.of(jnp.asarray(segments[:, :96]), "splash").implementation == "xla"
    jax.tree.map(np.testing.assert_array_equal, got, run_attention("xla", segments))
    said = "rows that are no multiple of 128 tokens runs on the xla path, not splash"
    assert [f"attention of {said}"] == caplog.messages


def test_parameters_are_made_without_a_notice(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "bertjax"):
        model = Model(TINY, HEADS, attention="splash")
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), example_batch(TINY), method="initialise")
        )
    assert not caplog.messages


def test_attention_weights_are_captured_by_xla():
    model = Model(TINY, HEADS, attention="splash")
    batch = some_batch(TINY, np.ones((1, 8), np.int32))
    hidden, weights = all_states(model, some_params(model), batch)
    assert (hidden.shape, weights.shape) == ((3, 1, 8, 16), (2, 1, 2, 8, 8))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


BERT: dict[str, Any] = {"dtype": jnp.bfloat16, "head_dim": 64, "dropout": 0.0, "length": 512}
FINE: list[tuple[str, str, dict[str, Any], str]] = [
    ("auto", "cpu", {}, "xla"),
    ("auto", "cpu", {"dropout": 0.1, "length": 100}, "xla"),
    ("auto", "tpu", {}, "splash"),
    ("auto", "tpu", {"dtype": jnp.float32, "head_dim": 20, "length": 128}, "splash"),
    ("auto", "gpu", {}, "cudnn"),
    ("auto", "gpu", {"dtype": jnp.float16, "capability": "9.0", "length": 130}, "cudnn"),
    *(("xla", platform, {"dropout": 0.1}, "xla") for platform in ("cpu", "gpu", "tpu")),
    ("splash", "tpu", {}, "splash"),
    ("cudnn", "gpu", {"capability": "8.6"}, "cudnn"),
]
NOTICED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("auto", "tpu", {"dropout": 0.1}, "xla", "splash cannot drop attention weights"),
    ("auto", "gpu", {"dropout": 0.1}, "xla", "this run's rate is 0.1"),
    ("auto", "tpu", {"length": 96}, "xla", "a multiple of 128 tokens, not 96"),
    ("splash", "tpu", {"length": 200}, "xla", "a multiple of 128 tokens, not 200"),
    ("splash", "gpu", {}, "xla", "not splash: it needs a TPU"),
    ("splash", "cpu", {}, "splash", "interpreted on a CPU"),
    ("cudnn", "cpu", {}, "xla", "not cudnn: it needs an NVIDIA GPU"),
    ("cudnn", "tpu", {}, "xla", "not cudnn: it needs an NVIDIA GPU"),
    ("cudnn", "gpu", {"dtype": jnp.float32}, "xla", "in 16 bits, and this run in float32"),
    ("auto", "gpu", {"dtype": jnp.float32}, "xla", "in 16 bits, and this run in float32"),
    ("auto", "gpu", {"head_dim": 20}, "xla", "a multiple of 8 wide, up to 128, not 20"),
    ("auto", "gpu", {"head_dim": 192}, "xla", "a multiple of 8 wide, up to 128, not 192"),
    ("auto", "gpu", {"length": 127}, "xla", "a multiple of 2 tokens, not 127"),
    ("auto", "gpu", {"capability": "7.5"}, "xla", "and this GPU has 7.5"),
    ("auto", "gpu", {"capability": "gfx90a"}, "xla", "and this GPU has gfx90a"),
]


@pytest.mark.parametrize(("wanted", "platform", "changes", "name"), FINE)
def test_what_a_run_gets(wanted: str, platform: str, changes: dict[str, Any], name: str):
    assert resolve_attention(wanted, platform, **BERT | changes) == (name, None)


@pytest.mark.parametrize(("wanted", "platform", "changes", "name", "text"), NOTICED)
def test_what_a_run_gets_instead(
    wanted: str, platform: str, changes: dict[str, Any], name: str, text: str
):
    found, notice = resolve_attention(wanted, platform, **BERT | changes)
    assert found == name
    assert text in str(notice)


@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_dropout_of_attention_weights_is_refused(name: Implementation):
    with pytest.raises(UserError, match=f"'attention': {name} cannot drop .* rate is 0.1; set"):
        resolve_attention(name, "tpu", **{**BERT, "dropout": 0.1})
    model = Model(TINY, HEADS, attention=name)
    batch, params = some_batch(TINY, np.ones((1, 8), np.int32)), some_params(model)
    rngs = {"dropout": jax.random.key(0)}
    with pytest.raises(UserError, match=f"{name} attention cannot drop attention weights"):
        model.apply({"params": params}, batch, "masked", Dropout(0.0, 0.1, 0.0), rngs=rngs)


def test_a_run_is_executed_as_its_devices_need(caplog: pytest.LogCaptureFixture):
    """By the mesh's devices: a machine without a TPU compiles for one."""
    config = PretrainConfig.from_mapping(fields("data", unroll=0, dropout=0.0))
    devices = np.array([[[SimpleNamespace(platform="tpu")]]])
    mesh: Any = SimpleNamespace(devices=devices)
    with caplog.at_level(logging.INFO, "bertjax"):
        assert execution(config, TINY, mesh, 128)["attention"] == "splash"
        assert not caplog.messages
        assert execution(config, TINY, mesh, 96)["attention"] == "xla"
        assert "a multiple of 128 tokens, not 96" in caplog.text
    assert execution(config, TINY, mesh, 128)["unroll"] == 1
    here = execution(config, TINY, make_mesh(MeshConfig()), 128)
    assert (here["attention"], here["unroll"]) == ("xla", TINY.num_layers)
    asked = PretrainConfig.from_mapping(fields("data", attention="splash"))  # the model's 0.1
    with pytest.raises(UserError, match=r"'attention': splash cannot drop .* rate is 0\.1; set"):
        execution(asked, TINY, mesh, 128)
    with pytest.raises(UserError, match="'attention': unknown 'flash'; did you mean 'splash'"):
        PretrainConfig.from_mapping(fields("data", attention="flash"))
