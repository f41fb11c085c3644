"""Where a tokenizer puts special tokens around one or two texts, and which tokens it keeps.

The ``tokenizers`` library can cut texts itself, but it also makes every piece that it cuts off,
and of a pair every combination of pieces: two texts of 5,000 tokens cut to 32 take 3 GB. Here the
tokens of each text are cut first, and the special tokens are put around what is left, as the
tokenizer's own post-processor would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import tokenizers

from bertjax.types import UserError, nearest

Keep = Literal["head", "tail", "head_tail"]
"""Which part of a text that is too long is kept."""
KEEPS: tuple[Keep, ...] = get_args(Keep)

HEAD_SHARE = 4
"""``head_tail`` keeps a quarter from the beginning: 128 of 510, as Sun et al. 2019 (section 5.2,
https://arxiv.org/abs/1905.05583), the best of the three on IMDb."""


@dataclasses.dataclass(frozen=True)
class Truncation:
    """Which tokens of a text that is too long are kept."""

    keep: Keep = "head"
    head_length: int = 0
    """With ``head_tail``: tokens from the beginning; 0: a quarter of those that are kept."""

    def __post_init__(self) -> None:
        if self.keep not in KEEPS:
            raise UserError(f"there is no truncation '{self.keep}'{nearest(self.keep, KEEPS)}")
        if self.head_length < 0:
            raise UserError(f"head_length {self.head_length} must not be negative")
        if self.head_length and self.keep != "head_tail":
            raise UserError("head_length goes with the truncation 'head_tail' only; leave it away")

    def cut(self, tokens: Sequence[int], room: int) -> Sequence[int]:
        """At most ``room`` of the tokens, in order."""
        if len(tokens) <= room:
            return tokens
        if self.keep == "head":
            return tokens[:room]
        head = 0 if self.keep == "tail" else min(room, self.head_length or _quarter(room))
        return [*tokens[:head], *tokens[len(tokens) - (room - head) :]]

    def check(self, room: int) -> None:
        """Raises UserError where ``head_length`` leaves no room for a tail."""
        if self.head_length >= room:
            raise UserError(
                f"head_length {self.head_length} leaves no tail of the {room} tokens that are "
                "kept; lower it, or raise max_length"
            )


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens each text of a pair keeps: the longer is cut until both are as long.

    As the strategy ``longest_first`` of the ``tokenizers`` library, odd tokens included.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The special tokens around one text or a pair, and the type of each token."""

    parts: tuple[tuple[int | None, int, int], ...]
    """In order: (None, token, type) of a special token, (text, -1, type) of a whole text."""

    @property
    def special(self) -> int:
        """How many special tokens there are."""
        return sum(text is None for text, _, _ in self.parts)

    def join(self, texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and type ids, int32 [length], of texts with the special tokens around them."""
        token_ids: list[int] = []
        type_ids: list[int] = []
        for text, token, kind in self.parts:
            tokens = (token,) if text is None else texts[text]
            token_ids.extend(tokens)
            type_ids.extend([kind] * len(tokens))
        return np.array(token_ids, np.int32), np.array(type_ids, np.int32)


def layout_of(backend: tokenizers.Tokenizer, *, paired: bool, special_token: str) -> Layout:
    """What the post-processor puts around texts, seen on a probe.

    ``special_token`` is one that the tokenizer finds in a text, so that the probe is never empty.
    """
    probe = f"a {special_token}"
    encoding = backend.encode(probe, probe if paired else None)
    parts: list[tuple[int | None, int, int]] = []
    rows = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    for text, token, kind in rows:
        if text is None:
            parts.append((None, token, kind))
        elif not parts or parts[-1][0] != text:
            parts.append((text, -1, kind))
    return Layout(tuple(parts))


def _quarter(room: int) -> int:
    """A quarter of the room, rounded, and one token at least."""
    return max(1, (room + HEAD_SHARE // 2) // HEAD_SHARE)
