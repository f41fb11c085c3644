"""Checkpoints: bit-equal, the latest and the best kept, damage noticed and passed over."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import bertjax.digests
from bertjax.checkpoint import Checkpoints
from bertjax.digests import digest_table, digests
from bertjax.optim import OptimConfig, optimizer, path_of
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.types import UserError

META = {"position": {"best": 0.1, "best_step": None}}


def some_state(seed: int, mesh: MeshConfig | None = None, width: int = 8) -> tuple[Any, Any]:
    """Parameters of odd values, split over the mesh, and an optimizer's state that has moved."""
    rng = np.random.default_rng(seed)
    place = make_mesh(mesh or MeshConfig())

    def leaf(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32) / 3

    def put(value: Any) -> jax.Array:
        spec = PartitionSpec("fsdp", "tensor") if np.ndim(value) > 1 else PartitionSpec()
        return jax.device_put(value, NamedSharding(place, spec))

    params = {"encoder": {"word": leaf(16, width)}, "heads": {"task": {"bias": leaf(3)}}}
    chain = optimizer(OptimConfig(), 0.1, 0.1)
    _, state = chain.update(jax.tree.map(np.sin, params), chain.init(params), params)
    return jax.tree.map(put, (params, state))


def shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def assert_bit_equal(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    made = Checkpoints(tmp_path)
    yield made
    made.close()


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, *some_state(step), META)
        checkpoints.wait()


def kept(checkpoints: Checkpoints) -> list[str]:
    """What lies in the folder."""
    return sorted(path.name for path in checkpoints.folder.iterdir())


def data_files(checkpoints: Checkpoints, step: int, item: str = "params") -> list[Path]:
    """The files with the arrays' bytes, largest first."""
    found = Path(checkpoints.folder, str(step), item).rglob("*")
    files = [file for file in found if file.is_file() and "d" in file.parent.parts]
    return sorted(files, key=lambda file: -file.stat().st_size)


def test_what_is_restored_is_what_was_saved(checkpoints: Checkpoints):
    params, state = some_state(7)
    meta = {"position": {"best": 1 / 3, "metrics": {"loss": 1e-30}}}
    checkpoints.save(7, params, state, meta)
    checkpoints.wait()
    found = checkpoints.restore_latest(shapes(params), shapes(state))
    assert found is not None
    assert found.step == 7
    assert_bit_equal((found.params, found.optimizer), (params, state))
    assert found.meta["position"] == meta["position"]
    only = checkpoints.restore(7, shapes(params))
    assert_bit_equal(only.params, params)
    assert only.optimizer is None


def test_without_a_checkpoint_there_is_nothing(checkpoints: Checkpoints):
    assert checkpoints.restore_latest(*map(shapes, some_state(0))) is None


def test_the_latest_and_the_best_are_kept(checkpoints: Checkpoints):
    save(checkpoints, 10)
    checkpoints.best = 10
    save(checkpoints, 20, 30)
    assert kept(checkpoints) == ["10", "30"]
    checkpoints.best = 30
    save(checkpoints, 40)
    assert kept(checkpoints) == ["30", "40"]
    save(checkpoints, 50)
    assert kept(checkpoints) == ["30", "50"]
    assert checkpoints.steps() == [50, 30]
    assert checkpoints.best == 30


def test_restores_on_another_mesh(tmp_path: Path):
    params, state = some_state(1, MeshConfig(2, 2, 2))
    first = Checkpoints(tmp_path)
    first.save(1, params, state, META)
    first.wait()
    first.close()
    for mesh in (MeshConfig(8, 1, 1), MeshConfig(1, 4, 2)):
        again = Checkpoints(tmp_path, read_only=True)
        wanted = shapes(some_state(2, mesh))
        found = again.restore_latest(*wanted)
        again.close()
        assert found is not None
        assert_bit_equal((found.params, found.optimizer), (params, state))
        assert found.params["encoder"]["word"].sharding == wanted[0]["encoder"]["word"].sharding


