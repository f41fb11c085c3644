"""The tokenizers of the families, each built from a vocabulary and settings.

The classes of transformers (version 5) take only the vocabulary, the added tokens and the
character map from the files, and build the rest as ``tokenizer_config.json`` says. So does
:func:`build`, for the classes in :data:`FAMILIES`: a family is a row of that table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from bertjax.types import UserError

Settings = Mapping[str, Any]

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SPACE = "▁"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What the files of a tokenizer hold, whichever they are."""

    words: Mapping[str, int] | Sequence[tuple[str, float]]
    """Word to id; of SentencePiece (unigram), the words in the order of their ids, with scores."""
    merges: Sequence[tuple[str, str]] = ()
    """Of byte-pair encoding."""
    character_map: bytes | None = None
    """SentencePiece's compiled normalisation."""
    added: Sequence[AddedToken] = ()
    """Tokens that are found in the text before it is split, in the order of their ids."""
    described: Mapping[str, AddedToken] = dataclasses.field(default_factory=dict)
    """Special tokens whose roles the settings give with flags, used if not among ``added``."""
    symbols: Sequence[AddedToken] | None = None
    """Those of a SentencePiece file, used where the settings name no extra tokens."""
    layout: processors.PostProcessor | None = None
    """What ``tokenizer.json`` says on special tokens; only ALBERT's class regards it."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One tokenizer class of transformers."""

    model: str
    """``WordPiece``, ``BPE`` or ``Unigram``."""
    defaults: Settings
    """What holds where ``tokenizer_config.json`` does not say."""
    make: Callable[[Vocabulary, Settings], tokenizers.Tokenizer]
    join: Callable[[tokenizers.Tokenizer, Settings], processors.PostProcessor]
    """The special tokens around a text and a pair."""
    extra: Sequence[str] = ()
    """Special tokens beside those of :data:`ROLES`."""
    mask_takes_space: bool = False
    """Whether a mask token that the files describe by its name alone takes the space before it."""
    keeps_layout: bool = False
    """Whether ``tokenizer.json``'s layout of special tokens wins over ``join``."""


def build(
    family: Family, vocabulary: Vocabulary, settings: Settings, place: object
) -> tokenizers.Tokenizer:
    """The fast tokenizer of a family; ``settings`` are complete: the family's defaults filled in.

    Special tokens that the vocabulary lacks are not added to it: the model has no row for them.

    Raises:
      UserError: if the vocabulary lacks the unknown, first, last or padding token.
    """
    words = vocabulary.words
    there = words if isinstance(words, Mapping) else {word for word, _ in words}
    there = {*there, *(token.content for token in vocabulary.added)}
    for role in ("unk_token", "cls_token", "sep_token", "pad_token"):
        if settings[role] not in there:
            raise UserError(
                f"{place} has no word '{settings[role]}', its {role}; "
                "give the model's own vocabulary"
            )
    backend = family.make(vocabulary, settings)
    add_special(backend, vocabulary, settings, family)
    keep = family.keeps_layout and vocabulary.layout is not None
    backend.post_processor = vocabulary.layout if keep else family.join(backend, settings)
    return backend


def add_special(
    backend: tokenizers.Tokenizer,
    vocabulary: Vocabulary,
    settings: Settings,
    family: Family | None = None,
) -> None:
    """Makes special tokens of those that the files and the settings call so, in that order."""
    tokens = list(vocabulary.added)
    for name in (settings.get(role) for role in ROLES):
        if isinstance(name, str):
            takes_space = family is not None and family.mask_takes_space
            lstrip = takes_space and name == settings["mask_token"]
            default = AddedToken(name, lstrip=lstrip, special=True)
            tokens.append(vocabulary.described.get(name, default))
    extra = settings.get("extra_special_tokens", settings.get("additional_special_tokens"))
    if extra is None:
        extra = vocabulary.symbols if vocabulary.symbols is not None else family and family.extra
    values = extra.values() if isinstance(extra, Mapping) else extra or ()
    tokens += [as_added(value) for value in values]
    chosen: dict[str, AddedToken] = {}
    files = {token.content for token in vocabulary.added}
    for token in tokens:
        name = token.content
        if name not in chosen and (name in files or backend.token_to_id(name) is not None):
            chosen[name] = token
    backend.add_tokens(list(chosen.values()))


def as_added(value: Any, **flags: Any) -> AddedToken:
    """A token that a file gives by its name or as an object of flags."""
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, Mapping):
        kept = {name: flag for name, flag in value.items() if name not in ("id", "__type")}
        return AddedToken(**{**kept, **flags})
    return AddedToken(value, special=True)


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    if not isinstance(vocabulary.words, Mapping):
        raise UserError("the vocabulary gives its words no ids; get the tokenizer files anew")
    return dict(vocabulary.words)


def _wordpiece(vocabulary: Vocabulary, settings: Settings) -> tokenizers.Tokenizer:
    model = models.WordPiece(_ids(vocabulary), unk_token=settings["unk_token"])
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=settings["do_lower_case"],
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _bytes(vocabulary: Vocabulary, settings: Settings) -> tokenizers.Tokenizer:
    model = models.BPE(
        _ids(vocabulary),
        list(vocabulary.merges),
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings["add_prefix_space"])
    backend.decoder = decoders.ByteLevel()
    return backend


