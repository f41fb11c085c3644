"""The Python API: three lines from a folder to answers, and a folder that transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import tiny_glue, tiny_model

import bertjax
from bertjax.cli import main as cli
from bertjax.tasks import get_task
from bertjax.train.config import FinetuneConfig
from bertjax.train.finetune import finetune
from bertjax.train.pretrained import load_pretrained, reorder_heads
from bertjax.types import HeadConfig, HeadKind, UserError

PAIRS = [("a cat sleeps slowly .", "the dog runs ."), ("the bird sings", "a child"), ("a", "b .")]
SINGLES = ["the cat eats .", "a dog", "", "the bird sings here there quickly ."]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MRPC, with the Hugging Face folder it wrote."""
    folder = tmp_path_factory.mktemp("run")
    config = FinetuneConfig(
        model=str(tiny_model(folder / "model", initializer_range=0.3)),
        data=f"files:{tiny_glue(folder / 'glue')}",
        task="mrpc",
        max_length=24,
        batch_size=16,
        steps=3,
        learning_rate=1e-3,
    )
    finetune(config, str(folder / "run"))
    return folder / "run"


def test_workdir_and_its_export_answer_alike(workdir: Path):
    one, two = bertjax.load(str(workdir)), bertjax.load(str(workdir / "huggingface"), "mrpc")
    assert one.task is not None
    assert one.max_length == 24
    assert two.max_length == 32
    answers = one.predict(PAIRS)
    assert [list(answer) for answer in answers] == [["label", "probabilities"]] * len(PAIRS)
    for answer, other in zip(answers, two.predict(PAIRS), strict=True):
        assert list(answer["probabilities"]) == ["not_equivalent", "equivalent"]
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert len({answer["probabilities"]["equivalent"] for answer in answers}) == len(PAIRS)


