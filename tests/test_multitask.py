"""Several tasks over one encoder, on the step and the loop of one; and what is trained on after."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import digests, lines
from etils import epath
from tiny import tiny_glue, tiny_model

import bertjax
from bertjax import predict
from bertjax.cli import main as cli
from bertjax.cli.experiment import load_config
from bertjax.data.mixture import MixedStream, Mixture
from bertjax.exchange import read_model
from bertjax.tasks import get_task
from bertjax.train.config import FinetuneConfig
from bertjax.train.finetune import finetune
from bertjax.train.multitask import TaskParts, evaluate, main_metric
from bertjax.train.objectives import Loss, Objective, mixed
from bertjax.train.pretrained import load_pretrained
from bertjax.train.step import accumulate
from bertjax.types import HeadConfig, Interrupted, UserError

STEPS, SEED = 4, 29
"""Both tasks are drawn before and after the second step."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and GLUE's files."""
    folder = tmp_path_factory.mktemp("given")
    tiny_model(folder / "model", initializer_range=0.3, num_layers=1)
    tiny_glue(folder / "glue")
    return folder


def config(folder: Path, task: str = "mrpc+stsb", **changes: Any) -> FinetuneConfig:
    values = load_config(f"configs/finetune.py:task={task}").to_dict()
    fields = {
        "model": str(folder / "model"),
        "data": f"files:{folder / 'glue'}",
        "max_length": 32,
        "batch_size": 8,
        "steps": STEPS,
        "learning_rate": 1e-2,
        "seed": SEED,
        "log_every": 1,
    }
    return FinetuneConfig.from_mapping(values | fields | changes)


@pytest.fixture(scope="module")
def trained(given: Path) -> Path:
    """The workdir of a run of two tasks; dropout is on."""
    finetune(config(given), str(given / "run"))
    return given / "run"


def result(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "result.json").read_text())


def test_a_run_tells_of_each_task(trained: Path):
    """Metrics by task and split, their mean, and how often each was trained."""
    found = result(trained)
    assert found["task"] == "mrpc+stsb"
    assert found["train_examples"] == 64
    assert found["tasks"] == {
        "mrpc": {"train_examples": 32, "steps": 2},
        "stsb": {"train_examples": 32, "steps": 2},
    }
    metrics = found["metrics"]
    names = {"mrpc": ("loss", "f1", "accuracy"), "stsb": ("loss", "pearson", "spearman")}
    assert set(metrics) == {
        "average",
        *(f"{task}/validation/{name}" for task, each in names.items() for name in each),
    }
    main = metrics["mrpc/validation/f1"] + metrics["stsb/validation/pearson"]
    assert metrics["average"] == pytest.approx(main / 2)
    steps = [values for values in lines(trained) if "train/loss" in values]
    tasks = [{name.split("/")[1] for name in values if name.count("/") == 2} for values in steps]
    assert tasks[0] != tasks[1]
    assert tasks == [{"mrpc", "stsb"} & each for each in tasks]
    for values in steps:
        (name,) = (name for name in values if name.endswith("/loss") and name.count("/") == 2)
        assert values["train/loss"] == values[name]


