"""ELECTRA: the pair's loss and gradients by hand, and its runs from end to end."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disturbed import digests
from test_pretrain import config_of, finetune, lines, some_batch, their_logits
from tiny import WORDS, tiny_glue
from tiny_pretraining import command

from bertjax.cli import main as cli
from bertjax.data.batching import Batch
from bertjax.models import Dropout, Electra, Model
from bertjax.train import pretrain as pretraining
from bertjax.train.objectives import fill, replaced_token
from bertjax.train.pretrain import PretrainParts, assemble, batches
from bertjax.train.pretrain_models import HEADS
from bertjax.train.pretrained import load_pretrained
from bertjax.train.state import create_state

ELECTRA = {
    "model": "preset:electra_small",
    "objective": "replaced_token",
    "sentence_task": "none",
    "mask_share": 1.0,
    "random_share": 0.0,
}
SIZE = {"embedding_size": 16}
FACTOR = 50.0


@pytest.fixture(scope="module")
def parts(tiny_prepared: Path) -> PretrainParts:
    return assemble(config_of(tiny_prepared, architecture=SIZE, **ELECTRA))


@pytest.fixture(scope="module")
def pair(parts: PretrainParts) -> Electra:
    assert isinstance(parts.trained, Electra)
    return parts.trained


@pytest.fixture(scope="module")
def params(parts: PretrainParts) -> Any:
    """Wider than at the start of a run, so that the losses are not those of chance."""
    start = create_state(parts.trained, parts.config.optim, parts.mesh, seed=0).params
    return jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, jax.device_get(start))


@pytest.fixture(scope="module")
def batch(parts: PretrainParts) -> Batch:
    return {name: value[0] for name, value in next(batches(parts, 0)).items()}


def test_the_generator_reads_with_the_discriminators_embeddings(pair: Electra, params: Any):
    """They are stored once; its own projection, encoder and head are its own."""
    theirs = pair.generator_params(params)["encoder"]["embeddings"]
    ours = params["encoder"]["embeddings"]
    for name in ("word", "position", "type", "norm"):
        for mine, other in zip(
            jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True
        ):
            assert mine is other
    own = params["generator"]
    assert set(own["encoder"]["embeddings"]) == {"projection"}
    assert own["encoder"]["embeddings"]["projection"]["kernel"].shape == (16, 64)
    assert ours["projection"]["kernel"].shape == (16, 32)
    assert set(pair.discriminator_params(params)) == {"encoder", "heads"}


def by_hand(pair: Electra, params: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
    """Losses as the paper states them, place by place; the draws are the step's own."""
    keys = jax.random.split(key, 3)
    arrays = jax.tree.map(jnp.asarray, dict(batch))
    logits: Any = pair.generator.apply(
        {"params": pair.generator_params(params)}, arrays, "masked_lm"
    )
    drawn = np.asarray(jax.random.categorical(keys[1], logits)).reshape(
        batch["prediction_labels"].shape
    )
    scores = np.asarray(jax.nn.log_softmax(logits), np.float64).reshape(*drawn.shape, -1)
    seen, replaced = batch["token_ids"].copy(), np.zeros(batch["token_ids"].shape)
    generator_losses = []
    for row, column in zip(*np.nonzero(batch["prediction_weight"]), strict=True):
        place = batch["prediction_position"][row, column]
        label, put = batch["prediction_labels"][row, column], drawn[row, column]
        generator_losses.append(-scores[row, column, label])
        seen[row, place], replaced[row, place] = put, put != label
    found: Any = pair.discriminator.apply(
        {"params": pair.discriminator_params(params)},
        {**arrays, "token_ids": jnp.asarray(seen)},
        "replaced_token",
    )
    chance = 1 / (1 + np.exp(-np.asarray(found, np.float64)[..., 0]))
    real = batch["segment_ids"] > 0
    losses = -np.where(replaced > 0, np.log(chance), np.log(1 - chance))[real]
    return {
        "masked_lm": generator_losses,
        "replaced_token": losses,
        "replaced": replaced,
        "right": ((chance > 0.5) == (replaced > 0))[real].sum(),
    }


