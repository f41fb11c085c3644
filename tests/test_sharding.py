"""Where parameters, gradients and optimizer state lie, and what a step sends between devices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_step import DROPOUT, MODEL, OPTIM, Runner, assert_same_training, batches

from bertjax.optim import path_of
from bertjax.sharding import (
    RULES,
    MeshConfig,
    check_rules,
    make_mesh,
    update_sharding,
)
from bertjax.train.state import abstract_params, create_state
from bertjax.types import UserError

WORD = "encoder/embeddings/word"  # [vocabulary 48, width 16]
UP = "encoder/layers/mlp/up/kernel"  # [layers 2, width 16, feed-forward 32]
QUERY = "encoder/layers/attention/query/kernel"  # [layers 2, width 16, heads 4, head width 4]


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path to the shape of each device's part."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(path): leaf.sharding.shard_shape(leaf.shape) for path, leaf in leaves}


PARTS = {
    ("data", (8, 1, 1)): {WORD: (48, 16), UP: (2, 16, 32), QUERY: (2, 16, 4, 4)},
    ("zero1", (8, 1, 1)): {WORD: (48, 16), UP: (2, 16, 32), QUERY: (2, 16, 4, 4)},
    ("fsdp", (1, 8, 1)): {WORD: (48, 2), UP: (2, 2, 32), QUERY: (2, 2, 4, 4)},
    ("tensor", (2, 1, 4)): {WORD: (12, 16), UP: (2, 16, 8), QUERY: (2, 16, 1, 4)},
    ("zero1_tensor", (4, 1, 2)): {WORD: (24, 16), UP: (2, 16, 16), QUERY: (2, 16, 2, 4)},
    ("fsdp_tensor", (2, 2, 2)): {WORD: (24, 8), UP: (2, 8, 16), QUERY: (2, 8, 2, 4)},
}
"""The shape of a device's part of three parameters."""


@pytest.mark.parametrize(("rules", "shape"), PARTS, ids=str)
def test_parts_of_parameters(rules: str, shape: tuple[int, int, int]):
    parts = shapes_of(abstract_params(MODEL, make_mesh(MeshConfig(*shape)), rules))
    assert {name: parts[name] for name in (WORD, UP, QUERY)} == PARTS[rules, shape]


@pytest.mark.parametrize(("rules", "shape"), PARTS, ids=str)
def test_a_state_is_made_where_it_lies(rules: str, shape: tuple[int, int, int]):
    """Of the two moments each device has its part, and with ZeRO-1 an eighth of the matrices."""
    mesh = make_mesh(MeshConfig(*shape))
    state = create_state(MODEL, OPTIM, mesh, seed=0, rules=rules)
    assert shapes_of(state.params) == shapes_of(abstract_params(MODEL, mesh, rules))
    moments = shapes_of(state.optimizer)
    for name, part in PARTS[rules, shape].items():
        found = [shape for path, shape in moments.items() if path.endswith(name)]
        assert len(found) == 2
        whole = {WORD: 48 * 16, UP: 2 * 16 * 32, QUERY: 2 * 16 * 16}[name]
        size = whole // 8 if RULES[rules].split_optimizer else np.prod(part)
        assert [np.prod(shape) for shape in found] == [size, size]


@pytest.mark.parametrize(
    ("mesh", "shape", "spec", "expected"),
    [
        ((8, 1, 1), (16, 24), (), (None, "data")),  # the longest that is divisible
        ((8, 1, 1), (24, 20), (), ("data", None)),
        ((8, 1, 1), (12, 20), (), (None, None)),  # none: whole
        ((2, 4, 1), (16, 6), (), (("data", "fsdp"), None)),
        ((2, 4, 1), (4, 6), (), ("fsdp", "data")),
        ((4, 1, 2), (16, 48), (None, "tensor"), (None, ("tensor", "data"))),
    ],
)
def test_zero1_splits_what_is_whole(
    mesh: tuple[int, int, int], shape: tuple[int, ...], spec: tuple[Any, ...], expected: Any
):
    given = NamedSharding(make_mesh(MeshConfig(*mesh)), PartitionSpec(*spec))
    assert update_sharding(shape, given, "zero1_tensor").spec == PartitionSpec(*expected)
    assert update_sharding(shape, given, "fsdp_tensor") == given


def test_a_tensor_axis_without_work_is_refused():
    mesh = make_mesh(MeshConfig(4, 1, 2))
    with pytest.raises(UserError, match=r"'zero1' splits nothing over .* axis of 2; set mesh\."):
        check_rules("zero1", mesh)
    check_rules("zero1_tensor", mesh)
    check_rules("zero1", make_mesh(MeshConfig(4, 2, 1)))


MESHES = [
    ("data", (8, 1, 1)),
    ("zero1", (2, 4, 1)),
    ("fsdp", (1, 8, 1)),
    ("tensor", (4, 1, 2)),
    ("zero1_tensor", (2, 2, 2)),
    ("fsdp_tensor", (2, 2, 2)),
    ("fsdp_tensor", (1, 4, 2)),
]


@pytest.fixture(scope="module")
def expected() -> Any:
    """The training on one device, with dropout on."""
    return Runner(make_mesh(MeshConfig(), jax.devices()[:1])).train(batches(1), DROPOUT)


@pytest.mark.parametrize(("rules", "shape"), MESHES, ids=str)
def test_every_preset_equals_one_device(
    rules: str, shape: tuple[int, int, int], expected: tuple[Any, list[Any]]
):
    """The batches leave some devices without weight; the random streams of dropout agree."""
    runner = Runner(make_mesh(MeshConfig(*shape)), rules)
    assert_same_training(runner.train(batches(8), DROPOUT), expected)
