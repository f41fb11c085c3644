"""Tagging as a task: records, labels, scores, answers, and a model that learns it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import WORDS, tiny_model

from bertjax import predict
from bertjax.cli import main as cli
from bertjax.data.batching import Encoded
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.tasks import Task, get_task
from bertjax.tokenizers import Tokenizer, wordpiece_tokenizer
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Evaluator
from bertjax.train.finetune import finetune
from bertjax.types import HeadConfig, UserError

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
TAG_OF = {"cat": "PER", "dog": "PER", "here": "LOC", "there": "LOC"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece_tokenizer(WORDS)


def write(path: Path, sentences: Sequence[Sequence[tuple[str, str]]], mark: str = "") -> Path:
    blocks = ["".join(f"{word} {tag}\n" for word, tag in pairs) for pairs in sentences]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mark + "\n".join(blocks), encoding="utf-8")
    return path


def made_up(count: int, seed: int) -> list[list[tuple[str, str]]]:
    """Sentences in IOB1 in which the word alone tells the tag."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = [str(w) for w in random.choice(WORDS[5:19], random.integers(1, 12))]
        types = [TAG_OF.get(word, "") for word in words]
        tags = [f"I-{kind}" if kind else "O" for kind in types]
        found.append(list(zip(words, tags, strict=True)))
    return found


def certain(examples: Sequence[Encoded], record: Any, labels: Sequence[str]) -> list[np.ndarray]:
    """Outputs of a model that knows each word's tag, and is wrong at every other token."""
    outputs = []
    for example in examples:
        logits = np.zeros((len(example["token_ids"]), len(labels)), np.float32)
        logits[:, 0] = 9
        for word, place in zip(example["words"], example["places"], strict=True):
            logits[place, labels.index(record["tags"][word])] = 99
        outputs.append(logits)
    return outputs


def test_labels_and_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [[("a", "I-PER"), ("cat", "I-PER"), ("dog", "B-PER")], [("here", "I-LOC")]]
    write(tmp_path / "train.txt", train)
    write(tmp_path / "dev.txt", [[("a", "I-ORG"), ("b", "I-ORG"), ("c", "O")], [("d", "I-LOC")]])
    (tmp_path / "test.txt").write_text("a\nb\n\nc\n")
    task = get_task("ner", data=f"files:{tmp_path}")
    assert task.class_names == ("O", "B-LOC", "B-PER", "I-PER")
    assert task.head == HeadConfig("token_classification", 4)
    records = task.open(f"files:{tmp_path}", "train")
    tags = ["B-PER", "I-PER", "B-PER"]
    assert records[0] == {"index": 0, "words": ["a", "cat", "dog"], "tags": tags, "lengths": [3]}
    assert not caplog.records
    task.open(f"files:{tmp_path}", "validation")
    (notice,) = caplog.records
    assert notice.levelno == logging.WARNING
    assert "tags that the model has not: B-ORG (1), I-ORG (1); these" in notice.getMessage()
    test = task.open(f"files:{tmp_path}", "test")
    assert [record["tags"] for record in test] == [None, None]
    with pytest.raises(UserError, match="no tags to score against; it can only be predicted"):
        task.score(test, [], [])


@pytest.mark.parametrize(
    ("scheme", "labels"),
    [
        ("auto", ("O", "B-PER", "I-PER")),
        ("iob1", ("O", "I-PER")),
        ("bioes", ("O", "B-PER", "E-PER", "S-PER")),
    ],
)
def test_the_scheme_that_is_learned(tmp_path: Path, scheme: str, labels: tuple[str, ...]) -> None:
    write(tmp_path / "train", [[("a", "I-PER"), ("b", "I-PER"), ("c", "O"), ("d", "I-PER")]])
    data = f"files:{tmp_path}"
    assert get_task("ner", options={"scheme": scheme}, data=data).class_names == labels