@pytest.mark.parametrize("place", range(8))
def test_a_flipped_bit_is_never_restored(
    place: int, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
):
    """Wherever it is in the bytes of the arrays: the one before is taken, and the file is named."""
    save(checkpoints, 10)
    checkpoints.best = 10
    save(checkpoints, 20)
    item = ("params", "optimizer")[place % 2]
    file = data_files(checkpoints, 20, item)[0]
    content = bytearray(file.read_bytes())
    content[(len(content) - 1) * place // 7] ^= 1 << place
    file.write_bytes(content)
    params, state = some_state(20)
    with caplog.at_level(logging.WARNING, "bertjax.checkpoint"):
        found = checkpoints.restore_latest(shapes(params), shapes(state))
    assert found is not None
    if found.step == 20:  # the bit was of no consequence
        assert_bit_equal((found.params, found.optimizer), (params, state))
        return
    assert_bit_equal((found.params, found.optimizer), some_state(10))
    assert f"{checkpoints.folder / '20'} is damaged" in caplog.text


def edit_meta(checkpoints: Checkpoints, step: int, **changes: Any) -> None:
    file = Path(checkpoints.folder, str(step), "meta", "metadata")
    meta = json.loads(file.read_text())
    for name, value in changes.items():
        meta[name] = meta[name] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(meta))


def test_arrays_must_have_their_digests(checkpoints: Checkpoints):
    save(checkpoints, 10)
    edit_meta(checkpoints, 10, digest={"params/heads/task/bias": 5})
    with pytest.raises(UserError, match="10 is damaged: 'params/heads/task/bias' is not what was"):
        checkpoints.restore(10, *map(shapes, some_state(10)))


WIDTH = 24
"""So wide that an array written from the host is not kept within orbax's own index."""


def wanted_params() -> Any:
    return shapes(some_state(0, width=WIDTH)[0])


def save_params(checkpoints: Checkpoints, where: str) -> Any:
    """Saves parameters, and no optimizer, from the host or from a mesh; gives their host form."""
    params = some_state(5, MeshConfig(2, 2, 2), WIDTH)[0]
    on_host = jax.tree.map(np.asarray, params)
    checkpoints.save(5, on_host if where == "host" else params, None, META)
    checkpoints.wait()
    return on_host


@pytest.mark.parametrize("where", ["host", "mesh"])
def test_parameters_are_restored_on_host_and_on_devices(checkpoints: Checkpoints, where: str):
    """Also by the same manager, whichever of the two comes first."""
    params = save_params(checkpoints, where)
    found = checkpoints.restore_on_host(5, wanted_params())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found.params))
    assert_bit_equal(found.params, params)
    assert (found.step, found.optimizer, found.meta["position"]) == (5, None, META["position"])
    assert_bit_equal(checkpoints.restore(5, wanted_params()).params, params)
    assert_bit_equal(checkpoints.restore_on_host(5, wanted_params()).params, params)


def flipped_bits(file: Path) -> Iterator[int]:
    """Writes the file again and again, each time with another bit flipped; whole at the end."""
    whole = file.read_bytes()
    for place in range(0, len(whole), 29):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        yield place
    file.write_bytes(whole)


@pytest.mark.parametrize("where", ["host", "mesh"])
def test_a_flipped_bit_is_never_restored_on_host(checkpoints: Checkpoints, where: str):
    params = save_params(checkpoints, where)
    told = []
    for _ in (place for file in data_files(checkpoints, 5) for place in flipped_bits(file)):
        try:
            assert_bit_equal(checkpoints.restore_on_host(5, wanted_params()).params, params)
        except UserError as error:
            told.append(str(error))
    start = f"checkpoint {checkpoints.folder / '5'} is damaged"
    assert all(line.startswith(start) for line in told)
    digest = [line for line in told if "'params/encoder/word' is not what was saved" in line]
    assert len(digest if where == "host" else told) >= 16 * WIDTH * 4 // 29


def other_shape(wanted: Any) -> None:
    wanted["heads"]["task"]["bias"] = jax.ShapeDtypeStruct((4,), np.float32)


