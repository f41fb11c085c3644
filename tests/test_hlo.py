"""Operations, traffic and collectives counted in compiled programs whose counts are known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bertjax.analysis.hlo import Instruction, executed, parse, trip_count
from bertjax.analysis.hlo_collectives import replica_groups, sent
from bertjax.analysis.hlo_costs import Costs, costs

ROWS, WIDTH = 16, 32
PRODUCT = 2 * ROWS * WIDTH * WIDTH


def counted(function: Any, *arguments: Any, **options: Any) -> Costs:
    compiled: Any = jax.jit(function, **options).lower(*arguments).compile()
    devices = len(compiled.input_shardings[0][0].device_set)
    return costs(parse(compiled.as_text()), devices)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.ones((ROWS, WIDTH))


@pytest.fixture(scope="module")
def w() -> jax.Array:
    return jnp.ones((WIDTH, WIDTH))


def nested(x: jax.Array, w: jax.Array) -> jax.Array:
    """One product before, and five in each of three iterations."""

    def inner(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.tanh(carry @ w), None

    def outer(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.lax.scan(inner, carry, None, length=5)[0], None

    return jax.lax.scan(outer, x @ w, None, length=3)[0]


def test_nested_scans_are_multiplied_out(x: jax.Array, w: jax.Array):
    assert counted(nested, x, w).flops == (1 + 3 * 5) * PRODUCT


def test_loops_are_counted_without_what_xla_states(x: jax.Array, w: jax.Array):
    """Programs of libtpu do not say how often a loop runs."""
    text = str(jax.jit(nested).lower(x, w).compile().as_text())
    program = parse(text)
    bare = parse(text.replace('"known_trip_count"', '"another"'))
    for one in (program, bare):
        loops = [e for e in executed(one) if e.instruction.opcode == "while"]
        runs = [(trip_count(one, e.computation, e.instruction), e.times) for e in loops]
        assert runs == [(3, 1), (5, 3)]


def test_a_loop_without_a_known_end_is_refused(x: jax.Array):
    def halve(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda v: v.sum() > 1, lambda v: v / 2, x)

    with pytest.raises(ValueError, match="no comparison with a constant ends it"):
        counted(halve, x)


def test_branches_count_all(x: jax.Array, w: jax.Array):
    def choose(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: jnp.tanh(x) @ (w + 1))

    assert counted(choose, x, w).flops == 2 * PRODUCT


def test_batched_and_transposed_products():
    left, right = jnp.ones((4, 3, 8, 16)), jnp.ones((4, 3, 5, 16))
    found = counted(lambda a, b: jnp.einsum("bnlh,bnmh->bnlm", a, b), left, right)
    assert found.flops == 2 * 4 * 3 * 8 * 5 * 16


def test_gradient_of_a_product_is_two_more(x: jax.Array, w: jax.Array):
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.square(x @ w).sum()

    assert counted(jax.grad(loss, (0, 1)), x, w).flops == 3 * PRODUCT


def test_convolution_counts_no_padding():
    signal, kernel = jnp.ones((2, 3, 10)), jnp.ones((4, 3, 5))

    def convolve(signal: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(signal, kernel, (1,), [(2, 2)])

    met = sum(1 for out in range(10) for tap in range(5) if 0 <= out + tap - 2 < 10)
    assert counted(convolve, signal, kernel).flops == 2 * 2 * 3 * 4 * met


# As libtpu writes a product over batch (16) and heads (12): the two are places of a convolution
# with gaps, and of 16 x 16 pairs of places only 16 meet an element.
BATCHED = """
ENTRY %main (q: bf16[16,128,12,64], k: bf16[16,128,12,64]) -> f32[16,12,128,128] {
  %q = bf16[16,128,12,64]{1,3,2,0} parameter(0)
  %k = bf16[16,128,12,64]{1,3,2,0} parameter(1)
  ROOT %c = f32[16,12,128,128]{2,3,1,0:T(8,128)} convolution(%q, %k), \
window={size=16x12 stride=15x11 lhs_dilate=16x12}, dim_labels=0b1f_0o1i->01bf
}
"""


def test_a_batched_product_written_as_a_convolution():
    found = costs(parse(BATCHED), 1)
    assert found.flops == 2 * 16 * 12 * 128 * 128 * 64
    assert found.traffic == 2 * (2 * 16 * 128 * 12 * 64) + 4 * 16 * 12 * 128 * 128


SLICED = """
%fused (a: f32[12,8,8], i: s32[], b: f32[12,8,8]) -> (f32[8,8], f32[12,8,8]) {
  %a = f32[12,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[12,8,8]{2,1,0} parameter(2)
  %z = s32[] constant(0)
  %d = f32[1,8,8]{2,1,0} dynamic-slice(%a, %i, %z, %z), dynamic_slice_sizes={1,8,8}
  %u = f32[12,8,8]{2,1,0} dynamic-update-slice(%b, %d, %i, %z, %z)
  %r = f32[8,8]{1,0} bitcast(%d)
  ROOT %t = (f32[8,8]{1,0}, f32[12,8,8]{2,1,0}) tuple(%r, %u)
}

ENTRY %main (a: f32[12,8,8], i: s32[], b: f32[12,8,8]) -> (f32[8,8], f32[12,8,8]) {
  %a = f32[12,8,8]{2,1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %b = f32[12,8,8]{2,1,0} parameter(2)
  ROOT %f = (f32[8,8]{1,0:S(1)}, f32[12,8,8]{2,1,0}) fusion(%a, %i, %b), kind=kLoop, calls=%fused
}
"""


def test_traffic_counts_what_is_read_and_written_of_stacked_arrays():
    """One layer is read of twelve, one is written of twelve, and one stays on the chip."""
    assert costs(parse(SLICED), 1).traffic == 2 * 4 * 8 * 8


def test_collectives_and_their_groups(x: jax.Array, w: jax.Array):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    by_row = jax.device_put(x, NamedSharding(mesh, PartitionSpec("a", "b")))
    split = jax.device_put(w, NamedSharding(mesh, PartitionSpec("b", None)))
    whole = NamedSharding(mesh, PartitionSpec())
    found = counted(lambda x, w: (x @ w).sum(0), by_row, split, out_shardings=whole)
    assert found.flops == PRODUCT // 8
    kinds = {(c.kind, c.members, c.bytes, c.times) for c in found.collectives}
    assert kinds == {
        ("all-reduce", 2, 4 * ROWS // 4 * WIDTH, 1),
        ("all-reduce", 4, 4 * WIDTH, 1),
    }
    pairs = next(c.groups for c in found.collectives if c.members == 2)
    np.testing.assert_array_equal(pairs, [[0, 1], [2, 3], [4, 5], [6, 7]])


def test_a_collective_in_a_loop_counts_as_often(w: jax.Array):
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    split = jax.device_put(w, NamedSharding(mesh, PartitionSpec(None, "a")))
    whole = NamedSharding(mesh, PartitionSpec())

    def repeat(w: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.with_sharding_constraint(jnp.tanh(carry @ w.T), whole), None

        return jax.lax.scan(body, jnp.ones((4, WIDTH)), None, length=6)[0]

    found = counted(repeat, split, out_shardings=whole)
    assert found.flops == 6 * 2 * 4 * WIDTH * WIDTH // 8
    assert 6 in [c.times for c in found.collectives if c.bytes == 4 * 4 * WIDTH]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8], dimensions={0}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (
            "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add",
            [[0, 2, 4, 6], [1, 3, 5, 7]],
        ),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x=1", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        (
            "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}, x=1",
            [[0, 1], [2, 3], [4, 5], [6, 7]],
        ),
        ("source_target_pairs={{0,1},{1,0}}, x=1", [[0, 1], [1, 0]]),
    ],
)
def test_every_form_of_groups(text: str, groups: list[list[int]]):
    instruction = Instruction("c", "all-reduce", (), (), "", ", " + text)
    np.testing.assert_array_equal(replica_groups(instruction, 8), groups)


ASYNCHRONOUS = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%async_collective_fusion.1 (p: f32[4,8]) -> f32[32,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %g.1 = f32[32,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%all-reduce-scatter.1 (p: f32[32,8]) -> f32[4,8] {
  %p = f32[32,8]{1,0} parameter(0)
  %i = s32[] constant(0)
  %r = f32[32,8]{1,0} all-reduce(%p), channel_id=9, replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %d = f32[4,8]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={4,8}
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %one = f32[32,8]{1,0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.1
  %two = f32[32,8]{1,0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.1
  %ps = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[]) collective-permute-start(%p), channel_id=3, \
source_target_pairs={{0,1},{1,0}}
  %pd = f32[4,8]{1,0} collective-permute-done(%ps)
  ROOT %f = f32[4,8]{1,0} fusion(%one), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_parts_of_one_collective_count_once():
    """As libtpu writes them: pieces that share a channel, a start with its end, a fused scatter."""
    found = costs(parse(ASYNCHRONOUS), 8).collectives
    assert [(c.kind, c.bytes, c.hidden) for c in found] == [
        ("all-gather", 4 * 32 * 8, True),
        ("collective-permute", 4 * 4 * 8, True),
        ("reduce-scatter", 4 * 32 * 8, False),
    ]


def test_bytes_of_a_ring():
    assert sent("all-reduce", 800, 8) == 2 * 700
    assert sent("all-gather", 800, 8) == sent("reduce-scatter", 800, 8) == 700
    assert sent("collective-permute", 800, 2) == 800
