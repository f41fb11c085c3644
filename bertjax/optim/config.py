"""The optimizer's choices, checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

from bertjax.types import UserError, nearest

ScheduleName = Literal["linear", "cosine", "constant", "constant_with_cooldown", "polynomial"]
OptimizerName = Literal["adamw", "adamw_without_bias_correction", "lamb", "muon"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)

NO_DECAY = (r".*/bias", r".*/norm/scale")
"""Biases and LayerNorm, as in google-research/bert ``optimization.py``."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer's choices. Learning rate and decay are arrays at run time (``optimizer``).

    ``adamw`` corrects its bias, which fine-tuning needs (Mosbach et al. 2021, Zhang et al. 2021);
    ``adamw_without_bias_correction`` is the historical one of google-research/bert; ``lamb`` is for
    very large batches (:mod:`bertjax.optim.lamb`); ``muon`` orthogonalises the steps of the
    encoder's matrices and leaves the rest to AdamW (:mod:`bertjax.optim.muon`).
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float = 5e-5
    schedule: ScheduleName = "linear"
    warmup_ratio: float = 0.1
    cooldown_ratio: float = 0.1
    """Share of the run in which ``constant_with_cooldown`` goes down, at its end."""
    final_ratio: float = 0.0
    """Where a schedule ends, as a share of its peak."""
    power: float = 1.0
    """Of the polynomial schedule."""
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    """The paper of LAMB has 1e-6, as has google-research/bert."""
    momentum: float = 0.95
    """Of Muon."""
    clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    freeze: tuple[str, ...] = ()
    """Regular expressions of whole paths that are not trained."""
    no_decay: tuple[str, ...] = NO_DECAY
    """Likewise of those that are not decayed; LAMB leaves their trust ratio at 1."""
    rates: tuple[tuple[str, float], ...] = ()
    """Pairs of a pattern and the factor of the learning rate where it matches; the factors of
    several that match are multiplied (:mod:`bertjax.optim.rates`)."""

    def __post_init__(self) -> None:
        for field, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            word = getattr(self, field)
            if word not in known:
                raise UserError(f"unknown {field} '{word}'{nearest(word, known)}")
        for field in ("warmup_ratio", "cooldown_ratio", "b1", "b2", "momentum"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(f"{field} must be in [0, 1), not {getattr(self, field)}")
        for pattern, factor in self.rates:
            if not 0 <= factor < math.inf:
                raise UserError(f"rates: the factor of '{pattern}' must be 0 or more, not {factor}")
        if not 0 <= self.final_ratio <= 1:
            raise UserError(f"final_ratio must be in [0, 1], not {self.final_ratio}")
        for field in ("learning_rate", "weight_decay", "clip", "eps", "power"):
            if not 0 <= getattr(self, field) < math.inf:
                raise UserError(f"{field} must be 0 or more, not {getattr(self, field)}")
        cools = self.schedule == "constant_with_cooldown"
        if cools and self.warmup_ratio + self.cooldown_ratio > 1:
            raise UserError(
                f"warmup_ratio {self.warmup_ratio} and cooldown_ratio {self.cooldown_ratio} are "
                "more than the whole run; make their sum 1 or less"
            )