def test_the_loss_of_the_pair(pair: Electra, params: Any, batch: Batch):
    key = jax.random.key(3)
    objective = replaced_token(pair, FACTOR)
    sums = objective(params, jax.tree.map(jnp.asarray, dict(batch)), None, key)
    expected = by_hand(pair, params, batch, key)
    for name in ("masked_lm", "replaced_token"):
        total, weight = map(float, sums[f"{name}_loss"])
        assert weight == len(expected[name])
        assert total == pytest.approx(np.sum(expected[name]), rel=1e-4)
    assert float(sums["replaced_token_accuracy"][0]) == expected["right"]
    assert float(sums["replaced_share"][0]) == expected["replaced"].sum()
    means = [np.mean(expected[name]) for name in ("masked_lm", "replaced_token")]
    assert float(objective.total(sums)) == pytest.approx(means[0] + FACTOR * means[1], rel=1e-4)


def always(params: Any, token: int) -> Any:
    """Parameters with which the generator draws one token everywhere."""
    head = dict(params["generator"]["heads"]["masked_lm"])
    bias = np.zeros_like(head["bias"])
    bias[token] = 1e4
    heads = {"masked_lm": {**head, "bias": bias}}
    return {**params, "generator": {**params["generator"], "heads": heads}}


def test_a_token_that_is_drawn_as_it_was_is_not_replaced(pair: Electra, params: Any, batch: Batch):
    token, chosen = int(batch["prediction_labels"][0, 0]), batch["prediction_weight"] > 0
    other = int(((batch["prediction_labels"] != token) & chosen).sum())
    assert 0 < other < chosen.sum()
    sums = replaced_token(pair, FACTOR)(
        always(params, token), jax.tree.map(jnp.asarray, dict(batch)), None, jax.random.key(0)
    )
    assert float(sums["replaced_share"][0]) == other


def test_only_chosen_places_are_filled(batch: Batch, parts: PretrainParts):
    """Special tokens and padding stay, though unused predictions point at the row's first token."""
    tokenizer, arrays = parts.corpora.tokenizer, jax.tree.map(jnp.asarray, dict(batch))
    drawn = jnp.full(batch["prediction_labels"].shape, 7, jnp.int32)
    seen = np.asarray(fill(arrays, "token_ids", drawn))
    assert (batch["prediction_weight"] == 0).any()
    special = np.isin(batch["token_ids"], [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id])
    assert np.array_equal(seen[special], batch["token_ids"][special])
    assert (seen != tokenizer.mask_id).all()
    changed = int((seen != batch["token_ids"]).sum())
    assert changed == int(batch["prediction_weight"].sum())


def losses_alone(pair: Electra, params: Any, batch: Batch, name: str) -> Any:
    """The gradient of one of the two losses."""
    objective, arrays = replaced_token(pair, FACTOR), jax.tree.map(jnp.asarray, dict(batch))

    def loss(params: Any) -> jax.Array:
        return objective(params, arrays, None, jax.random.key(3))[f"{name}_loss"][0]

    return jax.device_get(jax.jit(jax.grad(loss))(params))


