"""Every family and head beside transformers: the same weights and inputs, the same numbers.

Set ``BERTJAX_PARITY_TABLE`` to a path and the table of ``docs/parity.md`` is written there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_models import (
    cases,
    heads_of,
    ours,
    peer,
    random_batch,
    theirs,
)

from bertjax.analysis.verify import their_outputs
from bertjax.convert import load_huggingface
from bertjax.models.model import TOKEN_HEADS, Model, all_states
from bertjax.types import HeadKind

pytest.importorskip("torch", reason="needs the parity extra")

FLOAT32, BFLOAT16 = 1e-5, 3e-2
BATCHES = {"padded": (13, 1, 7, 4), "unpadded": (13, 13, 13, 13)}
"""Lengths of the examples in a batch: odd ones, because a shape is a compilation."""
EVEN = {"even": (16, 3, 8, 16)}
"""A batch more, for the bare encoders."""

INTRODUCTION = """# Parity with transformers

The largest absolute difference from transformers in float32 on a CPU, of every family and head:
small models with random weights, no bias or norm trivial; batches padded, unpadded, and of odd
lengths. Hidden states and attentions are those of every layer. float32 must be within 1e-5, and
bfloat16 (of our computation, against their float32) within 3e-2.

This page is written by a test run:

```sh
BERTJAX_PARITY_TABLE=docs/parity.md pytest tests/test_families.py
```
"""

Differences = dict[tuple[str, str], dict[str, float]]


@pytest.fixture(scope="module")
def table() -> Iterator[Differences]:
    """Largest differences by (family, output), then by type; written where it is asked for."""
    found: Differences = {}
    yield found
    if path := os.environ.get("BERTJAX_PARITY_TABLE"):
        Path(path).write_text(markdown(found))


def markdown(found: Differences) -> str:
    """The table of the documentation."""
    lines = [INTRODUCTION, "| family | output | float32 | bfloat16 |", "|---|---|---|---|"]
    for (family, output), row in sorted(found.items()):
        lines.append(f"| {family} | {output} | {row['float32']:.1e} | {row['bfloat16']:.1e} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("family", "suffix", "kinds"),
    cases(),
    ids=[f"{family}-{suffix}-{'+'.join(kinds)}" for family, suffix, kinds in cases()],
)
def test_equals_transformers(
    tmp_path: Path, table: Differences, family: str, suffix: str, kinds: tuple[HeadKind, ...]
) -> None:
    model = peer(family, suffix, kinds)
    model.save_pretrained(tmp_path)
    heads = heads_of(kinds)
    loaded = load_huggingface(tmp_path, heads)
    assert not loaded.report.new
    assert not loaded.report.unused
    for dtype, tolerance in (("float32", FLOAT32), ("bfloat16", BFLOAT16)):
        converted = Model(loaded.config, tuple(heads.items()), jnp.dtype(dtype))
        compute = jax.jit(functools.partial(everything, converted))
        for name, lengths in (BATCHES if kinds else BATCHES | EVEN).items():
            batch = random_batch(model.config, lengths)
            output = theirs(model, batch, kinds)
            computed = compute(loaded.params, ours(batch))
            for label, difference in differences(computed, output, batch["mask"], kinds).items():
                row = table.setdefault((family, label), {"float32": 0.0, "bfloat16": 0.0})
                row[dtype] = max(row[dtype], difference)
                assert difference <= tolerance, (label, name, dtype)


def everything(model: Model, params: Any, batch: Any) -> dict[str, Any]:
    """All that a model can tell of a batch: states, attentions, pooled output, logits."""
    states, weights = all_states(model, params, batch)
    variables = {"params": params}
    found: dict[str, Any] = {"states": states, "attentions": weights}
    if model.with_pooler:
        found["pooled"] = model.apply(variables, states[-1], method=pool)
    return found | {name: model.apply(variables, batch, name) for name, _ in model.head_configs}


def differences(
    computed: dict[str, Any], output: Any, mask: np.ndarray, kinds: tuple[HeadKind, ...]
) -> dict[str, float]:
    """The largest absolute difference of each output, over the real tokens."""
    states, weights = computed["states"], computed["attentions"]
    expected = np.stack([state.numpy() for state in output.hidden_states])
    attentions = np.stack([weight.numpy() for weight in output.attentions])
    real = mask[:, None, :, None] & mask[:, None, None, :]
    found = {
        "hidden states": largest(states[:, mask], expected[:, mask]),
        "attentions": largest(np.where(real, weights, 0), np.where(real, attentions, 0)),
    }
    if "pooler_output" in output and output.pooler_output is not None:
        found["pooled output"] = largest(computed["pooled"], output.pooler_output.numpy())
    for kind in kinds:
        logits = np.asarray(computed[kind])
        logits = logits[mask] if kind in TOKEN_HEADS else logits
        expected_logits = their_outputs(output, mask, [kind])[kind]
        found[kind.replace("_", " ")] = largest(logits, expected_logits)
    return found


def pool(model: Model, hidden: jax.Array) -> jax.Array:
    """The pooler's output of each row."""
    return model.encoder.pool(hidden[:, 0])


def largest(got: Any, expected: np.ndarray) -> float:
    """The largest absolute difference."""
    got = np.asarray(got, np.float32)
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max())
