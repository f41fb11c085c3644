"""Learning rates of single layers, and layers that begin anew."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
from test_optim_layers import (
    ALBERT,
    BERT,
    DECAY,
    HEADS,
    as_matrices,
    assert_same,
    is_decayed,
    is_matrix,
    ours,
    random_gradients,
    real_params,
    train,
    unstacked,
)

from bertjax.cli.experiment import load_config
from bertjax.models import Model
from bertjax.optim import OptimConfig, layer_rates, path_of, rate_factors
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.train.config import FinetuneConfig
from bertjax.train.layerwise import optim_of, renewed
from bertjax.train.state import abstract_params, check_addresses, create_state
from bertjax.types import UserError

RATES = (
    ("encoder/embeddings/.*", 0.25),
    ("encoder/layers/0/.*", 0.5),
    ("encoder/.*/bias", 3.0),
    (".*/norm/scale", 0.0),
)


def expected(name: str) -> float:
    """The product of :data:`RATES` for an unstacked tensor, ``PATH of (LAYER,)``."""
    path, _, layer = name.partition(" of ")
    factor = 0.25 if path.startswith("encoder/embeddings/") else 1.0
    factor *= 0.5 if layer == "(0,)" else 1.0
    factor *= 3.0 if path.startswith("encoder/") and path.endswith("/bias") else 1.0
    return 0.0 if path.endswith("norm/scale") else factor


def config(**fields: Any) -> FinetuneConfig:
    """As ``configs/finetune.py`` makes it."""
    values = load_config("configs/finetune.py:task=cola").to_dict()
    return FinetuneConfig.from_mapping(values | fields)


def reference(name: str, rate: Any, decay: Any) -> dict[str, optax.GradientTransformation]:
    """Optax's own optimizers, of matrices, of what is decayed and of the rest."""
    plain = optax.adam(rate, eps=1e-6)
    if name == "lamb":
        lamb = optax.lamb(rate, eps=1e-6, weight_decay=decay)
        return {"matrix": lamb, "decayed": lamb, "plain": plain}
    muon = optax.contrib.muon(rate, eps=1e-6, weight_decay=decay, consistent_rms=0.2)
    decayed = optax.adamw(rate, eps=1e-6, weight_decay=decay)
    return {"matrix": muon, "decayed": decayed, "plain": plain}


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_rates_equal_optimizers_of_their_own(name: Any):
    """Each tensor of each layer has an optimizer with its learning rate, decay included.

    Under Muon all but the matrices have AdamW.
    """
    params = real_params(BERT)
    gradients = random_gradients(params)
    optim = OptimConfig(optimizer=name, eps=1e-6, clip=0.5, rates=RATES)
    flat = as_matrices(unstacked(params, BERT))

    def kind(path: str) -> str:
        return "matrix" if is_matrix(path) else "decayed" if is_decayed(path) else "plain"

    def chain(rate: Any, decay: Any) -> optax.GradientTransformation:
        parts: dict[Any, Any] = {
            f"{kind} {factor}": made
            for factor in {expected(path) for path in flat}
            for kind, made in reference(name, rate * factor, decay).items()
        }
        labels = {path: f"{kind(path)} {expected(path)}" for path in flat}
        return optax.chain(optax.clip_by_global_norm(0.5), optax.partition(parts, labels))

    got = as_matrices(unstacked(train(ours(optim), params, gradients), BERT))
    want = train(chain, flat, [as_matrices(unstacked(g, BERT)) for g in gradients])
    assert_same(got, want)
    assert {expected(path) for path in flat} == {0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 3.0}
    for path, value in flat.items():
        assert (got[path] == value).all() == (expected(path) == 0), path
    assert DECAY > 0


def test_layer_decay_is_electras():
    """The depths of google-research/electra's ``_get_layer_lrs``, and the pooler's between."""
    factors = rate_factors(real_params(BERT), layer_rates(0.5, 2))
    leaves = jax.tree_util.tree_leaves_with_path(factors)
    by_part: dict[str, set[Any]] = {}
    for key_path, leaf in leaves:
        part = "/".join(path_of(key_path).split("/")[:2])
        by_part.setdefault(part, set()).add(tuple(leaf.ravel().tolist()))
    assert by_part == {
        "encoder/embeddings": {(0.5**4,)},
        "encoder/layers": {(0.5**3, 0.5**2)},
        "encoder/pooler": {(0.5,)},
        "heads/masked_lm": {(1.0,)},
        "heads/pairs": {(1.0,)},
    }
    assert layer_rates(1.0, 12) == ()


