"""Multiple choice from questions to answers: encoding, scores, training, evaluation, prediction."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import WORDS, tiny_model

import bertjax
from bertjax import predict
from bertjax.cli import main as cli
from bertjax.data.batching import Batcher
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.tasks import Task, get_task
from bertjax.tokenizers import Tokenizer, load_tokenizer
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Evaluator
from bertjax.train.finetune import finetune
from bertjax.types import HeadConfig, UserError

COUNTS = (2, 3, 5)
"""Options of the questions in a batch."""
QUESTIONS = 15
"""No multiple of a batch size or of the devices."""


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a head for choices, whose numbers differ from option to option."""
    folder = tmp_path_factory.mktemp("chooser") / "model"
    head = HeadConfig("multiple_choice", 1)
    sizes: dict[str, Any] = {"num_layers": 1, "max_positions": 64, "initializer_range": 0.5}
    return tiny_model(folder, head=head, **sizes)


@pytest.fixture(scope="module")
def tokenizer(chooser: Path) -> Tokenizer:
    return load_tokenizer(str(chooser))


def words(ids: np.ndarray) -> str:
    """The tokens of ids, as text."""
    return " ".join(WORDS[index] for index in ids)


def texts_of(
    task: Task, tokenizer: Tokenizer, max_length: int, context: str, question: str, *options: str
) -> list[str]:
    """The tokens of each option of a question."""
    record = task.record({"context": context, "question": question, "options": options})
    [example] = task.encode(record, tokenizer, max_length)
    assert "label" not in example
    for option in example["options"]:
        ids, types = option["token_ids"], option["type_ids"]
        assert ids.dtype == types.dtype == np.int32
        assert len(ids) == len(types) <= max_length
        assert np.count_nonzero(ids == tokenizer.sep_id) == 2
        assert types[0] == 0
        assert types[-1] == 1
        assert list(types) == sorted(types)
    return [words(option["token_ids"]) for option in example["options"]]


def test_encoding(tokenizer: Tokenizer) -> None:
    """A pair, as the tokenizer itself makes it; SWAG's three parts fall into place."""
    own, race = get_task("multiple_choice"), get_task("race")
    assert texts_of(own, tokenizer, 64, "the cat", "a dog", "runs .", "sings") == [
        "[CLS] the cat [SEP] a dog runs . [SEP]",
        "[CLS] the cat [SEP] a dog sings [SEP]",
    ]
    swag = {"sent1": "the cat", "sent2": "a dog", "ending0": "runs .", "ending1": "sings"}
    [example] = get_task("swag").encode(own.record(swag), tokenizer, 64)
    for option, ending in zip(example["options"], ("runs .", "sings"), strict=True):
        ids, types = tokenizer.encode("the cat", f"a dog {ending}", max_length=64)
        np.testing.assert_array_equal(option["token_ids"], ids)
        np.testing.assert_array_equal(option["type_ids"], types)
    assert texts_of(own, tokenizer, 64, "", "a dog", "runs", "sings")[0] == (
        "[CLS] a dog [SEP] runs [SEP]"
    )
    assert texts_of(own, tokenizer, 64, "a dog", "", "runs", "sings")[0] == (
        "[CLS] a dog [SEP] runs [SEP]"
    )
    assert texts_of(race, tokenizer, 64, "here", "the _  sleeps .", "cat", "bird runs")[1] == (
        "[CLS] here [SEP] the bird runs sleeps . [SEP]"
    )
    assert texts_of(race, tokenizer, 64, "here", "____ eats ___ .", r"\1", "b")[1] == (
        "[CLS] here [SEP] b eats b . [SEP]"
    )
    assert texts_of(race, tokenizer, 64, "here", "eats", "b", "c")[0] == (
        "[CLS] here [SEP] eats b [SEP]"
    )
    assert "[UNK]" in texts_of(own, tokenizer, 64, "here", "the _ .", "b", "c")[0]


