"""Which collectives the compiler makes of each preset of rules, on a real TPU topology.

A CPU's compiler has no reduce-scatter and reduces whole arrays, so only libtpu can tell. What is
compiled is a pretraining step of two layers of BERT-large's width in bfloat16, on eight chips. Run
as a script it prints: ``python tests/test_collectives.py RULES DATA FSDP TENSOR``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax.cli.main import WITHOUT_A_TPU

TOPOLOGY = "v5e:2x4"
CHIPS = 8
LAYERS, WIDTH = 2, 1024
ROWS, LENGTH = 64, 128
TABLE = 30_592 * WIDTH * 4
"""Bytes of the word embeddings, their rows filled up to a multiple of 128."""
SHARE = (CHIPS - 1) / CHIPS
"""Of an array that is gathered or scattered by all chips, what each one sends."""

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is absent: pip install libtpu"
    ),
]


class Moved:
    """What the collectives of a step move, by kind."""

    def __init__(self, answer: dict[str, dict[str, float]]):
        self.kinds = set(answer)
        self.count = {kind: moved["count"] for kind, moved in answer.items()}
        self.sent = {kind: moved["bytes"] for kind, moved in answer.items()}

    def whole(self, kind: str) -> float:
        """Bytes of the whole arrays; an all-reduce sends them twice."""
        return self.sent.get(kind, 0) / SHARE / (2 if kind == "all-reduce" else 1)


@pytest.fixture
def compiled(repository: Path) -> Callable[..., tuple[Moved, int]]:
    """Compiles for rules and a mesh; gives the collectives and the bytes of a chip's parameters."""

    def compile_for(rules: str, *mesh: int) -> tuple[Moved, int]:
        paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, __file__, rules, *map(str, mesh)],
            env=os.environ | WITHOUT_A_TPU | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        answer = json.loads(done.stdout)
        return Moved(answer["moved"]), answer["parameters"]

    return compile_for


def test_data_parallelism_reduces_gradients(compiled: Callable[..., tuple[Moved, int]]):
    """Once each, but those of the word embeddings, which come from their two uses."""
    moved, parameters = compiled("data", 8, 1, 1)
    assert moved.kinds == {"all-reduce"}
    assert parameters <= moved.whole("all-reduce") <= 1.02 * parameters + TABLE


def test_zero1_scatters_gradients_and_gathers_parameters(
    compiled: Callable[..., tuple[Moved, int]],
):
    """Of the optimizer's state, twice the parameters, nothing is sent."""
    moved, parameters = compiled("zero1", 8, 1, 1)
    assert moved.whole("all-reduce") <= 0.01 * parameters  # norms, biases that eight do not divide
    assert moved.whole("reduce-scatter") >= TABLE
    scattered = moved.sent["reduce-scatter"] + moved.sent.get("collective-permute", 0)
    assert SHARE * parameters * 0.98 <= scattered <= 1.5 * SHARE * parameters
    assert 0.98 * parameters <= moved.whole("all-gather") <= 1.02 * parameters


def test_fsdp_gathers_parameters_and_scatters_gradients(
    compiled: Callable[..., tuple[Moved, int]],
):
    """The layers' go round the ring in pieces (permutations) beside the products they belong to.

    The one array that libtpu reduces whole is the gradient of the tied decoder, in 16 bits: of
    those it does not scatter the minor axis.
    """
    moved, part = compiled("fsdp", 1, 8, 1)
    parameters = CHIPS * part
    assert moved.whole("all-reduce") <= 1.02 * TABLE / 2
    assert moved.whole("reduce-scatter") >= TABLE
    assert moved.whole("all-gather") <= parameters
    gathered = moved.sent["all-gather"] + moved.sent["collective-permute"]
    assert gathered >= SHARE * parameters / 2  # each at least once, in 16 bits
    total = sum(moved.sent.values())
    assert total <= 3 * SHARE * parameters  # the optimizer's state would add two to each


def test_tensor_parallelism_reduces_activations(compiled: Callable[..., tuple[Moved, int]]):
    """After attention and after the feed-forward layer, and on the way back before them."""
    moved, _ = compiled("tensor", 1, 1, 8)
    assert moved.kinds == {"all-reduce"}
    assert 4 * LAYERS <= moved.count["all-reduce"] <= 4 * LAYERS + 8
    activations = ROWS * LENGTH * WIDTH * 2
    assert 4 * LAYERS * activations <= moved.whole("all-reduce")
    assert moved.whole("all-reduce") <= (4 * LAYERS + 8) * activations


def compile_step(rules: str, data: int, fsdp: int, tensor: int) -> None:
    """Prints what the collectives of the step move, and the bytes of a chip's parameters."""
    from bertjax.analysis import chips
    from bertjax.analysis.plan import plan
    from bertjax.sharding import MeshConfig
    from bertjax.train.pretrain_config import PretrainConfig

    config = PretrainConfig(
        data=("none",),
        model="preset:bert_large",
        architecture={"num_layers": LAYERS},
        batch_size=ROWS,
        steps=1000,
        dtype="bfloat16",
        attention="xla",
        mesh=MeshConfig(data, fsdp, tensor),
        rules=rules,
    )
    topology = chips.Topology.parse(TOPOLOGY)
    found = plan(config, LENGTH, topology, chips.devices(topology))
    moved = {t.kind: {"count": t.count, "bytes": t.bytes} for t in found.transfers or ()}
    print(json.dumps({"moved": moved, "parameters": found.memory.parameters}))


if __name__ == "__main__":
    compile_step(sys.argv[1], *map(int, sys.argv[2:5]))
