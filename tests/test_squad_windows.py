"""Windows over contexts and the way back from tokens to the original text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import WORDS

from bertjax.data.squad import locate
from bertjax.tasks.squad import QuestionTask
from bertjax.tasks.squad_windows import encode_question
from bertjax.tokenizers import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.types import UserError

TASK = QuestionTask(name="questions", metrics=("f1",))
LENGTH = 24
STRIDE = 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece_tokenizer(WORDS)


def asked(context: str, answer: str | None, start: int = 0, question: str = "a cat") -> Any:
    answers = []
    if answer is not None:
        place = locate(context, answer, start)
        assert place
        answers = [{"text": answer, "start": place[0], "end": place[1]}]
    return {"id": "q", "question": question, "context": context, "answers": answers}


def windows(record: Any, tokenizer: Tokenizer, stride: int = STRIDE) -> list[Any]:
    return encode_question(record, tokenizer, LENGTH, stride, 6)


def sure(example: Any) -> np.ndarray:
    """Logits that point at the label, in float32 as a model gives them."""
    logits = np.zeros((len(example["token_ids"]), 2), np.float32)
    if example["label"][1]:
        logits[example["label"][0], 0] = logits[example["label"][1], 1] = 9.0
    return logits


def recovered(record: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """The answer that is read from logits that point at the labels of all windows."""
    examples = windows(record, tokenizer)
    return TASK.answer(record, examples, [sure(example) for example in examples])


LONG = " ".join(itertools.islice(itertools.cycle(["bird", "dog", "child", "runs", "here"]), 61))


def test_windows_are_those_of_run_squad(tokenizer: Tokenizer):
    """Starts, lengths and owners against the loops of the published description."""
    room = LENGTH - 3 - 2
    for count in (1, room - 1, room, room + 1, room + STRIDE, room + STRIDE + 1, 61):
        record = asked(" ".join(LONG.split()[:count]), None)
        examples = windows(record, tokenizer)
        spans, start = [], 0
        while True:
            length = min(count - start, room)
            spans.append((start, length))
            if start + length == count:
                break
            start += min(length, STRIDE)
        assert [len(example["spans"]) for example in examples] == [n for _, n in spans]
        for token in range(count):
            inside = [
                (min(token - s, s + n - 1 - token) + 0.01 * n, -i)
                for i, (s, n) in enumerate(spans)
                if s <= token < s + n
            ]
            owner = -max(inside)[1]
            owners = [
                number
                for number, (s, n) in enumerate(spans)
                if s <= token < s + n and examples[number]["own"][token - s]
            ]
            assert owners == [owner]


def test_layout_of_a_window(tokenizer: Tokenizer):
    [example] = windows(asked("the dog sleeps", "dog"), tokenizer)
    tokens = [WORDS[i] for i in example["token_ids"]]
    assert tokens == ["[CLS]", "a", "cat", "[SEP]", "the", "dog", "sleeps", "[SEP]"]
    assert example["type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert example["label"].tolist() == [5, 5]
    assert example["token_ids"].dtype == example["label"].dtype == np.int32


def test_answers_at_the_edges_of_windows(tokenizer: Tokenizer):
    """Every span of up to four words: labelled in each window that holds it whole, and found."""
    words = LONG.split()
    starts = np.cumsum([0] + [len(word) + 1 for word in words])
    for first, length in itertools.product(range(len(words)), (1, 2, 4)):
        last = first + length - 1
        if last >= len(words):
            continue
        text = " ".join(words[first : last + 1])
        record = asked(LONG, text, int(starts[first]))
        assert record["answers"][0]["start"] == starts[first]
        examples = windows(record, tokenizer)
        for number, example in enumerate(examples):
            begin = number * STRIDE
            whole = begin <= first and last < begin + len(example["spans"])
            place = example["context_start"] - begin
            expected = [first + place, last + place] if whole else [0, 0]
            assert example["label"].tolist() == expected
        found = TASK.answer(record, examples, [sure(example) for example in examples])
        assert (found["answer"], found["start"]) == (text, starts[first])


def test_an_answer_cut_by_every_window_is_labelled_nowhere(tokenizer: Tokenizer):
    words = LONG.split()
    examples = windows(asked(LONG, " ".join(words[3:30])), tokenizer)
    assert all(example["label"].tolist() == [0, 0] for example in examples)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_repeated_answers_keep_their_place(number: int, tokenizer: Tokenizer):
    context = "a dog runs . the dog eats . dog"
    place = [2, 17, 28][number]
    found = recovered(asked(context, "dog", place), tokenizer)
    assert (found["answer"], found["start"], found["end"]) == ("dog", place, place + 3)


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("the\tdog  runs\u00a0here", "dog  runs\u00a0here"),
        ("\u00a0\n the   cat\r\n\r\nsleeps", "the   cat\r\n\r\nsleeps"),
        ("a de\u0301jeuner here", "de\u0301jeuner"),
        ("a cafe\u0301 here", "cafe\u0301"),
        ("a café\u0323\u0302 here", "café\u0323\u0302"),
        ("The DOG Runs", "DOG Runs"),
        ("the İx dog", "İx"),
        ("a \u200bcat\u200b here", "cat"),
        ("“dog” – cat", "dog"),
        ("犬bird犬", "bird"),
    ],
)
def test_the_original_text_is_recovered(context: str, answer: str, tokenizer: Tokenizer):
    found = recovered(asked(context, answer), tokenizer)
    assert found["answer"] == answer == context[found["start"] : found["end"]]


def test_a_word_in_pieces_is_answered_in_part(tokenizer: Tokenizer):
    """As run_squad.py, an answer may be a part of a word: 1939 of (1939-1945), say."""
    found = recovered(asked("bcdef here", "cd"), tokenizer)
    assert found["answer"] == "cd"


@pytest.mark.parametrize("context", ["dog", "x", "", " \t", "\u0301"])
def test_contexts_of_a_word_and_less(context: str, tokenizer: Tokenizer):
    [example] = windows(asked(context, None), tokenizer)
    assert example["label"].tolist() == [0, 0]
    logits = np.random.default_rng(0).normal(size=(len(example["token_ids"]), 2))
    found = TASK.answer(asked(context, None), [example], [logits.astype(np.float32)])
    assert found["answer"] == (context if context in ("dog", "x") else "")
    assert found["probability"] == pytest.approx(1.0)


def test_a_long_question_is_cut(tokenizer: Tokenizer):
    question = " ".join(["cat"] * 50)
    record = asked("the dog sleeps", "dog", question=question)
    [example] = windows(record, tokenizer)
    assert len(example["token_ids"]) == 6 + 3 + 3
    with pytest.raises(UserError, match="leaves 1 tokens for the context beside a question of 20"):
        encode_question(record, tokenizer, LENGTH, STRIDE, 20)


def test_a_stride_beyond_the_window_leaves_no_token_out(tokenizer: Tokenizer):
    examples = windows(asked(LONG, None), tokenizer, stride=1000)
    assert sum(len(example["spans"]) for example in examples) == 61
    assert sum(example["own"].sum() for example in examples) == 61


@pytest.mark.parametrize("vocabulary", ["bert-base-cased", "bert-base-uncased", "roberta-base"])
def test_real_vocabularies_and_their_pairs(vocabulary: str, data_folder: Path, tmp_path: Path):
    """The window is what the tokenizer makes of the pair, and the text comes back."""
    folder = data_folder / "vocab" / vocabulary
    if not folder.is_dir():
        folder = tmp_path
        words = (data_folder / "vocab" / f"{vocabulary}-vocab.txt").read_bytes()
        (folder / "vocab.txt").write_bytes(words)
    tokenizer = load_tokenizer(folder)
    record = {"question": "Où est Zoë?", "context": "  Zoë  est à Paris,\tle 3 mai.\u00a0Oui!"}
    for answer in ("Zoë", "à Paris", "le 3 mai.", "Oui!"):
        start = record["context"].index(answer)
        one = {"text": answer, "start": start, "end": start + len(answer)}
        [example] = encode_question(record | {"answers": [one]}, tokenizer, 64, 32, 32)
        whole = tokenizer.encode(record["question"], record["context"], max_length=64)
        np.testing.assert_array_equal(example["token_ids"], whole[0])
        np.testing.assert_array_equal(example["type_ids"], whole[1])
        assert TASK.answer(record, [example], [sure(example)])["answer"] == answer
