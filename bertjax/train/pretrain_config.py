"""The fields of a pretraining experiment, typed. ``configs/pretrain.py`` fills them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from bertjax.data.masking import UNITS, MaskUnit
from bertjax.data.plans import SENTENCE_TASKS, SentenceTask
from bertjax.models import PRESETS
from bertjax.optim import OptimConfig
from bertjax.sharding import MeshConfig
from bertjax.train.config import DTYPES
from bertjax.types import Activation, ModelConfig, UserError, from_mapping, nearest

PRESET = "preset:"
TFRECORD = "tfrecord:"
OBJECTIVES = ("masked_lm", "replaced_token")
BUDGETS = ("steps", "tokens", "minutes")
CLOCK_STEPS = 1_000_000
"""Steps into which a run by the clock is divided for its schedule."""
SMALLEST = {
    **dict.fromkeys(("batch_size", "accumulation", "eval_batch_size"), 1),
    "max_length": 8,
    **dict.fromkeys(("log_every", "save_every", "max_ngram"), 1),
    **dict.fromkeys(("steps", "tokens", "minutes", "eval_every", "eval_rows", "unroll"), 0),
    **dict.fromkeys(("workers", "peak_flops", "keep_every"), 0),
}
"""Fields that count something, and the least that each can be."""
PHASE_BOUNDS: dict[str, tuple[float, float]] = {
    "max_length": (8, math.inf),
    "share": (0, 1),
    "batch_size": (1, math.inf),
    "learning_rate": (0, math.inf),
    "warmup_ratio": (0, 1),
}
"""Fields of a phase, and what each can be."""
SIZES = (
    *("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"),
    *("max_positions", "embedding_size"),
)
SHARES = ("hidden_dropout", "attention_dropout", "initializer_range")
"""Fields of ``architecture`` by what they can be."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run with rows of one length. None: what the experiment says."""

    max_length: int
    share: float
    """Of the budget, in steps or in tokens; the shares of all phases make 1."""
    batch_size: int | None = None
    learning_rate: float | None = None
    """If given, the schedule begins anew, up to this peak."""
    warmup_ratio: float | None = None
    """Of a schedule that begins anew."""

    def __post_init__(self) -> None:
        for field, (least, most) in PHASE_BOUNDS.items():
            value = getattr(self, field)
            kind = int if field in ("max_length", "batch_size") else (int, float)
            if value is None and field not in ("max_length", "share"):
                continue
            if not isinstance(value, kind) or not least <= value <= most:
                raise UserError(
                    f"config field 'phases': {field} must be "
                    f"{'a whole number' if kind is int else 'a number'} of {least} to {most:g}, "
                    f"not {value!r}"
                )


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run. Field names are the ones of ``--config.NAME=value``."""

    data: tuple[str, ...]
    """Prepared corpora, each ``FOLDER`` or ``FOLDER=WEIGHT``, or ``tfrecord:GLOB``."""
    model: str = "preset:bert_base"
    """``preset:NAME``, or the weights to go on from: a folder, a workdir or a hub name."""
    architecture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the model that differ from the preset's."""
    tokenizer: str = ""
    """Only needed with ``tfrecord:``; a corpus carries its own."""
    validation_data: tuple[str, ...] = ()
    """As ``data``; empty: documents of ``data`` are held out."""
    held_out: float = 0.01
    """Share of the documents of each corpus that is held out; 0: none."""
    eval_rows: int = 1024
    """Held-out rows that are evaluated, at most; 0: all."""
    objective: str = "masked_lm"
    """Or ``replaced_token`` (ELECTRA)."""
    generator_size: float = 0.25
    """Of ELECTRA's generator: its width as a share of the discriminator's."""
    discriminator_weight: float = 50.0
    """Of the replaced-token loss beside the generator's."""
    sentence_task: SentenceTask = "next_sentence"
    mask_rate: float = 0.15
    mask_share: float = 0.8
    """Of the tokens to predict, those that are replaced by the mask token."""
    random_share: float = 0.1
    """Likewise by a random token."""
    mask_unit: MaskUnit = "token"
    """``word``: all tokens of a word together; ``ngram``: of up to ``max_ngram`` words."""
    max_ngram: int = 3
    short_share: float = 0.1
    """Of documents that are cut into shorter pairs."""
    balance: bool = True
    """Exactly half of all pairs are random ones; see :class:`bertjax.data.plans.Sampling`."""
    cut_sentences: bool = True
    """Without a sentence task, rows are full and a sentence may go on in the next."""
    pack: bool = True
    """Short examples share rows."""
    max_length: int = 128
    batch_size: int = 256
    """Rows a step, over all devices."""
    phases: tuple[Phase, ...] = ()
    """None: one phase of ``max_length`` and ``batch_size``."""
    accumulation: int = 1
    """Micro-batches a step; divides ``batch_size``."""
    eval_batch_size: int = 128
    steps: int = 0
    tokens: float = 0
    """Budget in tokens, padding counted."""
    minutes: float = 0
    """Budget by the clock, evaluations counted; the schedule follows it."""
    learning_rate: float = 1e-4
    schedule: str = "linear"
    warmup_ratio: float = 0.01
    cooldown_ratio: float = 0.1
    final_ratio: float = 0.0
    power: float = 1.0
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    momentum: float = 0.95
    clip: float = 1.0
    freeze: tuple[str, ...] = ()
    dropout: float | None = None
    """One rate for all of the model's dropouts; None: what its config says."""
    seed: int = 0
    dtype: str = "float32"
    unroll: int = 0
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    workers: int = 0
    """Processes that make rows; 0: threads of this one."""
    eval_every: int = 1000
    save_every: int = 1000
    keep_every: int = 0
    """Of the checkpoints that are saved, those of every so many steps are kept; 0: only the
    newest."""
    log_every: int = 50
    peak_flops: float = 0
    """FLOP/s of one device, for the utilisation; 0: by the kind of device, where it is known."""
    export: bool = True
    """Write the model as a Hugging Face folder, ``WORKDIR/huggingface``, at the end."""

    def __post_init__(self) -> None:
        if not self.data:
            raise UserError(
                "config field 'data' is not set; give --config.data=FOLDER, one that "
                "bertjax prepare wrote"
            )
        for field, least in SMALLEST.items():
            if getattr(self, field) < least:
                value = getattr(self, field)
                raise UserError(f"config field '{field}' must be at least {least}, not {value}")
        words = (
            ("dtype", DTYPES),
            ("objective", OBJECTIVES),
            ("sentence_task", SENTENCE_TASKS),
            ("mask_unit", UNITS),
        )
        for field, known in words:
            if (value := getattr(self, field)) not in known:
                raise UserError(f"config field '{field}': unknown '{value}'{nearest(value, known)}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"config field 'dropout' must be in [0, 1), not {self.dropout}")
        for field in ("held_out", "short_share"):
            if not 0 <= getattr(self, field) < 1:
                value = getattr(self, field)
                raise UserError(f"config field '{field}' must be in [0, 1), not {value}")
        if not 0 < self.generator_size <= 1:
            value = self.generator_size
            raise UserError(f"config field 'generator_size' must be in (0, 1], not {value}")
        if not 0 <= self.discriminator_weight < math.inf:
            value = self.discriminator_weight
            raise UserError(f"config field 'discriminator_weight' must be 0 or more, not {value}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"config field 'seed' must be in [0, 2**32), not {self.seed}")
        if self.objective == "replaced_token" and self.sentence_task != "none":
            raise UserError("ELECTRA has no sentence task; set config field sentence_task='none'")
        self._check_budget()
        self._check_phases()

    def _check_budget(self) -> None:
        given = [name for name in BUDGETS if getattr(self, name)]
        if len(given) != 1 or not all(map(math.isfinite, (self.tokens, self.minutes))):
            raise UserError(
                f"set one of the config fields {', '.join(BUDGETS)} to a number above 0"
                + (f", not {' and '.join(given)}; set the others to 0" if given[1:] else "")
            )
        if self.minutes and len(self.phases) > 1:
            raise UserError("a budget in minutes has one phase; give steps or tokens for several")

    def _check_phases(self) -> None:
        optim = self.optim  # checks its own fields
        for number, phase in enumerate(self.phases, 1):
            if phase.learning_rate and not self.learning_rate:
                raise UserError("config field 'phases': learning_rate needs one of the run above 0")
            if phase.warmup_ratio is None:
                continue
            if phase.learning_rate is None and number > 1:
                raise UserError(
                    f"config field 'phases': the schedule goes on through phase {number}, so it "
                    "has no warmup_ratio; give it a learning_rate to begin anew, or leave it out"
                )
            dataclasses.replace(optim, warmup_ratio=phase.warmup_ratio)
        total = sum(phase.share for phase in self.phases)
        if self.phases and not math.isclose(total, 1.0, rel_tol=1e-6):
            raise UserError(f"config field 'phases': the shares make {total:g}, not 1")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """Builds it from a config's plain values.

        Raises:
          UserError: for an unknown field or a value that cannot be.
        """
        values = dict(values)
        for field in ("data", "validation_data", "freeze"):
            given = values.get(field) or ()
            given = (given,) if isinstance(given, str) else given
            values[field] = tuple(entry for entry in given if entry)
        values["phases"] = _phases(values.get("phases") or ())
        if not isinstance(values.get("mesh", MeshConfig()), MeshConfig):
            values["mesh"] = from_mapping(MeshConfig, values["mesh"], "config field 'mesh'")
        return from_mapping(cls, values)

    @property
    def optim(self) -> OptimConfig:
        """The optimizer's part of it."""
        names = {field.name for field in dataclasses.fields(OptimConfig)}
        mine = {field.name for field in dataclasses.fields(self)}
        return OptimConfig(**{name: getattr(self, name) for name in names & mine})

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the model that is trained."""
        if self.objective == "replaced_token":
            return ("replaced_token",)
        task = () if self.sentence_task == "none" else (self.sentence_task,)
        return ("masked_lm", *task)


def _phases(given: Sequence[Any]) -> tuple[Phase, ...]:
    place = "config field 'phases'"
    if isinstance(given, Mapping) or not all(isinstance(p, Phase | Mapping) for p in given):
        raise UserError(f"{place} is no list of phases; give ({{'max_length': 128, 'share': 1}},)")
    return tuple(p if isinstance(p, Phase) else from_mapping(Phase, p, place) for p in given)


def preset(name: str, vocab_size: int, changes: Mapping[str, Any]) -> ModelConfig:
    """The shape of a preset with a vocabulary of its own and other changes.

    Raises:
      UserError: for an unknown preset or field.
    """
    if name not in PRESETS:
        raise UserError(f"config field 'model': no preset '{name}'{nearest(name, PRESETS)}")
    values = {**dataclasses.asdict(PRESETS[name]), "vocab_size": vocab_size, **changes}
    for field, value in changes.items():
        _check_change(field, value)
    return from_mapping(ModelConfig, values, "config field 'architecture'")


def _check_change(field: str, value: Any) -> None:
    """Raises UserError for a size, a share or a word that a model cannot have."""
    place = f"config field 'architecture': {field}"
    if field in SIZES and not (isinstance(value, int) and value > 0):
        raise UserError(f"{place} must be a whole number above 0, not {value!r}")
    if field in SHARES and not (isinstance(value, int | float) and 0 <= value < 1):
        raise UserError(f"{place} must be in [0, 1), not {value!r}")
    if field == "activation" and value not in (known := get_args(Activation)):
        raise UserError(f"{place} is unknown: {value!r}{nearest(str(value), known)}")


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A phase with its steps counted out: from step ``first`` up to, not including, ``last``."""

    first: int
    last: int
    max_length: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    restarts: bool


def stretches(config: PretrainConfig) -> tuple[Stretch, ...]:
    """The phases of a run, one after the other.

    Raises:
      UserError: if a phase would have no step.
    """
    phases = config.phases or (Phase(config.max_length, 1.0),)
    result: list[Stretch] = []
    for number, phase in enumerate(phases):
        batch_size = phase.batch_size or config.batch_size
        steps = phase.share * (config.steps or CLOCK_STEPS)
        if config.tokens:
            steps = phase.share * config.tokens / (batch_size * phase.max_length)
        if round(steps) < 1:
            raise UserError(f"config field 'phases': phase {number + 1} has no step; train longer")
        first = result[-1].last if result else 0
        warmup, peak = phase.warmup_ratio, phase.learning_rate
        result.append(
            Stretch(
                first,
                first + round(steps),
                phase.max_length,
                batch_size,
                config.learning_rate if peak is None else peak,
                config.warmup_ratio if warmup is None else warmup,
                restarts=number == 0 or peak is not None,
            )
        )
    return tuple(result)
