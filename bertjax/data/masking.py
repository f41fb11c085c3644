"""Masked-LM examples: the tokens to predict are drawn anew each time an example is seen.

Source: Devlin et al. 2019, section 3.1 and appendix A.1. Of the tokens chosen, 80 % become [MASK],
10 % a random token, and 10 % stay as they are.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError

MASKED, RANDOM = 0.8, 0.1


@dataclasses.dataclass(frozen=True)
class Masking:
    """Chooses ``rate`` of an example's tokens; never a special token, nor one as replacement."""

    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int
    rate: float = 0.15

    @classmethod
    def of(cls, tokenizer: Tokenizer, rate: float = 0.15) -> Masking:
        """With the ids of a tokenizer.

        Raises:
          UserError: if it has no mask token.
        """
        if tokenizer.mask_id is None:
            raise UserError("the tokenizer has no mask token, so masked LM cannot be trained on it")
        return cls(tokenizer.mask_id, tokenizer.special_ids, tokenizer.vocab_size, rate)

    def __call__(self, example: Encoded, generator: np.random.Generator) -> Encoded:
        """The example with masked tokens, and what stood there.

        At least one token is chosen, and about ``rate`` of them all: the number is rounded up or
        down by chance, so that it is right on average.

        Args:
          example: ``token_ids`` and ``type_ids``, int32 ``[length]``; it is not changed.
          generator: decides everything; the same one gives the same masks.

        Returns:
          The example with new ``token_ids``, ``prediction_positions`` (in order) and
          ``prediction_labels``, int32 ``[predictions]``. An example of special tokens alone has no
          predictions.
        """
        token_ids = np.array(example["token_ids"], np.int32)
        candidates = np.flatnonzero(~np.isin(token_ids, self.special_ids))
        count = int(len(candidates) * self.rate + generator.random())
        count = min(max(1, count), len(candidates))
        positions = np.sort(generator.choice(candidates, count, replace=False)).astype(np.int32)
        labels = token_ids[positions]
        token_ids[positions] = self._replacements(labels, generator)
        return {
            **example,
            "token_ids": token_ids,
            "prediction_positions": positions,
            "prediction_labels": labels,
        }

    def _replacements(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """What the model sees at the chosen places, ``[predictions]``."""
        draw = generator.random(len(labels))
        random = self._words[generator.integers(len(self._words), size=len(labels))]
        random_or_kept = np.where(draw < MASKED + RANDOM, random, labels)
        return np.where(draw < MASKED, self.mask_id, random_or_kept).astype(np.int32)

    @functools.cached_property
    def _words(self) -> np.ndarray:
        """Every id that is not special."""
        return np.setdiff1d(np.arange(self.vocab_size, dtype=np.int32), self.special_ids)
