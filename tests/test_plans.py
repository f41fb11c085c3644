"""Plans: every token has its place, spans mean what they say, and the shares are the papers'."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from bertjax.data import plans
from bertjax.data.plans import (
    FOLLOWS,
    OTHER,
    SENTENCE_TASKS,
    UNKNOWN,
    Outline,
    Plan,
    Sampling,
    SentenceTask,
    cuts,
    make_plan,
    pack,
)

FIELDS = tuple(field.name for field in dataclasses.fields(Plan))
PAIR_TASKS: tuple[SentenceTask, ...] = ("next_sentence", "sentence_order")


def lengths_of(*documents: list[int]) -> np.ndarray:
    """As a corpus stores them: a 0 after each document."""
    return np.array([length for document in documents for length in (*document, 0)], np.uint32)


def random_documents(count: int = 60, longest: int = 45, seed: int = 0) -> list[list[int]]:
    """Sentences of 1 to ``longest`` tokens, 1 to 40 a document; now and then a very long one."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        sentences = generator.integers(1, longest + 1, generator.integers(1, 41))
        sentences[generator.random(len(sentences)) < 0.02] = 500
        documents.append(sentences.tolist())
    return documents


def sampling(task: SentenceTask, **changes: object) -> Sampling:
    special = 2 if task == "none" else 3
    return dataclasses.replace(Sampling(64, task, special_tokens=special), **changes)


def plan_of(documents: list[list[int]], how: Sampling, seed: int = 0) -> Plan:
    return make_plan(Outline.of(lengths_of(*documents)), how, np.random.default_rng(seed))


