"""Which tokens of a text make a word, known by the vocabulary or by a segmentation of the user."""

from __future__ import annotations

import dataclasses
import string
import unicodedata

import numpy as np
import tokenizers
from tokenizers import decoders, models

from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError

SPACE = "▁"


@dataclasses.dataclass(frozen=True, eq=False)
class Joins:
    """For each token of a vocabulary, whether it can make a word with its neighbours.

    A token goes on with a word if it joins ``before`` and the token before it joins ``after``.
    """

    before: np.ndarray
    """bool ``[vocabulary]``."""
    after: np.ndarray
    """bool ``[vocabulary]``; False of special tokens and of punctuation."""

    @classmethod
    def never(cls, vocab_size: int) -> Joins:
        """Of a vocabulary in which every token is a word."""
        return cls(np.zeros(vocab_size, bool), np.zeros(vocab_size, bool))

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Joins:
        """By the vocabulary's marks: WordPiece's prefix, or a space where a word begins.

        In WordPiece a piece with the prefix (``##``) goes on with a word, as in Google's
        whole-word models (google-research/bert, 2019). In byte-level BPE and SentencePiece a token
        without a space in front (``Ġ``, ``▁``) does. A token of punctuation is a word by itself in
        all three, as BERT's splitting has it; so is a special token, the unknown token too.

        Raises:
          UserError: if the vocabulary marks neither words nor pieces.
        """
        joins = cls.never(tokenizer.vocab_size)
        texts, prefix = _texts(tokenizer.backend)
        special = set(tokenizer.special_ids)
        for index, text in texts.items():
            body = text.removeprefix(prefix) if prefix else text.removeprefix(" ")
            alone = index in special or (body != "" and all(map(_separates, body)))
            joined = text.startswith(prefix) if prefix else not text.startswith(" ")
            joins.before[index] = joined and not alone
            joins.after[index] = not alone
        return joins

    def starts(self, token_ids: np.ndarray) -> np.ndarray:
        """Whether a word begins at each token, bool ``[length]``."""
        goes_on = self.before[token_ids]
        goes_on[:1] = False
        goes_on[1:] &= self.after[token_ids[:-1]]
        return ~goes_on


def _texts(backend: tokenizers.Tokenizer) -> tuple[dict[int, str], str]:
    """The text of each token, a space where the vocabulary marks one, and the pieces' prefix."""
    words = backend.get_vocab(with_added_tokens=True)
    prefix = getattr(backend.model, "continuing_subword_prefix", None) or ""
    if prefix or isinstance(backend.model, models.WordLevel):
        texts = {index: word for word, index in words.items()}
        return texts, prefix or "\0"
    if isinstance(backend.decoder, decoders.ByteLevel):
        return {index: backend.decoder.decode([word]) for word, index in words.items()}, ""
    if any(word.startswith(SPACE) for word in words):
        return {index: word.replace(SPACE, " ") for word, index in words.items()}, ""
    raise UserError(
        "the tokenizer's vocabulary does not tell where words begin; set mask_unit to 'token', or "
        "use a WordPiece, byte-level BPE or SentencePiece vocabulary"
    )


def _separates(character: str) -> bool:
    """Punctuation as BERT's splitting has it (all of ASCII's, Unicode's class P), or space."""
    if character.isspace() or character in string.punctuation:
        return True
    return unicodedata.category(character).startswith("P")
