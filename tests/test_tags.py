"""Tags, schemes and spans: against conlleval's rules, written a second time, and seqeval."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from bertjax.data.columns import Columns, read_columns
from bertjax.data.tags import OUTSIDE, Scheme, Span, convert, ordered, scheme_of, spans_of, tags_of
from bertjax.tasks.tag_scores import entity_scores, word_accuracy

SCHEMES: tuple[Scheme, ...] = ("iob1", "iob2", "bioes")
TYPES: tuple[str, ...] = ("LOC", "PER", "A-B")
COUNTED = 10_000


def conlleval(gold: list[list[str]], guessed: list[list[str]]) -> dict[str, float]:
    """Conlleval as its script counts: word by word, with no list of spans.

    A correct chunk begins and ends at the same words in both columns and has one type all along.
    """
    right, in_gold, in_guess = (dict.fromkeys(TYPES, 0) for _ in range(3))
    for true_tags, tags in zip(gold, guessed, strict=True):
        matching = ""
        last = last_true = OUTSIDE
        for true, tag in itertools.chain(
            zip(true_tags, tags, strict=True), [(OUTSIDE, OUTSIDE)]
        ):  # the boundary of the sentence
            ends, true_ends = chunk_ends(last, tag), chunk_ends(last_true, true)
            begins, true_begins = chunk_begins(last, tag), chunk_begins(last_true, true)
            if matching and (ends or true_ends):
                right[matching] += ends and true_ends and last[2:] == last_true[2:]
                matching = ""
            elif matching and tag[2:] != true[2:]:
                matching = ""
            if begins and true_begins and tag[2:] == true[2:]:
                matching = tag[2:]
            if true_begins:
                in_gold[true[2:]] += 1
            if begins:
                in_guess[tag[2:]] += 1
            last, last_true = tag, true
    scores = {
        f"f1_{kind}": harmonic(right[kind], in_guess[kind], in_gold[kind])
        for kind in TYPES
        if in_gold[kind] or in_guess[kind]
    }
    totals = sum(right.values()), sum(in_guess.values()), sum(in_gold.values())
    scores["precision"] = totals[0] / totals[1] if totals[1] else 0.0
    scores["recall"] = totals[0] / totals[2] if totals[2] else 0.0
    return scores | {"f1": harmonic(*totals)}


def harmonic(right: int, guessed: int, true: int) -> float:
    return 2 * right / (guessed + true) if right else 0.0


def chunk_begins(last: str, tag: str) -> bool:
    """The script's table of pairs, with S as a beginning and an end."""
    pairs = {"BB", "IB", "OB", "OI", "EE", "EI", "OE", "EB", "SB", "SI", "SE"}
    if tag[0] == "S" or last[0] + tag[0] in pairs:
        return True
    return tag[0] != OUTSIDE and last[2:] != tag[2:]


def chunk_ends(last: str, tag: str) -> bool:
    """Likewise."""
    pairs = {"BB", "BO", "IB", "IO", "EE", "EI", "EO", "EB", "BS", "IS", "ES"}
    if last[0] == "S" or last[0] + tag[0] in pairs:
        return True
    return last[0] != OUTSIDE and last[2:] != tag[2:]


def random_spans(dice: random.Random, length: int) -> list[Span]:
    spans, place = [], 0
    while place < length:
        stop = min(length, place + dice.randint(1, 3))
        if dice.random() < 0.5:
            spans.append(Span(dice.choice(TYPES), place, stop))
        place = stop
    return spans


def perturbed(dice: random.Random, tags: list[str], scheme: Scheme) -> list[str]:
    """Some tags replaced by others of the scheme, wherever they lead."""
    letters = "BIES" if scheme == "bioes" else "BI"
    known = [OUTSIDE, *(f"{letter}-{kind}" for letter in letters for kind in TYPES)]
    return [dice.choice(known) if dice.random() < 0.2 else tag for tag in tags]


@pytest.fixture(scope="module")
def corpora() -> dict[Scheme, tuple[list[list[str]], list[list[str]]]]:
    """By scheme 10,000 sentences of tags, and the same perturbed."""
    dice = random.Random(0)
    found = {}
    for scheme in SCHEMES:
        lengths = [dice.randint(1, 8) for _ in range(COUNTED)]
        gold = [tags_of(random_spans(dice, length), length, scheme) for length in lengths]
        found[scheme] = gold, [perturbed(dice, tags, scheme) for tags in gold]
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_are_conllevals_and_seqevals(scheme: Scheme, corpora: dict) -> None:
    from seqeval import metrics

    f1_score: Any = metrics.f1_score
    gold, guessed = corpora[scheme]
    for chosen in (slice(None), slice(0, 100), slice(7, 8), slice(20, 23)):
        scores = entity_scores(gold[chosen], guessed[chosen])
        assert scores == pytest.approx(conlleval(gold[chosen], guessed[chosen]), abs=1e-12)
        assert scores["f1"] == f1_score(gold[chosen], guessed[chosen], zero_division=0)
    assert 0.2 < conlleval(gold, guessed)["f1"] < 0.9
    assert entity_scores(guessed[:100], guessed[:100])["f1"] == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spans_are_seqevals_for_every_sequence(scheme: Scheme, corpora: dict) -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    for tags in itertools.chain(*corpora[scheme]):
        assert [(s.type, s.start, s.stop - 1) for s in spans_of(tags)] == get_entities(tags)


