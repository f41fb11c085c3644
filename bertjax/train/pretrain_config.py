"""The fields of a pretraining experiment, typed. ``configs/pretrain.py`` fills them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, get_args

from bertjax.data.masking import UNITS, MaskUnit
from bertjax.data.plans import SENTENCE_TASKS, SentenceTask
from bertjax.models import PRESETS
from bertjax.train.run_config import RunConfig, strings
from bertjax.types import Activation, ModelConfig, UserError, from_mapping, nearest

PRESET = "preset:"
TFRECORD = "tfrecord:"
OBJECTIVES = ("masked_lm", "replaced_token")
BUDGETS = ("steps", "tokens", "minutes")
CLOCK_STEPS = 1_000_000
"""Steps into which a run by the clock is divided for its schedule."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
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
    eval_batch_size: int = 128
    steps: int = 0
    tokens: float = 0
    """Budget in tokens, padding counted."""
    minutes: float = 0
    """Budget by the clock, evaluations counted; the schedule follows it."""
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.01
    eps: float = 1e-6
    workers: int = 0
    """Processes that make rows; 0: threads of this one."""
    eval_every: int = 1000
    keep_every: int = 0
    """Of the checkpoints that are saved, those of every so many steps are kept; 0: only the
    newest."""
    log_every: int = 50
    peak_flops: float = 0
    """FLOP/s of one device, for the utilisation; 0: by the kind of device, where it is known."""

    smallest: ClassVar[Mapping[str, float]] = {
        **RunConfig.smallest,
        **dict.fromkeys(("batch_size", "eval_batch_size", "max_ngram"), 1),
        "max_length": 8,
        **dict.fromkeys(("steps", "tokens", "minutes", "eval_every", "eval_rows"), 0),
        **dict.fromkeys(("workers", "peak_flops", "keep_every"), 0),
    }

    def __post_init__(self) -> None:
        if not self.data:
            raise UserError(
                "config field 'data' is not set; give --config.data=FOLDER, one that "
                "bertjax prepare wrote"
            )
        super().__post_init__()
        self.check_word("objective", OBJECTIVES)
        self.check_word("sentence_task", SENTENCE_TASKS)
        self.check_word("mask_unit", UNITS)
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
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Builds it from a config's plain values.

        Raises:
          UserError: for an unknown field or a value that cannot be.
        """
        values = dict(values)
        for field in ("data", "validation_data"):
            values[field] = tuple(filter(None, strings(values.get(field))))
        values["phases"] = _phases(values.get("phases") or ())
        return super().from_mapping(values)

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
