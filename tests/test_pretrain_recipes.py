"""The recipes of ``configs/pretrain.py``: each builds at full size and says where it is from."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import jax
import pytest

from bertjax.cli.experiment import load_config
from bertjax.data.plans import SENTENCE_TASKS
from bertjax.models import PRESETS
from bertjax.optim import optimizer
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh
from bertjax.train.pretrain_config import PRESET, PretrainConfig, preset, stretches
from bertjax.train.pretrain_models import make_models, multiplier
from bertjax.train.state import abstract_params

REPOSITORY = Path(__file__).resolve().parents[1]
MODULE: dict[str, Any] = runpy.run_path(str(REPOSITORY / "configs" / "pretrain.py"))
RECIPES: dict[str, Any] = MODULE["RECIPES"]
MILLIONS = {
    "bert_tiny": 4.4,
    "bert_small": 29,
    "bert_base": 110,
    "bert_large": 336,
    "roberta_base": 125,
    "albert_base": 12,
    "electra_small": 14,
}
"""Parameters, as the authors count them; ours may have a head beside."""


def config_of(recipe: str) -> PretrainConfig:
    """The typed config of a recipe, with a corpus named."""
    fields = load_config(f"configs/pretrain.py:{recipe}").to_dict()
    changes = fields["architecture"].items()
    fields["architecture"] = {name: value for name, value in changes if value is not None}
    return PretrainConfig.from_mapping({**fields, "data": "prepared"})


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_builds_at_its_full_size(recipe: str):
    config = config_of(recipe)
    name = config.model.removeprefix(PRESET)
    shape = preset(name, PRESETS[name].vocab_size, config.architecture)
    mesh = make_mesh(MeshConfig())
    _, trained = make_models(config, shape, mesh)
    shapes = abstract_params(trained, mesh)
    jax.eval_shape(optimizer(config.optim, 0.0, 0.0).init, shapes)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if recipe in MILLIONS:
        assert 0.97 * MILLIONS[recipe] < count / 1e6 < 1.35 * MILLIONS[recipe]
    shares = multiplier(config)
    for part in stretches(config):
        assert part.max_length <= shape.max_length
        assert part.batch_size % (config.accumulation * batch_divisor(mesh)) == 0
        middle = (part.first + part.last) // 2
        assert 0 < float(shares(middle)) < 1
    assert float(shares(stretches(config)[-1].last)) == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_where_it_is_from_and_what_to_expect(recipe: str):
    made = recipe in MODULE["MINIATURES"] or recipe in ("bert_mini", "bert_small", "bert_medium")
    text = MODULE["miniature"].__doc__ if made else RECIPES[recipe].__doc__
    assert re.search(r"(et al\.|google-research).* 20\d\d", text, re.DOTALL), text
    assert re.search(r"[Rr]eport|SQuAD|run here, see README", text), text


def test_two_phases_make_one_run():
    parts = stretches(config_of("bert_base"))
    assert [(part.first, part.last, part.max_length) for part in parts] == [
        (0, 900_000, 128),
        (900_000, 1_000_000, 512),
    ]


def test_a_recipe_changes_only_fields_that_there_are():
    known = {*MODULE["defaults"](), *MODULE["ARCHITECTURE"]}
    for name, recipe in RECIPES.items():
        assert set(recipe()) <= known, name


def test_the_defaults_are_those_of_the_typed_config():
    """So that a config written in Python begins where the file does."""
    typed = PretrainConfig.from_mapping({"data": "prepared", "steps": 1})
    given = MODULE["defaults"]()
    given["architecture"] = {}
    found = PretrainConfig.from_mapping({**given, "data": "prepared", "steps": 1, "dropout": None})
    assert found == typed
    assert found.sentence_task in SENTENCE_TASKS
