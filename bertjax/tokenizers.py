"""Fast tokenizers, read from the folder (or hub name) that holds the model.

A :class:`Tokenizer` wraps one tokenizer of the ``tokenizers`` library and adds what a model needs
to know of it: the ids of its special tokens and its size. It is frozen: truncation is asked for
in each call, never left switched on. The class can be pickled, so that data workers can hold it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bertjax.folders import first_line, local_folder, read_json, write_json
from bertjax.types import UserError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)

_ROLES = {
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
    _truncating: dict[int, tokenizers.Tokenizer] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def encode(self, text: str, pair: str | None = None, *, max_length: int) -> Encoded:
        """Token ids and type ids of a text or a pair, with the special tokens, not padded.

        Too long a pair loses tokens from the end of its longer text first.

        Raises:
          UserError: if ``max_length`` leaves no room for the special tokens.
        """
        backend = self._limited(max_length, paired=pair is not None)
        return _arrays(backend.encode(text, pair))

    def encode_batch(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int
    ) -> list[Encoded]:
        """As :meth:`encode`, for many texts or pairs at once.

        Raises:
          UserError: if ``max_length`` leaves no room for the special tokens, or if the numbers of
            texts and pairs differ.
        """
        if pairs is not None and len(texts) != len(pairs):
            raise UserError(f"{len(texts)} texts cannot be paired with {len(pairs)} second texts")
        backend = self._limited(max_length, paired=pairs is not None)
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        return [_arrays(encoding) for encoding in backend.encode_batch(inputs)]

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's files into an existing folder, as transformers reads them.

        Raises:
          UserError: if the folder cannot be written.
        """
        folder = Path(folder)
        wordpiece = isinstance(self.backend.model, models.WordPiece)
        fallback = "BertTokenizer" if wordpiece else "PreTrainedTokenizerFast"
        settings = {"tokenizer_class": fallback, **self.settings}
        special = {role: settings[role] for role in _ROLES if role in settings}
        try:
            self.backend.save(str(folder / "tokenizer.json"))
            write_json(folder / "tokenizer_config.json", settings)
            write_json(folder / "special_tokens_map.json", special)
            if wordpiece:
                (folder / "vocab.txt").write_text(_vocabulary_text(self.backend), encoding="utf-8")
        except Exception as error:  # the library raises bare Exceptions for what the disk refuses
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(
                f"cannot write the tokenizer into {folder}: {reason}; "
                "free space there, or name a folder that can be written"
            ) from None

    def _limited(self, max_length: int, *, paired: bool) -> tokenizers.Tokenizer:
        """The backend that truncates to ``max_length``."""
        special = self.backend.num_special_tokens_to_add(paired)
        if max_length <= special:
            raise UserError(
                f"max_length {max_length} leaves no room for text beside the {special} special "
                f"tokens; set it to at least {special + 1}"
            )
        if max_length not in self._truncating:
            limited = _copy(self.backend)
            limited.enable_truncation(max_length, strategy="longest_first")
            self._truncating[max_length] = limited
        return self._truncating[max_length]


def load_tokenizer(source: str | Path, *, do_lower_case: bool | None = None) -> Tokenizer:
    """Reads the tokenizer of a local folder or a hub name.

    ``tokenizer.json`` is preferred; ``vocab.txt`` alone makes BERT's WordPiece tokenizer. Where
    both ``tokenizer.json`` and ``tokenizer_config.json`` say how BERT's text is normalised, the
    latter wins, as in transformers. ``do_lower_case`` overrides both. A ``vocab.txt`` of which
    nothing says whether it is lower-cased is taken to be so if no word in it has a capital.

    Raises:
      UserError: if there is no such folder or name, if the files are missing or damaged, or if
        the vocabulary lacks a padding, [CLS] or [SEP] token.
    """
    folder = local_folder(source, TOKENIZER_FILES)
    settings = _read_settings(folder)
    if do_lower_case is not None:
        settings["do_lower_case"] = do_lower_case
    if (folder / "tokenizer.json").is_file():
        backend = _read_backend(folder / "tokenizer.json")
        return _finish(_follow_settings(backend, settings), settings, folder)
    if (folder / "vocab.txt").is_file():
        words = _read_vocabulary(folder / "vocab.txt")
        return _from_words(words, settings, folder)
    raise UserError(
        f"{folder} has neither tokenizer.json nor vocab.txt; save the model's tokenizer there "
        f"(transformers: AutoTokenizer.from_pretrained(...).save_pretrained('{folder}'))"
    )


