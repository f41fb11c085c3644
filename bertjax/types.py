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
HeadKind = Literal[
    "classification",
    "regression",
    "multi_label",
    "multiple_choice",
    "token_classification",
    "span",
    "masked_lm",
    "next_sentence",
    "sentence_order",
    "replaced_token",
]


class UserError(Exception):
    """Something the user can put right, told in one sentence that names the place and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class Diverged(UserError):
    """The loss of a run has become infinite or NaN: the same run would end so again."""


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
    """The shape of an encoder and its heads. A family of models is a set of these values.

    The fields after ``pooler`` are where the families differ; their defaults are BERT's.
    """

    model_type: str = "bert"
    """The family, as ``config.json`` names it."""
    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    """Rows of the position table; :attr:`max_length` tells the longest text."""
    type_vocab_size: int = 2
    """0: token types are not embedded (DistilBERT)."""
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    """Of the classification heads; None: as ``hidden_dropout``."""
    initializer_range: float = 0.02
    pad_token_id: int = 0
    pooler: bool = True

    embedding_size: int | None = None
    """Width of the embedding tables (ALBERT, ELECTRA); None: as ``hidden_size``."""
    embedding_projection: bool | None = None
    """Whether the embeddings are projected; None: where their width is not ``hidden_size``."""
    positions_after_pad: bool = False
    """Whether position 0 is the table's row ``pad_token_id + 1`` (RoBERTa)."""
    layer_groups: int | None = None
    """Groups that share their parameters (ALBERT); None: every layer has its own."""
    inner_layers: int = 1
    """Layers in a group, run one after the other each time the group is run."""
    attention_output_dropout: bool = True
    """Whether ``hidden_dropout`` follows the attention's output projection."""
    mlp_output_dropout: bool = True
    """Whether ``hidden_dropout`` follows the feed-forward block."""
    classification_dense: Activation | None = None
    """Activation of a dense layer that the classification head has in place of the pooler."""
    classification_input_dropout: bool = False
    """Whether that dense layer's input is dropped too."""
    choice_dense: Activation | None = None
    """As ``classification_dense``, of the multiple-choice head."""
    masked_lm_activation: Activation | None = None
    """None: ``activation``."""
    choice_dropout: float | Literal["hidden"] | None = None
    """Of the multiple-choice head; "hidden" and None: as hidden and classifier dropout."""
    token_dropout: Literal["hidden"] | None = None
    """Of the token-classification head, likewise."""
    span_dropout: float = 0.0
    vocab_padding: int = 0
    """Rows of zeros after the vocabulary's in its tables, for the hardware's sake. They belong to a
    run and its checkpoints, and to no model that is read or exported."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}"
            )
        if self.layer_groups and self.num_layers % self.layer_groups:
            raise UserError(
                f"num_layers {self.num_layers} is not divisible by layer_groups {self.layer_groups}"
            )
        if self.inner_layers > 1 and not self.layer_groups:
            raise UserError(f"inner_layers {self.inner_layers} needs layer_groups")
        if self.max_length < 1:
            raise UserError(
                f"max_positions {self.max_positions} leaves no position after the "
                f"{self.position_offset} that are reserved"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embedding tables."""
        return self.embedding_size or self.hidden_size

    @property
    def vocab_rows(self) -> int:
        """Rows of the vocabulary's tables."""
        return self.vocab_size + self.vocab_padding

    @property
    def projects_embeddings(self) -> bool:
        """Whether a projection stands between the embeddings and the first layer."""
        if self.embedding_projection is None:
            return self.embedding_width != self.hidden_size
        return self.embedding_projection

    @property
    def embeds_types(self) -> bool:
        """Whether there is a table of token types."""
        return self.type_vocab_size > 0

    @property
    def position_offset(self) -> int:
        """The row of the position table that the first token of a text has."""
        return self.pad_token_id + 1 if self.positions_after_pad else 0

    @property
    def max_length(self) -> int:
        """The longest text, in tokens, that has a position for each of them."""
        return self.max_positions - self.position_offset

    @property
    def layer_stack(self) -> tuple[int, ...]:
        """Leading axes of the layers' parameters: [layers], [groups] or [groups, inner layers]."""
        if self.layer_groups is None:
            return (self.num_layers,)
        inner = () if self.inner_layers == 1 else (self.inner_layers,)
        return (self.layer_groups, *inner)

    def pools(self, kind: HeadKind) -> bool:
        """Whether a head of this kind reads the pooler's output."""
        match kind:
            case "classification" | "regression" | "multi_label":
                return self.pooler and self.classification_dense is None
            case "multiple_choice":
                return self.pooler and self.choice_dense is None
            case "next_sentence" | "sentence_order":
                return self.pooler
            case _:
                return False

    def has_pooler(self, heads: Iterable[HeadConfig]) -> bool:
        """Whether a model has a pooler: if one of its heads reads it, or if it has no head."""
        heads = tuple(heads)
        return any(self.pools(head.kind) for head in heads) if heads else self.pooler


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """One head over the encoder: its kind and how many outputs it has."""

    kind: HeadKind
    size: int = 0
    """Number of classes; 2 for a span (start, end), 1 for a number or a choice, 0 for the
    vocabulary and for replaced tokens."""


@dataclasses.dataclass(frozen=True)
class TextSchema:
    """Which columns of a table hold the texts and the label, and what the labels are called."""

    text_columns: tuple[str, ...]
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    """Class names in the order of their ids; None for a number (regression)."""
