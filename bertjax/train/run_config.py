"""What the experiments of fine-tuning and of pretraining have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax.numpy as jnp

from bertjax.data.batching import round_up
from bertjax.models.attention import WANTED
from bertjax.models.encoder import REMATS
from bertjax.optim import OptimConfig
from bertjax.sharding import DEFAULT_RULES, RULES, MeshConfig
from bertjax.types import UserError, from_mapping, nearest

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Field names are the ones of ``--config.NAME=value``."""

    accumulation: int = 1
    """Micro-batches a step; divides the batch size."""
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup_ratio: float = 0.1
    cooldown_ratio: float = 0.1
    final_ratio: float = 0.0
    power: float = 1.0
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.95
    clip: float = 1.0
    freeze: tuple[str, ...] = ()
    """Regular expressions of parameter paths, such as ``encoder/layers/[0-3]/.*``."""
    rates: tuple[tuple[str, float], ...] = ()
    """Pairs of such an expression and a factor of the learning rate; all that match multiply."""
    dropout: float | None = None
    """One rate for all of the model's dropouts; None: what its config says."""
    seed: int = 0
    dtype: str = "float32"
    """Of the computation; parameters are float32."""
    unroll: int = 0
    """Layers a scan iteration; 0: all of them on a CPU without ``remat``, else one."""
    attention: str = "auto"
    """``xla``, ``cudnn`` or ``splash``; ``auto``: the one of the platform."""
    remat: str = "none"
    """What the backward pass computes again to save memory: ``none``, ``dots`` (all but the layers'
    projections) or ``full`` (the layers whole)."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    rules: str = DEFAULT_RULES
    """Where parameters and optimizer state lie, a name of :data:`bertjax.sharding.RULES`."""
    vocab_multiple: int = 0
    """The vocabulary's tables are filled up with zeros to a multiple of so many rows, which no
    result shows; 0: 1 on a CPU, 128 elsewhere."""
    save_every: int = 1000
    log_every: int = 20
    export: bool = True
    """Write the model as a Hugging Face folder, ``WORKDIR/huggingface``."""

    smallest: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("accumulation", "log_every", "save_every"), 1),
        "unroll": 0,
        "vocab_multiple": 0,
    }
    """Fields that count something, and the least that each can be."""

    def __post_init__(self) -> None:
        for field, least in self.smallest.items():
            value = getattr(self, field)
            if value < least:
                raise UserError(f"config field '{field}' must be at least {least}, not {value}")
        self.check_word("dtype", DTYPES)
        self.check_word("attention", WANTED)
        self.check_word("remat", REMATS)
        self.check_word("rules", RULES)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"config field 'seed' must be in [0, 2**32), not {self.seed}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"config field 'dropout' must be in [0, 1), not {self.dropout}")
        _ = self.optim  # checks its own fields

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Builds it from a config's plain values.

        Raises:
          UserError: for an unknown field or a value that cannot be.
        """
        lists = {"freeze": strings(values.get("freeze")), "rates": pairs(values.get("rates"))}
        values = {**values, **lists}
        if not isinstance(values.get("mesh", MeshConfig()), MeshConfig):
            values["mesh"] = from_mapping(MeshConfig, values["mesh"], "config field 'mesh'")
        return from_mapping(cls, values)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The fields that have a default, and it; as plain values."""
        missing, found = dataclasses.MISSING, {}
        for field in dataclasses.fields(cls):
            if field.default is not missing:
                found[field.name] = field.default
            elif field.default_factory is not missing:
                value = field.default_factory()
                is_mesh = isinstance(value, MeshConfig)
                found[field.name] = dataclasses.asdict(value) if is_mesh else value
        return found

    @property
    def optim(self) -> OptimConfig:
        """The optimizer's part of it."""
        names = {field.name for field in dataclasses.fields(OptimConfig)}
        mine = {field.name for field in dataclasses.fields(self)}
        return OptimConfig(**{name: getattr(self, name) for name in names & mine})

    def check_word(self, field: str, known: Mapping[str, Any] | Sequence[str]) -> None:
        """Raises UserError if a field is none of the ``known`` words."""
        if (word := getattr(self, field)) not in known:
            raise UserError(f"config field '{field}': unknown '{word}'{nearest(word, known)}")

    def check_batch(self, batch_size: int, devices: int) -> None:
        """Raises UserError if a step's examples cannot be shared out evenly."""
        shares = self.accumulation * devices
        if batch_size % shares:
            raise UserError(
                f"batch_size {batch_size} is not divisible by accumulation {self.accumulation} "
                f"times the {devices} devices that share it; the next size that is: "
                f"{round_up(batch_size, shares)}"
            )


def strings(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """One string or several as a tuple; None is none."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def pairs(given: Sequence[Any] | None) -> tuple[tuple[str, float], ...]:
    """The pairs of field ``rates``, one pair or several; None is none.

    Raises:
      UserError: if something else is given.
    """
    given = () if given is None else given
    single = len(given) == 2 and isinstance(given[0], str)
    found = []
    for pair in (given,) if single else given:
        match pair:
            case (str(pattern), int() | float() as factor):
                found.append((pattern, float(factor)))
            case _:
                raise UserError(
                    "config field 'rates' must be pairs of a regular expression and a factor, such "
                    f"as (('heads/.*', 10.0),), not {given!r}"
                )
    return tuple(found)
