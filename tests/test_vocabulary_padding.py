"""Rows of zeros at the end of vocabulary tables: no result, export or later run shows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import PartitionSpec
from test_electra import ELECTRA, SIZE
from test_pretrain import config_of
from test_pretrain_step import SHAPE, make_parts, train
from test_step import assert_same_training
from tiny import WORDS, tiny_glue

import bertjax
from bertjax.exchange import read_model, write_model
from bertjax.models.vocabulary import with_rows
from bertjax.optim import path_of
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train.config import FinetuneConfig
from bertjax.train.execution import padded_vocabulary
from bertjax.train.finetune import finetune
from bertjax.train.pretrain import assemble, pretrain
from bertjax.train.pretrained import load_pretrained
from bertjax.train.state import abstract_params
from bertjax.train.workdir import recorded_padding

ROWS = 128
CASES: dict[str, dict[str, Any]] = {
    "lamb": {"optimizer": "lamb", "weight_decay": 0.1},
    "electra": {**ELECTRA, "architecture": SHAPE | SIZE},
}


def tables(params: Any) -> dict[str, np.ndarray]:
    """The arrays that have one entry a row of the vocabulary, by path."""
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {path: leaf for path, leaf in leaves.items() if leaf.shape[0] == ROWS}


@pytest.mark.parametrize("case", ["lamb", pytest.param("electra", marks=pytest.mark.slow)])
def test_training_is_the_same(case: str, tiny_prepared: Path):
    """Losses, norms and real rows, with weight decay; the others stay exactly zero."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    plain = make_parts(tiny_prepared, **CASES[case])
    padded = make_parts(tiny_prepared, vocab_multiple=ROWS, **CASES[case])
    assert (plain.model.config.vocab_rows, padded.model.config.vocab_rows) == (len(WORDS), ROWS)
    params, metrics = train(padded, mesh, None)
    found = tables(params)
    biases = ("generator/heads/masked_lm/bias",) if case == "electra" else ("heads/masked_lm/bias",)
    assert set(found) == {"encoder/embeddings/word", *biases}
    for table in found.values():
        assert not table[len(WORDS) :].any()
        assert table[: len(WORDS)].any(axis=tuple(range(1, table.ndim))).all()
    cut = with_rows(params, ROWS, len(WORDS))
    assert_same_training((cut, metrics), train(plain, mesh, None))


def test_tables_can_be_split(tiny_prepared: Path):
    """Rows are filled up to a multiple of the devices that share them, also on a CPU."""
    split = PartitionSpec("tensor", None)
    for tensor, rows in ((1, 71), (2, 72), (4, 72)):
        parts = make_parts(tiny_prepared, mesh={"data": -1, "tensor": tensor})
        word = abstract_params(parts.model, parts.mesh)["encoder"]["embeddings"]["word"]
        assert word.shape == (rows, 32)
        assert word.sharding.is_equivalent_to(
            jax.sharding.NamedSharding(parts.mesh, split if tensor > 1 else PartitionSpec()), 2
        )


def test_accelerators_have_a_multiple_of_128(tiny_prepared: Path):
    parts = make_parts(tiny_prepared)
    mesh: Any = SimpleNamespace(
        devices=np.array([SimpleNamespace(platform="tpu")]), shape={"tensor": 3}
    )
    shape = dataclasses.replace(parts.model.config, vocab_size=30522)
    assert padded_vocabulary(parts.config, shape, mesh).vocab_rows == 3 * 128 * 80
    assert padded_vocabulary(parts.config, shape, mesh, recorded=6).vocab_rows == 30528


@pytest.fixture(scope="module")
def workdir(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose checkpoint has 128 rows."""
    folder = tmp_path_factory.mktemp("padded") / "run"
    pretrain(config_of(tiny_prepared, vocab_multiple=ROWS, steps=2), str(folder))
    assert recorded_padding(epath.Path(folder)) == ROWS - len(WORDS)
    return folder


def assert_equal_trees(got: Any, want: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_workdir_and_what_is_exported_have_the_vocabulary(workdir: Path, tmp_path: Path):
    ours, theirs = read_model(str(workdir)), read_model(str(workdir / "huggingface"))
    for model in (ours, theirs):
        assert (model.config.vocab_size, model.config.vocab_padding) == (len(WORDS), 0)
    assert ours.params["encoder"]["embeddings"]["word"].shape == (len(WORDS), 32)
    assert ours.params["heads"]["masked_lm"]["bias"].shape == (len(WORDS),)
    assert_equal_trees(theirs.params, ours.params)
    write_model(ours, str(tmp_path / "again"), "bertjax")
    assert_equal_trees(read_model(str(tmp_path / "again")).params, ours.params)


def test_a_run_goes_on_with_the_rows_it_has(workdir: Path, tiny_prepared: Path):
    """Whatever the devices and the config would have them be now."""
    before = load_pretrained(str(workdir), {}).params
    (workdir / "result.json").unlink()
    config = config_of(tiny_prepared, vocab_multiple=50, steps=2)
    assert assemble(config).model.config.vocab_rows == 100
    pretrain(config, str(workdir))
    assert json.loads((workdir / "config.json").read_text())["model"]["vocab_padding"] == 57
    assert_equal_trees(load_pretrained(str(workdir), {}).params, before)


@pytest.mark.slow
def test_fine_tuning_begins_with_it(workdir: Path, tmp_path: Path):
    """With other padding, and in training and prediction alike without an effect."""
    answers = []
    for multiple in (1, 50):
        config = FinetuneConfig(
            model=str(workdir),
            data=f"files:{tiny_glue(tmp_path / 'glue')}",
            task="mrpc",
            max_length=32,
            batch_size=16,
            steps=2,
            vocab_multiple=multiple,
            export=False,
        )
        finetune(config, str(tmp_path / str(multiple)))
        assert recorded_padding(epath.Path(tmp_path / str(multiple))) == (
            29 if multiple == 50 else 0
        )
        model = bertjax.load(str(tmp_path / str(multiple)))
        assert model.params["encoder"]["embeddings"]["word"].shape == (len(WORDS), 32)
        answers.append(model.predict([("the cat sleeps .", "a dog runs ."), "a bird sings ."]))
    for one, other in zip(*answers, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-5)
