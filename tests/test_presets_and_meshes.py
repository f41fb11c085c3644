"""Every preset of rules on every mesh of eight devices trains as one device does; run with -m slow.

Five steps at learning rate 1e-4 in float32, eps 1e-6, dropout on, packed rows
whose shares of masked tokens and of examples differ between the devices.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from test_pretrain_step import make_parts
from test_step import MODEL, batches

from bertjax.data.batching import Batch
from bertjax.models import Dropout
from bertjax.optim import OptimConfig, path_of
from bertjax.sharding import DEFAULT_RULES, RULES, MeshConfig, make_mesh, on_mesh, shard_batch
from bertjax.train.objectives import OBJECTIVES, Objective
from bertjax.train.pretrain import batches as pretraining_batches
from bertjax.train.pretrain_models import make_objective
from bertjax.train.state import create_state, gradient_shardings
from bertjax.train.step import Hyper, make_train_step

pytestmark = pytest.mark.slow

STEPS = 5
MESHES = [(8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2), (4, 1, 2), (1, 4, 2), (2, 1, 4)]
LAYOUTS = [
    (rules, shape)
    for rules in RULES
    for shape in MESHES
    if shape[2] == 1 or "tensor" in rules  # anything else is refused
]
DROPOUT = Dropout(0.1, 0.2, 0.1)


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained, and by what."""

    model: Any
    objective: Objective
    batches: list[Batch]
    config: OptimConfig

    def on(self, mesh: Mesh, rules: str) -> tuple[Any, list[float]]:
        """Final parameters on the host, and the loss of each step."""
        state = create_state(self.model, self.config, mesh, seed=0, rules=rules)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        gradients = gradient_shardings(self.model, mesh, rules)
        step = make_train_step(self.objective, self.config, STEPS, gradient_shardings=gradients)
        jitted: Any = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        losses = []
        for batch in self.batches:
            with on_mesh(mesh):
                placed = shard_batch(batch, mesh, lead=1)
                hyper = Hyper.of(self.config, DROPOUT)
                state, metrics = jitted(state, placed, hyper, jax.random.key(1))
            losses.append(float(metrics["loss"]))
        return jax.device_get(state.params), losses


def assert_equal(got: tuple[Any, list[float]], want: tuple[Any, list[float]]) -> None:
    """Losses to 1e-5 of their value, parameters to 1e-5."""
    assert got[1] == pytest.approx(want[1], rel=1e-5)
    expected = dict(jax.tree_util.tree_leaves_with_path(want[0]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(got[0]):
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=1e-5, err_msg=path_of(path))


@pytest.fixture(scope="module")
def one_device() -> Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def pretraining(tiny_prepared: Path) -> Training:
    parts = make_parts(tiny_prepared, steps=STEPS, eps=1e-6, learning_rate=1e-4)
    given = list(pretraining_batches(parts, 0))
    assert len(given) == STEPS
    for batch in given:
        assert batch["segment_ids"].max() > 1
        shares = batch["prediction_weight"].reshape(8, -1).sum(axis=1)
        assert len(set(shares.tolist())) > 1
    objective = make_objective(parts.config, parts.trained)
    return Training(parts.trained, objective, given, parts.config.optim)


@pytest.fixture(scope="module")
def expected_pretraining(pretraining: Training, one_device: Mesh) -> Any:
    return pretraining.on(one_device, DEFAULT_RULES)


@pytest.mark.parametrize(("rules", "shape"), LAYOUTS, ids=str)
def test_pretraining(
    rules: str, shape: tuple[int, int, int], pretraining: Training, expected_pretraining: Any
):
    assert_equal(pretraining.on(make_mesh(MeshConfig(*shape)), rules), expected_pretraining)


def finetuning(multiple: int) -> Training:
    """On batches whose number of rows is a multiple of ``multiple``."""
    config = OptimConfig(learning_rate=1e-4, warmup_ratio=0.0, eps=1e-6)
    objective = OBJECTIVES["classification"](MODEL, "task")
    return Training(MODEL, objective, batches(multiple, count=STEPS), config)


@pytest.fixture(scope="module")
def expected_finetuning(one_device: Mesh) -> Any:
    return finetuning(1).on(one_device, DEFAULT_RULES)


@pytest.mark.parametrize(("rules", "shape"), LAYOUTS, ids=str)
def test_finetuning(rules: str, shape: tuple[int, int, int], expected_finetuning: Any):
    """The rows are padded to another number than one device's."""
    assert_equal(finetuning(8).on(make_mesh(MeshConfig(*shape)), rules), expected_finetuning)