def test_rates_of_a_config_come_on_top_of_its_layer_decay():
    optim = optim_of(config(layer_decay=0.5, rates=(("encoder/layers/1/.*", 8.0),)), BERT)
    factors = rate_factors(real_params(BERT), optim.rates)
    assert factors["encoder"]["layers"]["mlp"]["up"]["bias"].ravel().tolist() == [0.125, 2.0]
    assert optim_of(config(), BERT).rates == ()


def pretrained() -> dict[str, Any]:
    """Host arrays of every parameter, none as a seed makes it."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 1.0, real_params(BERT))


def test_layers_that_begin_anew():
    """They are the seed's, to the bit, and all others are what was found; places do not change."""
    reinit = renewed(config(reinit_layers=1, reinit=("heads/pairs/.*", ".*/word/.*")), BERT)
    model, optim, mesh = Model(BERT, HEADS), OptimConfig(), make_mesh(MeshConfig(2, 2, 2))
    fresh = unstacked(create_state(model, optim, mesh, 3).params, BERT)
    params = create_state(model, optim, mesh, 3, pretrained(), reinit=reinit).params
    got, found = unstacked(params, BERT), unstacked(pretrained(), BERT)
    anew = set()
    for path, value in got.items():
        assert not np.array_equal(fresh[path], found[path]), path
        anew |= {path} if np.array_equal(value, fresh[path]) else set()
        assert path in anew or np.array_equal(value, found[path]), path
    starts = ("encoder/pooler/", "heads/pairs/", "encoder/embeddings/word/")
    assert anew == {path for path in got if path.startswith(starts) or path.endswith(" of (1,)")}
    places = abstract_params(model, mesh)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, params, places)))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "decay 0": ({"layer_decay": 0.0}, "'layer_decay' must be above 0 and at most 1, not 0.0"),
    "decay above 1": ({"layer_decay": 1.1}, "'layer_decay' must be above 0 and at most 1"),
    "no pairs": ({"rates": ("heads/.*",)}, "'rates' must be pairs of a regular expression and a f"),
    "no number": ({"rates": (("heads/.*", "10"),)}, "'rates' must be pairs"),
    "negative": ({"rates": (("heads/.*", -1),)}, r"rates: the factor of 'heads/\.\*' must be 0 or"),
    "fewer than none": ({"reinit_layers": -1}, "'reinit_layers' must be at least 0, not -1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_fields(name: str):
    fields, words = WRONG[name]
    with pytest.raises(UserError, match=words):
        config(**fields)


def test_one_pair_and_one_pattern_need_no_list():
    assert config(rates=("heads/.*", 10)).rates == (("heads/.*", 10.0),)
    assert config(reinit="heads/.*").reinit == ("heads/.*",)


def test_layers_must_be_there_and_their_own():
    with pytest.raises(UserError, match=r"'reinit_layers' is 3, but .* has 2 layers"):
        renewed(config(reinit_layers=3), BERT)
    with pytest.raises(UserError, match=r"'layer_decay' needs a model .* with 'rates'"):
        optim_of(config(layer_decay=0.9), ALBERT)
    with pytest.raises(UserError, match=r"'reinit_layers' needs a model .* with 'reinit'"):
        renewed(config(reinit_layers=1), ALBERT)


@pytest.mark.parametrize("field", ["freeze", "rates", "reinit"])
def test_addresses_must_match_something(field: str):
    model, mesh = Model(BERT, HEADS), make_mesh(MeshConfig())
    check_addresses(model, mesh, **{field: ["encoder/layers/1/.*"]})
    with pytest.raises(UserError, match=f"'{field}': 'encoder/layers/2/.*' matches no parameter"):
        check_addresses(model, mesh, **{field: ["encoder/layers/2/.*"]})


def test_nothing_is_addressed_by_default():
    """Both experiments have the field of rates; without it the optimizer is the plain one."""
    for source in ("configs/finetune.py", "configs/pretrain.py:bert_tiny"):
        assert load_config(source).rates == ()
    assert optim_of(config(), BERT) == config().optim
    assert renewed(config(), BERT) == ()
