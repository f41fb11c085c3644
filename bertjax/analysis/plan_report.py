"""One answer to one question of ``bertjax plan``: plans, a setting that fits, the recipe's cost."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from bertjax.analysis import chips
from bertjax.analysis.plan import Plan
from bertjax.analysis.plan_search import (
    Note,
    Option,
    flags,
    nearest_fit,
    planner,
    search,
)
from bertjax.analysis.roofline import HOP, LINKS, MEMORY, PRODUCTS
from bertjax.analysis.subjects import Experiment, lengths
from bertjax.sharding import MeshConfig
from bertjax.train.pretrain_config import PretrainConfig, stretches
from bertjax.types import UserError, from_mapping

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked. 0 and empty: as the experiment says."""

    experiment: Experiment
    topology: str
    slices: int = 1
    global_batch: int = 0
    length: int = 0
    mesh: str = ""
    search: bool = False


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a whole run: its steps, or as many as read the recipe's number of rows."""

    what: str
    steps: int
    seconds: float
    chips: int

    @property
    def days(self) -> float:
        """Of training alone."""
        return self.seconds / DAY

    @property
    def chip_hours(self) -> float:
        """Over all chips."""
        return self.seconds * self.chips / 3600


@dataclasses.dataclass(frozen=True)
class Report:
    """The answer."""

    request: Request
    experiment: Experiment
    plans: tuple[Plan, ...]
    """One for each length of rows."""
    remedies: tuple[Option | None, ...]
    """For each plan that does not fit, the nearest setting that does."""
    found: tuple[Option, ...]
    """Of a search, the fastest first."""
    costs: tuple[Cost, ...]

    @property
    def fits(self) -> bool:
        """Whether all that was asked for fits; of a search, whether anything does."""
        return bool(self.found) if self.request.search else all(plan.fits for plan in self.plans)

    def as_text(self) -> str:
        """For a terminal."""
        from bertjax.analysis.plan_text import text

        return text(self)

    def as_json(self) -> dict[str, Any]:
        """For a program: bytes, seconds, operations a step of all chips together."""
        remedies = [r and flags(self.experiment, r.experiment) for r in self.remedies]
        return {
            "topology": str(chips.Topology.parse(self.request.topology, self.request.slices)),
            "fits": self.fits,
            "plans": [plan_json(plan) for plan in self.plans],
            "suggestions": remedies,
            "search": [
                {"flags": flags(self.experiment, option.experiment), **plan_json(option.plan)}
                for option in self.found
            ],
            "recipe": [
                dataclasses.asdict(c) | {"days": c.days, "chip_hours": c.chip_hours}
                for c in self.costs
            ],
            "assumptions": {"products": PRODUCTS, "memory": MEMORY, "links": LINKS, "hop": HOP},
        }


def plan_json(plan: Plan) -> dict[str, Any]:
    """All of a plan as plain values."""
    chip, topology = plan.topology.chip, plan.topology
    values = dataclasses.asdict(dataclasses.replace(plan, topology=None))  # pyright: ignore
    values["topology"] = {"name": str(topology), "chips": topology.chips, "chip": chip.device_kind}
    values["memory"]["total"] = plan.memory.total
    if plan.estimate is not None:
        values["estimate"]["step_seconds"] = plan.estimate.step_seconds
    values["tokens_per_second"] = plan.tokens_per_second
    values["utilisation"] = plan.utilisation
    if plan.compiled_flops is not None:
        values["flops_ratio"] = plan.compiled_flops / plan.model_flops
    return values


def report(request: Request, note: Note) -> Report:
    """Compiles what the request asks for; ``note`` hears what is being done.

    Raises:
      UserError: for wrong input, one sentence each.
    """
    topology = chips.Topology.parse(request.topology, request.slices)
    experiment = requested(request)
    devices = chips.devices(topology)
    plans, remedies, found = [], [], []
    for length in lengths(experiment, request.length or None):
        make = planner(length, topology, devices, note)
        if request.search:
            found += search(experiment, topology, make, note)
            continue
        plans.append(first := make(experiment))
        if not first.fits:
            remedies.append(nearest_fit(experiment, first, make))
    costs = () if request.search else recipe_costs(request.experiment, plans)
    return Report(request, experiment, tuple(plans), tuple(remedies), tuple(found), costs)


def requested(request: Request) -> Experiment:
    """The experiment with the request's mesh and batch size.

    Raises:
      UserError: for a mesh that cannot be read, or a search over several lengths.
    """
    experiment = request.experiment
    for flag in ("global_batch", "length"):
        if getattr(request, flag) < 0:
            raise UserError(f"--{flag}={getattr(request, flag)} must be 0 or more")
    if request.mesh:
        experiment = dataclasses.replace(experiment, mesh=parse_mesh(request.mesh))
    if request.global_batch:
        experiment = dataclasses.replace(experiment, batch_size=request.global_batch)
        if isinstance(experiment, PretrainConfig):
            phases = [dataclasses.replace(p, batch_size=None) for p in experiment.phases]
            experiment = dataclasses.replace(experiment, phases=tuple(phases))
    if request.search and len(known := lengths(experiment, request.length or None)) > 1:
        raise UserError(
            f"--search tries many settings of one length of rows; give --length={known[0]}, or "
            f"another of {', '.join(map(str, known))}"
        )
    return experiment


def parse_mesh(text: str) -> MeshConfig:
    """Reads ``data:-1,fsdp:8,tensor:1``; a size that is left out is 1.

    Raises:
      UserError: for another form or an unknown axis.
    """
    words = [re.fullmatch(r"\s*(\w+)\s*[:=]\s*(-?\d+)\s*", word) for word in text.split(",")]
    if not all(words):
        raise UserError(f"--mesh={text}: write sizes by name, as in --mesh=data:-1,fsdp:8,tensor:1")
    sizes = {word[1]: int(word[2]) for word in words if word}
    return from_mapping(MeshConfig, {"data": 1} | sizes, "--mesh")


def recipe_costs(original: Experiment, plans: Sequence[Plan]) -> tuple[Cost, ...]:
    """What the run costs that the plans are of, from their estimates; empty where it is not known.

    With another batch than the recipe's, both for as many steps and for as many rows.
    """
    if not plans or any(plan.estimate is None for plan in plans):
        return ()
    seconds = [plan.estimate.step_seconds for plan in plans if plan.estimate]
    count = plans[0].topology.chips
    if isinstance(original, PretrainConfig) and original.minutes:
        total = 60 * original.minutes
        return (Cost("its minutes", round(total / seconds[0]), total, count),)
    if not all(plan.steps for plan in plans):
        return ()
    pairs = list(zip(plans, seconds, strict=True))
    part = len(plans) == 1 and len(lengths(original)) > 1
    which = f" with rows of {plans[0].length}" if part else ""
    total = sum(p.steps * s for p, s in pairs)
    steps = Cost(f"its steps{which}", sum(p.steps for p in plans), total, count)
    if not isinstance(original, PretrainConfig):
        return (steps,)
    per_step = {part.max_length: part.batch_size for part in stretches(original)}
    shares = [per_step.get(p.length, original.batch_size) / p.batch_size for p in plans]
    if all(share == 1 for share in shares):
        return (steps,)
    scaled = [round(p.steps * share) for p, share in zip(plans, shares, strict=True)]
    total = sum(n * s for n, s in zip(scaled, seconds, strict=True))
    return (steps, Cost(f"as many rows as the recipe{which}", sum(scaled), total, count))
