"""Rows of several corpora by weight, and of examples that were made and masked before."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tiny import WORDS

from bertjax.data.batching import Encoded
from bertjax.data.pretraining import Mixture, RecordRows, RowFormat
from bertjax.tokenizers import wordpiece_tokenizer


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Rows that say where they are from."""

    name: int
    count: int = 100

    def __getitem__(self, index: int) -> Any:
        return self.name, index


@pytest.mark.parametrize(
    "weights", [(1,), (1, 1), (0.2, 3.1), (1, 1, 1), (0.3, 0.3, 0.4), (5, 1, 1, 1), (1, 9, 4, 2)]
)
def test_mixture(weights: tuple[float, ...]):
    """Every source in turn, none of its rows left out, its share right to one row at all times."""
    sources: Any = tuple(Numbers(name) for name in range(len(weights)))
    mixture = Mixture(sources, weights)
    shares, given = np.array(weights) / sum(weights), np.zeros(len(weights), int)
    for index in range(3000):
        found: Any = mixture[index]
        assert found == (found[0], given[found[0]])
        given[found[0]] += 1
        assert np.abs(given - (index + 1) * shares).max() <= 1
    assert mixture.count == int(min(100 / shares))
    assert mixture[2 * 10**9] == Mixture(sources, weights)[2 * 10**9]


def record(number: int) -> Encoded:
    """An example that was masked before."""
    tokens = np.array([2, *range(20, 26 + number % 5), 3], np.int32)
    return {
        "token_ids": tokens,
        "type_ids": np.zeros(len(tokens), np.int32),
        "prediction_positions": np.array([1, 3], np.int32),
        "prediction_labels": np.array([30 + number, 5], np.int32),
        "label": number % 2,
    }


def test_records_come_once_a_pass():
    form = RowFormat.of(wordpiece_tokenizer([*WORDS]), 48, 0.15, packed=False)
    records = [record(number) for number in range(23)]
    rows, orders = RecordRows(records, form, 3), []
    for number in range(2):
        passed = [rows[number * 23 + index] for index in range(23)]
        orders.append([int(row["prediction_labels"][0]) - 30 for row in passed])
        for row, name in zip(passed, orders[-1], strict=True):
            count = len(records[name]["token_ids"])
            assert np.array_equal(row["token_ids"][:count], records[name]["token_ids"])
            assert row["segment_ids"].sum() == count
            assert row["prediction_position"][:2].tolist() == [1, 3]
            assert row["prediction_labels"][:2].tolist() == [30 + name, 5]
            assert row["prediction_weight"].sum() == 2
            assert (row["labels"].tolist(), row["example_weight"].tolist()) == ([name % 2], [1.0])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1]
    again = RecordRows(records, form, 3)[40]
    assert all(np.array_equal(again[name], value) for name, value in rows[40].items())
