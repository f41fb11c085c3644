"""Optimizers, their schedules, and the one way to address parameters: regular expressions.

A parameter's address is its path, ``encoder/layers/3/attention/query/kernel``. Layers are stored
stacked, so what differs between layers (freezing, trust ratios) is an array that broadcasts over
the layer axes, not a label on a whole leaf.
"""

from bertjax.optim.addresses import (
    STACKED,
    Params,
    addresses,
    check_patterns,
    factors,
    layer_axes,
    path_of,
    unmatched,
)
from bertjax.optim.chain import freeze, optimizer
from bertjax.optim.config import (
    NO_DECAY,
    OPTIMIZERS,
    SCHEDULES,
    OptimConfig,
    OptimizerName,
    ScheduleName,
)
from bertjax.optim.lamb import scale_by_layer_trust_ratio
from bertjax.optim.muon import matrix_axes, scale_by_muon_or
from bertjax.optim.rates import Rate, layer_rates, rate_factors, scale_by_rates
from bertjax.optim.schedules import schedule
from bertjax.optim.uncorrected import UncorrectedAdamState, scale_by_uncorrected_adam

__all__ = [
    "NO_DECAY",
    "OPTIMIZERS",
    "SCHEDULES",
    "STACKED",
    "OptimConfig",
    "OptimizerName",
    "Params",
    "Rate",
    "ScheduleName",
    "UncorrectedAdamState",
    "addresses",
    "check_patterns",
    "factors",
    "freeze",
    "layer_axes",
    "layer_rates",
    "matrix_axes",
    "optimizer",
    "path_of",
    "rate_factors",
    "scale_by_layer_trust_ratio",
    "scale_by_muon_or",
    "scale_by_rates",
    "scale_by_uncorrected_adam",
    "schedule",
    "unmatched",
]
