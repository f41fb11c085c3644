"""How long a step takes, on paper: what a chip can do against what the program asks of it.

Every instruction takes as long as its products at :data:`PRODUCTS` of the chip's peak or its memory
traffic at :data:`MEMORY` of the bandwidth, whichever is longer, one after the other. A collective
takes the bytes that a chip sends (rings; Thakur et al. 2005) over :data:`LINKS` of the bandwidth of
the links that it uses, and :data:`HOP` for every link that a message crosses. Collectives that the
compiler split into a start and an end run beside the computation and cost what sticks out; the
others are waited for. Left out: input, stragglers, congestion, the host, and everything between
steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bertjax.analysis.chips import Topology
from bertjax.analysis.hlo_collectives import Collective, sent
from bertjax.analysis.hlo_costs import Costs

PRODUCTS = 0.8
MEMORY = 0.9
LINKS = 0.9
"""Shares of the maker's numbers that a program reaches; assumed."""
HOP = 1e-6
"""Seconds that a message needs from a chip to its neighbour; assumed."""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What collectives of one kind send over one kind of link in a step."""

    kind: str
    link: str
    """``ICI`` within a slice, ``DCN`` between slices."""
    count: int
    bytes: float
    """That a chip sends."""
    seconds: float
    hidden_seconds: float
    """Of these, beside computation."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step and where they go."""

    compute_seconds: float
    """All instructions, each bound by products or by memory."""
    product_seconds: float
    """The products alone."""
    memory_seconds: float
    """The memory traffic alone."""
    collective_seconds: float
    """All collectives."""
    exposed_seconds: float
    """Of these, what adds to the computation."""

    @property
    def step_seconds(self) -> float:
        """The estimate."""
        return self.compute_seconds + self.exposed_seconds


def transfers(
    collectives: Sequence[Collective], topology: Topology, slices: np.ndarray
) -> list[Transfer]:
    """What each kind of collective sends over each kind of link.

    Args:
      collectives: of one step.
      topology: where the step runs.
      slices: the slice of each device, by its number in the mesh.
    """
    totals: dict[tuple[str, str], list[float]] = {}
    for collective in collectives:
        for link, size, seconds in _links(collective, topology, slices):
            entry = totals.setdefault((collective.kind, link), [0, 0.0, 0.0, 0.0])
            entry[0] += collective.times
            entry[1] += collective.times * size
            entry[2] += collective.times * seconds
            entry[3] += collective.times * seconds * collective.hidden
    return [
        Transfer(kind, link, int(count), size, seconds, hidden)
        for (kind, link), (count, size, seconds, hidden) in sorted(totals.items())
    ]


def _links(
    collective: Collective, topology: Topology, slices: np.ndarray
) -> list[tuple[str, float, float]]:
    """(link, bytes that a chip sends, seconds) of one run.

    A group in several slices goes over the parts in each slice first, then between slices with what
    is left to each chip.
    """
    places = slices[collective.groups]
    if collective.kind == "collective-permute":
        if (places[:, 0] != places[:, 1]).any():
            seconds = collective.bytes / (LINKS * topology.chip.dcn)
            return [("DCN", collective.bytes, seconds)]
        seconds = collective.bytes / (LINKS * topology.chip.ici_link) + HOP
        return [("ICI", collective.bytes, seconds)]
    apart = len(np.unique(places[0]))
    within = collective.members // apart
    result = []
    if within > 1:
        size = sent(collective.kind, collective.bytes, within)
        phases = 2 if collective.kind == "all-reduce" else 1
        wait = phases * HOP * topology.hops(within)
        result.append(("ICI", size, size / (LINKS * topology.bandwidth(within)) + wait))
    if apart > 1:
        size = sent(collective.kind, collective.bytes / within, apart)
        result.append(("DCN", size, size / (LINKS * topology.chip.dcn)))
    return result


def estimate(costs: Costs, moved: Sequence[Transfer], topology: Topology) -> Estimate:
    """The seconds of one step."""
    products, memory = PRODUCTS * topology.chip.peak, MEMORY * topology.chip.hbm_bandwidth
    compute = sum(w.times * max(w.flops / products, w.traffic / memory) for w in costs.work)
    hidden = sum(transfer.hidden_seconds for transfer in moved)
    total = sum(transfer.seconds for transfer in moved)
    return Estimate(
        compute_seconds=compute,
        product_seconds=costs.flops / products,
        memory_seconds=costs.traffic / memory,
        collective_seconds=total,
        exposed_seconds=total - hidden + max(0.0, hidden - compute),
    )
