"""The train step: one pure function of (state, batch, hyper-parameters, key)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from bertjax.losses import Sums, mean
from bertjax.models import Dropout
from bertjax.optim import OptimConfig, optimizer, schedule
from bertjax.train.objectives import Objective
from bertjax.train.state import TrainState


@struct.dataclass
class Hyper:
    """What a step takes as arrays: it is not compiled anew when they change."""

    learning_rate: Array
    weight_decay: Array
    dropout: Dropout | None
    """None: no dropout, nor the random numbers for it."""
    progress: Array | None = None
    """The share of the run that is over, in [0, 1], where a clock decides; None: by the step."""

    @classmethod
    def of(cls, config: OptimConfig, dropout: Dropout | None) -> Hyper:
        """The numbers of a config, as arrays."""
        return cls(
            learning_rate=jnp.float32(config.learning_rate),
            weight_decay=jnp.float32(config.weight_decay),
            dropout=jax.tree.map(jnp.float32, dropout),
        )


Step = Callable[
    [TrainState, Mapping[str, Array], Hyper, Array], tuple[TrainState, dict[str, Array]]
]


def make_train_step(
    objective: Objective,
    config: OptimConfig,
    steps: int,
    multiplier: optax.Schedule | None = None,
    gradient_shardings: Any = None,
) -> Step:
    """The step of a run of ``steps`` steps, to be given to ``jax.jit``.

    The batch's arrays, which may be nested by task, have a leading axis of micro-batches; each loss
    is divided by its weight in all of them. The key is the run's; the step folds its number into
    it. ``multiplier`` gives the share of the learning rate at a step; None: the config's schedule.
    ``gradient_shardings``, a tree like the parameters, says where gradients and updates lie; None:
    where the compiler likes.
    """
    share = multiplier or schedule(config, steps)

    def train_step(
        state: TrainState, batch: Mapping[str, Array], hyper: Hyper, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(key, state.step)
        gradients, sums = accumulate(objective, state.params, batch, hyper.dropout, key)
        if gradient_shardings is not None:
            gradients = jax.lax.with_sharding_constraint(gradients, gradient_shardings)
        at = state.step if hyper.progress is None else hyper.progress * steps
        learning_rate = hyper.learning_rate * jnp.asarray(share(at))
        chain = optimizer(config, learning_rate, hyper.weight_decay)
        updates, optimizer_state = chain.update(gradients, state.optimizer, state.params)
        metrics = {"loss": objective.total(sums)}
        metrics |= {name: mean(pair) for name, pair in sums.items()}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        metrics["learning_rate"] = learning_rate
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer_state), metrics

    return train_step


def accumulate(
    objective: Objective,
    params: Any,
    batch: Mapping[str, Array],
    dropout: Dropout | None,
    key: Array,
) -> tuple[Any, Sums]:
    """Gradients of the loss and all sums, added over the micro-batches."""
    scales = objective.scales(batch)

    def loss(params: Any, micro: Mapping[str, Array], key: Array) -> tuple[Array, Sums]:
        sums = objective(params, micro, dropout, key)
        parts = [sums[name][0] * scale for name, scale in scales.items()]
        return jnp.sum(jnp.stack(parts)), sums

    def gradients(micro: Mapping[str, Array], index: Array | int) -> tuple[Any, Sums]:
        key_of_micro = jax.random.fold_in(key, index)
        (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(params, micro, key_of_micro)
        return grads, sums

    count = jax.tree.leaves(batch)[0].shape[0]
    if count == 1:
        return gradients(jax.tree.map(lambda x: x[0], dict(batch)), 0)

    def add(total: Any, indexed: tuple[Array, Mapping[str, Array]]) -> tuple[Any, None]:
        index, micro = indexed
        return jax.tree.map(jnp.add, total, gradients(micro, index)), None

    shapes = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], dict(batch)), 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), dict(batch)))
    return total
