"""ELECTRA's pair: a discriminator, and the small generator that makes its input.

Source: Clark et al. 2020 (arXiv 2003.10555), section 3. The generator reads with the
discriminator's embeddings (section 3.2, weight sharing); only what follows is its own. The pair's
parameters are the discriminator's ``{encoder, heads}`` with the generator's under ``generator``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array

from bertjax.models.model import Batch, Model
from bertjax.types import HeadConfig, ModelConfig

HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Electra:
    """A discriminator and its generator, to be trained as one model."""

    discriminator: Model
    generator: Model

    @classmethod
    def of(cls, discriminator: Model, size: float) -> Electra:
        """With a generator of ``size`` times the discriminator's width."""
        config = generator_config(discriminator.config, size)
        heads = (("masked_lm", HeadConfig("masked_lm")),)
        return cls(discriminator, discriminator.clone(config=config, head_configs=heads))

    @property
    def config(self) -> ModelConfig:
        """The discriminator's."""
        return self.discriminator.config

    @property
    def head_configs(self) -> tuple[tuple[str, HeadConfig], ...]:
        """The discriminator's."""
        return self.discriminator.head_configs

    def init(self, key: Array, batch: Batch, method: str = "initialise") -> dict[str, Any]:
        """Variables of both, as ``Model.init`` gives them."""
        ours = self.discriminator.init(key, batch, method=method)
        theirs: Any = self.generator.init(jax.random.fold_in(key, 1), batch, method=method)
        encoder = dict(theirs["params"]["encoder"])
        own = {k: v for k, v in encoder.pop("embeddings").items() if k == "projection"}
        generator = {**theirs["params"], "encoder": encoder | ({"embeddings": own} if own else {})}
        return {"params": {**ours["params"], "generator": generator}}

    def discriminator_params(self, params: Any) -> dict[str, Any]:
        """The discriminator's ``{encoder, heads}``."""
        return {name: params[name] for name in params if name != "generator"}

    def generator_params(self, params: Any) -> dict[str, Any]:
        """The generator's ``{encoder, heads}``, with the embeddings that it shares."""
        own = params["generator"]
        shared = {k: v for k, v in params["encoder"]["embeddings"].items() if k != "projection"}
        embeddings = shared | dict(own["encoder"].get("embeddings", {}))
        return {**own, "encoder": {**own["encoder"], "embeddings": embeddings}}


def generator_config(config: ModelConfig, size: float) -> ModelConfig:
    """The generator's shape: narrower, as many layers, embedding tables as wide."""
    heads = max(1, round(size * config.hidden_size / HEAD_WIDTH))
    return dataclasses.replace(
        config,
        embedding_size=config.embedding_width,
        hidden_size=heads * HEAD_WIDTH,
        num_heads=heads,
        intermediate_size=4 * heads * HEAD_WIDTH,
    )