def _unigram(
    vocabulary: Vocabulary, settings: Settings, unknown: int | None = None
) -> tokenizers.Tokenizer:
    """A unigram model, its unknown word at index ``unknown``: None looks for it."""
    if isinstance(vocabulary.words, Mapping):
        raise UserError("the vocabulary gives its words no scores; get the tokenizer files anew")
    words = list(vocabulary.words)
    if unknown is None:
        unknown = [word for word, _ in words].index(settings["unk_token"])
    backend = tokenizers.Tokenizer(models.Unigram(words, unknown, byte_fallback=False))
    scheme = "always" if settings["add_prefix_space"] else "never"
    spaces = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return backend


def _xlm_roberta(vocabulary: Vocabulary, settings: Settings) -> tokenizers.Tokenizer:
    return _mapped(_unigram(vocabulary, settings, 3), vocabulary)


def _camembert(vocabulary: Vocabulary, settings: Settings) -> tokenizers.Tokenizer:
    return _mapped(_unigram(vocabulary, settings), vocabulary)


def _mapped(backend: tokenizers.Tokenizer, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    if vocabulary.character_map:
        backend.normalizer = normalizers.Precompiled(vocabulary.character_map)
    return backend


def _albert(vocabulary: Vocabulary, settings: Settings) -> tokenizers.Tokenizer:
    backend = _unigram(vocabulary, settings, 1)
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings["keep_accents"]:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings["do_lower_case"]:
        steps.append(normalizers.Lowercase())
    if vocabulary.character_map:
        steps.append(normalizers.Precompiled(vocabulary.character_map))
    backend.normalizer = normalizers.Sequence(steps)
    return backend


def join_with_types(
    backend: tokenizers.Tokenizer, settings: Settings
) -> processors.TemplateProcessing:
    """``[CLS] A [SEP] B [SEP]``, the second text of type 1."""
    first, last = settings["cls_token"], settings["sep_token"]
    return processors.TemplateProcessing(
        single=[f"{first}:0", "$A:0", f"{last}:0"],
        pair=[f"{first}:0", "$A:0", f"{last}:0", "$B:1", f"{last}:1"],
        special_tokens=[_with_id(backend, first), _with_id(backend, last)],
    )


def _with_id(backend: tokenizers.Tokenizer, token: str) -> tuple[str, int]:
    index = backend.token_to_id(token)
    if index is None:
        raise UserError(f"the vocabulary has no word '{token}'; give the model's own vocabulary")
    return token, index


def _join_bytes(backend: tokenizers.Tokenizer, settings: Settings) -> processors.RobertaProcessing:
    """``<s> A </s></s> B </s>``, all of type 0."""
    first, last = settings["cls_token"], settings["sep_token"]
    return processors.RobertaProcessing(
        _with_id(backend, last),
        _with_id(backend, first),
        settings["trim_offsets"],
        settings["add_prefix_space"],
    )


def _join_doubled(
    backend: tokenizers.Tokenizer, settings: Settings
) -> processors.TemplateProcessing:
    """``<s> A </s></s> B </s>``, all of type 0; transformers takes the outer tokens here."""
    first, last = settings["bos_token"], settings["eos_token"]
    return processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[first, "$A", last, last, "$B", last],
        special_tokens=[_with_id(backend, first), _with_id(backend, last)],
    )


def _names(first: str, last: str, pad: str, unknown: str, mask: str) -> dict[str, Any]:
    return {
        "bos_token": first,
        "eos_token": last,
        "unk_token": unknown,
        "sep_token": last,
        "pad_token": pad,
        "cls_token": first,
        "mask_token": mask,
    }


_ROUND = _names("<s>", "</s>", "<pad>", "<unk>", "<mask>")
_SQUARE = _names("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
_BERT = Family(
    "WordPiece",
    {
        **{role: name for role, name in _SQUARE.items() if role not in ("bos_token", "eos_token")},
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
    },
    _wordpiece,
    join_with_types,
)

FAMILIES: Mapping[str, Family] = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "RobertaTokenizer": Family(
        "BPE", {**_ROUND, "add_prefix_space": False, "trim_offsets": True}, _bytes, _join_bytes
    ),
    "XLMRobertaTokenizer": Family(
        "Unigram", {**_ROUND, "add_prefix_space": True}, _xlm_roberta, _join_doubled
    ),
    "CamembertTokenizer": Family(
        "Unigram",
        {**_ROUND, "add_prefix_space": True},
        _camembert,
        _join_doubled,
        extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
        mask_takes_space=True,
    ),
    "AlbertTokenizer": Family(
        "Unigram",
        {
            **_names("[CLS]", "[SEP]", "<pad>", "<unk>", "[MASK]"),
            "do_lower_case": True,
            "keep_accents": False,
            "add_prefix_space": True,
        },
        _albert,
        join_with_types,
        keeps_layout=True,
    ),
}
"""By the name of the class in ``tokenizer_config.json``, without an ending "Fast"."""

MODEL_TYPES: Mapping[str, str] = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "albert": "AlbertTokenizer",
}
"""The class that serves a model whose files name none, by ``config.json``'s ``model_type``."""