def test_what_is_too_long(tokenizer: Tokenizer) -> None:
    """The context goes first, then the question far from the option, then the option's end."""
    own, race = get_task("multiple_choice"), get_task("race")
    context = "the cat runs here ."
    short, long = texts_of(own, tokenizer, 8, context, "a dog", "eats", "eats b c")
    assert short == "[CLS] the cat [SEP] a dog eats [SEP]"
    assert long == "[CLS] [SEP] a dog eats b c [SEP]"
    longer = texts_of(own, tokenizer, 8, context, "a dog", "sings", "b c d e", "b c d e f g h")
    assert longer == [
        "[CLS] the cat [SEP] a dog sings [SEP]",
        "[CLS] [SEP] dog b c d e [SEP]",
        "[CLS] [SEP] b c d e f [SEP]",
    ]
    cloze = texts_of(race, tokenizer, 8, context, "a dog _ here .", "b c", "b c d e", "b c d e f g")
    assert cloze == [
        "[CLS] [SEP] a dog b c here [SEP]",
        "[CLS] [SEP] dog b c d e [SEP]",
        "[CLS] [SEP] b c d e f [SEP]",
    ]
    with pytest.raises(UserError, match="max_length 3 leaves no room"):
        texts_of(own, tokenizer, 3, context, "a", "b", "c")


def test_one_word_and_four_hundred(tokenizer: Tokenizer) -> None:
    own = get_task("multiple_choice")
    long = " ".join(["cat"] * 400)
    options = texts_of(own, tokenizer, 128, "here " * 300, "a dog", "runs", long)
    assert options[0].split().count("here") == 128 - 6
    assert options[0].endswith("[SEP] a dog runs [SEP]")
    assert options[1].split() == ["[CLS]", "[SEP]", *["cat"] * 125, "[SEP]"]


def test_truncation_side(tokenizer: Tokenizer) -> None:
    own = get_task("multiple_choice")
    settings = {**tokenizer.settings, "truncation_side": "left"}
    left = dataclasses.replace(tokenizer, settings=settings)
    assert texts_of(own, left, 8, "the cat runs", "a dog", "eats", "eats b c")[0] == (
        "[CLS] cat runs [SEP] a dog eats [SEP]"
    )


def test_a_blank_without_a_context(tokenizer: Tokenizer) -> None:
    """The option stands in the blank of a single text; without a blank, question and option do."""
    race = get_task("race")
    for given in ({"question": "the cat runs on _ here"}, {"context": " ", "question": "a _"}):
        record = race.record({**given, "options": ["bird", "dog child"]})
        [example] = race.encode(record, tokenizer, 64)
        for option, text in zip(example["options"], record["options"], strict=True):
            filled = tokenizer.encode(given["question"].replace("_", text), max_length=64)
            np.testing.assert_array_equal(option["token_ids"], filled[0])
            np.testing.assert_array_equal(option["type_ids"], filled[1])
    [example] = race.encode(
        race.record({"question": "the cat _ a", "options": ["b", "d"]}), tokenizer, 5
    )
    assert words(example["options"][1]["token_ids"]) == "[CLS] the cat d [SEP]"
    assert texts_of(race, tokenizer, 64, "", "a dog", "runs", "sings")[0] == (
        "[CLS] a dog [SEP] runs [SEP]"
    )


class Watched:
    """A tokenizer of the library that keeps what it has encoded."""

    def __init__(self, backend: Any):
        self.backend, self.encodings = backend, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def encode(self, *texts: str, **arguments: Any) -> Any:
        """As the library's."""
        self.encodings.append(self.backend.encode(*texts, **arguments))
        return self.encodings[-1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_cut_off_takes_no_memory(tokenizer: Tokenizer, side: str) -> None:
    """As the library cuts and joins, without its pieces of what is cut off and all their pairs."""
    backend: Any = Watched(tokenizer.backend)
    settings = {**tokenizer.settings, "truncation_side": side}
    watched = dataclasses.replace(tokenizer, backend=backend, settings=settings)
    own = get_task("multiple_choice")
    rng = np.random.default_rng(0)
    for length in (4, 8, 9, 32):
        context, *options = (" ".join(rng.choice(WORDS[5:19], n)) for n in (500, 1, 3, 5, 5, 300))
        record = own.record({"context": context, "options": options})
        [example] = own.encode(record, watched, length)
        for option, text in zip(example["options"], options, strict=True):
            before, behind = (
                tokenizer.backend.encode(t, add_special_tokens=False) for t in (context, text)
            )
            behind.truncate(length - 3)
            before.truncate(length - 3 - len(behind), direction=side)
            joined = tokenizer.backend.post_process(before, behind)
            assert option["token_ids"].tolist() == joined.ids
            assert option["type_ids"].tolist() == joined.type_ids
    assert sum(len(encoding.overflowing) for encoding in backend.encodings) == 0


def test_score_and_answer() -> None:
    task = get_task("dream")
    records = [{"label": 1, "options": ("a", "b\tb")}, {"label": 0, "options": tuple("abcde")}]
    outputs = [[np.array([0.0, 1.0], np.float32)], [np.arange(5, dtype=np.float32)]]
    assert task.score(records, [[], []], outputs) == {"accuracy": 0.5}
    answer = task.answer(records[0], [], outputs[0])
    assert answer == {
        "choice": 1,
        "text": "b\tb",
        "probabilities": pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)]),
    }
    json.dumps(answer)
    assert list(task.lines("tsv", [answer])) == ["1\tb b"]
    outputs[1][0][2] = np.nan
    assert np.isnan(task.score(records, [[], []], outputs)["accuracy"])


