"""The best answers from the logits of windows, against every pair of tokens looked at in turn."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from tiny import WORDS

from bertjax.tasks.base import Outputs
from bertjax.tasks.squad import QuestionTask
from bertjax.tasks.squad_decode import best_spans, null_score
from bertjax.tasks.squad_windows import encode_question
from bertjax.tokenizers import wordpiece_tokenizer
from bertjax.types import UserError

ONE = QuestionTask(name="one", metrics=("f1", "exact"), n_best=5, max_answer_length=4)
TWO = QuestionTask(name="two", version="2.0", metrics=("best_f1",), n_best=5, max_answer_length=4)
CONTEXT = " ".join(itertools.islice(itertools.cycle(WORDS[5:19]), 45))
TOKENIZER = wordpiece_tokenizer(WORDS)


def asked(context: str = CONTEXT, **fields: Any) -> dict[str, Any]:
    record = {"id": "q", "question": "a dog", "context": context, "answers": []}
    return record | fields


def encoded(record: dict[str, Any]) -> list[Any]:
    return encode_question(record, TOKENIZER, 24, 7, 8)


def logits_of(examples: list[Any], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(len(e["token_ids"]), 2)).astype(np.float32) for e in examples]


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_is_looked_at(seed: int):
    record = asked()
    examples = encoded(record)
    outputs = logits_of(examples, seed)
    scores: dict[str, float] = {}
    for example, logits in zip(examples, outputs, strict=True):
        first = example["context_start"]
        for i, j in itertools.combinations_with_replacement(range(len(example["spans"])), 2):
            if j - i < 4 and example["own"][i]:
                text = CONTEXT[example["spans"][i][0] : example["spans"][j][1]]
                score = float(logits[first + i, 0]) + float(logits[first + j, 1])
                scores[text] = max(scores.get(text, -math.inf), score)
    expected = sorted(scores.items(), key=lambda entry: -entry[1])[:5]
    found = best_spans(CONTEXT, examples, outputs, 5, 4)
    # A window gives its five best spans, and two of these may read alike.
    assert [span.text for span in found[:2]] == [text for text, _ in expected[:2]]
    np.testing.assert_allclose([span.score for span in found[:2]], [s for _, s in expected[:2]])
    for span in found:
        assert span.start is not None
        assert CONTEXT[span.start : span.end] == span.text
        assert scores[span.text] == pytest.approx(span.score)


def test_only_context_tokens_can_be_answers():
    record = asked()
    examples = encoded(record)
    outputs = logits_of(examples, 0)
    for example, logits in zip(examples, outputs, strict=True):
        logits[: example["context_start"]] = logits[-1] = 50.0
    best = best_spans(CONTEXT, examples, outputs, 5, 4)
    assert best[0].score < 10
    assert null_score(outputs) == 100.0


def test_scores_of_ties_do_not_depend_on_chance():
    record = asked()
    examples = encoded(record)
    outputs = [np.zeros((len(e["token_ids"]), 2), np.float32) for e in examples]
    assert best_spans(CONTEXT, examples, outputs, 1, 4)[0].start == 0


def test_an_answer_of_version_1():
    record = asked("the dog sleeps here")
    [example] = encoded(record)
    logits = np.zeros((len(example["token_ids"]), 2), np.float32)
    logits[0] = 30.0  # no answer, which 1.1 does not know
    logits[5, 0] = logits[6, 1] = 8.0
    found = ONE.answer(record, [example], [logits])
    best = {name: found[name] for name in ("id", "answer", "start", "end", "score")}
    assert best == {"id": "q", "answer": "dog sleeps", "start": 4, "end": 14, "score": 16.0}
    assert "null_odds" not in found
    assert len(found["n_best"]) == 5
    assert found["n_best"][0] == {k: v for k, v in found.items() if k not in ("id", "n_best")}
    assert sum(entry["probability"] for entry in found["n_best"]) == pytest.approx(1.0)
    scores = [entry["score"] for entry in found["n_best"]]
    assert scores == sorted(scores, reverse=True)


def test_the_null_threshold_decides_in_version_2():
    record = asked("the dog sleeps here")
    [example] = encoded(record)
    logits = np.zeros((len(example["token_ids"]), 2), np.float32)
    logits[0], logits[5, 0], logits[6, 1] = 9.0, 8.0, 8.0
    found = TWO.answer(record, [example], [logits])
    assert (found["answer"], found["start"], found["end"]) == ("", None, None)
    assert (found["score"], found["null_odds"]) == (18.0, 2.0)
    assert [entry["answer"] for entry in found["n_best"][:2]] == ["", "dog sleeps"]
    for threshold, answer in ((2.0, "dog sleeps"), (1.9, "")):
        task = TWO.with_options({"null_threshold": threshold})
        assert task.answer(record, [example], [logits])["answer"] == answer
    assert json.loads(json.dumps(found)) == found


def test_no_answer_is_scored_by_its_least_likely_window():
    outputs = [np.full((3, 2), value, np.float32) for value in (4.0, -1.0, 2.0)]
    assert null_score(outputs) == -2.0


def answers_of(words: list[str]) -> list[dict[str, Any]]:
    return [
        {"text": word, "start": CONTEXT.index(word), "end": CONTEXT.index(word) + len(word)}
        for word in words
    ]


def confident(example: Any, sure: float) -> np.ndarray:
    logits = np.zeros((len(example["token_ids"]), 2), np.float32)
    logits[example["label"][0], 0] += sure
    logits[example["label"][1], 1] += sure
    return logits


@pytest.mark.parametrize("task", [ONE, TWO])
def test_logits_of_the_labels_score_all(task: QuestionTask):
    words = [["dog"], ["child sleeps"], ["runs", "cat"]] + ([[]] if task is TWO else [])
    records = [asked(answers=answers_of(texts)) for texts in words]
    examples = [encoded(record) for record in records]
    outputs: Outputs = [[confident(e, 9.0) for e in windows] for windows in examples]
    scores = task.score(records, examples, outputs)
    assert {v for name, v in scores.items() if not name.endswith("_thresh")} <= {100.0}
    assert set(task.metrics) <= set(scores)
    outputs[0][0][0, 0] = np.nan
    assert all(math.isnan(value) for value in task.score(records, examples, outputs).values())


def test_the_tuned_threshold_is_used():
    """Logits that are all for no answer by some constant: found on dev, and subtracted again."""
    records = [asked(answers=answers_of(texts)) for texts in ([["dog"], ["cat"], [], []])]
    examples = [encoded(record) for record in records]
    outputs = [[confident(e, 9.0) for e in windows] for windows in examples]
    for logits in itertools.chain(*outputs):
        logits[0] += 20.0
    scores = TWO.score(records, examples, outputs)
    assert (scores["HasAns_f1"], scores["NoAns_f1"], scores["f1"]) == (0.0, 100.0, 50.0)
    assert scores["best_f1"] == scores["best_exact"] == 100.0
    tuned = TWO.tuned({"validation/best_f1_thresh": scores["best_f1_thresh"]})
    assert tuned.score(records, examples, outputs)["f1"] == 100.0
    assert TWO.with_options({"null_threshold": -3.0}).tuned({"validation/best_f1_thresh": 1.0}) == (
        TWO.with_options({"null_threshold": -3.0})
    )
    assert ONE.tuned({"validation/f1": 1.0}) == ONE


def test_official_predictions():
    answers = [{"id": "b", "answer": 'a "dog"\n'}, {"id": "a", "answer": ""}]
    text = "\n".join(ONE.lines("json", answers))
    assert json.loads(text) == {"b": 'a "dog"\n', "a": ""}
    assert list(json.loads(text)) == ["b", "a"]
    assert json.loads("\n".join(ONE.lines("json", []))) == {}
    with pytest.raises(UserError, match="two have 'b'"):
        list(ONE.lines("json", [answers[0], answers[0]]))
    with pytest.raises(UserError, match="a question has none"):
        list(ONE.lines("json", [{"answer": "dog"}]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be a whole number above 0"),
        ({"n_best": 2.5}, "n_best must be"),
        ({"max_answer_length": "long"}, "max_answer_length must be"),
        ({"null_threshold": 1.0}, "task 'one' has no null_threshold"),
        ({"null_treshold": 1.0}, "did you mean 'null_threshold'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        ONE.with_options(options)


def test_a_threshold_is_a_finite_number():
    for value in (math.nan, math.inf, "low"):
        with pytest.raises(UserError, match="null_threshold must be a finite number"):
            TWO.with_options({"null_threshold": value})


@pytest.mark.parametrize("given", ["a dog", ["a", "b", "c"], {"question": "a"}, 5, ("a", 5)])
def test_inputs_that_are_no_questions(given: Any):
    with pytest.raises(UserError, match="an input must be a mapping with 'question' and 'context'"):
        ONE.record(given)


def test_inputs_from_python():
    expected = {"id": None, "question": "who", "context": "a dog", "answers": None}
    assert ONE.record({"question": "who", "context": "a dog"}) == expected
    assert ONE.record(("who", "a dog")) == ONE.record("who\ta dog") == expected
    assert ONE.record('{"question": "who", "context": "a dog"}') == expected
    assert ONE.record("{who\ta dog")["question"] == "{who"
    assert ONE.record({"id": 7, "question": "who", "context": "a dog"})["id"] == "7"
    with pytest.raises(UserError, match="the question is empty"):
        ONE.record((" ", "a dog"))
