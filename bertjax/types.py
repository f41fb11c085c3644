"""Names that every floor shares: the configurations, the heads, and the one error a user sees.

Configurations are frozen dataclasses. ml_collections stays at the edge (``configs/`` and
``bertjax/cli``); :func:`from_mapping` turns what it holds into these types and names the nearest
known field when a key is unknown.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
HeadKind = Literal["classification", "regression", "masked_lm", "next_sentence"]


class UserError(Exception):
    """Something the user can put right, told in one sentence that names the place and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class Interrupted(Exception):
    """A signal ended the run; its state is saved. ``signal`` is the number."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped at step {step}; run the same command again to go on")
        self.signal = number


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?``, or the known words where nothing comes close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}"


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str = "the config") -> T:
    """Builds the dataclass ``kind`` from ``values``; ``where`` names the place in errors.

    Raises:
      UserError: for a key that ``kind`` does not have, or a value of a type that it cannot use.
    """
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(f"{where} has no field '{key}'{nearest(key, known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{where} lacks a field or has one of the wrong type: {error}") from error


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of an encoder. A family of models is a set of these values, not a class."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    """None: as ``hidden_dropout``."""
    initializer_range: float = 0.02
    pad_token_id: int = 0
    pooler: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """One head over the encoder: its kind and how many outputs it has."""

    kind: HeadKind
    size: int = 0
    """Number of classes; 1 for regression; unused by the masked-LM head."""


@dataclasses.dataclass(frozen=True)
class TextSchema:
    """Which columns of a table hold the texts and the label, and what the labels are called."""

    text_columns: tuple[str, ...]
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    """Class names in the order of their ids; None for a number (regression)."""