def test_mistakes() -> None:
    task = get_task("dream")
    with pytest.raises(UserError, match="an input must be a mapping with context, question and"):
        task.record("a text")
    with pytest.raises(UserError, match="this input: there is only one option"):
        task.record({"context": "a", "options": ["b"]})
    with pytest.raises(UserError, match="has its own columns"):
        list(task.read(io.BytesIO(b""), "F", "jsonl", ["a"]))
    with pytest.raises(UserError, match="no metric 'f1' of multiple choice"):
        get_task("dream", metrics=["f1"])
    with pytest.raises(UserError, match="cloze must be True or False, not 1"):
        get_task("dream", options={"cloze": 1})
    with pytest.raises(UserError, match="no option 'clozes'; did you mean 'cloze'"):
        get_task("dream", options={"clozes": True})
    with pytest.raises(UserError, match="does not write conll"):
        task.check_output("conll")


def questions(count: int) -> list[dict[str, Any]]:
    """Questions with 2, 3 and 5 options, of 1 to 20 words, one with 400."""
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS[5:19], length))

    made = [
        {
            "context": text(int(rng.integers(1, 40))),
            "question": text(int(rng.integers(0, 6))),
            "options": [text(int(rng.integers(1, 20))) for _ in range(size)],
            "label": int(rng.integers(size)),
        }
        for size in itertools.islice(itertools.cycle(COUNTS), count)
    ]
    made[1]["options"][1] = text(400)
    return made


