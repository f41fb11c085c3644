"""Fast tokenizers, read from the folder (or hub name) that holds the model.

A :class:`Tokenizer` wraps one tokenizer of the ``tokenizers`` library and adds what a model needs
to know of it: the ids of its special tokens and its size. It is frozen: truncation is asked for
in each call, never left switched on. The class can be pickled, so that data workers can hold it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models

from bertjax.folders import first_line, local_folder, write_json
from bertjax.tokenizer_families import FAMILIES, ROLES, Vocabulary, build, join_with_types
from bertjax.tokenizer_files import TOKENIZER_FILES, read_folder
from bertjax.tokenizer_layout import Layout, Truncation, layout_of, shares
from bertjax.types import UserError

# Usual names, for files that name no token of that role.
_USUAL = {
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}

Encoded = tuple[np.ndarray, np.ndarray]
"""Token ids and type ids, each int32 [length]."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and the ids of its special tokens."""

    backend: tokenizers.Tokenizer
    settings: Mapping[str, Any]
    """What ``tokenizer_config.json`` says, with every special token by its role."""
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int | None
    """None where the vocabulary has no mask token: no masked LM is possible with it."""
    vocab_size: int
    """The largest id plus one."""
    special_ids: tuple[int, ...]
    """Ids of every special token, in order."""

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int,
        truncation: Truncation | None = None,
    ) -> Encoded:
        """Token ids and type ids of a text or a pair, with the special tokens, not padded.

        Args:
          text: the text, or the first of a pair.
          pair: the second text.
          max_length: tokens that are kept, special tokens counted. Too long a pair loses tokens
            of its longer text first.
          truncation: which tokens of a text that is too long are kept; None: the first, or the
            last where the tokenizer's files set ``truncation_side`` to ``left``.

        Raises:
          UserError: if ``max_length`` leaves no room for the special tokens.
        """
        pairs = None if pair is None else [pair]
        return self.encode_batch([text], pairs, max_length=max_length, truncation=truncation)[0]

    def encode_batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
        truncation: Truncation | None = None,
    ) -> list[Encoded]:
        """As :meth:`encode`, for many texts or pairs at once.

        Raises:
          UserError: if ``max_length`` leaves no room for the special tokens, or if the numbers of
            texts and pairs differ.
        """
        if pairs is not None and len(texts) != len(pairs):
            raise UserError(f"{len(texts)} texts cannot be paired with {len(pairs)} second texts")
        layout = self._layouts[pairs is not None]
        room = _room(max_length, layout.special)
        kept = truncation or self._truncation
        kept.check(room)
        firsts = self._tokens(texts)
        if pairs is None:
            return [layout.join([kept.cut(tokens, room)]) for tokens in firsts]
        found = []
        for both in zip(firsts, self._tokens(pairs), strict=True):
            rooms = shares(len(both[0]), len(both[1]), room)
            found.append(layout.join([*map(kept.cut, both, rooms)]))
        return found

    def join(self, *texts: Sequence[int]) -> Encoded:
        """Token ids and type ids of the tokens of one or two texts, special tokens around them."""
        return self._layouts[len(texts) - 1].join(texts)

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's files into an existing folder, as transformers 4 and 5 read them.

        Raises:
          UserError: if the folder cannot be written.
        """
        folder = Path(folder)
        settings = dict(self.settings)
        if isinstance(
            settings.get("extra_special_tokens"), list
        ):  # version 4 wants a mapping there
            settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
        special = {role: settings[role] for role in ROLES if role in settings}
        try:
            self.backend.save(str(folder / "tokenizer.json"))
            write_json(folder / "tokenizer_config.json", settings)
            write_json(folder / "special_tokens_map.json", special)
            if isinstance(self.backend.model, models.WordPiece):
                (folder / "vocab.txt").write_text(_vocabulary_text(self.backend), encoding="utf-8")
        except Exception as error:  # the library raises bare Exceptions for what the disk refuses
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(
                f"cannot write the tokenizer into {folder}: {reason}; "
                "free space there, or name a folder that can be written"
            ) from None

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of whole texts, without special ones around them."""
        if len(texts) == 1:  # one text is not worth the library's threads
            return [self.backend.encode(texts[0], add_special_tokens=False).ids]
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @functools.cached_property
    def _layouts(self) -> tuple[Layout, Layout]:
        """That of one text and that of a pair."""
        marker = self.settings["cls_token"]
        return (
            layout_of(self.backend, paired=False, special_token=marker),
            layout_of(self.backend, paired=True, special_token=marker),
        )

    @functools.cached_property
    def _truncation(self) -> Truncation:
        return Truncation("tail" if self.settings.get("truncation_side") == "left" else "head")


