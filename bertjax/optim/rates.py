"""Learning rates of their own for parts of a model, addressed by regular expressions.

A rate is a pair of a pattern and a factor. Every pattern that matches a parameter's whole path
multiplies its step, the decay of its weights included, so the order of the pairs does not matter
and a factor of 0 is a frozen parameter.

Layer-wise decay (ELECTRA's ``layerwise_lr_decay``, Clark et al. 2020; Zhang et al. 2021,
"Revisiting Few-sample BERT Fine-tuning") is a list of such pairs: :func:`layer_rates`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import optax

from bertjax.optim.addresses import Params, factors

Rate = tuple[str, float]
"""A regular expression of whole paths, and what multiplies their learning rate."""


def rate_factors(params: Params, rates: Sequence[Rate]) -> Params:
    """For each leaf the product of the factors that match, an array that broadcasts against it."""
    total = factors(params, (), matched=1.0)
    for pattern, factor in rates:
        total = jax.tree.map(np.multiply, total, factors(params, (pattern,), matched=factor))
    return total


def scale_by_rates(rates: Sequence[Rate]) -> optax.GradientTransformation:
    """Multiplies every update by its parameter's factor; the gradient's norm is not changed."""
    if not rates:
        return optax.identity()
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda update, factor: update * factor, updates, rate_factors(updates, rates)
        )
    )


def layer_rates(decay: float, layers: int) -> tuple[Rate, ...]:
    """The rates of a layer-wise decay over ``layers`` layers; none for a decay of 1.

    As in google-research/electra ``optimization.py`` a parameter at depth d has the factor
    ``decay ** (layers + 2 - d)``: embeddings (and their projection) are at depth 0, layer i,
    counted from 0, at i + 1, and heads at ``layers + 2``, so that their factor is 1 and the top
    layer's is ``decay ** 2``. ELECTRA has no pooler; ours has the depth between, ``layers + 1``.
    """
    if decay == 1:
        return ()
    below = [(f"encoder/layers/{layer}/.*", layer + 1) for layer in range(layers)]
    depths = [("encoder/embeddings/.*", 0), *below, ("encoder/pooler/.*", layers + 1)]
    return tuple((pattern, decay ** (layers + 2 - depth)) for pattern, depth in depths)
