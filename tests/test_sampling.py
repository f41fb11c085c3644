"""The shares of BERT's recipe in plans and rows of real text: half, a tenth, 15 %, and 80/10/10."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from real_corpus import real_corpus

from bertjax.data import plans
from bertjax.data.batching import Batch
from bertjax.data.documents import Corpus
from bertjax.data.masking import Masking
from bertjax.data.plans import FOLLOWS, Outline, Sampling, make_plan
from bertjax.data.pretraining import CorpusRows, RowFormat


@pytest.fixture(scope="module")
def corpus(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return real_corpus(data_folder, tmp_path_factory.mktemp("corpus"))


@dataclasses.dataclass(frozen=True)
class Masked:
    """Of many rows: what was predicted, and what the model sees there."""

    before: np.ndarray
    after: np.ndarray
    maskable: int
    rows: list[Batch]


def masked_rows(corpus: Corpus, length: int, least: int) -> Masked:
    """Rows with at least so many tokens, special ones counted."""
    tokenizer = corpus.tokenizer()
    form = RowFormat.of(tokenizer, length, 0.15, packed=True)
    masking = Masking.of(tokenizer, max_predictions=form.predictions)
    outline = Outline.of(corpus.lengths())
    source = CorpusRows(corpus, outline, Sampling(length), masking, form, 0)
    rows: list[Batch] = []
    labels, seen, before, total = [], [], [], 0
    while total < least:
        row = source[len(rows)]
        places = row["prediction_position"][row["prediction_weight"] > 0]
        labels.append(row["prediction_labels"][: len(places)])
        seen.append(row["token_ids"][places])
        before.append(row["token_ids"].copy())
        before[-1][places] = labels[-1]
        total += int((row["segment_ids"] > 0).sum())
        rows.append(row)
    maskable = ~np.isin(np.concatenate(before), tokenizer.special_ids)
    return Masked(np.concatenate(labels), np.concatenate(seen), int(maskable.sum()), rows)


@pytest.mark.parametrize("length", [128, 512])
def test_a_million_real_tokens(corpus: Corpus, length: int):
    """15 % predicted, and of them 80/10/10; never a special token, in packed rows."""
    found = masked_rows(corpus, length, 1_050_000)
    assert found.maskable >= 1_000_000
    tokenizer = corpus.tokenizer()
    assert len(found.before) / found.maskable == pytest.approx(0.15, abs=0.002)
    hidden = found.after == tokenizer.mask_id
    kept = found.after == found.before
    assert hidden.mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    assert (~hidden & ~kept).mean() == pytest.approx(0.1, abs=0.01)
    assert not np.isin(found.before, tokenizer.special_ids).any()
    assert not np.isin(found.after[~hidden], tokenizer.special_ids).any()
    segments = np.concatenate([row["segment_ids"] for row in found.rows])
    assert np.mean(segments > 0) > 0.9
    assert max(row["segment_ids"].max() for row in found.rows) > 2


@pytest.mark.parametrize("max_length", [128, 512])
def test_half_of_real_pairs_are_random(corpus: Corpus, max_length: int):
    """So far as a pass is balanced; the published way has more, as it must (docs/sampling.md)."""
    outline, shares = Outline.of(corpus.lengths()), {}
    for balance in (True, False):
        how, generator = Sampling(max_length, balance=balance), np.random.default_rng(0)
        labels = np.concatenate([make_plan(outline, how, generator).label for _ in range(20)])
        assert len(labels) > 50_000
        shares[balance] = labels.mean()
    assert shares[True] == pytest.approx(0.5, abs=0.01)
    assert 0.51 < shares[False] < 0.6


def test_real_short_documents(corpus: Corpus):
    """A tenth of the documents, but for the few whose target is only just below the room."""
    outline, short = Outline.of(corpus.lengths()), []
    for seed in range(20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, "cuts", lambda a, b, room: (np.zeros_like(a), np.zeros_like(b)))
            plan = make_plan(outline, Sampling(128), np.random.default_rng(seed))
        inner = (plan.label == FOLLOWS) & (np.append(np.diff(plan.document_a), 1) == 0)
        least = np.full(len(outline), 10**9)
        length = (plan.length_a + plan.length_b)[inner]
        np.minimum.at(least, plan.document_a[inner], length)
        many = np.bincount(plan.document_a[inner], minlength=len(outline)) >= 10
        short.append(least[many] < 125)
    assert len(np.concatenate(short)) > 3000
    assert np.concatenate(short).mean() == pytest.approx(0.0975, abs=0.0125)
