"""SQuAD's exact match and F1 against torchmetrics' and against the published definition."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from squad_reference import reference_scores_of_1, reference_scores_of_2

from bertjax.data.squad import open_questions
from bertjax.tasks.squad_metrics import normalized_words, squad2_scores, squad_scores

Golds = list[list[str]]


def test_normalisation():
    assert normalized_words("  The Cat's,\tan\u00a0OLD\nhat! ") == ("cats", "old", "hat")
    assert normalized_words("a-the theory of an “A”") == ("athe", "theory", "of", "“", "”")
    assert normalized_words("The, a!") == ()


def test_scores_by_hand():
    golds = [["the big dog", "dog"], ["Paris"], ["1939–1945"]]
    found = squad_scores(["A dog.", "in Paris, France", "1939"], golds)
    assert found == pytest.approx({"exact": 100 / 3, "f1": (100 + 50 + 0) / 3})


def test_gold_answers_score_all():
    golds = [["the big dog", "dog"], ["Paris"]]
    assert squad_scores(["dog", "Paris"], golds) == {"exact": 100.0, "f1": 100.0}
    found = squad2_scores(["dog", "Paris", ""], [*golds, []], [-1.0, -2.0, 3.0])
    assert {value for name, value in found.items() if "thresh" not in name} == {100.0}
    assert found["best_f1_thresh"] == 1.0  # midway from -1 to 3


def test_where_the_versions_differ():
    """Of what is empty when it is normalised, 1.1 counts the match and 2.0 drops the gold."""
    assert squad_scores(["a"], [["The"]]) == {"exact": 100.0, "f1": 0.0}
    assert squad2_scores(["a"], [["The"]]) == dict.fromkeys(
        ("exact", "f1", "HasAns_exact", "HasAns_f1"), 100.0
    )
    assert squad_scores([""], [["dog"]]) == {"exact": 0.0, "f1": 0.0}
    assert "NoAns_f1" not in squad2_scores(["dog"], [["dog"]])
    assert "HasAns_f1" not in squad2_scores([""], [[]])


def test_threshold_counts_what_lies_above_it_as_unanswered():
    answers, golds = ["dog", "cat", "bird"], [["dog"], [], ["bird"]]
    odds = [0.5, 1.0, 2.0]
    at = {limit: squad2_scores(answers, golds, odds, limit)["exact"] for limit in (0.0, 0.5, 2.0)}
    assert at == pytest.approx({0.0: 100 / 3, 0.5: 200 / 3, 2.0: 200 / 3})


def test_best_threshold_is_the_best_of_all():
    """Every threshold is tried; odds repeat, and an equal pair cannot be parted."""
    chance = np.random.default_rng(0)
    below = 0
    for _ in range(200):
        count = int(chance.integers(1, 9))
        answers = [str(chance.choice(["x", "y", "x y", ""])) for _ in range(count)]
        golds = [[["x"], ["x", "y"], []][chance.integers(3)] for _ in range(count)]
        odds = chance.integers(-2, 3, count).astype(float).tolist()
        found = squad2_scores(answers, golds, odds)
        limits = [min(odds) - 1, *odds]
        for name in ("exact", "f1"):
            tried = [squad2_scores(answers, golds, odds, limit)[name] for limit in limits]
            assert found[f"best_{name}"] == pytest.approx(max(tried))
            chosen = found[f"best_{name}_thresh"]
            assert squad2_scores(answers, golds, odds, chosen)[name] == pytest.approx(max(tried))
            below += chosen < min(odds)
    assert below > 10


@pytest.fixture(scope="module", params=["1.1", "2.0"])
def dev(request: pytest.FixtureRequest, data_folder: Path) -> tuple[str, list[str], Golds]:
    """The version, the contexts and the gold answers of the real dev set."""
    records = open_questions(f"files:{data_folder}", "validation", request.param)
    golds = [[answer["text"] for answer in record["answers"]] for record in records]
    return request.param, [record["context"] for record in records], golds


def first(golds: Sequence[str]) -> str:
    return golds[0] if golds else ""


def perturbed(context: str, golds: Sequence[str], chance: random.Random) -> str:
    """A gold answer or a piece of the context, changed here and there."""
    words = context.split()
    start = chance.randrange(len(words))
    piece = words[start : start + chance.randrange(1, 8)]
    words = chance.choice([piece, chance.choice(golds or [""]).split()])
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(words) + 1)
        match chance.randrange(5):
            case 0:
                words = words[:place] + words[place + 1 :]
            case 1:
                extra = chance.choice(["the", "An", "a", "--", "…", "“", "of", "U.S.", "ﬁ", "İ"])
                words = [*words[:place], extra, *words[place:]]
            case 2:
                words = [word.swapcase() for word in words]
            case 3:
                chance.shuffle(words)
            case _:
                words = [word + chance.choice(".,;!?'\"-)") for word in words]
    return chance.choice([" ", "  ", "\t", "\u00a0", "\n"]).join(words)


PERTURBED = 10_000


def changed(kind: str, contexts: list[str], golds: Golds) -> list[str]:
    chance = random.Random(0)
    make: Callable[[int], str] = {
        "gold": lambda i: first(golds[i]),
        "empty": lambda i: "",
        "first word": lambda i: contexts[i].split()[0],
        "articles": lambda i: " ".join(
            w for w in first(golds[i]).split() if w.lower() not in ("a", "an", "the")
        ),
        "punctuation": lambda i: "“" + first(golds[i]).replace(" ", ", ") + "!”.",
        "perturbed": lambda i: perturbed(contexts[i], golds[i], chance),
    }[kind]
    count = min(PERTURBED, len(golds)) if kind == "perturbed" else len(golds)
    return [make(i) for i in range(count)]


KINDS = ("gold", "empty", "first word", "articles", "punctuation", "perturbed")


def compare(version: str, answers: list[str], golds: Golds) -> dict[str, float]:
    """Holds our scores to the reference; the scores."""
    if version == "1.1":
        found, expected = squad_scores(answers, golds), reference_scores_of_1(answers, golds)
    else:
        odds = np.random.default_rng(0).normal(size=len(answers)).tolist()
        found = squad2_scores(answers, golds, odds, 0.3)
        expected = reference_scores_of_2(answers, golds, odds, 0.3)
        assert {name for name in found if not name.endswith("_thresh")} == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    return found


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_perturbed_answers(version: str):
    contexts = ["The cat sat on a mat, and the U.S. dog (of the 1990s) barked at “it”."] * 300
    chance = random.Random(1)
    golds = [[perturbed(contexts[0], [], chance) or "cat" for _ in range(3)] for _ in contexts]
    if version == "2.0":
        golds[::3] = [[] for _ in golds[::3]]
    compare(version, changed("perturbed", contexts, golds), golds)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_real_dev_sets(kind: str, dev: tuple[str, list[str], Golds]):
    version, contexts, golds = dev
    answers = changed(kind, contexts, golds)
    golds = golds[: len(answers)]
    found = compare(version, answers, golds)
    if version == "1.1":
        plain = [i for i, texts in enumerate(golds) if all(map(normalized_words, texts))]
        asked, right = [answers[i] for i in plain], [golds[i] for i in plain]
        assert squad_scores(asked, right) == pytest.approx(torchmetrics_scores(asked, right))
    if kind == "gold" and version == "1.1":
        assert found == {"exact": 100.0, "f1": 100.0}
    elif kind == "gold":
        certain = squad2_scores(answers, golds, [float(not gold) for gold in golds])
        assert certain["exact"] == certain["f1"] == certain["best_f1"] == 100.0
    if kind == "perturbed":
        assert 10 < found["exact"] < found["f1"] < 70


def torchmetrics_scores(answers: Sequence[str], golds: Golds) -> dict[str, float]:
    """In float64, as its own sums are float32; its F1 of two empty answers is that of 2.0."""
    torch = pytest.importorskip("torch")
    text = pytest.importorskip("torchmetrics.functional.text")
    given = [{"id": str(i), "prediction_text": answer} for i, answer in enumerate(answers)]
    target = [
        {"id": str(i), "answers": {"text": texts, "answer_start": [0] * len(texts)}}
        for i, texts in enumerate(golds)
    ]
    torch.set_default_dtype(torch.float64)
    try:
        found = text.squad(given, target)
    finally:
        torch.set_default_dtype(torch.float32)
    return {"exact": float(found["exact_match"]), "f1": float(found["f1"])}
