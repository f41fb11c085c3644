"""How fast a pretraining step runs here, beside the best that this device does.

The rows are made up and full, so no corpus is needed. What is timed is the compiled step alone: no
input, no logging.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bertjax.analysis.subjects import preset_models
from bertjax.data.batching import Batch
from bertjax.flops import measured_peak, peak_flops
from bertjax.models import Electra, Model
from bertjax.sharding import check_rules, make_mesh, on_mesh, shard_batch
from bertjax.train.pretrain_config import PretrainConfig, stretches
from bertjax.train.pretrain_models import batch_flops, dropout_rates, make_objective
from bertjax.train.run_config import DTYPES
from bertjax.train.state import TrainState, create_state, gradient_shardings
from bertjax.train.step import Hyper, Step, make_train_step
from bertjax.types import ModelConfig


@dataclasses.dataclass(frozen=True)
class Measured:
    """One step of a recipe, timed; memory in bytes, rates a second, of all devices together."""

    device: str
    parameters: int
    rows: int
    length: int
    seconds: float
    """Of the fastest round's mean step."""
    tokens_per_second: float
    flops_per_step: float
    peak: float
    peak_source: str
    utilisation: float
    state_bytes: int
    """Parameters and what the optimizer keeps."""
    gradient_bytes: int
    activation_bytes: int
    """Kept for the backward pass, by our count (:func:`activation_bytes`)."""
    compiled_bytes: int
    """What XLA's plan of the program takes: arguments and temporaries."""

    @property
    def memory_ratio(self) -> float:
        """What the program takes over what it must hold."""
        return self.compiled_bytes / (
            self.state_bytes + self.gradient_bytes + self.activation_bytes
        )


def benchmark(config: PretrainConfig, steps: int = 10, rounds: int = 3) -> Measured:
    """Times ``steps`` steps, ``rounds`` times, of the first phase of a recipe.

    Raises:
      UserError: if the model is no preset, which is all that is known without weights.
    """
    mesh = make_mesh(config.mesh)
    check_rules(config.rules, mesh)
    model, trained = preset_models(config, mesh)
    part = stretches(config)[0]
    batch = full_rows(model.config, config, part.batch_size, part.max_length)
    state = create_state(trained, config.optim, mesh, config.seed, rules=config.rules)
    step = make_train_step(
        make_objective(config, trained),
        config.optim,
        stretches(config)[-1].last,
        gradient_shardings=gradient_shardings(trained, mesh, config.rules),
    )
    flops = batch_flops(trained, batch)
    hyper = Hyper.of(config.optim, dropout_rates(config, model.config))
    with on_mesh(mesh):
        placed = shard_batch(batch, mesh, lead=1)
        arguments = (state, placed, hyper, jax.random.key(0))
        seconds, compiled, state = _time(step, arguments, steps, rounds)
    peak, source = _peak(config)
    rows, length = batch["token_ids"][..., 0].size, batch["token_ids"].shape[-1]
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(state.params)]
    return Measured(
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        rows=rows,
        length=length,
        seconds=seconds,
        tokens_per_second=rows * length / seconds,
        flops_per_step=flops,
        peak=peak,
        peak_source=source,
        utilisation=flops / seconds / peak,
        state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.optimizer))),
        gradient_bytes=sum(sizes),
        activation_bytes=_kept(trained, batch),
        compiled_bytes=compiled,
    )


def full_rows(shape: ModelConfig, config: PretrainConfig, rows: int, length: int) -> Batch:
    """A batch ``[micro-batches, rows, …]`` of random tokens without padding."""
    generator = np.random.default_rng(config.seed)
    lead = (config.accumulation, rows // config.accumulation)
    grid, predictions = (*lead, length), (*lead, max(1, int(length * config.mask_rate)))
    batch: Batch = {name: np.zeros(grid, np.int32) for name in ("type_ids", "segment_ids")}
    batch["segment_ids"] += 1
    batch["token_ids"] = generator.integers(1, shape.vocab_size, grid).astype(np.int32)
    batch["positions"] = np.broadcast_to(np.arange(length, dtype=np.int32), grid).copy()
    places = generator.random(grid).argsort(axis=-1)[..., : predictions[-1]]
    batch["prediction_position"] = np.sort(places, axis=-1).astype(np.int32)
    labels = generator.integers(1, shape.vocab_size, predictions)
    batch["prediction_labels"] = labels.astype(np.int32)
    batch["prediction_weight"] = np.ones(predictions, np.float32)
    batch["cls_position"] = np.zeros((*lead, 1), np.int32)
    batch["labels"] = generator.integers(0, 2, (*lead, 1)).astype(np.int32)
    batch["example_weight"] = np.ones((*lead, 1), np.float32)
    return batch


def _time(
    step: Step, arguments: tuple[Any, ...], steps: int, rounds: int
) -> tuple[float, int, TrainState]:
    """Seconds a step, bytes of the compiled program, and the last state."""
    state, *others = arguments
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted: Callable[..., Any] = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    compiled: Any = jitted.lower(state, *others).compile()
    memory = compiled.memory_analysis()
    state, _ = jax.block_until_ready(compiled(state, *others))
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(steps):
            state, _ = compiled(state, *others)
        jax.block_until_ready(state)
        seconds.append((time.perf_counter() - began) / steps)
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return min(seconds), held * jax.device_count(), state


def _peak(config: PretrainConfig) -> tuple[float, str]:
    """Operations a second of all devices, and where the number is from."""
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    if config.peak_flops:
        return config.peak_flops * count, "as the config says"
    if known := peak_flops(kind):
        return known * count, f"by the maker of {kind}"
    return measured_peak(DTYPES[config.dtype]), "measured with matrix products just now"


def _kept(trained: Model | Electra, batch: Batch) -> int:
    """Activations of one micro-batch."""
    rows, length = batch["token_ids"].shape[1:]
    masked = batch["prediction_weight"][0].size
    pair = isinstance(trained, Electra)
    models = (trained.discriminator, trained.generator) if pair else (trained,)
    return sum(activation_bytes(model, rows, length, masked) for model in models)


def activation_bytes(model: Model, rows: int, length: int, predictions: int) -> int:
    """What a backward pass needs of the forward pass, by what each product multiplies.

    For every token and layer: the layer's input, the queries, keys and values, the attention
    weights, their mixture, the two outputs that are added to the residual stream, the stream
    between them (all of the model's width but for the weights), and the wide layer before and after
    its activation; for the masked-LM head its logits and their gradient. The residual stream is
    float32, the rest has the type of the computation.
    """
    config, size = model.config, np.dtype(model.dtype).itemsize
    width, tokens = config.hidden_size, rows * length
    stream = 2 * width * 4
    narrow = (6 * width + 2 * config.intermediate_size + config.num_heads * length) * size
    layers = config.num_layers * config.inner_layers
    total = layers * tokens * (stream + narrow)
    if any(head.kind == "masked_lm" for _, head in model.head_configs):
        total += 2 * predictions * config.vocab_size * 4
    return total