def uncut(documents: list[list[int]], how: Sampling, seed: int = 0) -> Plan:
    """The same plan before its pairs are cut to the room: cutting is drawn last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "cuts", lambda a, b, room: (np.zeros_like(a), np.zeros_like(b)))
        return plan_of(documents, how, seed)


def spans(plan: Plan) -> Iterator[tuple[int, tuple[int, int], int, tuple[int, int], int]]:
    """Document and span of A, of B, and the label, of one example after the other."""
    for row in zip(*(getattr(plan, name).tolist() for name in FIELDS), strict=True):
        yield row[0], (row[1], row[2]), row[3], (row[4], row[5]), row[6]


def ends_of(document: list[int]) -> list[int]:
    return [0, *np.cumsum(document).tolist()]


@pytest.mark.parametrize("task", SENTENCE_TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_every_token_is_read_once_in_order(task: SentenceTask, seed: int):
    """As A or as what follows A, before pairs are cut; spans never leave their document."""
    documents = random_documents(seed=seed)
    found: dict[int, list[tuple[int, int]]] = {}
    for document, a, _, b, label in spans(uncut(documents, sampling(task), seed)):
        goes_on = b[1] > b[0] and (label == FOLLOWS or task == "sentence_order")
        found.setdefault(document, []).extend(sorted([a, b]) if goes_on else [a])
    assert sorted(found) == list(range(len(documents)))
    for number, parts in found.items():
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
        assert parts[-1][1] == sum(documents[number])
        assert all(stop > start for start, stop in parts)


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_sentences_are_whole_before_pairs_are_cut(task: SentenceTask):
    documents = random_documents()
    for document_a, a, document_b, b, _ in spans(uncut(documents, sampling(task))):
        assert set(a) <= set(ends_of(documents[document_a]))
        assert set(b) <= set(ends_of(documents[document_b])) or b[0] == b[1]


@pytest.mark.parametrize("task", PAIR_TASKS)
@pytest.mark.parametrize("room", [2, 3, 20, 61])
def test_pairs_are_cut_at_both_ends_and_fit(task: SentenceTask, room: int):
    documents, how = random_documents(), sampling(task, max_length=room + 3)
    plan, before = plan_of(documents, how), uncut(documents, how)
    assert np.array_equal(plan.document_a, before.document_a)
    assert np.array_equal(plan.label, before.label)
    assert (plan.length_a + plan.length_b).max() == room
    assert plan.length_a.min() > 0
    assert np.array_equal(plan.length_b > 0, plan.label != UNKNOWN)
    long = before.length_a + before.length_b > room
    assert np.array_equal((plan.length_a + plan.length_b)[long], np.full(long.sum(), room))
    for name in ("a", "b"):
        front = getattr(plan, f"start_{name}") - getattr(before, f"start_{name}")
        back = getattr(before, f"stop_{name}") - getattr(plan, f"stop_{name}")
        assert min(front.min(), back.min()) >= 0
        assert not (front + back)[~long].any()
        cut = (front + back).sum()
        assert front.sum() / cut == pytest.approx(0.5, abs=4 * 0.5 / cut**0.5)


def test_next_sentence_labels():
    """0: B begins where A ends; 1: B is of another document."""
    documents = random_documents()
    plan = uncut(documents, sampling("next_sentence"))
    assert set(plan.label.tolist()) == {FOLLOWS, OTHER}
    for document_a, a, document_b, b, label in spans(plan):
        if label == FOLLOWS:
            assert (document_b, b[0]) == (document_a, a[1])
        else:
            assert document_b != document_a


def test_sentence_order_labels():
    """0: B begins where A ends; 1: they are swapped; none: a chunk of one sentence."""
    documents = random_documents()
    plan = uncut(documents, sampling("sentence_order"))
    assert np.array_equal(plan.document_a, plan.document_b)
    assert set(plan.label.tolist()) == {FOLLOWS, OTHER, UNKNOWN}
    swapped = plan.label[plan.label != UNKNOWN] == OTHER
    assert swapped.mean() == pytest.approx(0.5, abs=4 * 0.5 / len(swapped) ** 0.5)
    for document, a, _, b, label in spans(plan):
        ends = ends_of(documents[document])
        if label == UNKNOWN:
            assert (ends.index(a[1]) - ends.index(a[0]), b[0]) == (1, b[1])
        else:
            first, second = (a, b) if label == FOLLOWS else (b, a)
            assert first[0] < first[1] == second[0] < second[1]


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_chunks_end_with_the_sentence_that_reaches_the_target(task: SentenceTask):
    """Of documents without a shorter target: less than the room without the last sentence."""
    documents, how = random_documents(), sampling(task, short_share=0.0)
    for document, a, _, b, label in spans(uncut(documents, how)):
        if label != UNKNOWN and (label == FOLLOWS or task == "sentence_order"):
            start, stop = min(a[0], b[0]), max(a[1], b[1])
            ends = ends_of(documents[document])
            assert ends[ends.index(stop) - 1] - start < how.room
            assert stop - start >= how.room or stop == ends[-1]


def test_other_documents_fill_what_a_leaves():
    """B from elsewhere begins with any sentence, and ends with the one that fills the room."""
    documents, how = random_documents(), sampling("next_sentence", short_share=0.0)
    begins = []
    for _, a, other, b, label in spans(uncut(documents, how)):
        if label == OTHER:
            ends, left = ends_of(documents[other]), how.room - (a[1] - a[0])
            begins.append(ends.index(b[0]) / (len(ends) - 2) if len(ends) > 2 else 0.5)
            assert b[1] - b[0] >= left or b[1] == ends[-1]
            last = ends[ends.index(b[1]) - 1]
            assert last == b[0] or last - b[0] < left
    assert np.mean(begins) == pytest.approx(0.5, abs=5 * 0.3 / len(begins) ** 0.5)


def test_targets_of_short_documents():
    """Uniform from 2 to the room: with sentences of one token a chunk is as long as its target."""
    documents, how = [[1] * 400] * 3000, sampling("next_sentence", max_length=23, short_share=1.0)
    plan = plan_of(documents, how)
    follows = plan.label == FOLLOWS
    _, first = np.unique(plan.document_a[follows], return_index=True)
    targets = (plan.length_a + plan.length_b)[follows][first]
    counts = np.bincount(targets, minlength=21)
    assert (counts[:2].sum(), counts[2:].sum()) == (0, len(first))
    assert counts[2:] / len(first) == pytest.approx(np.full(19, 1 / 19), abs=5 * 0.053**0.5 / 54)
    halves = (plan.length_a / (plan.length_a + plan.length_b))[follows]
    assert halves.mean() == pytest.approx(0.5, abs=0.01)


def test_balance():
    """Forced random pairs are made up for among the others; the published way leaves them."""
    documents = random_documents(1000, longest=75)
    plan = plan_of(documents, sampling("next_sentence"))
    assert plan.label.mean() == pytest.approx(0.5, abs=4 * 0.5 / len(plan) ** 0.5)
    plan = plan_of(documents, sampling("next_sentence", balance=False))
    assert 0.55 < plan.label.mean() < 0.7


def test_share_of_short_documents():
    documents = [[1] * 400] * 3000
    plan = plan_of(documents, sampling("next_sentence", max_length=23, short_share=0.1))
    follows = plan.label == FOLLOWS
    _, first = np.unique(plan.document_a[follows], return_index=True)
    short = (plan.length_a + plan.length_b)[follows][first] < 20
    assert short.mean() == pytest.approx(0.1 * 18 / 19, abs=4 * 0.3 / 3000**0.5)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("room", [1, 7, 62, 1000])
def test_without_a_sentence_task(whole: bool, room: int):
    """Full examples; or as many whole sentences as fit, and only one that cannot is cut."""
    documents = random_documents()
    how = sampling("none", max_length=room + 2, cut_sentences=not whole)
    plan = plan_of(documents, how)
    assert not plan.length_b.any()
    assert set(plan.label.tolist()) == {UNKNOWN}
    for document, (start, stop), _, _, _ in spans(plan):
        ends = ends_of(documents[document])
        if not whole:
            assert stop == min(start + room, ends[-1])
        elif stop in ends:
            following = next((end for end in ends if end > stop), None)
            assert following is None or following - start > room
        else:
            assert stop - start == room
            assert not any(start < end < stop for end in ends)
        assert stop - start <= room


@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("one document", [[5, 9, 30, 4, 4]]),
        ("one document of one sentence", [[7]]),
        ("documents of one sentence", [[3], [100], [61], [1]]),
        ("a sentence beyond the room, in between", [[5, 300, 2], [4, 4]]),
        ("a short last sentence", [[61, 1], [60, 1, 1]]),
        ("no document", []),
    ],
)
@pytest.mark.parametrize("task", SENTENCE_TASKS)
@pytest.mark.parametrize("cut_sentences", [True, False])
def test_corner_cases(
    name: str, documents: list[list[int]], task: SentenceTask, cut_sentences: bool
):
    how = sampling(task, cut_sentences=cut_sentences)
    for seed in range(20):
        plan = plan_of(documents, how, seed)
        assert bool(len(plan)) == bool(documents)
        for document_a, a, document_b, b, label in spans(plan):
            assert 0 <= a[0] < a[1] <= sum(documents[document_a])
            assert 0 <= b[0] <= b[1] <= sum(documents[document_b])
            assert a[1] - a[0] + b[1] - b[0] <= how.room
            if task == "next_sentence":
                assert b[1] > b[0]
                assert label == OTHER or len(documents[document_a]) > 1
        covered = np.zeros(sum(map(sum, documents)), int)
        base = np.cumsum([0, *map(sum, documents)])
        for document_a, a, document_b, b, _ in spans(uncut(documents, how, seed)):
            covered[base[document_a] + a[0] : base[document_a] + a[1]] += 1
            covered[base[document_b] + b[0] : base[document_b] + b[1]] += 1
        assert covered.min(initial=1) >= 1
        assert task == "next_sentence" or covered.max(initial=1) == 1


@pytest.mark.parametrize("task", SENTENCE_TASKS)
def test_only_chosen_documents_are_read(task: SentenceTask):
    """A plan of some documents is that of a corpus of these alone, under their own numbers."""
    documents = random_documents(30)
    chosen = np.array([2, 3, 11, 29])
    outline = Outline.of(lengths_of(*documents), chosen)
    plan = make_plan(outline, sampling(task), np.random.default_rng(5))
    alone = plan_of([documents[number] for number in chosen], sampling(task), 5)
    assert len(outline) == 4
    assert set(plan.document_a.tolist()) == set(chosen.tolist())
    for name in FIELDS:
        given = getattr(alone, name)
        expected = chosen[given] if name.startswith("document") else given
        assert np.array_equal(getattr(plan, name), expected)


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_a_seed_decides(task: SentenceTask):
    documents = random_documents()
    first, again, other = (plan_of(documents, sampling(task), seed) for seed in (1, 1, 2))
    for name in FIELDS:
        assert np.array_equal(getattr(first, name), getattr(again, name))
    shared = set(spans(first)) & set(spans(other))
    assert len(shared) < 0.5 * len(first)


def test_cuts_are_those_of_one_token_at_a_time():
    generator = np.random.default_rng(0)
    lengths, rooms = generator.integers(0, 90, (4000, 2)), generator.integers(0, 120, 4000)
    for (length_a, length_b), room in zip(lengths.tolist(), rooms.tolist(), strict=True):
        left = [length_a, length_b]
        while sum(left) > room:
            left[0 if left[0] > left[1] else 1] -= 1
        cut = cuts(np.array([length_a]), np.array([length_b]), room)
        assert [length_a - cut[0][0], length_b - cut[1][0]] == left


@pytest.mark.parametrize(("most", "longest"), [(1, 64), (3, 64), (32, 64), (8, 6)])
def test_pack(most: int, longest: int):
    """Each example once; no row overfull, in tokens or in examples; nearly full where it can be."""
    lengths = np.random.default_rng(0).integers(1, longest + 1, 5000)
    order, first = pack(lengths, 64, most)
    assert np.array_equal(np.sort(order), np.arange(5000))
    assert (first[0], first[-1]) == (0, 5000)
    sizes = np.diff(first)
    assert 1 <= sizes.min() <= sizes.max() <= most
    filled = np.add.reduceat(lengths[order], first[:-1])
    assert filled.max() <= 64
    assert most == 1 or sizes.mean() > 0.99 * most or filled.mean() > 0.97 * 64


def test_pack_nothing():
    order, first = pack(np.zeros(0, np.int64), 64, 2)
    assert (order.tolist(), first.tolist()) == ([], [0])
