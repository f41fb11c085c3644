"""Other settings of an experiment: the nearest that fits, and the fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bertjax.analysis.chips import Topology
from bertjax.analysis.plan import Plan, plan
from bertjax.analysis.subjects import Experiment
from bertjax.models.encoder import REMATS
from bertjax.sharding import DEFAULT_RULES, MeshConfig
from bertjax.types import UserError

HOST = 8
"""Chips that share parameters in the smaller of the two meshes with fsdp."""
TENSOR = (2, 4)
TRIES = 4
"""Accumulations that are tried for one mesh, each larger than the one before."""

Note = Callable[[str], None]
Make = Callable[[Experiment], Plan]


@dataclasses.dataclass(frozen=True)
class Option:
    """A setting that was compiled."""

    experiment: Experiment
    plan: Plan


def planner(length: int, topology: Topology, devices: Sequence[Any], note: Note) -> Make:
    """Plans experiments on rows of one length, each setting once."""
    known: dict[str, Plan] = {}

    def make(experiment: Experiment) -> Plan:
        name = describe(experiment)
        if name not in known:
            note(f"compiling for {topology}: {name}")
            known[name] = plan(experiment, length, topology, devices)
        return known[name]

    return make


def flags(before: Experiment, after: Experiment) -> str:
    """What to write on the command line to get from one setting to another."""
    words = []
    if before.mesh != after.mesh:
        sizes = dataclasses.asdict(after.mesh).items()
        words.append("--mesh=" + ",".join(f"{name}:{size}" for name, size in sizes))
    for field in ("accumulation", "remat", "rules"):
        if getattr(before, field) != getattr(after, field):
            words.append(f"--config.{field}={getattr(after, field)}")
    return " ".join(words)


def describe(experiment: Experiment) -> str:
    """A setting in a few words."""
    mesh = dataclasses.asdict(experiment.mesh)
    words = [f"{name}:{size}" for name, size in mesh.items()]
    how = f"remat {experiment.remat}, rules {experiment.rules}"
    return f"mesh {','.join(words)}, {experiment.accumulation} micro-batches, {how}"


def nearest_fit(experiment: Experiment, first: Plan, make: Make) -> Option | None:
    """The setting nearest to one that does not fit that does; None where none was found.

    Tried are, in this order: more micro-batches; less of the activations kept; parameters and
    optimizer shared out over the chips, at once where they alone are too large; both.
    """
    sharded = _sharded(experiment, first.topology.chips)
    memory = first.memory
    held = memory.parameters + memory.optimizer + memory.batch
    whole = [experiment, *_remats(experiment)] if held < memory.capacity else []
    for changed in (*whole, sharded, *_remats(sharded)):
        if changed == experiment:
            option = _accumulated(changed, first, make)
        else:
            option = _first_fit(changed, make)
        if option is not None:
            return option
    return None


def search(experiment: Experiment, topology: Topology, make: Make, note: Note) -> list[Option]:
    """All settings that fit, the fastest first: meshes, remat and rules, each with the fewest
    micro-batches that fit.
    """
    found = []
    for candidate in settings(experiment, topology.chips):
        try:
            option = _first_fit(dataclasses.replace(candidate, accumulation=1), make)
        except UserError as error:  # the batch or the model cannot be split so
            note(f"left out: {describe(candidate)}: {error}")
            continue
        if option is not None:
            found.append(option)
    return sorted(found, key=_seconds)


def _seconds(option: Option) -> float:
    assert option.plan.estimate is not None
    return option.plan.estimate.step_seconds


def settings(experiment: Experiment, chips: int) -> Iterator[Experiment]:
    """What :func:`search` tries."""
    meshes = [MeshConfig(-1, 1, 1), MeshConfig(1, -1, 1)]
    meshes += [MeshConfig(-1, HOST, 1)] * (chips > HOST)
    meshes += [MeshConfig(-1, 1, tensor) for tensor in TENSOR if chips % tensor == 0]
    for mesh in meshes if chips > 1 else meshes[:1]:
        sharded = dataclasses.replace(experiment, mesh=mesh, rules=DEFAULT_RULES)
        for option in (sharded, *_zero1(sharded)):
            yield from (option, *_remats(option))


def _zero1(experiment: Experiment) -> list[Experiment]:
    """With the optimizer's state shared out over the chips that share the batch."""
    data_only = experiment.mesh.fsdp == 1 and experiment.mesh.tensor == 1
    return [dataclasses.replace(experiment, rules="zero1")] if data_only else []


def _remats(experiment: Experiment) -> list[Experiment]:
    """With less kept for the backward pass."""
    left = REMATS[REMATS.index(experiment.remat) + 1 :]
    return [dataclasses.replace(experiment, remat=remat) for remat in left]


def _sharded(experiment: Experiment, chips: int) -> Experiment:
    """With parameters over all chips that now only share the batch."""
    if chips == 1:
        return experiment
    tensor = experiment.mesh.tensor
    rules = "fsdp_tensor" if tensor > 1 else "fsdp"
    if experiment.rules == DEFAULT_RULES:
        rules = DEFAULT_RULES
    return dataclasses.replace(experiment, mesh=MeshConfig(1, -1, tensor), rules=rules)


def _first_fit(experiment: Experiment, make: Make) -> Option | None:
    found = make(experiment)
    if found.fits:
        return Option(experiment, found)
    return _accumulated(experiment, found, make)


def _accumulated(experiment: Experiment, found: Plan, make: Make) -> Option | None:
    """With more micro-batches, so many that the temporaries fit, if those shrink with the rows."""
    for _ in range(TRIES):
        memory = found.memory
        left = memory.capacity - (memory.total - memory.temporaries)
        if left <= 0:
            return None
        wanted = found.accumulation * max(2, memory.temporaries / left)
        count = next((number for number in _divisors(found) if number >= wanted), 0)
        if not count:
            return None
        changed = dataclasses.replace(experiment, accumulation=count)
        found = make(changed)
        if found.fits:
            return Option(changed, found)
    return None


def _divisors(found: Plan) -> list[int]:
    """Numbers of micro-batches into which the batch can be divided."""
    share = found.batch_size // (found.mesh["data"] * found.mesh["fsdp"])
    return [number for number in range(1, share + 1) if share % number == 0]
