"""The train step compiles for a real TPU topology, ahead of time and without a TPU.

Run as a script it compiles: ``python tests/test_tpu_aot.py TOPOLOGY ATTENTION DATA FSDP TENSOR``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bertjax.cli.main import WITHOUT_A_TPU

TOPOLOGY = "v5e:2x4"

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is absent: pip install libtpu"
    ),
]


@pytest.mark.parametrize("attention", ["xla", "splash"])
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_train_step_compiles(mesh: tuple[int, int, int], attention: str, repository: Path):
    """No tensor has to be made whole on every chip only to be split anew; splash is a kernel."""
    paths = os.pathsep.join([str(repository), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, __file__, TOPOLOGY, attention, *map(str, mesh)],
        env=os.environ | WITHOUT_A_TPU | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("compiled for 8 x TPU v5 lite")
    assert ("splash_mha_fwd, splash_mha_dkv" in done.stdout) == (attention == "splash"), done.stdout
    assert "Build label: libtpu" in done.stderr, "its log is not heard"
    assert "rematerialization" not in done.stderr.lower(), done.stderr[-4000:]


def compile_step(topology_name: str, attention: Any, data: int, fsdp: int, tensor: int) -> None:
    """Compiles a step of fine-tuning ``bert_small`` in bfloat16, and says with which kernels.

    Attention weights are dropped where the implementation can.
    """
    import jax
    from jax.experimental import topologies

    from bertjax.models import PRESETS, Dropout, Model
    from bertjax.optim import OptimConfig
    from bertjax.sharding import BATCH_AXES, MeshConfig, make_mesh, on_mesh, replicated
    from bertjax.train.objectives import OBJECTIVES
    from bertjax.train.state import abstract_train_state
    from bertjax.train.step import Hyper, make_train_step
    from bertjax.types import HeadConfig

    topology = topologies.get_topology_desc(platform="tpu", topology_name=topology_name)
    mesh = make_mesh(MeshConfig(data, fsdp, tensor), topology.devices)
    model = Model(
        dataclasses.replace(PRESETS["bert_small"], vocab_size=30592),
        (("task", HeadConfig("classification", 3)),),
        jax.numpy.bfloat16,
        attention=attention,
    )

    def shaped(shape: tuple[int, ...], dtype: str, *axes: object) -> Any:
        spec = jax.sharding.PartitionSpec(*axes)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))

    config = OptimConfig()
    state = abstract_train_state(model, config, mesh)
    grid = ("token_ids", "type_ids", "segment_ids", "positions")
    entries = {"cls_row": "int32", "cls_position": "int32", "labels": "int32"}
    batch = {name: shaped((1, 32, 128), "int32", None, BATCH_AXES) for name in grid}
    for name, dtype in (entries | {"example_weight": "float32"}).items():
        batch[name] = shaped((1, 64), dtype, None, BATCH_AXES)
    dropout = Dropout.of(model.config)
    if attention != "xla":
        dropout = dataclasses.replace(dropout, attention=0.0)
    hyper, key = jax.eval_shape(lambda: (Hyper.of(config, dropout), jax.random.key(0)))
    step = make_train_step(OBJECTIVES["classification"](model, "task"), config, 100)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    with on_mesh(mesh):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
        text = str(jitted.lower(state, batch, hyper, key).compile().as_text())
    calls = [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    kernels = [name for name in ("splash_mha_fwd", "splash_mha_dkv") if name in "".join(calls)]
    print(f"compiled for {len(topology.devices)} x {topology.devices[0].device_kind}:", end=" ")
    print(", ".join(kernels))


if __name__ == "__main__":
    compile_step(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