def outputs_on(
    devices: int, batch_size: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The metrics of the labelled questions, and the answers to them."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    monkeypatch.setattr(predict, "make_mesh", lambda config: mesh)
    model = bertjax.load(str(folder))
    assert model.task is not None
    given = questions(QUESTIONS)
    records = [{**model.task.record(q), "label": q["label"]} for q in given]
    forward = model.forward(batch_size)
    evaluator = Evaluator.of(
        model.task, "validation", records, model.tokenizer, model.max_length, forward
    )
    return evaluator(model.params), model.predict(given, batch_size)


def test_every_question_counts_once(chooser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 1 and 8 devices, in batches of 64 and of 8; and a question alone is answered the same."""
    metrics, answers = outputs_on(1, 64, chooser, monkeypatch)
    assert [len(a["probabilities"]) for a in answers] == list(COUNTS) * (QUESTIONS // 3)
    right = [a["choice"] == q["label"] for a, q in zip(answers, questions(QUESTIONS), strict=True)]
    assert 0 < sum(right) < QUESTIONS
    assert metrics["validation/accuracy"] == pytest.approx(np.mean(right))
    losses = [
        -np.log(a["probabilities"][q["label"]])
        for a, q in zip(answers, questions(QUESTIONS), strict=True)
    ]
    assert metrics["validation/loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    others, found = outputs_on(8, 8, chooser, monkeypatch)
    assert others == pytest.approx(metrics, abs=1e-5)
    for answer, other in zip(answers, found, strict=True):
        assert other["choice"] == answer["choice"]
        assert other["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    [alone] = bertjax.load(str(chooser)).predict(questions(QUESTIONS)[1:2], 1)
    assert alone["probabilities"] == pytest.approx(answers[1]["probabilities"], abs=1e-5)


def test_options_in_another_order(chooser: Path) -> None:
    model = bertjax.load(str(chooser))
    given = questions(8)
    rng = np.random.default_rng(1)
    orders = [rng.permutation(len(question["options"])) for question in given]
    mixed = [
        {**question, "options": [question["options"][i] for i in order]}
        for question, order in zip(given, orders, strict=True)
    ]
    pairs = zip(model.predict(given, 8), model.predict(mixed, 8), orders, strict=True)
    for before, after, order in pairs:
        assert after["text"] == before["text"]
        assert order[after["choice"]] == before["choice"]
        expected = np.array(before["probabilities"])[order]
        assert after["probabilities"] == pytest.approx(expected, abs=1e-6)


def test_batch_of_options(tokenizer: Tokenizer) -> None:
    """Packed, the options of a question lie anywhere; the mask says which there are."""
    task = get_task("multiple_choice")
    given = questions(3)
    examples = [e for q in given for e in task.encode(task.record(q), tokenizer, 128)]
    for pack in (True, False):
        batch = Batcher(4, 128, tokenizer.pad_id, pack=pack)(examples)
        assert batch["cls_row"].shape == batch["option_mask"].shape == (4, 5)
        assert batch["option_mask"].sum(axis=-1).tolist() == [2, 3, 5, 0]
        for question, example in enumerate(examples):
            for index, option in enumerate(example["options"]):
                row, start = (
                    batch["cls_row"][question, index],
                    batch["cls_position"][question, index],
                )
                ids = batch["token_ids"][row, start : start + len(option["token_ids"])]
                np.testing.assert_array_equal(ids, option["token_ids"])


def run_predict(
    arguments: Sequence[str], given: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[str]]:
    """The exit code and the lines of ``bertjax predict`` for standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    code = cli.main(["predict", *arguments])
    return code, output.getvalue().splitlines()


@pytest.mark.parametrize("form", ["lines", "csv", "json"])
def test_predict_command(form: str, chooser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same two questions from JSON lines, SWAG's CSV and DREAM's JSON."""
    options = ["the cat sleeps", 'a "bird"', "runs, here"]
    texts = {
        "lines": "".join(
            json.dumps({"context": c, "question": "b", "options": options}) + "\n" for c in "ac"
        ),
        "csv": ",sent1,sent2,ending0,ending1,ending2\n"
        + "".join(f'0,{c},b,the cat sleeps,"a ""bird""","runs, here"\n' for c in "ac"),
        "json": json.dumps([[[c], [{"question": "b", "choice": options}], "1"] for c in "ac"]),
    }
    model = bertjax.load(str(chooser))
    expected = model.predict([{"context": c, "question": "b", "options": options} for c in "ac"])
    code, lines = run_predict([f"--model={chooser}", f"--format={form}"], texts[form], monkeypatch)
    assert code == 0
    for line, answer in zip(lines, expected, strict=True):
        found = json.loads(line)
        assert (found["choice"], found["text"]) == (answer["choice"], answer["text"])
        assert found["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    if form == "lines":
        tsv = [f"--model={chooser}", "--output_format=tsv"]
        _, lines = run_predict(tsv, texts[form], monkeypatch)
        assert lines == [f"{answer['choice']}\t{answer['text']}" for answer in expected]


def test_training(chooser: Path, tmp_path: Path) -> None:
    """Learns that the bird is right, from questions with 2, 3 and 5 options."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 48, "dev": 15}.items():
        rows = []
        for size in itertools.islice(itertools.cycle(COUNTS), count):
            options = [f"the {noun} eats" for noun in rng.choice(["cat", "dog", "child"], size)]
            label = int(rng.integers(size))
            options[label] = "the bird eats"
            rows.append({"context": "here", "question": "", "options": options, "label": label})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text)
    config = FinetuneConfig(
        model=str(chooser),
        task="multiple_choice",
        data=f"files:{tmp_path}",
        batch_size=16,
        eval_batch_size=16,
        pack=False,
        steps=16,
        eval_every=16,
        dropout=0.0,
        export=False,
        learning_rate=3e-3,
        max_length=32,
    )
    result = finetune(config, str(tmp_path / "run"))
    assert result["metrics"]["validation/accuracy"] == 1.0
    given = {"context": "here", "options": ["the cat eats", "the bird eats"]}
    [answer] = bertjax.load(str(tmp_path / "run")).predict([given])
    assert (answer["choice"], answer["text"]) == (1, "the bird eats")
