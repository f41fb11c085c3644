"""What an experiment says of single layers, as addresses of the model's parameters.

Layer-wise decay of the learning rate and layers that begin anew (Zhang et al. 2021, "Revisiting
Few-sample BERT Fine-tuning") depend on how many layers there are, so they become patterns only when
the model is known.
"""

from __future__ import annotations

import dataclasses

from bertjax.optim import OptimConfig, layer_rates
from bertjax.train.config import FinetuneConfig
from bertjax.types import ModelConfig, UserError


def optim_of(config: FinetuneConfig, shape: ModelConfig) -> OptimConfig:
    """The optimizer's choices, with the rate of every layer.

    Raises:
      UserError: for ``layer_decay`` where layers share their parameters.
    """
    if config.layer_decay != 1:
        _check_layers(shape, "layer_decay", "rates")
    rates = layer_rates(config.layer_decay, shape.num_layers)
    return dataclasses.replace(config.optim, rates=(*rates, *config.rates))


def renewed(config: FinetuneConfig, shape: ModelConfig) -> tuple[str, ...]:
    """Patterns of the parameters that begin anew though they were found.

    Raises:
      UserError: for ``reinit_layers`` where there are not so many, or they share parameters.
    """
    count, layers = config.reinit_layers, shape.num_layers
    if not count:
        return config.reinit
    _check_layers(shape, "reinit_layers", "reinit")
    if count > layers:
        raise UserError(
            f"config field 'reinit_layers' is {count}, but {config.model} has {layers} layers"
        )
    top = [f"encoder/layers/{layer}/.*" for layer in range(layers - count, layers)]
    return (*config.reinit, *top, "encoder/pooler/.*")


def renew_notes(config: FinetuneConfig, shape: ModelConfig) -> tuple[str, ...]:
    """What there is to say about them, a line or none.

    Raises:
      UserError: as :func:`optim_of` and :func:`renewed`, before the run has begun.
    """
    optim_of(config, shape)
    patterns = renewed(config, shape)
    return (f"  begun anew by the config: {', '.join(patterns)}",) if patterns else ()


def _check_layers(shape: ModelConfig, field: str, instead: str) -> None:
    if shape.layer_groups is not None:
        raise UserError(
            f"config field '{field}' needs a model whose layers have parameters of their own, and "
            f"those of {shape.model_type} share theirs; address what you mean with '{instead}'"
        )
