"""Words to tokens, and sentences that are longer than the model's window to windows of words."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from tokenizers import decoders

from bertjax.tokenizers import Tokenizer
from bertjax.types import UserError

SPECIAL = 2
"""The first and the last token, around the words of every window."""


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """Some consecutive words as one example, and those of them that it answers for."""

    token_ids: np.ndarray
    """int32 ``[length]``, special tokens included."""
    words: np.ndarray
    """int32 ``[owned]``: the words, by their place in the sentence, that this window answers."""
    places: np.ndarray
    """int32 ``[owned]``: where the first token of each of them stands."""


def windows_of(
    words: Sequence[str], tokenizer: Tokenizer, max_length: int, stride: int = 0
) -> list[Window]:
    """The windows of a sentence, at least one; every word is answered by exactly one of them.

    It is the one where the word has the most tokens on the side where it has fewer: the
    maximum-context rule of BERT's SQuAD code (Devlin et al., 2019). A word of more tokens than a
    window holds loses its last ones.

    Args:
      words: of the sentence; there may be none.
      tokenizer: of the model.
      max_length: of a window, in tokens, with the special ones.
      stride: tokens from the beginning of one window to that of the next, rounded up to a word; 0:
        half of a window.

    Raises:
      UserError: if ``max_length`` leaves no room for a word.
    """
    room = max_length - SPECIAL
    if room < 1:
        raise UserError(
            f"max_length {max_length} leaves no room for a word beside the {SPECIAL} special "
            f"tokens; set it to at least {SPECIAL + 1}"
        )
    pieces = [ids[:room] for ids in word_pieces(words, tokenizer)]
    offsets = [0, *accumulate(map(len, pieces))]
    ranges = _ranges(offsets, room, stride or max(1, room // 2))
    firsts = np.array(offsets, np.int32)
    owners = _owners(firsts, ranges)
    order = np.argsort(owners, kind="stable").astype(np.int32)
    cuts = np.searchsorted(owners[order], np.arange(len(ranges) + 1))
    return [
        _window(pieces, firsts, span, order[cuts[number] : cuts[number + 1]], tokenizer)
        for number, span in enumerate(ranges)
    ]


def word_pieces(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each word, at least one; a word never shares a token with another.

    A word of which the tokenizer leaves nothing (a zero-width space, say) becomes the unknown
    token, so that it has an answer too. Byte-level vocabularies (RoBERTa) see a space before every
    word, as in running text.
    """
    backend = tokenizer.backend
    spaced = isinstance(backend.decoder, decoders.ByteLevel)
    encoding = backend.encode(
        [f" {word}" for word in words] if spaced else list(words),
        is_pretokenized=True,
        add_special_tokens=False,
    )
    pieces: list[list[int]] = [[] for _ in words]
    for word, token_id in zip(encoding.word_ids, encoding.ids, strict=True):
        if word is not None:
            pieces[word].append(token_id)
    unknown = backend.token_to_id(str(tokenizer.settings.get("unk_token")))
    fallback = tokenizer.sep_id if unknown is None else unknown
    return [ids or [fallback] for ids in pieces]


def _ranges(offsets: Sequence[int], room: int, stride: int) -> list[tuple[int, int]]:
    """First word and the one after the last, of each window; the last window is filled up."""
    count, start, ranges = len(offsets) - 1, 0, []
    while True:
        stop = bisect_right(offsets, offsets[start] + room) - 1
        if stop == count:
            break
        ranges.append((start, stop))
        start = min(stop, bisect_left(offsets, offsets[start] + stride))
    if ranges:
        start = bisect_left(offsets, offsets[count] - room)
    return [*ranges, (start, count)]


def _owners(firsts: np.ndarray, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """The number of the window that answers each word, int32 ``[words]``."""
    most = np.full(len(firsts) - 1, -1)
    owners = np.zeros(len(firsts) - 1, np.int32)
    for number, (start, stop) in enumerate(ranges):
        before = firsts[start:stop] - firsts[start]
        after = firsts[stop] - firsts[start + 1 : stop + 1]
        context = np.minimum(before, after)
        better = context > most[start:stop]
        most[start:stop] = np.where(better, context, most[start:stop])
        owners[start:stop] = np.where(better, number, owners[start:stop])
    return owners


def _window(
    pieces: Sequence[Sequence[int]],
    firsts: np.ndarray,
    span: tuple[int, int],
    owned: np.ndarray,
    tokenizer: Tokenizer,
) -> Window:
    start, stop = span
    inner = [token_id for ids in pieces[start:stop] for token_id in ids]
    token_ids = np.array([tokenizer.cls_id, *inner, tokenizer.sep_id], np.int32)
    return Window(token_ids, owned, firsts[owned] - firsts[start] + 1)
