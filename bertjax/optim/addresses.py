"""Addresses of parameters, and trees made from the regular expressions that match them."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax import Array

from bertjax.types import UserError

Params = Any
STACKED = re.compile(r"(?:generator/)?encoder/layers/")
"""How the addresses of stacked parameters begin; ELECTRA has a generator beside its encoder."""


def path_of(key_path: tuple[Any, ...]) -> str:
    """``encoder/layers/attention/query/kernel`` from a JAX key path."""
    return "/".join(str(getattr(key, "key", key)) for key in key_path)


def addresses(path: str, shape: tuple[int, ...]) -> list[str]:
    """The addresses a leaf stands for: one a layer where it is stacked, else its own path."""
    stack = STACKED.match(path)
    if stack is None:
        return [path]
    return [f"{stack[0]}{i}/{path[stack.end() :]}" for i in range(shape[0])]


def _matches(address: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, address) for pattern in patterns)


def factors(
    params: Params, patterns: tuple[str, ...], *, matched: float, otherwise: float = 1.0
) -> Params:
    """For each leaf an array that broadcasts against it: ``matched`` where a pattern matches."""

    def factor(key_path: tuple[Any, ...], leaf: Array) -> np.ndarray:
        names = addresses(path_of(key_path), leaf.shape)
        values = [matched if _matches(name, patterns) else otherwise for name in names]
        shape = (len(names) if len(names) > 1 else 1, *[1] * (leaf.ndim - 1))
        return np.array(values, np.float32).reshape(shape)

    return jax.tree_util.tree_map_with_path(factor, params)


def unmatched(params: Params, patterns: tuple[str, ...]) -> Params:
    """A tree of booleans, False for each leaf that a pattern matches as a whole."""
    return jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: not _matches(addresses(path_of(key_path), leaf.shape)[0], patterns),
        params,
    )


def layer_axes(params: Params) -> Params:
    """For each leaf the number of its leading axes that count layers.

    Not 0 only for the stacked ones: 1 for ``[layers, ...]`` and ALBERT's ``[groups, ...]``, 2 for
    ``[groups, inner layers, ...]``. Every layer has vectors (its norms), so the least rank in the
    stack is one more than that number.
    """

    def stack_of(key_path: tuple[Any, ...]) -> str | None:
        found = STACKED.match(path_of(key_path))
        return found and found[0]

    least: dict[str | None, int] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        stack = stack_of(key_path)
        least[stack] = min(leaf.ndim, least.get(stack, leaf.ndim))
    least[None] = 1
    return jax.tree_util.tree_map_with_path(
        lambda key_path, _: least[stack_of(key_path)] - 1, params
    )


def check_patterns(params: Params, patterns: tuple[str, ...], field: str) -> None:
    """Raises UserError for a pattern that is no regular expression or matches no parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [name for path, leaf in leaves for name in addresses(path_of(path), leaf.shape)]
    for pattern in patterns:
        try:
            found = any(re.fullmatch(pattern, name) for name in names)
        except re.error as error:
            raise UserError(f"{field}: '{pattern}' is no regular expression: {error}") from error
        if not found:
            raise UserError(
                f"{field}: '{pattern}' matches no parameter; paths look like '{names[0]}'"
            )
