"""Rows for pretraining: a function of (seed, number) whoever asks, and what the plan says."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import grain
import numpy as np
import pytest
from tiny import WORDS

from bertjax.corpus.prepare import prepare
from bertjax.corpus.shards import Preparation
from bertjax.data.batching import Batch
from bertjax.data.documents import Corpus, Document
from bertjax.data.masking import Masking
from bertjax.data.plans import SENTENCE_TASKS, UNKNOWN, Outline, Sampling, SentenceTask
from bertjax.data.pretraining import CorpusRows, RowFormat, micro_batches, row_batches
from bertjax.tokenizers import Tokenizer, wordpiece_tokenizer

LENGTH = 48
INTS = ("token_ids", "type_ids", "segment_ids", "positions")
PREDICTIONS = ("prediction_position", "prediction_labels", "prediction_weight")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece_tokenizer([*WORDS])


@pytest.fixture(scope="module")
def corpus(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """60 documents of 1 to 25 sentences; one token in twenty is unknown."""
    folder, generator = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer"))
    words = np.array([*WORDS[5:20], "7"])
    documents = [
        "\n".join(
            " ".join(generator.choice(words, generator.integers(1, 15))) for _ in range(count)
        )
        for count in generator.integers(1, 26, 60)
    ]
    (folder / "text.txt").write_text("\n\n".join(documents))
    how = Preparation(sentences="lines", shard_size=4000)
    arguments = (str(folder / "text.txt"), str(folder / "tokenizer"), folder / "prepared", how)
    prepare(*arguments, workers=1)
    assert len(Corpus(folder / "prepared").manifest.shards) > 2
    return Corpus(folder / "prepared")


def make_rows(
    corpus: Corpus,
    task: SentenceTask = "next_sentence",
    pack: bool = True,
    seed: int = 7,
    documents: Sequence[int] | None = None,
    **masking: Any,
) -> CorpusRows:
    tokenizer = corpus.tokenizer()
    form = RowFormat.of(tokenizer, LENGTH, 0.15, pack, 8 if masking else 0)
    sampling = Sampling(LENGTH, task, special_tokens=2 if task == "none" else 3)
    how = Masking.of(tokenizer, max_predictions=form.predictions, **masking)
    chosen = None if documents is None else np.array(documents)
    return CorpusRows(corpus, Outline.of(corpus.lengths(), chosen), sampling, how, form, seed)


def assert_same(first: Batch, second: Batch) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert np.array_equal(first[name], second[name]), name


def differ(first: Batch, second: Batch) -> bool:
    return any(not np.array_equal(first[name], second[name]) for name in first)


def unmasked(row: Batch) -> np.ndarray:
    """The tokens as they were before some were masked."""
    tokens, count = row["token_ids"].copy(), int(row["prediction_weight"].sum())
    tokens[row["prediction_position"][:count]] = row["prediction_labels"][:count]
    return tokens


def expected_examples(
    corpus: Corpus, rows: CorpusRows, index: int
) -> Iterator[tuple[list[list[int]], int]]:
    """The texts and the label of every example of a row, read from the plan and the documents."""
    number, row = divmod(index, rows.count)
    now = rows.plan(number)
    plan = now.plan
    for example in now.examples(row).tolist():
        a = corpus[plan.document_a[example]].tokens[plan.start_a[example] : plan.stop_a[example]]
        b = corpus[plan.document_b[example]].tokens[plan.start_b[example] : plan.stop_b[example]]
        yield [part.tolist() for part in (a, b) if len(part)], int(plan.label[example])


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_a_row_is_its_examples(
    corpus: Corpus, tokenizer: Tokenizer, task: SentenceTask, pack: bool
):
    """[CLS] A [SEP] B [SEP] of each; what is predicted is what stood there; the rest is padding."""
    rows, shared = make_rows(corpus, task, pack), 0
    for index in range(rows.count + 5):
        row, tokens, types, segments, positions = rows[index], [], [], [], []
        starts, labels = [], []
        for number, (texts, label) in enumerate(expected_examples(corpus, rows, index), 1):
            parts = [[tokenizer.cls_id, *texts[0], tokenizer.sep_id]]
            parts += [[*text, tokenizer.sep_id] for text in texts[1:]]
            starts.append(len(tokens))
            labels.append(label)
            length = sum(map(len, parts))
            tokens += itertools.chain(*parts)
            types += [0] * len(parts[0]) + [1] * (length - len(parts[0]))
            segments += [number] * length
            positions += range(length)
        padding = [0] * (LENGTH - len(tokens))
        assert unmasked(row).tolist() == tokens + [tokenizer.pad_id] * len(padding)
        assert row["type_ids"].tolist() == types + padding
        assert row["segment_ids"].tolist() == segments + padding
        assert row["positions"].tolist() == positions + padding
        count = len(labels)
        assert row["cls_position"][:count].tolist() == starts
        assert set(row["token_ids"][row["cls_position"][:count]].tolist()) == {tokenizer.cls_id}
        assert row["labels"][:count].tolist() == [max(label, 0) for label in labels]
        weights = [float(label != UNKNOWN) for label in labels]
        assert row["example_weight"].tolist() == weights + [0.0] * (rows.form.examples - count)
        shared += count > 1
    assert (shared > 0) == pack


@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_every_row_has_the_same_shapes(corpus: Corpus, task: SentenceTask):
    rows = make_rows(corpus, task)
    form = rows.form
    shapes = {
        **dict.fromkeys(INTS, ((LENGTH,), "int32")),
        "prediction_position": ((form.predictions,), "int32"),
        "prediction_labels": ((form.predictions,), "int32"),
        "prediction_weight": ((form.predictions,), "float32"),
        "cls_position": ((form.examples,), "int32"),
        "labels": ((form.examples,), "int32"),
        "example_weight": ((form.examples,), "float32"),
    }
    for row in (rows[0], rows[rows.count], form.empty()):
        assert {name: (v.shape, v.dtype.name) for name, v in row.items()} == shapes
    empty = form.empty()
    assert set(empty["token_ids"].tolist()) == {form.pad_id}
    for name in ("segment_ids", "prediction_weight", "example_weight"):
        assert not empty[name].any()


@pytest.mark.parametrize("masking", [{}, {"unit": "word"}, {"unit": "ngram"}])
def test_special_tokens_are_never_predicted(
    corpus: Corpus, tokenizer: Tokenizer, masking: dict[str, Any]
):
    """Neither [CLS] and [SEP] between examples, nor [UNK], nor padding."""
    rows = make_rows(corpus, **masking)
    labels, unknown = [], 0
    for index in range(rows.count):
        row = rows[index]
        count = int(row["prediction_weight"].sum())
        assert row["prediction_weight"].tolist() == sorted(row["prediction_weight"], reverse=True)
        assert len(set(row["prediction_position"][:count].tolist())) == count > 0
        labels += row["prediction_labels"][:count].tolist()
        unknown += int((row["token_ids"] == WORDS.index("[UNK]")).sum())
    assert not set(labels) & set(tokenizer.special_ids)
    assert unknown > 100


@dataclasses.dataclass(frozen=True)
class Marked(Sequence[Document]):
    """Documents whose words are marked: every token but the first of three goes on with a word."""

    corpus: Corpus

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: Any) -> Document:
        found = self.corpus[index]
        return dataclasses.replace(found, continues=np.arange(len(found.tokens)) % 3 > 0)


def test_marked_words_are_predicted_whole(corpus: Corpus, tokenizer: Tokenizer):
    rows = make_rows(corpus, unit="word")
    rows._documents = Marked(corpus)
    whole, special = 0, set(tokenizer.special_ids)
    for index in range(rows.count):
        number, place = divmod(index, rows.count)
        now, row, start = rows.plan(number), rows[index], 0
        count = int(row["prediction_weight"].sum())
        predicted, tokens = set(row["prediction_position"][:count].tolist()), unmasked(row)
        for example in now.examples(place).tolist():
            for name in ("a", "b"):
                low, high = (
                    int(getattr(now.plan, f"{end}_{name}")[example]) for end in ("start", "stop")
                )
                start += low < high or name == "a"
                for word in range(low // 3, -(-high // 3)):
                    inside = range(max(low, 3 * word), min(high, 3 * word + 3))
                    places = {start + place - low for place in inside}
                    if not any(int(tokens[place]) in special for place in places):
                        assert places <= predicted or not places & predicted
                        whole += len(places) == 3 and places <= predicted
                start += high - low
            start += 1
    assert whole > 50


def test_passes_differ_and_seeds_decide(corpus: Corpus):
    """The same text comes again in another cut, and masked differently where it is not."""
    rows, again, other = make_rows(corpus), make_rows(corpus), make_rows(corpus, seed=8)
    for index in range(0, 3 * rows.count, 7):
        assert_same(rows[index], again[index])
    assert all(differ(rows[index], other[index]) for index in range(10))
    fixed = make_rows(corpus, "none", pack=False)
    places: dict[bytes, list[bytes]] = {}
    for index in range(2 * fixed.count):
        key = unmasked(fixed[index]).tobytes()
        places.setdefault(key, []).append(fixed[index]["prediction_position"].tobytes())
    pairs = [found for found in places.values() if len(found) == 2]
    assert len(pairs) > 0.9 * fixed.count
    assert np.mean([first != second for first, second in pairs]) > 0.9
    orders = [[unmasked(fixed[p * fixed.count + i]).tobytes() for i in range(9)] for p in (0, 1)]
    assert orders[0] != orders[1]


def test_a_single_row_is_masked_anew_in_every_pass(corpus: Corpus):
    rows = make_rows(corpus, "none", documents=[int(np.argmax(sizes(corpus) < LENGTH))])
    assert rows.count == 1
    assert len({unmasked(rows[index]).tobytes() for index in range(10)}) == 1
    assert len({rows[index]["prediction_position"].tobytes() for index in range(10)}) > 1


def sizes(corpus: Corpus) -> np.ndarray:
    """Tokens of each document."""
    return np.array([len(document.tokens) for document in corpus])


def test_the_order_of_asking_does_not_matter(corpus: Corpus):
    """Backwards, jumping between passes, in threads, from a copy: the same rows."""
    rows = make_rows(corpus)
    numbers = [*range(8), *range(rows.count - 3, rows.count + 3), 5 * rows.count + 1]
    straight = {number: rows[number] for number in numbers}
    for other in (make_rows(corpus), pickle.loads(pickle.dumps(rows)), rows):
        for number in reversed(numbers):
            assert_same(other[number], straight[number])
    shuffled = np.random.default_rng(0).permutation(numbers * 4).tolist()
    threaded = make_rows(corpus)
    with ThreadPoolExecutor(4) as pool:
        for number, row in zip(shuffled, pool.map(threaded.__getitem__, shuffled), strict=True):
            assert_same(row, straight[number])


def batches(rows: Any, count: int, start: int = 0, size: int = 8, **options: Any) -> list[Batch]:
    options = {"accumulation": 1, **options}
    stream = row_batches(rows, size, start=start, **options)
    return [next(stream) for _ in range(count)]


def expected_batch(rows: CorpusRows, number: int, size: int = 8) -> Batch:
    return micro_batches([rows[number * size + row] for row in range(size)], 1)


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_matter(corpus: Corpus, threads: int, monkeypatch: pytest.MonkeyPatch):
    given = grain.ReadOptions
    monkeypatch.setattr(
        grain, "ReadOptions", lambda **options: given(**{**options, "num_threads": threads})
    )
    rows = make_rows(corpus)
    for number, batch in enumerate(batches(make_rows(corpus), 6)):
        assert_same(batch, expected_batch(rows, number))


def test_workers_do_not_matter(corpus: Corpus):
    rows = make_rows(corpus)
    for number, batch in enumerate(batches(rows, 5, start=2, workers=2), 2):
        assert_same(batch, expected_batch(rows, number))


@pytest.mark.parametrize("start", [1, 13])
def test_a_later_start_skips_batches(corpus: Corpus, start: int):
    rows = make_rows(corpus)
    for number, batch in enumerate(batches(rows, 3, start), start):
        assert_same(batch, expected_batch(rows, number))


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_hosts_share_a_batch(corpus: Corpus, hosts: int, accumulation: int):
    """Each reads the rows that it holds, of every micro-batch; together they have read all."""
    rows, micro = make_rows(corpus), 8 // accumulation
    held = [np.arange(host, micro, hosts) for host in range(hosts)]
    parts = [batches(rows, 3, start=1, accumulation=accumulation, held=mine) for mine in held]
    for number, alone in enumerate(batches(rows, 3, start=1, accumulation=accumulation)):
        for part, mine in zip(parts, held, strict=True):
            assert_same(part[number], {name: value[:, mine] for name, value in alone.items()})


def test_only_held_rows_are_read():
    class Numbers:
        read: ClassVar[list[int]] = []

        def __getitem__(self, index: int) -> Batch:
            self.read.append(index)
            return {"token_ids": np.full(3, index)}

    batches(Numbers(), 2, accumulation=2, held=np.array([1, 3]))
    assert {number % 4 for number in Numbers.read} == {1, 3}


def test_micro_batches(corpus: Corpus):
    rows = [make_rows(corpus)[index] for index in range(6)]
    batch = micro_batches(rows, 3)
    for name, value in batch.items():
        assert value.shape == (3, 2, *rows[0][name].shape)
        for index, row in enumerate(rows):
            assert np.array_equal(value[index // 2, index % 2], row[name])