def test_scores_do_not_depend_on_the_scheme(corpora: dict) -> None:
    for corpus in corpora.values():
        gold, guessed = (side[:1000] for side in corpus)
        scores = entity_scores(gold, guessed)
        for other in SCHEMES:
            converted = ([convert(tags, other) for tags in side] for side in (gold, guessed))
            assert entity_scores(*converted) == scores


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_convert_back(scheme: Scheme, corpora: dict) -> None:
    gold, guessed = corpora[scheme]
    for tags in gold:
        for other in SCHEMES:
            assert convert(convert(tags, other), scheme) == tags
    for tags in guessed:  # a wrong sequence is put right and keeps its spans
        assert spans_of(convert(tags, scheme)) == spans_of(tags)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_recognised(scheme: Scheme, corpora: dict) -> None:
    assert scheme_of(corpora[scheme][0]) == scheme


@pytest.mark.parametrize(
    ("tags", "iob2"),
    [
        ("I-P I-P O I-P", "B-P I-P O B-P"),  # IOB1
        ("I-P B-P I-Q", "B-P B-P B-Q"),
        ("B-P L-P U-P O", "B-P I-P B-P O"),  # BILOU
        ("B-P M-P E-P S-Q", "B-P I-P I-P B-Q"),  # BMES
        ("W-P O", "B-P O"),  # BMEWO
        ("O E-P I-P", "O B-P B-P"),
        ("I-P I-P E-P I-P E-P", "B-P I-P I-P B-P I-P"),  # IOE2
        ("B I O B", "B I O B"),  # no types
        ("", ""),
    ],
)
def test_other_spellings(tags: str, iob2: str) -> None:
    assert convert(tags.split(), "iob2") == iob2.split()


@pytest.mark.parametrize("tag", ["NOUN", "B-", "X-PER", "o", "", "B_PER", "-PER"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(ValueError, match="is neither O nor like B-TYPE"):
        spans_of(["O", tag])


def test_order_of_labels() -> None:
    assert ordered(["S-B", "I-A", "B-B", "B-A", "E-B"]) == ("O", "B-A", "I-A", "B-B", "E-B", "S-B")


def test_scores_at_the_edges() -> None:
    nothing = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert entity_scores([["O"]], [["O"]]) == nothing
    assert entity_scores([["O", "B-A"]], [["O", "O"]]) == nothing | {"f1_A": 0.0}
    assert entity_scores([["B", "I"]], [["B", "I"]]) == dict.fromkeys(nothing, 1.0)
    mixed = entity_scores([["B", "O", "B-PER", "B-x"]], [["B", "O", "O", "O"]])
    assert [mixed[f"f1_{kind}"] for kind in ("", "PER", "x")] == [1.0, 0.0, 0.0]
    across = entity_scores([["B-A"], ["I-A"]], [["B-A"], ["B-A"]])  # a span ends with its sentence
    assert across["f1"] == 1
    assert word_accuracy([["A", "B"], ["C"]], [["A", "C"], ["C"]]) == pytest.approx(2 / 3)
    assert word_accuracy([[]], [[]]) == 0


@pytest.mark.parametrize(
    ("name", "counts", "entities"),
    [
        ("conll2003/{}.txt", (14041, 3250, 3453), (23499, 5942, 5648)),
        ("wikiann-fr/{}", (20000, 10000, 10000), (26447, 13156, 13369)),
    ],
)
def test_real_tags_go_round(
    data_folder: Path, name: str, counts: tuple[int, ...], entities: tuple[int, ...]
) -> None:
    stems = ("train", "valid" if "conll" in name else "dev", "test")
    for stem, count, number in zip(stems, counts, entities, strict=True):
        columns = Columns() if "conll" in name else Columns(separator="tab", prefix="auto")
        sentences = read_columns(str(data_folder / name.format(stem)), columns)
        tags = [sentence.tags or [] for sentence in sentences]
        assert len(tags) == count
        assert sum(map(len, map(spans_of, tags))) == number
        assert scheme_of(tags) == "iob2"
        for scheme in SCHEMES:
            converted = [convert(sentence, scheme) for sentence in tags]
            assert scheme_of(converted) == scheme
            assert [convert(sentence, "iob2") for sentence in converted] == tags