def load_tokenizer(source: str | Path, *, do_lower_case: bool | None = None) -> Tokenizer:
    """Reads the tokenizer of a local folder or a hub name.

    ``tokenizer.json`` is preferred; without it ``vocab.txt`` (BERT, DistilBERT, ELECTRA),
    ``vocab.json`` with ``merges.txt`` (RoBERTa), ``sentencepiece.bpe.model`` (XLM-RoBERTa,
    CamemBERT) or ``spiece.model`` (ALBERT) is read. ``tokenizer_config.json`` or ``config.json``
    names the tokenizer class, and the text is tokenized as that class of transformers does, with
    the settings of ``tokenizer_config.json``. ``do_lower_case`` overrides these.

    A ``vocab.txt`` of which nothing says whether it is lower-cased is taken to be so if no word in
    it has a capital, where transformers takes every one to be so.

    Raises:
      UserError: if there is no such folder or name, if the files are missing or damaged, if the
        vocabulary lacks a padding, first, last or unknown token, or if the folder names a
        tokenizer class that has no fast tokenizer.
    """
    folder = local_folder(source, TOKENIZER_FILES)
    backend, settings = read_folder(folder, do_lower_case)
    return _finish(backend, settings, folder)


def wordpiece_tokenizer(words: Iterable[str], *, do_lower_case: bool = True) -> Tokenizer:
    """BERT's WordPiece tokenizer over ``words``, whose order gives their ids.

    Raises:
      UserError: if the words lack [PAD], [UNK], [CLS] or [SEP].
    """
    place = Path("the given vocabulary")
    family = FAMILIES["BertTokenizer"]
    settings = {
        **family.defaults,
        "do_lower_case": do_lower_case,
        "tokenizer_class": "BertTokenizer",
    }
    vocabulary = Vocabulary({word: index for index, word in enumerate(words)})
    return _finish(build(family, vocabulary, settings, place), settings, place)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, type_vocab_size: int = 2) -> str | None:
    """Compares the tokenizer with the model's sizes; a notice to print, or None.

    A ``type_vocab_size`` of 0 means that the model embeds no types: then they do not matter.

    A model may have somewhat more rows than the tokenizer has words (at most 128 or 2 %): such
    rows pad the embedding and are never looked up, and the notice says so.

    Raises:
      UserError: if a token or a type would have no row, or if the model has so many rows more
        that the tokenizer must be another model's.
    """
    types = max(tokenizer.backend.encode("a", "a").type_ids) + 1
    if 0 < type_vocab_size < types:
        raise UserError(
            f"the tokenizer tells {types} types of text apart but the model's type_vocab_size is "
            f"{type_vocab_size}; use the tokenizer that was saved with this model"
        )
    size = tokenizer.vocab_size
    if size == vocab_size:
        return None
    if size > vocab_size:
        raise UserError(
            f"the tokenizer has {size} tokens but the model's vocabulary has only {vocab_size} "
            "rows; use the tokenizer that was saved with this model"
        )
    if vocab_size - size > max(128, vocab_size // 50):
        raise UserError(
            f"the tokenizer has {size} tokens but the model's vocabulary has {vocab_size} rows, "
            "too many more to be padding; use the tokenizer that was saved with this model"
        )
    return (
        f"the tokenizer has {size} tokens and the model's vocabulary {vocab_size} rows; "
        f"the last {vocab_size - size} rows are taken to be padding"
    )


def _room(max_length: int, special: int) -> int:
    if max_length <= special:
        raise UserError(
            f"max_length {max_length} leaves no room for text beside the {special} special "
            f"tokens; set it to at least {special + 1}"
        )
    return max_length - special


def _vocabulary_text(backend: tokenizers.Tokenizer) -> str:
    """``vocab.txt``: each word on the line of its id; an id without a word has an empty line."""
    words = backend.get_vocab(with_added_tokens=False)
    lines = [""] * (max(words.values()) + 1)
    for word, index in words.items():
        lines[index] = word
    return "\n".join(lines) + "\n"


def _finish(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], place: Path) -> Tokenizer:
    """Finds the special tokens and, where the file gives none, sets BERT's layout of a pair."""
    tokens = {role: _special_token(backend, settings, role) for role in _USUAL}
    for role in ("pad_token", "cls_token", "sep_token"):
        if tokens[role] is None:
            raise UserError(
                f"the tokenizer of {place} has no {role}; name it in tokenizer_config.json"
            )
    words = backend.get_vocab(with_added_tokens=True)
    found = {role: token for role, token in tokens.items() if token is not None}
    ids = {role: words[token] for role, token in found.items()}
    if backend.num_special_tokens_to_add(False) == 0:
        backend.post_processor = join_with_types(backend, found)
    added = backend.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special} | set(ids.values())
    return Tokenizer(
        backend=backend,
        settings={**settings, **found},
        pad_id=ids["pad_token"],
        cls_id=ids["cls_token"],
        sep_id=ids["sep_token"],
        mask_id=ids.get("mask_token"),
        vocab_size=max(words.values()) + 1,
        special_ids=tuple(sorted(special)),
    )


def _special_token(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any], role: str
) -> str | None:
    """The token of a role: the one named in the settings, else a usual one; None if absent."""
    named = settings.get(role)
    candidates = (named,) if isinstance(named, str) else _USUAL[role]
    return next((token for token in candidates if backend.token_to_id(token) is not None), None)
