"""Trains a WordPiece vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(texts: Iterable[str], size: int, *, alphabet: int = 200) -> list[str]:
    """At most ``size`` words, in the order of their ids, for :func:`wordpiece_tokenizer`.

    The same texts give the same words: left to itself the trainer numbers the ``##x`` letters in
    the order of a hash table and breaks ties by those numbers, so it is given them in order.

    Args:
      texts: what to learn from; it is lower-cased.
      size: of the vocabulary, special tokens counted.
      alphabet: how many different characters are kept; rarer ones become [UNK].
    """
    normalizer = normalizers.BertNormalizer()
    counts: dict[str, int] = {}
    lines = [normalizer.normalize_str(text) for text in texts]
    for character in "".join(lines):
        counts[character] = counts.get(character, 0) + 1
    counts.pop(" ", None)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:alphabet]
    letters = [f"##{character}" for character in sorted(frequent)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        show_progress=False,
        limit_alphabet=alphabet,
        special_tokens=[*SPECIAL_TOKENS, *letters],
    )
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(lines, trainer)
    words = backend.get_vocab(with_added_tokens=False)
    return sorted(words, key=words.__getitem__)