@pytest.mark.slow
def test_a_resumed_run_is_the_same(
    given: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped after half its steps and run again: all arrays are equal to the last bit."""
    made = MixedStream.starting_at

    def stopping(stream: MixedStream, step: int) -> Iterator[Any]:
        for number, batch in enumerate(made(stream, step)):
            if number == STEPS // 2 - 1:
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(MixedStream, "starting_at", stopping)
    with pytest.raises(Interrupted):
        finetune(config(given), str(tmp_path / "run"))
    monkeypatch.undo()
    finetune(config(given), str(tmp_path / "run"))
    assert digests(tmp_path / "run", STEPS) == digests(trained, STEPS)
    assert lines(tmp_path / "run") == lines(trained)
    assert result(tmp_path / "run")["metrics"] == result(trained)["metrics"]


def test_a_head_is_found_by_its_task(trained: Path, capsys: pytest.CaptureFixture[str]):
    """In the workdir, and in the Hugging Face folder that each has for itself."""
    pair = [("a cat sleeps here .", "the dog runs .")]
    for task, answer in (("mrpc", "label"), ("stsb", "score")):
        ours = bertjax.load(str(trained), task).predict(pair)
        theirs = bertjax.load(str(trained / "huggingface" / task), task).predict(pair)
        assert next(iter(ours[0])) == answer
        assert ours == theirs
    capsys.readouterr()
    assert cli.main(["evaluate", f"--workdir={trained}", "--task=stsb"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for name in ("loss", "pearson"):
        want = result(trained)["metrics"][f"stsb/validation/{name}"]
        assert printed[f"validation/{name}"] == pytest.approx(want, rel=1e-5)


def test_a_task_must_be_named(trained: Path):
    with pytest.raises(UserError, match=r"trained for several tasks; name one .*: mrpc, stsb"):
        bertjax.load(str(trained))
    with pytest.raises(UserError, match=r"was not trained for task 'mnli'"):
        bertjax.load(str(trained), "mnli")
    with pytest.raises(UserError, match=r"has heads of several tasks \(mrpc, stsb\)"):
        read_model(str(trained))


def test_what_one_task_of_several_has_tuned(tmp_path: Path):
    """SQuAD 2.0's null threshold is found under the task's name."""
    experiment = dataclasses.asdict(config(tmp_path, "squad2+rte"))
    document = {"bertjax": "0", "experiment": experiment, "model": {}, "heads": {}, "labels_of": {}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    metrics = {"squad2/validation/best_f1_thresh": -1.5, "validation/best_f1_thresh": 9.0}
    (tmp_path / "result.json").write_text(json.dumps({"metrics": metrics}))
    task, _ = predict._task_of_workdir(epath.Path(tmp_path), "squad2")
    assert task is not None
    assert task.options()["null_threshold"] == -1.5
    (tmp_path / "result.json").unlink()
    task, _ = predict._task_of_workdir(epath.Path(tmp_path), "squad2")
    assert task is not None
    assert task.options()["null_threshold"] is None


def test_a_trained_workdir_is_where_another_task_begins(trained: Path):
    """Intermediate training: the encoder is the trained one, the head is new where the task is."""
    heads = {name: get_task(name).head for name in ("mrpc", "cola")}
    found = load_pretrained(str(trained), heads)
    best = bertjax.load(str(trained), "mrpc").params
    equal = jax.tree.map(np.array_equal, jax.device_get(best["encoder"]), found.params["encoder"])
    assert all(jax.tree.leaves(equal))
    assert found.has_head("mrpc")
    assert not found.has_head("cola")
    assert "newly initialised: heads/cola" in found.notes[0]
    again = load_pretrained(str(trained), {"mrpc": heads["mrpc"]}, new_heads=True)
    assert not again.has_head("mrpc")
    of_folder = str(trained / "huggingface" / "stsb")
    changed = load_pretrained(of_folder, {"mnli": HeadConfig("classification", 3)}, new_heads=True)
    assert not changed.has_head("mnli")
    encoder = jax.tree.map(np.array_equal, found.params["encoder"], changed.params["encoder"])
    assert all(jax.tree.leaves(encoder))


def some_objective(power: int) -> Objective:
    """The weighted mean of ``(x * w) ** power``."""

    def sums(params: Any, batch: Any, drop: Any, key: Any) -> Any:
        values = (batch["x"] * params["w"]) ** power
        return {"loss": (jnp.sum(values * batch["weights"]), jnp.sum(batch["weights"]))}

    return Objective(sums, (Loss("loss", lambda batch: batch["weights"], factor=power),))


def test_an_objective_of_several_tasks():
    """Of a batch with one it is that one's; with both, their sum; micro-batches do not matter."""
    each = {"a": some_objective(2), "b": some_objective(3)}
    rng = np.random.default_rng(0)
    params = {"w": jnp.float32(1.5)}

    def part(rows: int) -> dict[str, jax.Array]:
        made = {"x": rng.normal(1, 1, (2, rows)), "weights": rng.uniform(0, 1, (2, rows))}
        return {name: jnp.asarray(value, jnp.float32) for name, value in made.items()}

    both: Any = {"a": part(5), "b": part(3)}
    key = jax.random.key(0)
    found = {}
    for name, objective in each.items():
        gradient, sums = accumulate(objective, params, both[name], None, key)
        one: Any = {name: both[name]}
        got, mine = accumulate(mixed(each), params, one, None, key)
        assert set(mine) == {f"{name}/loss"}
        np.testing.assert_allclose(got["w"], gradient["w"], rtol=1e-6)
        np.testing.assert_allclose(mixed(each).total(mine), objective.total(sums), rtol=1e-6)
        found[name] = gradient["w"]
    got, _ = accumulate(mixed(each), params, both, None, key)
    np.testing.assert_allclose(got["w"], found["a"] + found["b"], rtol=1e-6)
    whole = jax.tree.map(lambda x: x.reshape(1, -1), both)
    at_once, _ = accumulate(mixed(each), params, whole, None, key)
    np.testing.assert_allclose(at_once["w"], got["w"], rtol=1e-5)


def test_fields_of_single_tasks(given: Path):
    """``{task}`` in the data, other data of one, columns only where they are meant."""
    several = config(
        given,
        "classification+rte",
        data="files:glue/{task}",
        task_data={"rte": "files:elsewhere"},
        text_columns=("question",),
    )
    alone = [several.of_task(name) for name in ("classification", "rte")]
    assert [one.task for one in alone] == ["classification", "rte"]
    assert [one.data for one in alone] == ["files:glue/classification", "files:elsewhere"]
    assert [one.text_columns for one in alone] == [("question",), None]
    one = config(given, "rte")
    assert one.of_task("rte") == one


def test_the_average_is_of_shares():
    """SQuAD's scores are percentages; a task that is not evaluated has no part in it."""

    def part(name: str, split: str | None, **scores: float) -> TaskParts:
        task = get_task(name)
        found = {f"{split}/{metric}": value for metric, value in scores.items()}
        stub: Any = SimpleNamespace(split=split)
        evaluators = () if split is None else (stub,)
        made: Any = SimpleNamespace(task=task, evaluate=lambda params: found)
        made.main_metric = TaskParts(task, (), evaluators).main_metric
        return made

    parts = [
        part("squad", "validation", f1=80.0, exact=70.0),
        part("rte", "validation", accuracy=0.6),
        part("ax", None),
    ]
    found = evaluate(parts, None)
    assert found["average"] == pytest.approx(0.7)
    assert found["squad/validation/exact"] == 70.0
    assert main_metric(parts) == "average"
    assert main_metric(parts[2:] * 2) is None


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "twice": ("rte+mrpc+rte", {}, r"'task': 'rte\+mrpc\+rte' names rte twice"),
    "none": ("rte+", {}, r"'task': 'rte\+' names no task beside a \+"),
    "alpha": ("rte+mrpc", {"alpha": 1.5}, r"'alpha' must be in \[0, 1\], not 1.5"),
    "data": ("rte+mrpc", {"task_data": {"rt": "x"}}, "has a task 'rt' that .*; did you mean 'rte'"),
    "data of one": ("rte", {"task_data": {"rte": "x"}}, "set 'data' of a single task"),
    "options": ("rte+mrpc", {"options": {"cola": {}}}, "'options' has a task 'cola' that the exp"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_fields(name: str, given: Path):
    task, changes, words = WRONG[name]
    with pytest.raises(UserError, match=words):
        config(given, task, **changes)


def test_an_unknown_task_among_several(given: Path, tmp_path: Path):
    with pytest.raises(UserError, match="there is no task 'colla'; did you mean 'cola'"):
        finetune(config(given, "mrpc+colla"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_draws_of_these_tests():
    """What :data:`SEED` was chosen for."""
    drawn = list(islice(Mixture((32, 32), 0.75, SEED).draws(0), STEPS))
    assert set(drawn[:2]) == set(drawn[2:]) == {0, 1}
