"""TPU chips and the slices they form, as far as a plan needs them.

Numbers are those of Google's pages ``docs.cloud.google.com/tpu/docs/v4``, ``/v5e``, ``/v5p`` and
``/v6e``, tables "system architecture" and "specifications"; the operations a second are
:data:`bertjax.flops.PEAKS`. What a program can use of the memory is what libtpu 0.0.42 itself names
when it refuses one.

A chip is one JAX device here: the two cores of a v4 or v5p chip work as one ("megacore"), which is
how JAX sees them on Cloud.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from bertjax.analysis.chatter import unheard
from bertjax.flops import peak_flops
from bertjax.types import UserError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip; bytes, and bytes a second."""

    name: str
    """As topologies are written: ``v5e`` of ``v5e:2x4``."""
    device_kind: str
    """As JAX calls it."""
    hbm: int
    usable_hbm: int
    """What libtpu gives to a program."""
    hbm_bandwidth: float
    ici_link: float
    """Of one link to a neighbour, in one direction. The pages give the sum over all links: in one
    direction in Gbit/s ("interchip interconnect"), or in both in Gbyte/s ("bidirectional")."""
    torus: int
    """Dimensions of the interconnect: each is two links of a chip."""
    dcn: float
    """Between slices, a chip's share of its host's network, in one direction."""
    pod: int
    """Chips of the largest slice."""
    options: tuple[tuple[str, str], ...] = ()
    """What libtpu has to be told."""

    @property
    def peak(self) -> float:
        """Operations a second in bfloat16."""
        peak = peak_flops(self.device_kind)
        assert peak is not None
        return peak


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # 2,400 Gbit/s over six links; 200 Gbit/s for the four chips of a host.
        Chip(
            "v4",
            "TPU v4",
            32 * GIB,
            int(30.75 * GIB),
            1228e9,
            50e9,
            3,
            6.25e9,
            4096,
            (("chip_config_name", "megacore"),),
        ),
        # 1,600 Gbit/s over four links; 6.4 Tbit/s for the 256 chips of a pod.
        Chip("v5e", "TPU v5 lite", 16 * GIB, int(15.75 * GIB), 819e9, 50e9, 2, 3.125e9, 256),
        # 4,800 Gbit/s over six links; 50 Gbit/s a chip. Megacore is libtpu's default.
        Chip("v5p", "TPU v5", 95 * GIB, int(95.74 * GIB), 2765e9, 100e9, 3, 6.25e9, 8960),
        # 3,584 Gbit/s over four links; 25.6 Tbit/s for the 256 chips of a pod.
        Chip("v6e", "TPU v6 lite", 32 * GIB, int(31.25 * GIB), 1640e9, 112e9, 2, 12.5e9, 256),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One slice of chips or several equal ones, joined by the data-centre network."""

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each dimension of one slice."""
    slices: int = 1

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> Topology:
        """Reads ``v5e:2x4``.

        Raises:
          UserError: for another form, an unknown chip, or a shape that the chip does not come in.
        """
        found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
        if found is None:
            raise UserError(
                f"--topology={text} is no topology; write the chip and how many stand along each "
                "dimension, as in v5e:2x4 or v4:4x4x8 (Cloud's v4-8 counts cores, two a chip)"
            )
        name, shape = found[1], tuple(map(int, found[2].split("x")))
        if name not in CHIPS:
            raise UserError(f"--topology={text}: unknown chip '{name}'{nearest(name, CHIPS)}")
        chip = CHIPS[name]
        if len(shape) != chip.torus or min(shape) < 1:
            form = "x".join("4" * chip.torus)
            raise UserError(
                f"--topology={text}: slices of {name} have {chip.torus} dimensions, as in "
                f"{name}:{form}"
            )
        if math.prod(shape) > chip.pod:  # libtpu compiles for any shape
            raise UserError(
                f"--topology={text}: a slice of {name} has at most {chip.pod:,} chips; give a "
                "smaller one, or several by --slices"
            )
        if slices < 1:
            raise UserError(f"--slices={slices}: a plan needs at least one slice")
        return cls(chip, shape, slices)

    def __str__(self) -> str:
        shape = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return shape if self.slices == 1 else f"{self.slices} x {shape}"

    @property
    def slice_chips(self) -> int:
        """Chips of one slice."""
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slice_chips * self.slices

    def axis_bandwidth(self, size: int) -> float:
        """Bytes a second that a chip can send along one dimension of so many chips.

        A closed ring sends both ways round. v4 and v5p are wired to rings where a dimension is a
        multiple of 4, v5e and v6e where it is the pod's whole 16; a line sends one way.
        """
        closed = size % 4 == 0 if self.chip.torus == 3 else size == 16
        return self.chip.ici_link * (2 if closed else 1)

    def bandwidth(self, members: int) -> float:
        """Bytes a second that a chip can send in a collective of ``members`` chips of a slice.

        All dimensions work together where the whole slice takes part; a smaller group is laid
        along one dimension, the best.
        """
        axes = [self.axis_bandwidth(size) for size in self.shape if size > 1]
        if not axes:
            return self.chip.ici_link
        return sum(axes) if members >= self.slice_chips else max(axes)

    def hops(self, members: int) -> int:
        """Links that a message crosses to reach every one of ``members`` chips of a slice."""
        if members >= self.slice_chips:
            return sum(size // 2 for size in self.shape)
        return members // 2


def devices(topology: Topology) -> list[Any]:
    """The JAX devices of a topology, for compiling only.

    Raises:
      UserError: where libtpu is missing, or does not know the shape.
    """
    import importlib.util

    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise UserError("bertjax plan compiles with libtpu, which is not here: pip install libtpu")
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    sides = [2 if size % 2 == 0 else 1 for size in topology.shape[:2]]
    name = str(dataclasses.replace(topology, slices=1))
    try:
        with unheard():
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=name, chips_per_host_bounds=(*sides, 1), **options
            ).devices
    except Exception as error:
        raise UserError(
            f"libtpu does not know the topology {topology}: {' '.join(str(error).split())}"
        ) from error
    if len(found) != topology.chips or found[0].device_kind != topology.chip.device_kind:
        raise UserError(
            f"libtpu makes {len(found)} devices of kind {found[0].device_kind} of {topology}, "
            f"not {topology.chips} of kind {topology.chip.device_kind}; use another version of it"
        )
    return list(found)