def other_tree(wanted: Any) -> None:
    wanted["heads"]["second"] = wanted["heads"].pop("task")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_shape, r"'params/heads/task/bias' is float32\[3\] and not float32\[4\]; remove it"),
        (other_tree, "5 is damaged .*tree structures do not match"),
    ],
)
def test_another_model_is_told_on_host(checkpoints: Checkpoints, change: Any, message: str):
    save_params(checkpoints, "host")
    wanted = wanted_params()
    change(wanted)
    with pytest.raises(UserError, match=message):
        checkpoints.restore_on_host(5, wanted)


def test_digests_and_schema_are_checked_on_host(checkpoints: Checkpoints):
    save_params(checkpoints, "host")
    edit_meta(checkpoints, 5, digest={"params/heads/task/bias": 5})
    with pytest.raises(UserError, match="5 is damaged: 'params/heads/task/bias' is not what was"):
        checkpoints.restore_on_host(5, wanted_params())
    edit_meta(checkpoints, 5, schema=99)
    with pytest.raises(UserError, match="5 has schema 99, this bertjax reads 1"):
        checkpoints.restore_on_host(5, wanted_params())


def test_another_schema_is_told(checkpoints: Checkpoints):
    save(checkpoints, 10)
    edit_meta(checkpoints, 10, schema=99)
    with pytest.raises(UserError, match="10 has schema 99, this bertjax reads 1"):
        checkpoints.restore(10, *map(shapes, some_state(10)))


def test_nothing_readable_is_an_error(checkpoints: Checkpoints):
    """Better than to begin anew over what may be saved yet."""
    save(checkpoints, 10)
    edit_meta(checkpoints, 10, schema=99)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        checkpoints.restore_latest(*map(shapes, some_state(10)))


def test_a_damaged_step_can_be_saved_again(checkpoints: Checkpoints):
    """The run that fell back to the one before reaches the damaged step once more."""
    save(checkpoints, 10)
    checkpoints.best = 10
    save(checkpoints, 20)
    edit_meta(checkpoints, 20, schema=99)
    found = checkpoints.restore_latest(*map(shapes, some_state(10)))
    assert found is not None
    assert found.step == 10
    save(checkpoints, 15)  # is the newest now, though the damaged one had a higher step
    assert kept(checkpoints) == ["10", "15"]
    save(checkpoints, 20)
    found = checkpoints.restore_latest(*map(shapes, some_state(10)))
    assert found is not None
    assert found.step == 20
    assert_bit_equal((found.params, found.optimizer), some_state(20))


def test_a_full_disk_is_told(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*free some space and run the"):
        save(checkpoints, 10)


def test_digest_sees_every_bit_on_any_mesh():
    value = np.random.default_rng(0).normal(0, 1, (8, 4)).astype(np.float32)
    [whole] = digests({"a": jnp.asarray(value)}).values()
    for mesh in (MeshConfig(1, 8, 1), MeshConfig(2, 2, 2)):
        spec = NamedSharding(make_mesh(mesh), PartitionSpec("fsdp", "tensor"))
        [split] = digests({"a": jax.device_put(value, spec)}).values()
        assert int(split) == int(whole)
    for bit in range(0, 8 * value.nbytes, 37):
        content = bytearray(value.tobytes())
        content[bit // 8] ^= 1 << bit % 8
        other = np.frombuffer(content, np.float32).reshape(value.shape)
        assert int(digests({"a": jnp.asarray(other)})["a"]) != int(whole)
    swapped = value[::-1].copy()
    assert int(digests({"a": jnp.asarray(swapped)})["a"]) != int(whole)


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.int8])
def test_digest_of_host_arrays_is_that_of_device_arrays(
    piece: int, dtype: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bertjax.digests, "DIGEST_PIECE", piece)
    random = np.random.default_rng(0)
    for shape in [(), (0,), (5,), (4, 3, 16), (3, 50)]:
        value = np.asarray(random.normal(0, 50, shape), dtype)
        for array in (value, value.T):
            [expected] = digests({"a": jnp.asarray(array)}).values()
            assert digest_table({"a": array}) == {"a": int(expected)}


def test_paths_name_the_arrays():
    params, state = some_state(0)
    leaves = jax.tree_util.tree_leaves_with_path({"params": params, "optimizer": state})
    assert len({path_of(path) for path, _ in leaves}) == len(leaves)
