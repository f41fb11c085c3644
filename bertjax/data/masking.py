"""Masked-LM examples: the tokens to predict are drawn anew each time an example is seen.

Sources: Devlin et al. 2019, section 3.1 and appendix A.1: of the tokens chosen, 80 % become [MASK],
10 % a random token, and 10 % stay as they are. Whole words: google-research/bert's models of May
2019. N-grams: Lan et al. 2020 (ALBERT), section 4.1, after Joshi et al. 2019.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, get_args

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.words import Joins
from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError, nearest

MaskUnit = Literal["token", "word", "ngram"]
UNITS: tuple[str, ...] = get_args(MaskUnit)


@dataclasses.dataclass(frozen=True)
class Masking:
    """Chooses ``rate`` of an example's tokens; never a special token, nor one as replacement.

    With ``unit="token"`` each token is chosen by itself. With ``"word"`` all tokens of a word are
    predicted together, and with ``"ngram"`` all of up to ``max_ngram`` words in a row; what becomes
    of each token is drawn by itself all the same.

    Raises:
      UserError: for a share or a number that cannot be, naming the field of the config.
    """

    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int
    rate: float = 0.15
    unit: MaskUnit = "token"
    mask_share: float = 0.8
    """Of the chosen tokens, those that become [MASK]."""
    random_share: float = 0.1
    """Of the chosen tokens, those that become a random one; the rest stay as they are."""
    max_ngram: int = 3
    """Words in the longest n-gram; n is drawn with a probability proportional to 1 / n."""
    max_predictions: int = 0
    """No example has more, as ``max_predictions_per_seq`` of google-research/bert; 0: no limit."""
    joins: Joins | None = dataclasses.field(default=None, repr=False, compare=False)
    """The vocabulary's words; None: every token is one. ``continues`` of an example goes before."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"mask_unit '{self.unit}' is unknown{nearest(self.unit, UNITS)}")
        if not 0 < self.rate <= 1:
            raise UserError(f"mask_rate is {self.rate}; set it above 0 and to at most 1")
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; set it between 0 and 1")
        if (total := self.mask_share + self.random_share) > 1 + 1e-9:
            raise UserError(f"mask_share and random_share are {total} together; at most 1 is there")
        if self.max_ngram < 1:
            raise UserError(f"max_ngram is {self.max_ngram}; set it to at least 1")
        if self.max_predictions < 0:
            raise UserError(f"max_predictions is {self.max_predictions}; 0 means no limit")

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        rate: float = 0.15,
        *,
        unit: MaskUnit = "token",
        mask_share: float = 0.8,
        random_share: float = 0.1,
        max_ngram: int = 3,
        max_predictions: int = 0,
    ) -> Masking:
        """With the ids of a tokenizer, and its words where the unit asks for them.

        Raises:
          UserError: if it has no mask token, or if words are asked for and its vocabulary does not
            mark them.
        """
        if tokenizer.mask_id is None:
            raise UserError("the tokenizer has no mask token, so masked LM cannot be trained on it")
        return cls(
            tokenizer.mask_id,
            tokenizer.special_ids,
            tokenizer.vocab_size,
            rate,
            unit,
            mask_share,
            random_share,
            max_ngram,
            max_predictions,
            None if unit == "token" else Joins.of(tokenizer),
        )

    def __call__(self, example: Encoded, generator: np.random.Generator) -> Encoded:
        """The example with masked tokens, and what stood there.

        At least one token is asked for, and about ``rate`` of them all: the number is rounded up or
        down by chance, so that it is right on average. Words and n-grams fill it without going
        beyond. Where no word left is short enough to fill it, one more is taken by chance, just so
        often that the number is right on average again; ``max_predictions`` holds even then.

        Args:
          example: ``token_ids`` and ``type_ids``, int32 ``[length]``; it is not changed. If it has
            ``continues``, bool ``[length]``, this tells which tokens go on with the word of the
            one before, in place of the vocabulary.
          generator: decides everything; the same one gives the same masks.

        Returns:
          The example with new ``token_ids``, ``prediction_positions`` (in order) and
          ``prediction_labels``, int32 ``[predictions]``. An example of special tokens alone has no
          predictions.
        """
        token_ids = np.array(example["token_ids"], np.int32)
        candidates = np.flatnonzero(self._plain[token_ids])
        count = int(len(candidates) * self.rate + generator.random())
        count = min(max(1, count), self.max_predictions or len(candidates), len(candidates))
        if self.unit == "token":
            positions = np.sort(generator.choice(candidates, count, replace=False))
        else:
            words = _Words.of(candidates, self._starts(token_ids, example.get("continues")))
            most = self.max_predictions or len(candidates)
            positions = candidates[_choose(words, count, most, self._lengths, generator)]
        positions = positions.astype(np.int32)
        labels = token_ids[positions]
        token_ids[positions] = self._replacements(labels, generator)
        return {
            **example,
            "token_ids": token_ids,
            "prediction_positions": positions,
            "prediction_labels": labels,
        }

    def _starts(self, token_ids: np.ndarray, continues: np.ndarray | None) -> np.ndarray:
        """Whether a word begins at each token, ``[length]``."""
        if continues is not None:
            return ~np.asarray(continues, bool)
        return np.ones(len(token_ids), bool) if self.joins is None else self.joins.starts(token_ids)

    def _replacements(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """What the model sees at the chosen places, ``[predictions]``."""
        draw = generator.random(len(labels))
        random = self._words[generator.integers(len(self._words), size=len(labels))]
        random_or_kept = np.where(draw < self.mask_share + self.random_share, random, labels)
        return np.where(draw < self.mask_share, self.mask_id, random_or_kept).astype(np.int32)

    @functools.cached_property
    def _plain(self) -> np.ndarray:
        """Whether an id is not special, bool ``[vocabulary]``."""
        plain = np.ones(self.vocab_size, bool)
        plain[list(self.special_ids)] = False
        return plain

    @functools.cached_property
    def _words(self) -> np.ndarray:
        """Every id that is not special."""
        return np.flatnonzero(self._plain).astype(np.int32)

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        """How likely it is that at most 1, 2, … words are taken together; the last is 1."""
        shares = 1 / np.arange(1, self.max_ngram + 1 if self.unit == "ngram" else 2)
        return np.cumsum(shares) / shares.sum()


@dataclasses.dataclass(frozen=True)
class _Words:
    """The words among an example's candidates; special tokens part them too."""

    bounds: list[int]
    """``[words + 1]``: the number of the candidate that each word begins with, and the end."""
    stops: list[int]
    """``[words]``: one more than the number of the last word before the next special token."""

    @classmethod
    def of(cls, candidates: np.ndarray, starts: np.ndarray) -> _Words:
        """Of the positions that may be chosen, and whether a word begins at each ``[length]``."""
        after_gap = np.diff(candidates, prepend=-2) > 1
        bounds = np.flatnonzero(starts[candidates] | after_gap)
        first = np.flatnonzero(after_gap[bounds])
        runs = np.diff(first, append=len(bounds))
        stops = np.repeat(first + runs, runs)
        return cls([*bounds.tolist(), len(candidates)], stops.tolist())

    def __len__(self) -> int:
        return len(self.stops)

    def size(self, word: int, count: int = 1) -> int:
        """Tokens of ``count`` words from ``word`` on."""
        return self.bounds[word + count] - self.bounds[word]


def _choose(
    words: _Words, count: int, most: int, lengths: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Numbers of the candidates to predict, in order: about ``count``, never above ``most``."""
    order = generator.permutation(len(words)).tolist()
    taken = bytearray(len(words))
    drawn = (np.searchsorted(lengths, generator.random(len(words)), side="right") + 1).tolist()
    left = _take(words, order, drawn, taken, count)
    if left and len(lengths) > 1:
        left = _take(words, order, [1] * len(words), taken, left)
    if left:
        room = most - count + left
        long = next((w for w in order if not taken[w] and words.size(w) <= room), None)
        if long is not None and generator.random() < left / words.size(long):
            taken[long] = 1
    return np.flatnonzero(np.repeat(np.frombuffer(taken, bool), np.diff(words.bounds)))


def _take(words: _Words, order: list[int], lengths: list[int], taken: bytearray, left: int) -> int:
    """Takes n-grams of the given lengths, in words, from the starts in ``order``.

    One that would take a word again waits for another start. One that would go beyond ``left``
    tokens or beyond the text loses words at its end, as in ALBERT's code: so a short example has
    somewhat more short n-grams than were drawn.

    Returns:
      How many of the ``left`` tokens could not be filled.
    """
    number = 0
    for start in order:
        length = min(lengths[number], words.stops[start] - start)
        while length and words.size(start, length) > left:
            length -= 1
        if length and not any(taken[start : start + length]):
            taken[start : start + length] = b"\1" * length
            left -= words.size(start, length)
            number += 1
            if not left:
                break
    return left