def test_bioes_stays_and_labels_decide(tmp_path: Path) -> None:
    write(tmp_path / "train", [[("a", "B-PER"), ("b", "L-PER"), ("c", "U-PER"), ("d", "O")]])
    write(tmp_path / "test", [[("a", "I-PER"), ("b", "I-PER"), ("c", "O")]])
    data = f"files:{tmp_path}"
    task = get_task("ner", data=data)
    assert task.class_names == ("O", "B-PER", "E-PER", "S-PER")
    assert task.open(data, "test")[0]["tags"] == ["B-PER", "E-PER", "O"]
    task = get_task("ner").with_labels(["B-PER", "O", "I-PER"])
    assert task.open(data, "test")[0]["tags"] == ["B-PER", "I-PER", "O"]
    with pytest.raises(UserError, match=r"test:1: tag 'B-PER' is not a label"):
        get_task("ner").with_labels(["O", "B-X"]).open(f"files:train={tmp_path / 'test'}", "train")


@pytest.mark.parametrize(
    ("letters", "labels"),
    [
        ("BILU", ("O", "B-PER", "I-PER", "L-PER", "U-PER")),
        ("BMES", ("O", "B-PER", "M-PER", "E-PER", "S-PER")),
        ("BMEW", ("W-PER", "E-PER", "M-PER", "B-PER", "O")),
        ("BILU", ("O", "B", "I", "L", "U")),
    ],
)
def test_labels_of_other_spellings(
    letters: str, labels: tuple[str, ...], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Data are read in any scheme; answers have the model's own words."""
    begin, inside, end, alone = (next(n for n in labels if n.startswith(x)) for x in letters)
    tags = [begin, inside, end, "O", alone]
    pairs = list(zip(["cat", "dog", "bird", "the", "cat"], tags, strict=True))
    for split in ("train", "test"):
        write(tmp_path / split, [pairs])
    task = get_task("ner").with_labels(labels)
    (record,) = task.open(f"files:{tmp_path}", "train")
    (window,) = task.encode(record, tokenizer, 32)
    assert window["token_labels"].tolist() == [-1, *map(labels.index, tags), -1]
    logits = certain([window], {"tags": tags}, labels)
    assert task.answer(record, [window], logits)["tags"] == tags
    assert len(task.answer(record, [window], logits)["entities"]) == 2
    scores = task.score(task.open(f"files:{tmp_path}", "test"), [[window]], [logits])
    assert scores == dict.fromkeys(scores, 1.0)
    assert ("f1_PER" in scores) == ("-" in begin)


def test_parts_of_speech_are_words(tmp_path: Path) -> None:
    write(tmp_path / "train", [[("a", "DET"), ("cat", "NOUN"), ("I-", "I-")]])
    task = get_task("pos", data=f"files:{tmp_path}")
    assert task.class_names == ("DET", "I-", "NOUN")
    assert task.metrics == ("accuracy",)
    with pytest.raises(UserError, match=r"train:1: 'DET' is neither O nor like .* use task 'pos'"):
        get_task("ner", data=f"files:{tmp_path}")


@pytest.mark.parametrize("context", ["sentence", "document"])
@pytest.mark.parametrize("scheme", ["iob2", "bioes"])
def test_every_word_counts_once(
    context: str, scheme: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Sentences of 1 and 1,000 words, words without tokens, and documents beyond the window."""
    long = [(WORDS[5 + i % 14], "I-PER" if i % 7 < 2 else "O") for i in range(1000)]
    odd = [("\u200b", "I-PER"), ("\u00a0", "O"), ("e\u0301", "I-LOC"), ("\u2028x", "O")]
    documents = [[[("cat", "I-PER")], long, odd], [made_up(1, 0)[0], [("here", "I-LOC")]]]
    text = "".join(
        "-DOCSTART- -X-\n\n" + "".join(f"{w} {t}\n" for w, t in s) + "\n"
        if number == 0
        else "".join(f"{w} {t}\n" for w, t in s) + "\n"
        for sentences in documents
        for number, s in enumerate(sentences)
    )
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    options = {"context": context, "scheme": scheme, "stride": 5}
    task = get_task("ner", options=options, data=f"files:{tmp_path}")
    records = task.open(f"files:{tmp_path}", "train")
    assert len(records) == (5 if context == "sentence" else 2)
    examples = [task.encode(record, tokenizer, 32) for record in records]
    for record, windows in zip(records, examples, strict=True):
        owned = [word for window in windows for word in window["words"].tolist()]
        assert owned == list(range(len(record["words"])))
        labelled = sum(int((window["token_labels"] >= 0).sum()) for window in windows)
        assert labelled == len(record["words"])
    labels = task.class_names or ()
    outputs = [certain(e, r, labels) for e, r in zip(examples, records, strict=True)]
    scores = task.score(records, examples, outputs)
    assert scores == dict.fromkeys(scores, 1.0)
    assert list(scores) == ["f1", "precision", "recall", "accuracy", "f1_LOC", "f1_PER"]
    outputs[0][0][examples[0][0]["places"][0]] = 0  # all tags alike: O, the first
    words = sum(len(record["words"]) for record in records)
    less = task.score(records, examples, outputs)
    assert less["accuracy"] == pytest.approx(1 - 1 / words)
    assert less["recall"] < 1
    outputs[-1][-1][0, 0] = np.nan
    assert all(np.isnan(score) for score in task.score(records, examples, outputs).values())


def test_a_tag_that_train_never_saw_is_wrong(tmp_path: Path, tokenizer: Tokenizer) -> None:
    task = get_task("ner").with_labels(LABELS)
    data = f"files:{tmp_path}"
    write(tmp_path / "dev", [[("cat", "I-ORG"), ("dog", "I-PER"), ("bird", "O")]])
    records = task.open(data, "validation")
    examples = [task.encode(record, tokenizer, 32) for record in records]
    assert examples[0][0]["token_labels"].tolist() == [-1, -1, 3, 0, -1]
    (window,) = examples[0]
    logits = np.zeros((5, 5), np.float32)
    logits[window["places"], [0, 3, 0]] = 1
    scores = task.score(records, examples, [[logits]])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert (scores["precision"], scores["recall"], scores["f1_ORG"]) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "iob"}, "option scheme is 'iob'; did you mean 'iob"),
        ({"context": "page"}, "option context is 'page'; known: document, sentence"),
        ({"tag_column": "last"}, "option tag_column is 'last'; set it to a whole number"),
        ({"prefix": 1}, "option prefix is 1; set it to a word"),
        ({"stride": -1}, "option stride -1 is negative"),
        ({"separator": ""}, "option separator is empty"),
        ({"colum": 1}, "task 'ner' has no option 'colum'; did you mean 'tag_column'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        get_task("ner", options=options)
    assert str(raised.value).startswith(message)


def test_other_mistakes(tmp_path: Path) -> None:
    write(tmp_path / "train", [[("a", "O")], [("b", "O")]])
    data = f"files:{tmp_path}"
    with pytest.raises(UserError, match="has no tag but 'O'; set the option tag_column"):
        get_task("ner", data=data)
    known = get_task("ner", options={"context": "document"}).with_labels(LABELS)
    with pytest.raises(UserError, match="train has no -DOCSTART- line; set context to sentence"):
        known.open(data, "train")
    with pytest.raises(UserError, match="no labels; set labels, or name data to infer"):
        _ = get_task("ner").head
    with pytest.raises(UserError, match="there is no tagging metric 'f2'; known: accuracy, f1"):
        get_task("ner", metrics=["f2"])
    with pytest.raises(UserError, match="a label of task 'ner': 'NOUN' is neither"):
        get_task("ner").with_labels(["NOUN", "VERB"])
    assert get_task("ner", metrics=["f1_PER", "accuracy"]).metrics[0] == "f1_PER"


def answered(task: Task, record: Any, tags: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    examples = task.encode(record, tokenizer, 8)
    return task.answer(record, examples, certain(examples, {"tags": tags}, task.class_names or ()))


def test_answers_name_the_characters(tokenizer: Tokenizer) -> None:
    task = get_task("ner").with_labels(LABELS)
    text = "  the\u00a0cat  \u00c9vry dog\tbcd here"
    words = ["the", "cat", "\u00c9vry", "dog", "bcd", "here"]
    tags = ["O", "B-PER", "I-PER", "I-PER", "O", "I-LOC"]
    answer = answered(task, task.record(text), tags, tokenizer)
    assert (answer["words"], answer["tags"]) == (words, tags)
    assert answer["scores"] == pytest.approx([1] * 6, abs=1e-3)
    first, second = answer["entities"]
    assert first["text"] == "cat  \u00c9vry dog" == text[first["start"] : first["end"]]
    assert (first["type"], second["type"], second["end"]) == ("PER", "LOC", len(text))
    assert first["score"] == pytest.approx(1, abs=1e-3)
    for given in (words, {"tokens": words}, {"words": tuple(words)}):
        answer = answered(task, task.record(given), tags, tokenizer)
        joined = " ".join(words)
        assert [joined[e["start"] : e["end"]] for e in answer["entities"]] == [
            "cat \u00c9vry dog",
            "here",
        ]
    assert answered(task, task.record(""), [], tokenizer) == {
        **{"words": [], "tags": [], "scores": [], "entities": []}
    }
    for wrong in (3, ["a", 3], {"txt": "a"}, None):
        with pytest.raises(UserError, match="an input must be a text, a list of words, or"):
            task.record(wrong)


def test_inputs_and_column_output(tokenizer: Tokenizer) -> None:
    task = get_task("ner").with_labels(LABELS)

    def read(text: str, form: str, the_task: Task = task) -> list[list[str]]:
        lines = text.encode().splitlines(keepends=True)
        return [record["words"] for record in the_task.read(lines, "f", form)]

    assert read("a b\n\nc\n", "lines") == [["a", "b"], [], ["c"]]
    assert read('{"tokens": ["a b", "c"]}\n{"text": "d e"}\n', "jsonl") == [
        ["a b", "c"],
        ["d", "e"],
    ]
    columns = "-DOCSTART- O\n\na X O\nb\n\nc Y\n"
    assert read(columns, "conll") == [["a", "b"], ["c"]]
    whole = task.with_options({"context": "document"})
    assert read(columns, "conll", whole) == [["a", "b", "c"]]
    assert read("a\nb\n\nc\n", "conll", whole) == [["a", "b"], ["c"]]
    assert read("# text = ab\n1-2\tab\n1\ta\n2\tb\n", "conllu") == [["a", "b"]]
    with pytest.raises(UserError, match=r"^f:2: an input must be a text"):
        read('{"text": "a"}\n{"txt": "b"}\n', "jsonl")

    (record,) = whole.read(columns.encode().splitlines(), "f", "conll")
    answers = [
        answered(task, record, ["O", "B-PER", "I-PER"], tokenizer),
        answered(task, task.record(["x\ty"]), ["O"], tokenizer),
    ]
    assert [entity["text"] for entity in answers[0]["entities"]] == ["b", "c"]
    assert list(task.lines("conll", answers)) == [
        *("a\tO", "b\tB-PER", "", "c\tI-PER", "", "x y\tO", "")
    ]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the tags of :func:`made_up`."""
    folder = tmp_path_factory.mktemp("tagger")
    write(folder / "data" / "train.txt", made_up(64, 0), "-DOCSTART- O\n\n")
    write(folder / "data" / "valid.txt", [*made_up(20, 1), [("a", "B-NEW")]])
    config = FinetuneConfig(
        model=str(tiny_model(folder / "model", num_layers=1)),
        data=f"files:{folder / 'data'}",
        task="ner",
        options={"scheme": "bioes", "stride": 3},
        max_length=32,
        batch_size=16,
        steps=30,
        eval_every=30,
        pack=False,  # one shape to compile
        learning_rate=2e-2,
        dropout=0.0,
    )
    result = finetune(config, str(folder / "run"))
    assert result["metrics"]["validation/f1_PER"] == 1
    assert result["metrics"]["validation/recall"] < 1  # of NEW there is one
    return folder / "run"


def test_a_trained_model_answers(tagger: Path) -> None:
    model = predict.load(str(tagger))
    assert model.task is not None
    assert model.task.options()["scheme"] == "bioes"
    (answer,) = model.predict(["a cat  bird sleeps there"])
    assert answer["tags"] == ["O", "S-PER", "O", "O", "S-LOC"]
    assert [(e["text"], e["start"], e["end"]) for e in answer["entities"]] == [
        ("cat", 2, 5),
        ("there", 19, 24),
    ]
    exported = predict.load(str(tagger / "huggingface"), max_length=32)
    assert exported.task is not None
    assert exported.task.name == "ner"
    (again,) = exported.predict([["a", "cat", "bird", "sleeps", "there"]])
    assert again["tags"] == answer["tags"]
    assert again["scores"] == pytest.approx(answer["scores"], abs=1e-6)


def test_the_number_of_devices_does_not_matter(
    tagger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word of every sentence, in order: of 0, 1 and 1,000 words and others."""
    random = np.random.default_rng(3)
    lengths = [1, 0, 1000, 29, 30, 31, 32, 33, *random.integers(1, 50, 15).tolist()]
    sentences = [[str(w) for w in random.choice(WORDS[5:19], length)] for length in lengths]
    records: list[Any] = [
        {"words": words, "tags": ["O"] * len(words), "lengths": [len(words)]} for words in sentences
    ]
    found = []
    for devices in (1, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        monkeypatch.setattr(predict, "make_mesh", lambda config, mesh=mesh: mesh)
        model = predict.load(str(tagger))
        assert model.task is not None
        answers = model.predict(sentences, 64)
        assert [answer["words"] for answer in answers] == sentences
        assert [len(answer["scores"]) for answer in answers] == lengths
        tokenizer, forward = model.tokenizer, model.forward(64)
        evaluator = Evaluator.of(model.task, "test", records, tokenizer, 32, forward)
        found.append((answers, evaluator(model.params)))
    (first, scores), (second, other) = found
    assert [answer["tags"] for answer in first] == [answer["tags"] for answer in second]
    for one, two in zip(first, second, strict=True):
        assert one["scores"] == pytest.approx(two["scores"], abs=1e-5)
    assert other == pytest.approx(scores, abs=1e-6)
    outside = [tag == "O" for answer in first for tag in answer["tags"]]
    assert scores["test/accuracy"] == pytest.approx(np.mean(outside))


def test_the_commands(tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, output = tmp_path / "in.conll", tmp_path / "out.conll"
    given.write_text("a X\ncat Y\n\nthere Z\n")
    flags = [f"--workdir={tagger}", f"--input={given}"]
    assert cli.main(["predict", *flags, f"--output={output}"]) == 0
    assert output.read_text() == "a\tO\ncat\tS-PER\n\nthere\tS-LOC\n\n"
    assert cli.main(["predict", *flags]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["tags"] for answer in answers] == [["O", "S-PER"], ["S-LOC"]]
    assert cli.main(["evaluate", f"--workdir={tagger}"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["examples"] == 21
    assert scores["validation/f1_NEW"] == 0


def test_real_files(data_folder: Path, tokenizer: Tokenizer) -> None:
    """The published numbers of sentences and documents."""
    conll, wikiann = f"files:{data_folder}", f"files:{data_folder / 'wikiann-fr'}"
    splits = ("train", "validation", "test")
    task = get_task("conll2003", data=conll)
    kinds = ("LOC", "MISC", "ORG", "PER")
    assert task.class_names == ("O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI"))
    assert [len(task.open(conll, split)) for split in splits] == [14041, 3250, 3453]
    whole = task.with_options({"context": "document"})
    assert [len(whole.open(conll, split)) for split in splits[1:]] == [216, 231]
    task = get_task("wikiann", data=wikiann)
    assert len(task.class_names or ()) == 7
    assert [len(task.open(wikiann, split)) for split in splits] == [20000, 10000, 10000]
    odd = next(r for r in task.open(wikiann, "validation") if "\u200b\u200bmaternels" in r["words"])
    (window,) = task.encode(odd, tokenizer, 512)
    assert len(window["words"]) == len(odd["words"])
