"""The conversion table of every family: total in both directions, and back to the same bits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from family_models import FAMILIES as PEERS
from family_models import cases, heads_of, peer
from safetensors.numpy import load_file

from bertjax.convert import FAMILIES, huggingface_heads, load_huggingface, save_huggingface
from bertjax.convert.table import slots
from bertjax.models import PRESETS, Model
from bertjax.models.model import example_batch
from bertjax.models.presets import FAMILY_DEFAULTS
from bertjax.types import HeadConfig, HeadKind, ModelConfig, UserError

SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_layers": 4,
    "num_heads": 3,
    "intermediate_size": 20,
    "max_positions": 16,
}
CONFIGS = {name: dataclasses.replace(base, **SMALL) for name, base in FAMILY_DEFAULTS.items()}
for _name in ("albert", "electra"):
    CONFIGS[_name] = dataclasses.replace(CONFIGS[_name], embedding_size=10)
CONFIGS["albert in groups"] = dataclasses.replace(CONFIGS["albert"], layer_groups=2, inner_layers=3)

SETS = [
    (name, kinds)
    for name, config in CONFIGS.items()
    for kinds in sorted(map(sorted, FAMILIES[config.model_type].architectures))
]
IDS = [f"{name}-{'+'.join(kinds) or 'encoder'}" for name, kinds in SETS]


def flatten(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Leaves by their path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {p: leaf for name, t in tree.items() for p, leaf in flatten(t, (*path, name)).items()}


def shapes_of(config: ModelConfig, heads: dict[str, HeadConfig]) -> dict[tuple[str, ...], Any]:
    """The parameters of the model, by path, with their shapes."""
    model = Model(config, tuple(heads.items()))
    variables = jax.eval_shape(
        lambda key: model.init(key, example_batch(config), method="initialise"), jax.random.key(0)
    )
    return {path: leaf.shape for path, leaf in flatten(nn.unbox(variables["params"])).items()}


def random_params(config: ModelConfig, heads: dict[str, HeadConfig]) -> dict[str, Any]:
    """Random numbers in the shape of the parameters."""
    random, params = np.random.default_rng(0), {}
    for path, shape in shapes_of(config, heads).items():
        node = params
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = random.normal(size=shape).astype(np.float32)
    return params


@pytest.mark.parametrize(("name", "kinds"), SETS, ids=IDS)
def test_every_parameter_is_filled_once(name: str, kinds: list[HeadKind]) -> None:
    config, heads = CONFIGS[name], heads_of(tuple(kinds))
    found = list(slots(FAMILIES[config.model_type].huggingface, config, heads))
    assert len({slot.theirs for slot in found}) == len(found)
    assert {slot.ours: slot.our_shape for slot in found} == shapes_of(config, heads)
    filled = {path: np.zeros(shape, int) for path, shape in shapes_of(config, heads).items()}
    for slot in found:
        filled[slot.ours][... if slot.layer is None else slot.layer] += 1
    assert all((count == 1).all() for count in filled.values())


@pytest.mark.parametrize(("name", "kinds"), SETS, ids=IDS)
def test_our_parameters_come_back(tmp_path: Path, name: str, kinds: list[HeadKind]) -> None:
    config, heads = CONFIGS[name], heads_of(tuple(kinds))
    params = random_params(config, heads)
    save_huggingface(tmp_path, config, params, heads)
    assert huggingface_heads(tmp_path)[0] == heads
    loaded = load_huggingface(tmp_path, heads)
    assert loaded.config == config
    assert [loaded.report.new, loaded.report.unused, loaded.report.missing] == [()] * 3
    expected, got = flatten(params), flatten(loaded.params)
    assert expected.keys() == got.keys()
    assert all(np.array_equal(got[path], value) for path, value in expected.items())


CASES = [*cases(), *((name, "ForSequenceClassification", ("regression",)) for name in PEERS)]


@pytest.mark.parametrize(
    ("family", "suffix", "kinds"),
    CASES,
    ids=[f"{family}-{'+'.join(kinds) or suffix}" for family, suffix, kinds in CASES],
)
def test_their_files_come_back(
    tmp_path: Path, family: str, suffix: str, kinds: tuple[HeadKind, ...]
) -> None:
    """Hugging Face to ours to Hugging Face: every tensor's name and bits, and the config."""
    pytest.importorskip("torch", reason="needs the parity extra")
    model = peer(family, suffix, kinds)
    model.save_pretrained(tmp_path / "theirs")
    heads, labels = huggingface_heads(tmp_path / "theirs")
    assert heads == heads_of(kinds)
    loaded = load_huggingface(tmp_path / "theirs", heads)
    assert [loaded.report.new, loaded.report.unused] == [(), ()]
    save_huggingface(tmp_path / "ours", loaded.config, loaded.params, heads, labels=labels)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
    reloaded, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = model.config.to_dict(), reloaded.config.to_dict()
    ignored = {"_name_or_path", "transformers_version", "problem_type", "_attn_implementation"}
    for field in before.keys() - ignored:
        assert after[field] == before[field], field


PARAMETERS = {
    "roberta_base": 124_645_632,
    "roberta_large": 355_359_744,
    "xlm_roberta_base": 278_043_648,
    "camembert_base": 110_621_952,
    "albert_base": 11_683_584,
    "albert_xxlarge": 222_595_584,
    "distilbert_base": 66_362_880,
    "electra_small": 13_483_008,
    "electra_base": 108_891_648,
    "electra_large": 334_092_288,
}
"""Of the bare encoders, pooler included, as the released checkpoints have them; BERT's are in
``test_models.py``."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_the_published_size(name: str) -> None:
    assert (
        sum(np.prod(shape) for shape in shapes_of(PRESETS[name], {}).values()) == PARAMETERS[name]
    )


def test_there_are_24_miniatures() -> None:
    assert len([name for name in PRESETS if name.startswith("bert_l")]) == 24 + 2  # and large


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("electra", {"summary_type": "mean"}, "summary_type 'mean', and only 'first'"),
        ("electra", {"summary_activation": None}, "summary_activation None, and only"),
        ("albert", {"num_hidden_groups": 3}, "num_layers 4 is not divisible by layer_groups 3"),
        ("roberta", {"max_position_embeddings": 2}, "leaves no position after the 2"),
        ("distilbert", {"activation": "mish"}, "activation 'mish', which is not supported"),
        ("distilbert", {"n_layers": "six"}, "'n_layers' must be a whole number, not 'six'"),
    ],
)
def test_what_a_family_cannot_do_is_said(
    tmp_path: Path, family: str, change: dict[str, Any], words: str
) -> None:
    config = CONFIGS[family]
    save_huggingface(tmp_path, config, random_params(config, {}))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as error:
        load_huggingface(tmp_path)
    assert words in str(error.value)


def test_a_named_head_that_is_not_there_is_said(tmp_path: Path) -> None:
    config = CONFIGS["roberta"]
    save_huggingface(tmp_path, config, random_params(config, {}))
    path = tmp_path / "config.json"
    change = {"architectures": ["RobertaForMaskedLM"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="names a class with the head masked_lm, but"):
        huggingface_heads(tmp_path)
