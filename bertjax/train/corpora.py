"""``data=``: the rows of a pretraining run, for training and held out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.documents import Corpus
from bertjax.data.masking import Masking
from bertjax.data.plans import Outline, Sampling
from bertjax.data.pretraining import CorpusRows, Mixture, RecordRows, RowFormat, Rows
from bertjax.data.tfrecords import TfExamples
from bertjax.tokenizers import Tokenizer, load_tokenizer
from bertjax.train.pretrain_config import TFRECORD, PretrainConfig, stretches
from bertjax.types import UserError

HELD_OUT_SEED = 0
"""The same documents are held out in every run on a corpus."""
SPARE = 8
"""Predictions that a row has room for beyond its share, where whole words are masked."""
EVAL_MASK_RATE = 0.15
"""Of held-out rows, whatever the training's, so that runs can be compared."""


@dataclasses.dataclass(frozen=True)
class Corpora:
    """The sources of a run, opened and checked, with the tokenizer that they share."""

    config: PretrainConfig
    tokenizer: Tokenizer
    train: tuple[Corpus | TfExamples, ...]
    weights: tuple[float, ...]
    validation: tuple[Corpus | TfExamples, ...]
    """Empty: documents of ``train`` are held out."""

    @property
    def prepared(self) -> list[Corpus]:
        """Those that carry a tokenizer."""
        return [s for s in (*self.train, *self.validation) if isinstance(s, Corpus)]

    def fingerprints(self) -> dict[str, str]:
        """Of each prepared corpus a digest of its manifest, which tells it from another."""
        return {
            str(corpus.folder): hashlib.sha256(corpus.manifest.to_json().encode()).hexdigest()
            for corpus in self.prepared
        }

    def describe(self) -> list[str]:
        """A line about each source."""
        lines = []
        for split, sources in (("train", self.train), ("validation", self.validation)):
            for source in sources:
                what = f"{len(source):,} examples"
                if isinstance(source, Corpus):
                    what = f"{len(source):,} documents, {source.manifest.tokens:,} tokens"
                kept = len(source) - len(self._numbers(source, split))
                use = f", {kept:,} held out" if kept else " (validation)" * (split != "train")
                lines.append(f"{name_of(source)}: {what}{use}")
        return lines

    def rows(self, split: str, max_length: int, seed: int) -> Rows | None:
        """Rows of ``train`` or ``validation``; None where nothing is held out."""
        if split == "train":
            parts = [self._of(source, split, max_length, seed) for source in self.train]
            return parts[0] if len(parts) == 1 else Mixture(tuple(parts), self.weights)
        sources = self.validation or (self.train if self.config.held_out else ())
        parts = [self._of(source, split, max_length, seed) for source in sources]
        if len(parts) > 1:
            return Mixture(tuple(parts), tuple(float(part.count) for part in parts))
        return parts[0] if parts else None

    def check(self) -> None:
        """Raises UserError for what would only show when rows are made."""
        self._masking("train", self.config.mask_rate, 1)
        longest = max(part.max_length for part in stretches(self.config))
        for sources in (self.train, self.validation):
            for source in sources:
                if isinstance(source, Corpus):
                    if not source.manifest.tokens:
                        raise UserError(f"the corpus {source.folder} is empty; prepare another")
                    source.lengths()
                elif self.config.sentence_task == "sentence_order":
                    raise UserError(
                        f"{name_of(source)} has labels of the next-sentence task, not of "
                        "sentence_order; set sentence_task to next_sentence or none"
                    )
                else:
                    _ = source[0]
                self._numbers(source, "train")
                if self._form(source, "train", longest) != self._form(sources[0], "train", longest):
                    raise UserError(
                        f"{name_of(source)} and {name_of(sources[0])} cannot be mixed: tfrecord: "
                        "examples only go together with others of as many predictions"
                    )

    def _form(self, source: Corpus | TfExamples, split: str, max_length: int) -> RowFormat:
        config = self.config
        rate = config.mask_rate if split == "train" else EVAL_MASK_RATE
        if isinstance(source, TfExamples):
            form = RowFormat.of(self.tokenizer, max_length, rate, packed=False)
            return dataclasses.replace(form, predictions=max(1, source.max_predictions))
        spare = 0 if split == "validation" or config.mask_unit == "token" else SPARE
        return RowFormat.of(self.tokenizer, max_length, rate, config.pack, spare)

    def _of(self, source: Corpus | TfExamples, split: str, max_length: int, seed: int) -> Rows:
        numbers, config = self._numbers(source, split), self.config
        form = self._form(source, split, max_length)
        if isinstance(source, TfExamples):
            return RecordRows(_Chosen(source, numbers), form, seed)
        rate = config.mask_rate if split == "train" else EVAL_MASK_RATE
        sampling = Sampling(
            max_length,
            config.sentence_task,
            config.short_share,
            config.cut_sentences,
            config.balance,
            special_tokens=2 if config.sentence_task == "none" else 3,
        )
        outline = Outline.of(source.lengths(), numbers)
        masking = self._masking(split, rate, form.predictions)
        return CorpusRows(source, outline, sampling, masking, form, seed)

    def _masking(self, split: str, rate: float, most: int) -> Masking:
        config = self.config
        if split != "train":
            return Masking.of(self.tokenizer, rate, max_predictions=most)
        return Masking.of(
            self.tokenizer,
            rate,
            max_predictions=most,
            unit=config.mask_unit,
            max_ngram=config.max_ngram,
            mask_share=config.mask_share,
            random_share=config.random_share,
        )

    def _numbers(self, source: Corpus | TfExamples, split: str) -> np.ndarray:
        """The documents (or records) of a split, in order."""
        if self.validation or not self.config.held_out:
            return np.arange(len(source))
        order = np.random.default_rng(HELD_OUT_SEED).permutation(len(source))
        held_out = max(1, round(self.config.held_out * len(source)))
        if held_out >= len(source):
            raise UserError(
                f"{name_of(source)} has {len(source)} documents or records, too few to hold any "
                "out; give validation_data, or set held_out=0"
            )
        return np.sort(order[:held_out] if split == "validation" else order[held_out:])


