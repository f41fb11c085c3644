"""The state of training, made directly in its sharding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.sharding import Mesh

from bertjax.models import Electra, Model
from bertjax.models.model import example_batch
from bertjax.models.vocabulary import with_rows
from bertjax.optim import OptimConfig, check_patterns, factors, optimizer, path_of
from bertjax.sharding import DEFAULT_RULES, param_shardings, place, replicated, update_sharding
from bertjax.types import UserError


@struct.dataclass
class TrainState:
    """Everything that a step changes. Plain arrays, no partitioning boxes."""

    step: Array
    params: Any
    optimizer: Any


def abstract_params(model: Model | Electra, mesh: Mesh, rules: str = DEFAULT_RULES) -> Any:
    """The shapes of the parameters with their shardings; nothing is computed.

    ``rules`` names a preset of :data:`bertjax.sharding.RULES`.
    """
    boxed: Any = jax.eval_shape(
        lambda: model.init(jax.random.key(0), example_batch(model.config), method="initialise")
    )["params"]
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.unbox(boxed),
        param_shardings(boxed, mesh, rules),
    )


def abstract_train_state(
    model: Model | Electra, config: OptimConfig, mesh: Mesh, rules: str = DEFAULT_RULES
) -> TrainState:
    """Shapes and shardings of the state that :func:`create_state` makes; nothing is computed."""
    params = abstract_params(model, mesh, rules)
    moments = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(optimizer(config, 0.0, 0.0).init, params),
        optimizer_shardings(config, params, mesh, rules),
    )
    step: Any = jax.ShapeDtypeStruct((), np.int32, sharding=replicated(mesh))
    return TrainState(step, params, moments)


def create_state(
    model: Model | Electra,
    config: OptimConfig,
    mesh: Mesh,
    seed: int,
    pretrained: Mapping[str, Any] | None = None,
    rules: str = DEFAULT_RULES,
    reinit: Sequence[str] = (),
) -> TrainState:
    """The state before the first step, made where it will lie.

    ``pretrained`` is a (partial) tree of host arrays that replaces what the seed would give, but
    for the parameters, and layers of stacked parameters, that a pattern of ``reinit`` matches.

    Raises:
      UserError: if a pretrained array has another shape than the model's, by its path.
    """
    shapes = abstract_params(model, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)

    def init(key: Array) -> Any:
        variables = model.init(key, example_batch(model.config), method="initialise")
        return nn.unbox(variables["params"])

    params = jax.jit(init, out_shardings=shardings)(jax.random.key(seed))
    sizes = model.config.vocab_size, model.config.vocab_rows
    found = replace_params(params, with_rows(pretrained or {}, *sizes))
    params = renew(found, params, reinit)
    state = jax.jit(
        lambda p: optimizer(config, 0.0, 0.0).init(p),
        out_shardings=optimizer_shardings(config, shapes, mesh, rules),
    )(params)
    return TrainState(place(np.zeros((), np.int32), replicated(mesh)), params, state)


def abstract_state(state: TrainState) -> TrainState:
    """Shapes and shardings of a state, to restore into."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def gradient_shardings(model: Model | Electra, mesh: Mesh, rules: str = DEFAULT_RULES) -> Any:
    """Where the gradients lie when the optimizer takes them: like its own state."""
    return _update_shardings(abstract_params(model, mesh, rules), rules)


def _update_shardings(shapes: Any, rules: str) -> Any:
    return jax.tree.map(lambda leaf: update_sharding(leaf.shape, leaf.sharding, rules), shapes)


def optimizer_shardings(
    config: OptimConfig, shapes: Any, mesh: Mesh, rules: str = DEFAULT_RULES
) -> Any:
    """Moments lie like the gradients, counters are replicated."""
    parts = jax.tree_util.tree_leaves_with_path(_update_shardings(shapes, rules))
    by_path = {path_of(path): sharding for path, sharding in parts}
    abstract = jax.eval_shape(optimizer(config, 0.0, 0.0).init, shapes)

    def sharding(path: tuple[Any, ...], leaf: Any) -> Any:
        del leaf
        keys = [key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return by_path.get(path_of(tuple(keys)), replicated(mesh))

    return jax.tree_util.tree_map_with_path(sharding, abstract)


def replace_params(params: Any, found: Mapping[str, Any], path: str = "") -> Any:
    """``params`` with the leaves of ``found`` in place, each in the sharding it replaces."""
    result = dict(params)
    for name, value in found.items():
        here = f"{path}/{name}" if path else name
        if isinstance(value, Mapping):
            result[name] = replace_params(params[name], value, here)
            continue
        if params[name].shape != np.shape(value):
            raise UserError(
                f"'{here}' has shape {np.shape(value)} in the weights but {params[name].shape} in "
                "the model; the config and the weights do not belong together"
            )
        result[name] = place(np.asarray(value, params[name].dtype), params[name].sharding)
    return result


def renew(params: Any, initial: Any, patterns: Sequence[str]) -> Any:
    """``params`` with the values of ``initial`` wherever a pattern matches, layer by layer.

    Leaves keep their shardings; ``params`` are used up.
    """
    if not patterns:
        return params
    kept = factors(params, tuple(patterns), matched=0.0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)

    def choose(params: Any, initial: Any) -> Any:
        return jax.tree.map(lambda a, b, keep: jnp.where(keep > 0, a, b), params, initial, kept)

    return jax.jit(choose, donate_argnums=0, out_shardings=shardings)(params, initial)


def check_addresses(model: Model | Electra, mesh: Mesh, **fields: Sequence[str]) -> None:
    """Checks config fields that hold regular expressions of a model's parameters, each by its name.

    Raises:
      UserError: for one that is no regular expression or matches no parameter.
    """
    if any(fields.values()):
        params = abstract_params(model, mesh)
        for field, patterns in fields.items():
            check_patterns(params, tuple(patterns), f"config field '{field}'")