def test_what_is_drawn_carries_no_gradient(pair: Electra, params: Any, batch: Batch):
    """The discriminator's loss does not move the generator; both losses move the embeddings."""
    params = jax.tree.map(jnp.asarray, params)
    discriminator = losses_alone(pair, params, batch, "replaced_token")
    generator = losses_alone(pair, params, batch, "masked_lm")
    assert not any(leaf.any() for leaf in jax.tree.leaves(discriminator["generator"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(generator["generator"]["heads"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(generator["encoder"]["layers"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(generator["heads"]))
    for gradient in (discriminator, generator):
        assert gradient["encoder"]["embeddings"]["word"].any()
        assert gradient["encoder"]["embeddings"]["position"].any()


def test_both_read_with_dropout(pair: Electra, params: Any, batch: Batch):
    """The discriminator too, where the generator draws the same whatever it drops."""
    objective, arrays = replaced_token(pair, FACTOR), jax.tree.map(jnp.asarray, dict(batch))
    for name, given in (("masked_lm", params), ("replaced_token", always(params, 7))):
        off, on = (
            float(objective(given, arrays, rates, jax.random.key(3))[f"{name}_loss"][0])
            for rates in (None, Dropout(0.3, 0.3, 0.3))
        )
        assert on != pytest.approx(off, rel=1e-4), name


# From end to end.


@pytest.fixture(scope="module")
def arguments(tiny_prepared: Path) -> Any:
    changes = {**ELECTRA, "architecture.embedding_size": 16, "save_every": 3, "dropout": 0.1}
    return lambda workdir: command(tiny_prepared, workdir, **changes)


@pytest.fixture(scope="module")
def trained(arguments: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert cli.main(arguments(workdir)) == 0
    return workdir


def test_metrics(trained: Path):
    for values in lines(trained):
        parts = values["train/masked_lm_loss"] + FACTOR * values["train/replaced_token_loss"]
        assert values["train/loss"] == pytest.approx(parts, rel=1e-5)
        assert 0 < values["train/replaced_share"] < 0.3
    metrics = json.loads((trained / "result.json").read_text())["metrics"]
    assert {"validation/replaced_token_accuracy", "validation/masked_lm_perplexity"} <= {*metrics}


def test_resume_is_exact(arguments: Any, trained: Path, tmp_path: Path, monkeypatch: Any):
    def interrupted(parts: PretrainParts, step: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(parts, step), step):
            if number == 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(pretraining, "batches", interrupted)
    assert cli.main(arguments(tmp_path / "run")) == 143
    monkeypatch.undo()
    assert len(lines(tmp_path / "run")) == 2
    assert cli.main(arguments(tmp_path / "run")) == 0
    assert digests(tmp_path / "run", 4) == digests(trained, 4)
    for folder in ("huggingface", "huggingface-generator"):
        mine, theirs = (run / folder / "model.safetensors" for run in (tmp_path / "run", trained))
        assert mine.read_bytes() == theirs.read_bytes()


EXPORTS = {
    "discriminator": ("huggingface", "ElectraForPreTraining"),
    "generator": ("huggingface-generator", "ElectraForMaskedLM"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_both_exports_compute_the_same_in_transformers(name: str, trained: Path):
    folder, kind = EXPORTS[name]
    theirs = their_logits(trained / folder, kind).logits.numpy()
    head = {"discriminator": "replaced_token", "generator": "masked_lm"}[name]
    source = trained if name == "discriminator" else trained / folder
    found = load_pretrained(str(source), {head: HEADS[head]})
    model = Model(found.config, ((head, HEADS[head]),))
    ours = np.asarray(model.apply({"params": found.params}, some_batch(), head))
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=0, atol=1e-5)


def test_the_generator_is_exported_with_the_shared_embeddings(trained: Path):
    both = [
        load_pretrained(str(trained / folder), {}).params["encoder"]["embeddings"]
        for folder in ("huggingface", "huggingface-generator")
    ]
    assert both[0]["word"].shape == (len(WORDS), 16)
    for name in ("word", "position", "type"):
        assert np.array_equal(both[0][name], both[1][name])


def test_the_discriminator_is_finetuned(trained: Path, tmp_path: Path):
    """From the workdir, where the generator stands beside it, as from its own folder."""
    glue, found = tiny_glue(tmp_path / "glue"), []
    for name, model in {"workdir": trained, "folder": trained / "huggingface"}.items():
        assert cli.main(finetune(model, glue, tmp_path / name)) == 0
        found.append([values["train/loss"] for values in lines(tmp_path / name)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
