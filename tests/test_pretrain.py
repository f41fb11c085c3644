"""``bertjax pretrain`` from end to end, on made-up documents and a model of two thin layers."""

from __future__ import annotations

import json
import signal
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_tfrecords import padded, write
from tiny import WORDS, tiny_glue, tiny_model
from tiny_pretraining import ARCHITECTURE, command, fields, tiny_corpus, tiny_tokenizer

from bertjax.cli import main as cli
from bertjax.data.batching import Batch
from bertjax.models import Model
from bertjax.train import loop
from bertjax.train import pretrain as pretraining
from bertjax.train.pretrain import assemble, batches, phase_seed
from bertjax.train.pretrain_config import PretrainConfig, stretches
from bertjax.train.pretrain_models import HEADS, multiplier
from bertjax.train.pretrained import load_pretrained
from bertjax.types import UserError

METRICS = ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy")
FILES = (
    *("checkpoints", "config.json", "huggingface", "metrics.jsonl", "result.json"),
    *("tensorboard", "tokenizer"),
)


def config_of(data: object, **changes: object) -> PretrainConfig:
    """The typed config of a small run."""
    values = fields(data, **changes)
    if values["model"].startswith("preset:"):
        values["architecture"] = ARCHITECTURE | changes.get("architecture", {})  # type: ignore
    if isinstance(data, tuple):
        values["data"] = data
    return PretrainConfig.from_mapping(values)