@dataclasses.dataclass(frozen=True)
class _Chosen(Sequence[Encoded]):
    """Some records of a source."""

    source: TfExamples
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Encoded:
        return self.source[int(self.numbers[index])]


def name_of(source: Corpus | TfExamples) -> str:
    """What messages call a source."""
    return str(source.folder if isinstance(source, Corpus) else source.paths[0])


def open_corpora(config: PretrainConfig) -> Corpora:
    """Opens everything that ``data`` and ``validation_data`` name.

    Raises:
      UserError: if something is missing or damaged, or the tokenizers differ.
    """
    named = [_weighted(entry) for entry in config.data]
    train = tuple(_open(name) for name, _ in named)
    validation = tuple(_open(name) for name in config.validation_data)
    corpora = [source for source in (*train, *validation) if isinstance(source, Corpus)]
    if config.tokenizer:
        tokenizer, name = load_tokenizer(config.tokenizer), config.tokenizer
    elif corpora:
        tokenizer, name = corpora[0].tokenizer(), f"the one of {corpora[0].folder}"
    else:
        raise UserError("config field 'tokenizer' is not set; with tfrecord: data name its folder")
    for corpus in corpora:
        corpus.check_tokenizer(tokenizer, name)
    shortest = min(part.max_length for part in stretches(config))
    for records in (*train, *validation):
        if isinstance(records, TfExamples):
            records.vocab_size, records.max_length = tokenizer.vocab_size, shortest
    weights = tuple(weight for _, weight in named)
    found = Corpora(config, tokenizer, train, weights, validation)
    found.check()
    return found


def _weighted(entry: str) -> tuple[str, float]:
    """``FOLDER=WEIGHT`` in two; the weight of ``FOLDER`` alone is 1."""
    name, equals, weight = entry.rpartition("=")
    if not equals:
        return entry, 1.0
    try:
        value = float(weight)
    except ValueError:
        return entry, 1.0
    if not 0 < value < float("inf"):
        raise UserError(
            f"config field 'data': the weight of '{name}' must be above 0, not {weight}"
        )
    return name, value


def _open(name: str) -> Corpus | TfExamples:
    if name.startswith(TFRECORD):
        return TfExamples(name.removeprefix(TFRECORD))
    return Corpus(name)