def wordpiece_tokenizer(words: Iterable[str], *, do_lower_case: bool = True) -> Tokenizer:
    """BERT's WordPiece tokenizer over ``words``, whose order gives their ids.

    Raises:
      UserError: if the words lack [PAD], [UNK], [CLS] or [SEP].
    """
    ids = {word: index for index, word in enumerate(words)}
    return _from_words(ids, {"do_lower_case": do_lower_case}, Path("the given vocabulary"))


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> str | None:
    """Compares the tokenizer with the model's ``vocab_size``; a notice to print, or None.

    A model may have somewhat more rows than the tokenizer has words (at most 128 or 2 %): such
    rows pad the embedding and are never looked up, and the notice says so.

    Raises:
      UserError: if a token would have no row, or if the model has so many rows more that the
        tokenizer must be another model's.
    """
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


def _copy(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(backend.to_str())


def _arrays(encoding: tokenizers.Encoding) -> Encoded:
    return np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32)


def _read_settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` and, under it, ``special_tokens_map.json``; both may be absent."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings.update(read_json(folder / name))
    for role in _ROLES:
        if isinstance(settings.get(role), dict):  # a serialised AddedToken
            settings[role] = settings[role].get("content")
    return settings


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"{path} is not a readable tokenizer ({first_line(error)}); get the file anew"
        ) from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Word to id: the number of its line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as UTF-8 text ({first_line(error)}); get the file anew"
        ) from None
    if lines[-1] == "":
        lines.pop()
    return {word: index for index, word in enumerate(lines)}


def _vocabulary_text(backend: tokenizers.Tokenizer) -> str:
    """``vocab.txt``: each word on the line of its id; an id without a word has an empty line."""
    words = backend.get_vocab(with_added_tokens=False)
    lines = [""] * (max(words.values()) + 1)
    for word, index in words.items():
        lines[index] = word
    return "\n".join(lines) + "\n"


def _from_words(words: dict[str, int], settings: dict[str, Any], place: Path) -> Tokenizer:
    """BERT's tokenizer over a bare vocabulary."""
    settings.setdefault("do_lower_case", _looks_lower_cased(words))
    unknown = settings.get("unk_token") or "[UNK]"
    for role in ("unk_token", "cls_token", "sep_token"):
        token = settings.get(role) or _ROLES[role][0]
        if token not in words:
            raise UserError(f"{place} has no line '{token}'; give the model's own vocabulary")
    backend = tokenizers.Tokenizer(models.WordPiece(words, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    special = [settings.get(role) or candidates[0] for role, candidates in _ROLES.items()]
    backend.add_special_tokens([token for token in special if token in words])
    return _finish(_follow_settings(backend, settings), settings, place)


def _looks_lower_cased(words: Iterable[str]) -> bool:
    return all(word == word.lower() or word.startswith("[") for word in words)


def _follow_settings(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """Makes BERT's normaliser do what ``tokenizer_config.json`` says; others are left alone."""
    given = backend.normalizer
    if isinstance(given, normalizers.BertNormalizer):
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=given.clean_text,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", given.handle_chinese_chars),
            strip_accents=settings.get("strip_accents", given.strip_accents),
            lowercase=settings.get("do_lower_case", given.lowercase),
        )
    return backend


def _finish(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], place: Path) -> Tokenizer:
    """Finds the special tokens and, where the file gives none, sets BERT's layout of a pair."""
    tokens = {role: _special_token(backend, settings, role) for role in _ROLES}
    for role in ("pad_token", "cls_token", "sep_token"):
        if tokens[role] is None:
            raise UserError(
                f"the tokenizer of {place} has no {role}; name it in tokenizer_config.json"
            )
    words = backend.get_vocab(with_added_tokens=True)
    ids = {role: words[token] for role, token in tokens.items() if token}
    if backend.num_special_tokens_to_add(False) == 0:
        first, last = tokens["cls_token"], tokens["sep_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {last}:0",
            pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
            special_tokens=[(first, ids["cls_token"]), (last, ids["sep_token"])],
        )
    added = backend.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special} | set(ids.values())
    return Tokenizer(
        backend=backend,
        settings={**settings, **{role: token for role, token in tokens.items() if token}},
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
    candidates = (named,) if isinstance(named, str) else _ROLES[role]
    return next((token for token in candidates if backend.token_to_id(token) is not None), None)
