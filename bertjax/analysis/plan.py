"""What a training step needs and how long it takes on TPUs that are not here.

The step is the one that :mod:`bertjax.train.loop` runs: the objective, optimizer and shardings of
an experiment, its state donated. It is compiled for the real target by libtpu, without a TPU;
memory is what the compiler reports, operations and collectives are counted in the program that it
made (:mod:`bertjax.analysis.hlo_costs`), and the time is an estimate
(:mod:`bertjax.analysis.roofline`).
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.analysis.chatter import unheard
from bertjax.analysis.chips import Topology
from bertjax.analysis.hlo import parse
from bertjax.analysis.hlo_costs import Costs, costs
from bertjax.analysis.roofline import Estimate, Transfer, estimate, transfers
from bertjax.analysis.subjects import Experiment, Subject, subject
from bertjax.sharding import batch_divisor, check_rules, make_mesh, on_mesh
from bertjax.train.state import TrainState, abstract_train_state

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_LARGE = (
    r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds",
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm",
)
"""How libtpu says what a program needed: its temporaries, or all of it."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip."""

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    """All that the program needs beside what it is given; where it does not fit, as libtpu says."""
    program: int
    """The code, and constants."""
    capacity: int
    """What libtpu gives to a program."""

    @property
    def total(self) -> int:
        """Of all."""
        return self.parameters + self.optimizer + self.batch + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Plan:
    """One step on one mesh. What is None could not be told, as the step does not fit."""

    topology: Topology
    mesh: dict[str, int]
    batch_size: int
    """Rows of a pretraining step, examples of a fine-tuning step."""
    rows: int
    length: int
    accumulation: int
    options: dict[str, str]
    """Fields that change how the step is computed."""
    memory: Memory
    fits: bool
    model_flops: float
    """Of a step, of all chips together."""
    compiled_flops: float | None
    """Likewise, of the program."""
    transfers: tuple[Transfer, ...] | None
    estimate: Estimate | None
    steps: int
    """Of the recipe at this length; 0: not known."""
    remarks: tuple[str, ...]
    """What the compiler or the count could not do well."""
    compile_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Padding counted; 0 where there is no estimate."""
        seconds = self.estimate.step_seconds if self.estimate else 0
        return self.rows * self.length / seconds if seconds else 0.0

    @property
    def utilisation(self) -> float:
        """The model's operations, of the chips' peak."""
        seconds = self.estimate.step_seconds if self.estimate else 0
        peak = self.topology.chips * self.topology.chip.peak
        return self.model_flops / seconds / peak if seconds else 0.0


OPTIONS = ("dtype", "attention", "remat", "rules")


def plan(experiment: Experiment, length: int, topology: Topology, devices: Sequence[Any]) -> Plan:
    """Compiles the step of an experiment on rows of one length.

    Args:
      experiment: with its mesh, batch size and accumulation.
      length: of a row.
      topology: where it is to run.
      devices: those of :func:`bertjax.analysis.chips.devices`.

    Raises:
      UserError: for a mesh or batch that cannot be divided, or a model that is no preset.
    """
    mesh = make_mesh(experiment.mesh, devices)
    check_rules(experiment.rules, mesh)
    found = subject(experiment, length, mesh)
    experiment.check_batch(found.batch_size, batch_divisor(mesh))
    state = abstract_train_state(found.trained, experiment.optim, mesh, experiment.rules)
    began = time.perf_counter()
    with unheard() as chatter:
        compiled, needed = _compile(found, state, mesh)
    seconds = time.perf_counter() - began
    memory = _memory(found, state, mesh, compiled, needed, topology)
    counted = compiled and costs(parse(compiled.as_text()), mesh.size)
    moved = counted and tuple(transfers(counted.collectives, topology, _slices(mesh)))
    return Plan(
        topology=topology,
        mesh=dict(mesh.shape),
        batch_size=found.batch_size,
        rows=found.rows,
        length=length,
        accumulation=experiment.accumulation,
        options={name: getattr(experiment, name) for name in OPTIONS},
        memory=memory,
        fits=compiled is not None and memory.total <= memory.capacity,
        model_flops=found.flops,
        compiled_flops=counted and float(counted.flops * mesh.size),
        transfers=moved,
        estimate=counted and estimate(counted, moved, topology),
        steps=found.steps,
        remarks=_remarks(counted, chatter()),
        compile_seconds=seconds,
    )


def _compile(found: Subject, state: TrainState, mesh: Mesh) -> tuple[Any, str]:
    """The compiled step, or None and what libtpu says about its size."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(found.step, donate_argnums=0, out_shardings=(shardings, None))
    with on_mesh(mesh):
        lowered = jitted.lower(*found.arguments(state, mesh))
        try:
            return lowered.compile(), ""
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None, str(error)


def shard_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings, on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _memory(
    found: Subject, state: TrainState, mesh: Mesh, compiled: Any, said: str, topology: Topology
) -> Memory:
    _, batch, *_ = found.arguments(state, mesh)
    parameters, optimizer = shard_bytes(state.params), shard_bytes(state.optimizer)
    given = parameters + optimizer + shard_bytes(batch)
    if compiled is None:
        temporaries, program = _needed(said, given), 0
    else:
        size = compiled.memory_analysis()
        held = size.argument_size_in_bytes + size.output_size_in_bytes - size.alias_size_in_bytes
        temporaries = held - given + size.temp_size_in_bytes
        program = size.generated_code_size_in_bytes
    capacity = topology.chip.usable_hbm
    return Memory(parameters, optimizer, shard_bytes(batch), temporaries, program, capacity)


def _needed(said: str, given: int) -> int:
    """Bytes of temporaries, from libtpu's refusal; 0 where it has other words."""
    temporaries, whole = (re.search(pattern, said) for pattern in _TOO_LARGE)
    if temporaries:
        return int(float(temporaries[1]) * _UNITS[temporaries[2]])
    return max(0, int(float(whole[1]) * _UNITS[whole[2]]) - given) if whole else 0


def _slices(mesh: Mesh) -> np.ndarray:
    """The slice of each device of a mesh, in the order in which the program numbers them."""
    return np.array([getattr(device, "slice_index", 0) or 0 for device in mesh.devices.flat])


def _remarks(counted: Costs | None, chatter: str) -> tuple[str, ...]:
    remarks = []
    copies = len(re.findall("involuntary full rematerialization", chatter, re.IGNORECASE))
    if copies:
        remarks.append(
            f"the compiler copies {copies} tensors whole to every chip, only to split them anew "
            "(involuntary full rematerialization)"
        )
    if counted and counted.unknown:
        remarks.append(
            f"the operations of {', '.join(counted.unknown)} are not known and not counted"
        )
    return tuple(remarks)
