"""Schedules of the learning rate."""

from __future__ import annotations

import optax

from bertjax.optim.config import OptimConfig


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """The multiplier of the peak learning rate: from 0 up to 1 in the warm-up, and then down.

    Step ``s`` of ``steps`` counts from 0 and may be a fraction, or an array of either kind. The
    warm-up takes ``int(steps * warmup_ratio)`` steps. At ``steps`` the multiplier is
    ``final_ratio``, and stays there; the constant schedule knows no end.
    """
    warmup = int(steps * config.warmup_ratio)
    after = _after_warmup(config, max(1, steps - warmup), int(steps * config.cooldown_ratio))
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), after], [warmup])


def _after_warmup(config: OptimConfig, rest: int, cooldown: int) -> optax.Schedule:
    """From 1 down over ``rest`` steps."""
    final = config.final_ratio
    match config.schedule:
        case "linear":
            return optax.linear_schedule(1.0, final, rest)
        case "polynomial":
            return optax.polynomial_schedule(1.0, final, config.power, rest)
        case "cosine":
            return optax.cosine_decay_schedule(1.0, rest, final)
        case "constant":
            return optax.constant_schedule(1.0)
        case "constant_with_cooldown":
            return optax.linear_schedule(1.0, final, cooldown, rest - cooldown)
