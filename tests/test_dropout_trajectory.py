"""With dropout on, training here and in PyTorch is the same trajectory if the masks are the same.

Where dropout stands and how its draws spread is held in ``test_dropout_parity.py``; here it is that
the backward pass drops what the forward pass has dropped, and that no step draws another's masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from family_models import heads_of, ours, peer, random_batch

from bertjax.convert import load_huggingface
from bertjax.models import Dropout, Model, layers
from bertjax.optim import OptimConfig
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train.objectives import OBJECTIVES
from bertjax.train.state import create_state
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import HeadKind

torch = pytest.importorskip("torch", reason="needs the parity extra")

STEPS, EXAMPLES, OPTIONS, RATE = 8, 4, 3, 1e-3
RATES = {
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.35,
    "classifier_dropout": 0.5,
}
SUFFIXES: dict[HeadKind, str] = {
    "classification": "ForSequenceClassification",
    "multiple_choice": "ForMultipleChoice",
}
Masks = list[np.ndarray]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Masks:
    """Receives every mask that a step of ours draws, in the order of its forward pass."""
    found: Masks = []
    draw = layers._at_least

    def watched(threshold: Any, key: Any, shape: tuple[int, ...]) -> Any:
        kept = draw(threshold, key, shape)
        jax.debug.callback(lambda mask: found.append(np.asarray(mask)), kept, ordered=True)
        return kept

    monkeypatch.setattr(layers, "_at_least", watched)
    return found


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Masks:
    """The masks that PyTorch's dropout takes, one after the other."""
    waiting: Masks = []

    def dropped(x: Any, p: float, training: bool, inplace: bool = False) -> Any:
        assert training
        assert not inplace
        mask = waiting.pop(0)
        assert mask.size == x.numel()
        kept = torch.tensor(mask.reshape(x.shape))
        return x * kept / (1 - round(p * 65536) / 65536)  # the rate to 16 bits, as ours

    monkeypatch.setattr(torch.nn.functional, "dropout", dropped)
    return waiting


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_same_masks_make_the_same_steps(
    kind: HeadKind, drawn: Masks, given: Masks, tmp_path: Path
) -> None:
    model = peer("bert", SUFFIXES[kind], (kind,), **RATES).train()
    model.save_pretrained(tmp_path)
    rows = EXAMPLES * (OPTIONS if kind == "multiple_choice" else 1)
    batch = random_batch(model.config, tuple(5 + i % 8 for i in range(rows)))
    labels = np.arange(EXAMPLES) % OPTIONS
    took = our_steps(tmp_path, kind, batch, labels, drawn)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    every = []
    for loss, norm, masks in took:
        assert len(masks) == 1 + 3 * model.config.num_hidden_layers + 1
        every += [mask.tobytes() for mask in masks]
        given[:] = masks
        expected = model(**inputs_of(batch, kind), labels=torch.tensor(labels)).loss
        assert not given
        optimizer.zero_grad()
        expected.backward()
        clipped = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert norm == pytest.approx(clipped.item(), rel=1e-4)
    assert len(set(every)) == len(every)


def our_steps(
    folder: Path, kind: HeadKind, batch: dict[str, np.ndarray], labels: np.ndarray, drawn: Masks
) -> list[tuple[float, float, Masks]]:
    """Of each step its loss, the norm of its gradient and the masks that it drew."""
    heads = heads_of((kind,))
    loaded = load_huggingface(folder, heads)
    model = Model(loaded.config, tuple(heads.items()))
    fields: dict[str, Any] = {"schedule": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0}
    optim = OptimConfig(learning_rate=RATE, clip=0.5, **fields)
    made = {**ours(batch), "labels": labels, "example_weight": np.ones(EXAMPLES, np.float32)}
    if kind == "multiple_choice":
        shape = (EXAMPLES, OPTIONS)
        made |= {name: made[name].reshape(shape) for name in ("cls_row", "cls_position")}
        made["option_mask"] = np.ones(shape, np.float32)
    state = create_state(model, optim, make_mesh(MeshConfig(), jax.devices()[:1]), 0, loaded.params)
    step = jax.jit(make_train_step(OBJECTIVES[kind](model, kind), optim, STEPS))
    hyper, found = Hyper.of(optim, Dropout.of(loaded.config)), []
    for _ in range(STEPS):
        drawn.clear()
        micro = {name: value[None] for name, value in made.items()}
        state, metrics = step(state, micro, hyper, jax.random.key(1))
        jax.effects_barrier()
        found.append((float(metrics["loss"]), float(metrics["gradient_norm"]), list(drawn)))
    return found


def inputs_of(batch: dict[str, np.ndarray], kind: HeadKind) -> dict[str, Any]:
    """What transformers takes; of a choice ``[examples, options, length]``."""
    names = {"token_ids": "input_ids", "type_ids": "token_type_ids", "mask": "attention_mask"}
    tensors = {names[name]: torch.tensor(value).long() for name, value in batch.items()}
    if kind != "multiple_choice":
        return tensors
    return {name: value.reshape(EXAMPLES, OPTIONS, -1) for name, value in tensors.items()}
