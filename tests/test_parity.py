"""Forward parity with transformers: the same weights and inputs give the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_models import ours, random_batch

from bertjax.convert import load_huggingface
from bertjax.models.model import Batch, Model
from bertjax.tokenizers import load_tokenizer
from bertjax.types import HeadConfig

torch = pytest.importorskip("torch", reason="needs the parity extra")
transformers = pytest.importorskip("transformers", reason="needs the parity extra")

TOLERANCE = 1e-5
LENGTHS = (13, 1, 7, 16)
"""Of the examples in a padded batch; one is full, one is a single token."""

SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1},
    "deep": {"num_hidden_layers": 5, "hidden_size": 24, "num_attention_heads": 3},
    "wide": {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 12},
    "tanh gelu": {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    "relu": {"hidden_act": "relu", "vocab_size": 61, "intermediate_size": 17},
}
PRETRAINING = {"masked": HeadConfig("masked_lm"), "next": HeadConfig("next_sentence", 2)}


def peer(class_name: str, shape: Mapping[str, Any], **settings: Any) -> Any:
    """A random model of transformers in which no parameter, bias or norm is trivial."""
    torch.manual_seed(len(str(shape)))
    base = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 20,
    }
    config = transformers.BertConfig(**base | dict(shape), **settings)
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def theirs(model: Any, batch: Mapping[str, np.ndarray]) -> Any:
    """What transformers computes."""
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch["token_ids"]),
            token_type_ids=torch.tensor(batch["type_ids"]),
            attention_mask=torch.tensor(batch["mask"].astype(np.int64)),
            output_hidden_states=True,
        )


def converted(
    folder: Path, heads: Mapping[str, HeadConfig]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(hidden states, pooled output) and (logits of a head) of the converted model."""
    loaded = load_huggingface(folder, heads)
    assert not loaded.report.new
    assert not loaded.report.unused
    model = Model(loaded.config, tuple(heads.items()))
    variables = {"params": jax.tree.map(jnp.asarray, loaded.params)}

    def encode(module: Model, batch: Batch) -> tuple[jax.Array, jax.Array]:
        hidden = module.encode(batch)
        return hidden, module.encoder.pool(hidden[:, 0])

    return (
        jax.jit(lambda batch: model.apply(variables, batch, method=encode)),
        jax.jit(lambda batch, head: model.apply(variables, batch, head), static_argnums=1),
    )


def assert_close(got: Any, expected: Any) -> None:
    """Largest absolute difference at most 1e-5."""
    expected = expected.numpy()
    assert got.shape == expected.shape
    assert np.abs(np.asarray(got) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_encoder(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = peer("BertModel", shape)
    model.save_pretrained(tmp_path)
    batch = random_batch(model.config, LENGTHS)
    expected = theirs(model, batch)
    hidden, pooled = converted(tmp_path, {})[0](ours(batch))
    assert_close(hidden[batch["mask"]], expected.last_hidden_state[batch["mask"]])
    assert_close(pooled, expected.pooler_output)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "head",
    [HeadConfig("classification", 3), HeadConfig("regression", 1)],
    ids=["classification", "regression"],
)
def test_classifier(tmp_path: Path, shape: dict[str, Any], head: HeadConfig) -> None:
    model = peer("BertForSequenceClassification", shape, num_labels=head.size)
    model.save_pretrained(tmp_path)
    batch = random_batch(model.config, LENGTHS)
    expected = theirs(model, batch)
    encode, logits = converted(tmp_path, {"task": head})
    hidden, _ = encode(ours(batch))
    assert_close(hidden[batch["mask"]], expected.hidden_states[-1][batch["mask"]])
    assert_close(logits(ours(batch), "task"), expected.logits)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pretraining(tmp_path: Path, shape: dict[str, Any]) -> None:
    model = peer("BertForPreTraining", shape)
    model.save_pretrained(tmp_path)
    batch = random_batch(model.config, LENGTHS)
    expected = theirs(model, batch)
    encode, logits = converted(tmp_path, PRETRAINING)
    hidden, _ = encode(ours(batch))
    assert_close(hidden[batch["mask"]], expected.hidden_states[-1][batch["mask"]])
    assert_close(logits(ours(batch), "masked"), expected.prediction_logits[batch["mask"]])
    assert_close(logits(ours(batch), "next"), expected.seq_relationship_logits)


def test_minilm_on_real_pairs(minilm_folder: Path, data_folder: Path) -> None:
    """MiniLM's real weights on the first 100 sentence pairs of MRPC's development set."""
    lines = (data_folder / "glue/MRPC/dev.tsv").read_text(encoding="utf-8-sig").split("\n")
    pairs = [tuple(line.split("\t")[3:5]) for line in lines[1:101]]
    tokenizer = load_tokenizer(minilm_folder)
    firsts, seconds = (list(texts) for texts in zip(*pairs, strict=True))
    encoded = tokenizer.encode_batch(firsts, seconds, max_length=128)
    rows = (len(encoded), max(len(token_ids) for token_ids, _ in encoded))
    batch = {name: np.zeros(rows, np.int64) for name in ("token_ids", "type_ids", "mask")}
    for row, (token_ids, type_ids) in enumerate(encoded):
        batch["token_ids"][row, : len(token_ids)] = token_ids
        batch["type_ids"][row, : len(token_ids)] = type_ids
        batch["mask"][row, : len(token_ids)] = 1
    batch["mask"] = batch["mask"].astype(bool)
    peer_tokenizer = transformers.AutoTokenizer.from_pretrained(str(minilm_folder))
    peer_ids = peer_tokenizer(firsts, seconds, truncation=True, max_length=128)["input_ids"]
    assert [token_ids.tolist() for token_ids, _ in encoded] == peer_ids

    model = transformers.BertModel.from_pretrained(minilm_folder).eval()
    expected = theirs(model, batch)
    hidden, pooled = converted(minilm_folder, {})[0](ours(batch))
    assert_close(hidden[batch["mask"]], expected.last_hidden_state[batch["mask"]])
    assert_close(pooled, expected.pooler_output)
