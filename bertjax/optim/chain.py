"""The optax chain of a config."""

from __future__ import annotations

import jax
import optax
from jax import Array

from bertjax.optim.addresses import factors, unmatched
from bertjax.optim.config import OptimConfig
from bertjax.optim.lamb import scale_by_layer_trust_ratio
from bertjax.optim.muon import scale_by_muon_or
from bertjax.optim.rates import scale_by_rates
from bertjax.optim.uncorrected import scale_by_uncorrected_adam


def optimizer(
    config: OptimConfig, learning_rate: Array | float, weight_decay: Array | float
) -> optax.GradientTransformation:
    """The optax chain at one learning rate and decay; both may be traced.

    The state's structure does not depend on them, so the chain can be built anew in every step.
    """
    lamb = [scale_by_layer_trust_ratio(config.no_decay)] if config.optimizer == "lamb" else []
    return optax.chain(
        freeze(config.freeze),
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        _moments(config),
        optax.add_decayed_weights(weight_decay, mask=lambda p: unmatched(p, config.no_decay)),
        *lamb,
        scale_by_rates(config.rates),
        freeze(config.freeze),
        optax.scale_by_learning_rate(learning_rate),
    )


def _moments(config: OptimConfig) -> optax.GradientTransformation:
    """From gradients to steps of a size that does not depend on theirs."""
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    match config.optimizer:
        case "adamw" | "lamb":
            return adam
        case "adamw_without_bias_correction":
            return scale_by_uncorrected_adam(config.b1, config.b2, config.eps)
        case "muon":
            return scale_by_muon_or(adam, config.momentum, config.eps)


def freeze(patterns: tuple[str, ...]) -> optax.GradientTransformation:
    """Zeroes the updates of every parameter whose whole path matches one of ``patterns``."""
    if not patterns:
        return optax.identity()
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, factor: u * factor, updates, factors(updates, patterns, matched=0.0)
        )
    )