def test_a_split_alone_is_of_the_run_s_data(workdir: Path, capsys: pytest.CaptureFixture[str]):
    glue = workdir.parent / "glue"
    command = ["predict", f"--workdir={workdir}", "--split=validation"]
    assert cli.main(command) == 0
    alone = capsys.readouterr().out
    assert cli.main([*command, f"--data=files:{glue}"]) == 0
    assert capsys.readouterr().out == alone
    assert len(alone.splitlines()) == sum(
        1 for _ in get_task("mrpc").open(f"files:{glue}", "validation")
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--split=validation"], "say of what data: --data="),
        (["--data=files:glue", "--input=pairs.tsv"], "give --input or a split of data, not both"),
    ],
)
def test_a_split_of_nothing_or_of_two_things(
    words: list[str], told: str, workdir: Path, capsys: pytest.CaptureFixture[str]
):
    model = [f"--model={workdir / 'huggingface'}", "--task=mrpc"]
    assert cli.main(["predict", *model, *words]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_tells_its_labels(workdir: Path):
    """Without a task the classes are those of its config.json."""
    named = bertjax.load(str(workdir / "huggingface"), "mrpc").predict(PAIRS)
    unnamed = bertjax.load(str(workdir / "huggingface"))
    assert unnamed.task is not None
    assert unnamed.task.name == "classification"
    assert unnamed.predict(PAIRS) == named


def test_wrong_tasks_are_told(workdir: Path, tmp_path: Path):
    with pytest.raises(UserError, match="was trained for task 'mrpc', not 'rte'"):
        bertjax.load(str(workdir), "rte")
    with pytest.raises(UserError, match=r"classification head of 2, but task 'mnli' needs .* of 3"):
        bertjax.load(str(workdir / "huggingface"), "mnli")
    bare = bertjax.load(str(tiny_model(tmp_path / "model")))
    assert bare.task is None
    with pytest.raises(UserError, match="no trained head; fine-tune it first, or use encode"):
        bare.predict(["a cat"])
    with pytest.raises(UserError, match="no trained head, but task 'mrpc' needs"):
        bertjax.load(str(tmp_path / "model"), "mrpc")
    with pytest.raises(UserError, match="max_length 99 is more than the model's 32 positions"):
        bertjax.load(str(workdir), max_length=99)


def test_wrong_inputs_are_told(workdir: Path):
    model = bertjax.load(str(workdir))
    for wrong in (("a", "b", "c"), (), (1, 2)):
        with pytest.raises(UserError, match="must be a text or a pair of texts"):
            model.predict([wrong])  # type: ignore[list-item]
    assert model.predict([]) == []


def test_regression_gives_scores(tmp_path: Path):
    model = bertjax.load(str(tiny_model(tmp_path / "model", head=HeadConfig("regression", 1))))
    answers = model.predict(SINGLES, batch_size=3)
    assert [list(answer) for answer in answers] == [["score"]] * len(SINGLES)
    assert len({answer["score"] for answer in answers}) == len(SINGLES)


def test_bfloat16_is_close(workdir: Path):
    exact = bertjax.load(str(workdir)).predict(PAIRS)
    rough = bertjax.load(str(workdir), dtype="bfloat16").predict(PAIRS)
    for a, b in zip(exact, rough, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=0.03)


def test_encode(workdir: Path):
    """[CLS] and mean vectors, against the hidden states of each text alone."""
    model = bertjax.load(str(workdir))
    mean, first = model.encode(SINGLES, batch_size=3), model.encode(SINGLES, "cls", batch_size=3)
    assert mean.shape == first.shape == (len(SINGLES), 16)
    for text, a, b in zip(SINGLES, mean, first, strict=True):
        token_ids, type_ids = model.tokenizer.encode(text, max_length=24)
        batch = {
            "token_ids": token_ids[None],
            "type_ids": type_ids[None],
            "segment_ids": np.ones_like(token_ids)[None],
            "positions": np.arange(len(token_ids))[None],
        }
        variables = {"params": jax.device_get(model.params)}
        apply = jax.jit(lambda v, b: model.model.apply(v, b, method="encode"))
        [hidden] = np.asarray(apply(variables, batch))
        np.testing.assert_allclose(a, hidden.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(b, hidden[0], atol=1e-5)
    assert model.encode([]).shape == (0, 16)


def test_classes_in_another_order_keep_their_meaning(workdir: Path, tmp_path: Path):
    """A folder that counts the classes the other way round gives the same answers by name."""
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(workdir / "huggingface", other)
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {"0": "equivalent", "1": "not_equivalent"}
    config["label2id"] = {"equivalent": 0, "not_equivalent": 1}
    (other / "config.json").write_text(json.dumps(config))
    tensors = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})

    expected = bertjax.load(str(workdir)).predict(PAIRS)
    for answer, other_answer in zip(
        expected, bertjax.load(str(other), "mrpc").predict(PAIRS), strict=True
    ):
        assert other_answer["label"] == answer["label"]
        assert other_answer["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
        assert list(other_answer["probabilities"]) == ["not_equivalent", "equivalent"]


@pytest.mark.parametrize("theirs", [("LABEL_0", "LABEL_1", "LABEL_2"), ("a", "b", "c")])
def test_unknown_class_names_are_left_in_place(theirs: tuple[str, ...]):
    kernel = np.arange(6.0).reshape(2, 3)
    params: Any = {"heads": {"task": {"kernel": kernel, "bias": np.arange(3.0)}}}
    reorder_heads(params, {"task": HeadConfig("classification", 3)}, theirs, ("a", "b", "c"))
    np.testing.assert_array_equal(params["heads"]["task"]["kernel"], kernel)
    head = HeadConfig("classification", 3)
    reorder_heads(params, {"task": head}, ("c", "a", "b"), ("a", "b", "c"))
    np.testing.assert_array_equal(params["heads"]["task"]["kernel"], kernel[:, [1, 2, 0]])
    assert params["heads"]["task"]["bias"].tolist() == [1, 2, 0]


@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_classes_in_another_order_are_put_into_the_task_s(tmp_path: Path, kind: HeadKind):
    """A model of others counts its labels as it likes, one of tags too."""
    theirs, ours = ("B-X", "I-X", "O"), ("O", "B-X", "I-X")
    head = HeadConfig(kind, 3)
    folder = str(tiny_model(tmp_path / "model", head=head, labels=theirs))
    before, after = (
        load_pretrained(folder, {"task": head}, labels).params["heads"]["task"]
        for labels in (theirs, ours)
    )
    assert len(np.unique(before["kernel"][0])) == 3
    np.testing.assert_array_equal(after["kernel"], before["kernel"][:, [2, 0, 1]])
    np.testing.assert_array_equal(after["bias"], before["bias"][[2, 0, 1]])


def test_transformers_reads_the_export(workdir: Path):
    """The folder that a run wrote gives transformers the same logits."""
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    folder = str(workdir / "huggingface")
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert peer.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    first, second = zip(*PAIRS, strict=True)
    inputs = tokenizer(list(first), list(second), padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = peer(**inputs).logits.numpy()
    ours = np.concatenate(list(bertjax.load(str(workdir)).logits(PAIRS)))
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(ours).max() > 1e-3