def lines(workdir: Path, name: str = "train/loss") -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` that hold ``name``."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [values for values in found if name in values]


def original(row: Batch) -> np.ndarray:
    """The tokens of a row as they were before some were masked."""
    tokens, count = row["token_ids"].copy(), int(row["prediction_weight"].sum())
    tokens[row["prediction_position"][:count]] = row["prediction_labels"][:count]
    return tokens


def rows_of(batch: Batch) -> Iterator[Batch]:
    """Every row of a batch of micro-batches."""
    micro, size = batch["token_ids"].shape[:2]
    for i in range(micro):
        for j in range(size):
            yield {name: value[i, j] for name, value in batch.items()}


@pytest.fixture(scope="module")
def trained(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run with next-sentence prediction."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert cli.main(command(tiny_prepared, workdir, eval_every=2, peak_flops=1e9)) == 0
    return workdir


def test_a_run_leaves_everything_in_its_workdir(trained: Path):
    assert sorted(path.name for path in trained.iterdir()) == sorted(FILES)
    result = json.loads((trained / "result.json").read_text())
    assert (result["task"], result["steps"], result["best_step"]) == ("pretraining", 4, 4)
    assert result["huggingface"] == "huggingface"
    last = lines(trained, "validation/loss")[-1]
    assert result["metrics"] == {k: v for k, v in last.items() if k != "step"}
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["4"]


def test_metrics_of_training(trained: Path):
    found = lines(trained)
    assert [values["step"] for values in found] == [1, 2, 3, 4]
    for values in found:
        assert all(np.isfinite(values[f"train/{name}"]) for name in METRICS)
        parts = values["train/masked_lm_loss"] + values["train/next_sentence_loss"]
        assert values["train/loss"] == pytest.approx(parts, rel=1e-5)
        assert 0 < values["tokens_per_second"] <= 32 * values["examples_per_second"]
        expected = values["flops_per_second"] / (8 * 1e9)  # eight devices
        assert values["utilisation"] == pytest.approx(expected)


def test_metrics_of_held_out_rows(trained: Path):
    found = lines(trained, "validation/loss")
    assert [values["step"] for values in found] == [2, 4]
    for values in found:
        loss = values["validation/masked_lm_loss"]
        assert values["validation/masked_lm_perplexity"] == pytest.approx(np.exp(loss))
        total = loss + values["validation/next_sentence_loss"]
        assert values["validation/loss"] == pytest.approx(total)
        assert 0 <= values["validation/next_sentence_accuracy"] <= 1
        assert 0 <= values["validation/masked_lm_accuracy"] <= 1


def test_a_finished_run_is_read(
    trained: Path, tiny_prepared: Path, capsys: pytest.CaptureFixture[str]
):
    before = (trained / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert cli.main(command(tiny_prepared, trained, eval_every=2, peak_flops=1e9)) == 0
    told = capsys.readouterr()
    assert "is finished; its result is read" in told.err
    assert "parameters for 4 steps" in told.out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_the_start_says_what_is_ahead(
    tiny_prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Sources, parameters, steps, rows and passes: nothing else."""
    assert cli.main(command(tiny_prepared, tmp_path / "run", held_out=0, export=False)) == 0
    told = capsys.readouterr()
    count = json.loads((tmp_path / "run" / "result.json").read_text())["parameters"]
    tokens = json.loads((tiny_prepared / "manifest.json").read_text())["totals"]["tokens"]
    corpora = assemble(config_of(tiny_prepared, held_out=0)).corpora
    rows = corpora.rows("train", 32, phase_seed(0, 0))
    assert rows is not None
    assert told.err.splitlines() == [
        f"{tiny_prepared}: 40 documents, {tokens:,} tokens",
        f"{count:,} parameters, to be trained for 4 steps",
        f"rows of 32 tokens: {rows.count} a pass; 4 steps of 8 make {32 / rows.count:.2f} passes",
    ]
    assert not lines(tmp_path / "run", "validation/loss")  # held_out=0: nothing to evaluate
    assert not (tmp_path / "run" / "huggingface").exists()


# Exports.


def some_batch(rows: int = 2, length: int = 12) -> Batch:
    """Texts of two types in which every token is predicted."""
    draw = np.random.default_rng(0)
    grid = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return {
        "token_ids": draw.integers(5, len(WORDS), (rows, length)).astype(np.int32),
        "type_ids": (grid >= 7).astype(np.int32),
        "segment_ids": np.ones((rows, length), np.int32),
        "positions": grid,
        "cls_position": np.zeros((rows, 1), np.int32),
        "prediction_position": grid,
    }


def our_logits(workdir: Path, heads: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Logits of a workdir's newest checkpoint."""
    named = {name: HEADS[name] for name in heads}
    found = load_pretrained(str(workdir), named)
    assert set(found.params["heads"]) == set(heads)
    model = Model(found.config, tuple(named.items()))
    logits = model.apply({"params": found.params}, some_batch(), heads, method="all")
    return {name: np.asarray(value) for name, value in logits.items()}  # type: ignore


def their_logits(folder: Path, kind: str) -> Any:
    """The output of a model class of transformers; nothing may be missing in the folder."""
    torch = pytest.importorskip("torch", reason="transformers' models need torch")
    import transformers

    model, told = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not [*told["missing_keys"], *told["unexpected_keys"]], told
    batch = {name: torch.tensor(some_batch()[name]).long() for name in ("token_ids", "type_ids")}
    with torch.no_grad():
        return model.eval()(input_ids=batch["token_ids"], token_type_ids=batch["type_ids"])


EXPORTS: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "next_sentence": (
        {},
        "BertForPreTraining",
        {"masked_lm": "prediction_logits", "next_sentence": "seq_relationship_logits"},
    ),
    "none": ({"sentence_task": "none"}, "BertForMaskedLM", {"masked_lm": "logits"}),
    "sentence_order": (
        {
            "model": "preset:albert_base",
            "architecture.embedding_size": 16,
            "sentence_task": "sentence_order",
        },
        "AlbertForPreTraining",
        {"masked_lm": "prediction_logits", "sentence_order": "sop_logits"},
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_export_computes_the_same_in_transformers(
    name: str, tiny_prepared: Path, tmp_path: Path
):
    changes, kind, outputs = EXPORTS[name]
    assert cli.main(command(tiny_prepared, tmp_path / "run", steps=2, **changes)) == 0
    theirs = their_logits(tmp_path / "run" / "huggingface", kind)
    for head, ours in our_logits(tmp_path / "run", tuple(outputs)).items():
        expected = theirs[outputs[head]].numpy().reshape(ours.shape)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5, err_msg=head)


def finetune(model: Path, glue: Path, workdir: Path) -> list[str]:
    values = {"model": model, "data": f"files:{glue}", "max_length": 32, "batch_size": 8}
    values |= {"steps": 2, "log_every": 1, "unroll": 1, "export": False}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    config = "--config=configs/finetune.py:task=mrpc"
    return ["finetune", config, f"--workdir={workdir}", *flags]


def test_what_was_pretrained_is_finetuned(trained: Path, tmp_path: Path):
    """The workdir and its Hugging Face folder are the same model."""
    glue, found = tiny_glue(tmp_path / "glue"), []
    for name, model in {"workdir": trained, "folder": trained / "huggingface"}.items():
        assert cli.main(finetune(model, glue, tmp_path / name)) == 0
        found.append([values["train/loss"] for values in lines(tmp_path / name)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_what_was_pretrained_is_converted(trained: Path, tmp_path: Path):
    assert cli.main(["convert", f"--from={trained}", f"--to={tmp_path / 'there'}"]) == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        there, exported = tmp_path / "there" / name, trained / "huggingface" / name
        assert there.read_bytes() == exported.read_bytes(), name


# Going on from weights.


def assert_trees_equal(found: Any, expected: Any) -> None:
    named = dict(jax.tree_util.tree_leaves_with_path(expected))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        np.testing.assert_array_equal(leaf, named[path], err_msg=str(path))


def test_warm_start_from_a_folder(
    tiny_prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The encoder is the folder's, and what it lacks is new, as is said; what is frozen stays."""
    model = tiny_model(tmp_path / "model", **ARCHITECTURE)
    parts = assemble(config_of(tiny_prepared, model=str(model)))
    given = load_pretrained(str(model), {})
    before = given.params["encoder"]
    assert set(before) == {"embeddings", "layers", "pooler"}
    assert_trees_equal(parts.params["encoder"], before)
    assert parts.model.config == given.config
    changes = {"model": model, "freeze": "('encoder/layers/0/.*',)", "export": False}
    assert cli.main(command(tiny_prepared, tmp_path / "run", **changes)) == 0
    told = capsys.readouterr().err
    assert "newly initialised: heads/masked_lm, heads/next_sentence" in told
    after = load_pretrained(str(tmp_path / "run"), {}).params["encoder"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(before["layers"]):
        found = after["layers"]
        for key in path:
            found = found[key.key]
        assert np.array_equal(found[0], leaf[0]), path
        assert not np.array_equal(found[1], leaf[1]), path
    assert not np.array_equal(before["embeddings"]["word"], after["embeddings"]["word"])


@pytest.mark.parametrize("task", ["next_sentence", "none", "sentence_order"])
def test_warm_start_from_a_workdir(trained: Path, tiny_prepared: Path, task: str):
    """Heads that were trained before are gone on with; others are new."""
    parts = assemble(config_of(tiny_prepared, model=str(trained), sentence_task=task))
    heads = {"masked_lm": HEADS["masked_lm"], "next_sentence": HEADS["next_sentence"]}
    expected = load_pretrained(str(trained), heads).params
    assert_trees_equal(parts.params, expected)
    kept = ["masked_lm", *["next_sentence"] * (task == "next_sentence")]
    assert sorted(parts.params["heads"]) == sorted(kept)
    assert ("pooler" in parts.params["encoder"]) == (task != "none")


def test_a_warm_start_begins_where_the_other_run_ended(
    trained: Path, tiny_prepared: Path, tmp_path: Path
):
    """With a learning rate of 0 nothing is forgotten: the held-out metrics are the same."""
    arguments = command(
        tiny_prepared, tmp_path / "run", model=trained, learning_rate=0, steps=1, export=False
    )
    assert cli.main(arguments) == 0
    first, second = (
        json.loads((folder / "result.json").read_text())["metrics"]
        for folder in (trained, tmp_path / "run")
    )
    assert second == pytest.approx(first, rel=1e-5)


# What the rows are.


@pytest.mark.parametrize("task", ["none", "next_sentence", "sentence_order"])
def test_sentence_tasks(tiny_prepared: Path, task: str):
    parts = assemble(config_of(tiny_prepared, sentence_task=task))
    names = ["masked_lm", *[task] * (task != "none")]
    assert [name for name, _ in parts.model.head_configs] == names
    batch = next(batches(parts, 0))
    assert batch["token_ids"].shape == (1, 8, 32)
    labelled = batch["example_weight"].sum()
    assert labelled == 0 if task == "none" else labelled >= 4
    assert (batch["type_ids"].max() == 1) == (task != "none")


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
def test_mask_units(tiny_prepared: Path, unit: str):
    """N-grams leave predictions side by side; words never part a word's pieces."""
    parts = assemble(config_of(tiny_prepared, mask_unit=unit, batch_size=64, mask_rate=0.3))
    batch, together, predictions = next(batches(parts, 0)), 0, 0
    for row in rows_of(batch):
        places = row["prediction_position"][: int(row["prediction_weight"].sum())]
        together += int((np.diff(places) == 1).sum())
        predictions += len(places)
    share = together / predictions
    assert share > 0.45 if unit == "ngram" else share < 0.42, share


def test_held_out_rows_do_not_depend_on_the_masking(tiny_prepared: Path):
    """So that the losses of runs with different masking can be compared."""
    found = [
        assemble(config_of(tiny_prepared, **changes)).corpora.rows("validation", 32, 0)
        for changes in ({}, {"mask_unit": "ngram", "mask_rate": 0.4, "mask_share": 1.0,
                             "random_share": 0.0, "seed": 5})
    ]  # fmt: skip
    assert found[0] is not None
    assert found[1] is not None
    for index in range(found[0].count):
        for name, value in found[0][index].items():
            assert np.array_equal(value, found[1][index][name]), name


def test_no_document_is_both_trained_on_and_held_out(tmp_path: Path):
    """Documents of one word each: the words of the two splits are different ones."""
    words = [f"{a}{b}" for a in "bcdfg" for b in "bcdfghjk"]
    vocabulary = [*WORDS[:5], ".", *words]
    folder = tmp_path / "words"
    tiny_tokenizer(folder / "tokenizer", vocabulary)
    text = "\n\n".join("\n".join([f"{word} {word} ."] * 3) for word in words)
    (folder / "text.txt").write_text(text)
    from bertjax.corpus.prepare import prepare
    from bertjax.corpus.shards import Preparation

    how = Preparation(sentences="lines")
    prepare(str(folder / "text.txt"), str(folder / "tokenizer"), folder / "out", how, workers=1)
    corpora = assemble(config_of(folder / "out", held_out=0.2)).corpora
    seen = {}
    for split in ("train", "validation"):
        rows = corpora.rows(split, 32, 0)
        assert rows is not None
        seen[split] = {t for i in range(rows.count) for t in original(rows[i]).tolist() if t > 5}
    assert not seen["train"] & seen["validation"]
    assert len(seen["train"]) == 32
    assert len(seen["validation"]) == 8


def test_validation_data(tiny_prepared: Path, tmp_path: Path):
    """Nothing is held out of the training data, and all of the other corpus is evaluated."""
    other = tiny_corpus(tmp_path / "other", documents=5, seed=3)
    config = config_of(tiny_prepared, validation_data=(str(other),))
    whole = config_of(tiny_prepared, held_out=0)
    found = assemble(config).corpora
    rows, everything = found.rows("train", 32, 1), assemble(whole).corpora.rows("train", 32, 1)
    assert rows is not None
    assert everything is not None
    assert rows.count == everything.count
    held_out = found.rows("validation", 32, 0)
    expected = assemble(config_of(other, held_out=0)).corpora.rows("train", 32, 0)
    assert held_out is not None
    assert expected is not None
    assert held_out.count == expected.count
    assert np.array_equal(original(held_out[0]), original(expected[0]))
    assert found.describe()[1].endswith("tokens (validation)")


def test_corpora_are_mixed_by_weight(tmp_path: Path):
    """Three rows of the one to each row of the other."""
    first = tiny_corpus(tmp_path / "first", words=WORDS[7:11])
    second = tiny_corpus(tmp_path / "second", words=WORDS[11:15], seed=1)
    parts = assemble(config_of((f"{first}=3", f"{second}=1"), batch_size=16))
    stream, counts = batches(parts, 0), [0, 0]
    for _ in range(4):
        for row in rows_of(next(stream)):
            tokens = original(row)
            counts[int(((tokens >= 11) & (tokens < 15)).any())] += 1
            assert not (((tokens >= 7) & (tokens < 11)).any() and (tokens[tokens >= 11] < 15).any())
    assert counts == [48, 16]


def test_a_mixture_trains(tmp_path: Path, tiny_prepared: Path):
    other = tiny_corpus(tmp_path / "other", documents=12, seed=4)
    data = f"('{tiny_prepared}','{other}=0.5')"
    assert cli.main(command(data, tmp_path / "run", export=False)) == 0
    assert len(lines(tmp_path / "run")) == 4


def masked_examples(path: Path, count: int = 40) -> Path:
    """What create_pretraining_data.py would write with the tiny vocabulary."""
    draw, examples = np.random.default_rng(0), []
    for _ in range(count):
        length = int(draw.integers(9, 33)) if examples else 32
        tokens = [2, *draw.integers(5, len(WORDS), length - 2), 3]
        labels = [tokens[place] for place in (1, 4)]
        tokens[1] = tokens[4] = 4
        examples.append(
            {
                "input_ids": padded(tokens, 32),
                "input_mask": padded([1] * length, 32),
                "segment_ids": padded([0] * 5 + [1] * (length - 5), 32),
                "masked_lm_positions": padded([1, 4], 5),
                "masked_lm_ids": padded(labels, 5),
                "masked_lm_weights": padded([1.0, 1.0], 5),
                "next_sentence_labels": [int(draw.integers(2))],
            }
        )
    return write(path, examples)


def test_tfrecords(tmp_path: Path):
    """Trained as they are: the masks are the file's."""
    path = masked_examples(tmp_path / "examples.tfrecord")
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    changes = {"tokenizer": str(tokenizer)}
    batch = next(batches(assemble(config_of(f"tfrecord:{path}", **changes)), 0))
    assert batch["prediction_position"].shape == (1, 8, 5)
    assert (batch["prediction_weight"].sum(axis=-1) == 2).all()
    assert (batch["prediction_position"][..., :2] == [1, 4]).all()
    assert (batch["token_ids"][..., [1, 4]] == 4).all()
    assert cli.main(command(f"tfrecord:{path}", tmp_path / "run", **changes)) == 0
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert np.isfinite([metrics[f"validation/{name}"] for name in METRICS]).all()


# Phases, schedules and budgets.

PHASES = ({"max_length": 16, "share": 0.6}, {"max_length": 32, "share": 0.4, "batch_size": 16})


def linear(steps: int, warmup: int) -> list[float]:
    """The shares of the peak, by hand."""
    return [
        step / warmup if step < warmup else 1 - (step - warmup) / (steps - warmup)
        for step in range(steps)
    ]


def test_phases_change_the_shapes_and_go_on(tiny_prepared: Path):
    """The batches from any step on are those of the whole run."""
    parts = assemble(config_of(tiny_prepared, steps=10, phases=PHASES))
    whole = list(batches(parts, 0))
    assert [batch["token_ids"].shape[1:] for batch in whole] == [(8, 16)] * 6 + [(16, 32)] * 4
    for start in (1, 6, 8, 10):
        rest = list(batches(parts, start))
        assert len(rest) == 10 - start
        for found, expected in zip(rest, whole[start:], strict=True):
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


RATES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "one schedule": ({"steps": 10, "warmup_ratio": 0.2, "phases": PHASES}, linear(10, 2)),
    "restart": (
        {
            "steps": 10,
            "warmup_ratio": 0.2,
            "phases": (
                {"max_length": 16, "share": 0.6},
                {"max_length": 32, "share": 0.4, "learning_rate": 5e-3, "warmup_ratio": 0.5},
            ),
        },
        [*linear(6, 1), *(0.5 * share for share in linear(4, 2))],
    ),
    "first phase's own": (
        {
            "steps": 8,
            "warmup_ratio": 0.0,
            "phases": (
                {"max_length": 16, "share": 0.5, "learning_rate": 2e-2, "warmup_ratio": 0.25},
                {"max_length": 32, "share": 0.5},
            ),
        },
        [2 * share for share in linear(8, 2)],
    ),
    "two that go on, one that restarts": (
        {
            "steps": 12,
            "warmup_ratio": 0.0,
            "phases": (
                {"max_length": 16, "share": 0.25},
                {"max_length": 16, "share": 0.25, "learning_rate": 1e-2},
                {"max_length": 32, "share": 0.5},
            ),
        },
        [*linear(3, 0), *linear(9, 0)],
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_of_phases(name: str, tiny_prepared: Path):
    changes, expected = RATES[name]
    shares = multiplier(config_of(tiny_prepared, **changes))
    found = [float(shares(step)) for step in range(len(expected))]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_a_budget_in_tokens(tiny_prepared: Path):
    """Padding is counted; the shares are shares of the tokens, not of the steps."""
    config = config_of(tiny_prepared, steps=0, tokens=8 * 32 * 5)
    assert [(part.first, part.last) for part in stretches(config)] == [(0, 5)]
    phases = ({"max_length": 16, "share": 0.5}, {"max_length": 32, "share": 0.5})
    config = config_of(tiny_prepared, steps=0, tokens=8 * 32 * 10, phases=phases)
    assert [(part.first, part.last) for part in stretches(config)] == [(0, 10), (10, 15)]


class Clock:
    """Stands for ``time``: every look at it takes a quarter of a second."""

    def __init__(self, start: float = 0.0, interrupt_at: int = 0):
        self.now, self.looks, self.interrupt_at = start, 0, interrupt_at

    def perf_counter(self) -> float:
        self.now += 0.25
        self.looks += 1
        if self.looks == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Clock], None]:
    """Sets the clock that the loop looks at."""

    def install(value: Clock) -> None:
        stand_in = types.SimpleNamespace(perf_counter=value.perf_counter)
        monkeypatch.setattr(loop, "time", stand_in)

    return install


def test_a_budget_in_minutes(tiny_prepared: Path, tmp_path: Path, clock: Callable[[Clock], None]):
    """Six seconds of a quarter each: the rate follows the clock down to zero, and a run that was
    interrupted goes on with the time that it had left.
    """
    changes = {"steps": 0, "minutes": 0.1, "warmup_ratio": 0.25, "export": False}
    arguments = [command(tiny_prepared, tmp_path / name, **changes) for name in ("one", "two")]
    clock(Clock())
    assert cli.main(arguments[0]) == 0
    rates = [values["train/learning_rate"] for values in lines(tmp_path / "one")]
    np.testing.assert_allclose(rates, np.multiply(1e-2, linear(24, 6)), rtol=1e-5, atol=1e-9)
    clock(Clock(interrupt_at=12))
    assert cli.main(arguments[1]) == 130
    before = len(lines(tmp_path / "two"))
    assert 5 < before < 15
    clock(Clock(start=5000))
    assert cli.main(arguments[1]) == 0
    for name in ("train/learning_rate", "train/loss"):
        found = [[v[name] for v in lines(tmp_path / folder)] for folder in ("one", "two")]
        assert found[0] == found[1]
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["steps"] == 24


def test_the_clock_may_allow_more_steps_than_the_schedule_counts(
    tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch
):
    from bertjax.train import pretrain_config

    monkeypatch.setattr(pretrain_config, "CLOCK_STEPS", 3)
    parts = assemble(config_of(tiny_prepared, steps=0, minutes=1.0))
    stream = batches(parts, 2)
    found = [next(stream) for _ in range(4)]
    again = next(batches(parts, 5))
    assert all(np.array_equal(found[3][name], again[name]) for name in again)


def test_accumulation_divides_the_batch(tiny_prepared: Path):
    """The micro-batches are the same rows in the same order."""
    one, four = (
        next(batches(assemble(config_of(tiny_prepared, batch_size=32, accumulation=count)), 1))
        for count in (1, 4)
    )
    for name, value in four.items():
        assert value.shape[:2] == (4, 8)
        assert np.array_equal(value.reshape(one[name].shape), one[name])


def test_checkpoints_that_are_kept(tiny_prepared: Path, tmp_path: Path):
    changes = {"steps": 7, "save_every": 1, "keep_every": 3, "export": False}
    assert cli.main(command(tiny_prepared, tmp_path / "run", **changes)) == 0
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [3, 6, 7]


def test_a_pretrained_model_reads_phases_of_its_config(tiny_prepared: Path):
    """The config that is written can be read again."""
    config = config_of(tiny_prepared, steps=10, phases=PHASES)
    document = json.loads(json.dumps(pretraining.document(assemble(config))))
    assert PretrainConfig.from_mapping(document["experiment"]) == config


def test_unknown_words_name_the_near_ones(tiny_prepared: Path):
    with pytest.raises(UserError, match="did you mean 'next_sentence'"):
        config_of(tiny_prepared, sentence_task="next_sentense")
