"""Trains the vocabulary of a tokenizer: WordPiece, byte-level BPE or unigram.

The text is read twice and never held: once for its characters, once by the trainer of the
``tokenizers`` library, which keeps the count of each different word.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers, trainers

from bertjax.corpus.characters import Survey, choose_letters, letters, without_rare
from bertjax.tokenizer_families import FAMILIES, Vocabulary
from bertjax.types import UserError, nearest

SPECIAL: dict[str, tuple[str, ...]] = {
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "byte_bpe": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "unigram": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
}
"""Kind to special tokens, in the order of their ids."""
CLASSES = {
    "wordpiece": "BertTokenizer",
    "byte_bpe": "RobertaTokenizer",
    "unigram": "AlbertTokenizer",
}
"""Kind to the class of transformers that reads it."""
KINDS = tuple(SPECIAL)

_MIN_FREQUENCY = 2
_DECIMALS = 6
_BYTES = 256


@dataclasses.dataclass(frozen=True)
class VocabularySettings:
    """What to train.

    Raises:
      UserError: for a value that cannot be, or that means nothing for the kind.
    """

    kind: str = "wordpiece"
    """One of ``KINDS``."""
    size: int = 30522
    """Of the vocabulary, special tokens counted."""
    lower_case: bool = False
    strip_accents: bool | None = None
    """None: as ``lower_case``."""
    unused: int = 0
    """How many ``[unusedN]`` tokens are reserved (WordPiece)."""
    min_frequency: int | None = None
    """How often a pair must occur to be merged; None: 2. Unigram has no such number."""
    alphabet: int | None = None
    """How many different characters are kept; None: those that make up 99.99 % of the text."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"there is no kind '{self.kind}'{nearest(self.kind, KINDS)}")
        if self.kind == "byte_bpe" and (self.lower_case or self.strip_accents):
            raise UserError(
                "--lower_case and --strip_accents are not for byte_bpe, whose tokenizers take text "
                "as it is; leave them out, or choose another --kind"
            )
        if self.kind == "byte_bpe" and self.alphabet is not None:
            raise UserError("--alphabet is not for byte_bpe, which knows every byte; leave it out")
        if self.kind == "unigram" and self.min_frequency is not None:
            raise UserError(
                "--min_frequency is not for unigram, which merges no pairs; leave it out"
            )
        if self.kind != "wordpiece" and self.unused:
            raise UserError("--unused is for wordpiece alone; leave it out")
        for name in ("unused", "min_frequency"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"--{name}={getattr(self, name)} is below 0; give 0 or more")
        if self.alphabet is not None and self.alphabet < 1:
            raise UserError(f"--alphabet={self.alphabet} leaves no character; give at least 1")
        self.room(0)

    @property
    def special(self) -> tuple[str, ...]:
        """The special and reserved tokens, in the order of their ids."""
        reserved = (f"[unused{number}]" for number in range(self.unused))
        return (*SPECIAL[self.kind], *reserved)

    def room(self, taken: int) -> int:
        """Rows that are left beside the special tokens and ``taken`` others.

        Raises:
          UserError: if there are none.
        """
        taken += _BYTES * (self.kind == "byte_bpe")
        left = self.size - len(self.special) - taken
        if left <= 0:
            raise UserError(
                f"--size={self.size} has no room for words beside {len(self.special)} special "
                f"tokens and {taken} characters; raise it, or lower --alphabet or --unused"
            )
        return left

    def tokenizer(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` says."""
        name = CLASSES[self.kind]
        own: dict[str, dict[str, Any]] = {
            "wordpiece": {"do_lower_case": self.lower_case, "strip_accents": self.strip_accents},
            "byte_bpe": {},
            "unigram": {"do_lower_case": self.lower_case, "keep_accents": not self._strips},
        }
        return {**FAMILIES[name].defaults, **own[self.kind], "tokenizer_class": name}

    @property
    def _strips(self) -> bool:
        return self.lower_case if self.strip_accents is None else self.strip_accents


def train(
    settings: VocabularySettings, overview: Survey, paragraphs: Callable[[], Iterable[str]]
) -> Vocabulary:
    """Learns a vocabulary, at most as large as the settings say.

    WordPiece and byte-level BPE are the same for the same text. The unigram trainer adds floats in
    the order of a hash table, which moves scores by about 1e-11: they are rounded. Only a tie that
    this noise breaks as the last pieces are dropped could still tell two runs apart.

    Args:
      settings: what to train.
      overview: of the same text.
      paragraphs: gives the text anew each time it is called.

    Raises:
      UserError: if the text has no characters, or the size no room for them.
    """
    if not overview.characters:
        raise UserError("the input holds no text; check --input, --format and --field")
    return _TRAINERS[settings.kind](settings, overview, paragraphs)


def _train_wordpiece(
    settings: VocabularySettings, overview: Survey, paragraphs: Callable[[], Iterable[str]]
) -> Vocabulary:
    backend = _empty(settings)
    counts = letters(overview, _normalizer(backend))
    continues = {letter for letter in counts if _continues(letter, backend)}
    kept = choose_letters(
        counts, settings.alphabet, settings.room(0) // 2, lambda x: 1 + (x in continues)
    )
    inner = [letter for letter in kept if letter in continues]
    settings.room(len(kept) + len(inner))
    words = _words(settings, backend, kept, inner, paragraphs(), overview.paragraphs)
    return Vocabulary({word: index for index, word in enumerate(words)})


def _continues(letter: str, backend: tokenizers.Tokenizer) -> bool:
    """Whether a character can go on with a word: punctuation and Chinese ones never do."""
    assert backend.pre_tokenizer is not None
    text = _normalizer(backend).normalize_str(f"a{letter}")
    return len(backend.pre_tokenizer.pre_tokenize_str(text)) == 1


def _words(
    settings: VocabularySettings,
    backend: tokenizers.Tokenizer,
    kept: list[str],
    inner: list[str],
    paragraphs: Iterable[str],
    count: int,
) -> list[str]:
    """Trains WordPiece on the characters ``kept``, of which ``inner`` may go on with a word.

    Left to itself the trainer numbers the ``##x`` letters in the order of a hash table and breaks
    ties by those numbers, so it is given them in order; and it is told which characters to keep,
    because it takes any of those that are equally frequent.
    """
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.size,
        min_frequency=_min_frequency(settings),
        show_progress=sys.stderr.isatty(),
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        special_tokens=[*settings.special, *(f"##{letter}" for letter in sorted(inner))],
    )
    backend.train_from_iterator(paragraphs, trainer, length=count)
    words = backend.get_vocab(with_added_tokens=False)
    return sorted(words, key=words.__getitem__)


def _train_bytes(
    settings: VocabularySettings, overview: Survey, paragraphs: Callable[[], Iterable[str]]
) -> Vocabulary:
    backend = _empty(settings)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.size,
        min_frequency=_min_frequency(settings),
        show_progress=sys.stderr.isatty(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(settings.special),
    )
    backend.train_from_iterator(paragraphs(), trainer, length=overview.paragraphs)
    model = json.loads(backend.to_str())["model"]
    return Vocabulary(model["vocab"], [tuple(merge) for merge in model["merges"]])


def _train_unigram(
    settings: VocabularySettings, overview: Survey, paragraphs: Callable[[], Iterable[str]]
) -> Vocabulary:
    backend = _empty(settings)
    normalizer = _normalizer(backend)
    # "▁" stands for the space before a word.
    counts = {"▁": overview.characters, **letters(overview, normalizer)}
    kept = choose_letters(counts, settings.alphabet, settings.room(0) // 2, len)
    settings.room(len(kept))
    trainer = trainers.UnigramTrainer(
        vocab_size=settings.size,
        show_progress=sys.stderr.isatty(),
        initial_alphabet=kept,
        unk_token="<unk>",
        special_tokens=list(settings.special),
    )
    texts = without_rare(paragraphs(), overview, normalizer, kept)
    backend.train_from_iterator(texts, trainer, length=overview.paragraphs)
    words = json.loads(backend.to_str())["model"]["vocab"]
    return Vocabulary(_settled([(word, score) for word, score in words], settings.special))


def _settled(words: list[tuple[str, float]], special: tuple[str, ...]) -> list[tuple[str, float]]:
    """Pieces and scores without what the order of the trainer's hash table leaves in them.

    Scores are rounded, and pieces sorted by them. Characters that are kept although no good split
    of the text has them, which the trainer numbers as they come, all get one low score.
    """
    learned = [(word, score) for word, score in words if word not in special]
    lowest = min((score for word, score in learned if len(word) > 1), default=0.0)
    scores = {
        word: round(score if score >= lowest else lowest - 1, _DECIMALS) for word, score in learned
    }
    ordered = sorted(scores, key=lambda word: (-scores[word], word))
    return [*((word, 0.0) for word in special), *((word, scores[word]) for word in ordered)]


def _min_frequency(settings: VocabularySettings) -> int:
    return _MIN_FREQUENCY if settings.min_frequency is None else settings.min_frequency


def _empty(settings: VocabularySettings) -> tokenizers.Tokenizer:
    """The tokenizer that is to be trained: it splits text as the finished one will."""
    words = {word: index for index, word in enumerate(settings.special)}
    vocabulary = Vocabulary(
        [(word, 0.0) for word in words] if settings.kind == "unigram" else words
    )
    return FAMILIES[CLASSES[settings.kind]].make(vocabulary, settings.tokenizer())


def _normalizer(backend: tokenizers.Tokenizer) -> normalizers.Normalizer:
    assert backend.normalizer is not None
    return backend.normalizer


_TRAINERS = {
    "wordpiece": _train_wordpiece,
    "byte_bpe": _train_bytes,
    "unigram": _train_unigram,
}
