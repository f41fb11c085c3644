"""Weight files: every format in and out, in little memory; hostile ones told in one sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_errors import refused
from tiny import tiny_model

from bertjax.convert import pickles, stored, writing
from bertjax.convert.files import Weights, open_weights
from bertjax.convert.writing import LazyTensor, write_safetensors
from bertjax.types import HeadConfig, UserError

Tensors = dict[str, np.ndarray]
WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
NAMES = {
    WORDS: (30, 8),
    "bert.embeddings.LayerNorm.weight": (8,),
    "bert.embeddings.LayerNorm.bias": (8,),
    QUERY: (8, 6),
    "classifier.bias": (3,),
}
SAFETENSORS, PICKLE, FLAX = "model.safetensors", "pytorch_model.bin", "flax_model.msgpack"


@pytest.fixture
def tensors() -> Tensors:
    """Some tensors of a model, each of another kind."""
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, np.float32) for name, shape in NAMES.items()}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of ten float32, so that tensors of a test are made of many."""
    for module in (stored, pickles, writing):
        monkeypatch.setattr(module, "PIECE_BYTES", 40)


def lazy(tensors: Mapping[str, np.ndarray]) -> list[LazyTensor]:
    return [LazyTensor(name, a.shape, lambda a=a: a) for name, a in tensors.items()]


def everything(weights: Weights) -> Tensors:
    return {name: weights.read(name) for name in weights.names()}


def assert_read(folder: Path, tensors: Tensors) -> None:
    """The folder holds exactly these tensors, as float32, and knows their shapes."""
    weights = open_weights(folder)
    found = everything(weights)
    assert sorted(found) == sorted(tensors)
    for name, expected in tensors.items():
        assert weights.shape(name) == found[name].shape == expected.shape
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected.astype(np.float32), err_msg=name)


# Every format is read


def halves(tensors: Tensors) -> list[Tensors]:
    names = list(tensors)
    return [{name: tensors[name] for name in names[start::2]} for start in range(2)]


def write_index(folder: Path, name: str, files: Mapping[str, Any]) -> None:
    """The index of shards, whose names are given with what each holds."""
    weight_map = {tensor: file for file, tensors in files.items() for tensor in tensors}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def flax_path(name: str, array: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Where a tensor of PyTorch is in a Flax model, and its form there."""
    *modules, leaf = name.split(".")
    if leaf == "weight" and "embeddings" in modules[-1]:
        return [*modules, "embedding"], array
    if leaf == "weight" and "LayerNorm" in modules[-1]:
        return [*modules, "scale"], array
    if leaf == "weight":
        return [*modules, "kernel"], np.ascontiguousarray(array.T)
    return [*modules, leaf], array


def flax_tree(tensors: Tensors) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        path, value = flax_path(name, array)
        node = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = value
    return tree


def write_flax(path: Path, tensors: Tensors) -> None:
    path.write_bytes(serialization.to_bytes(flax_tree(tensors)))


def write_pickle(path: Path, value: object, *, legacy: bool = False) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    if isinstance(value, dict):
        value = {
            name: torch.from_numpy(item) if isinstance(item, np.ndarray) else item
            for name, item in value.items()
        }
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = 0) -> None:
    """Writes a zip archive anew, each of its files changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def as_safetensors(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / SAFETENSORS)


def as_pickle(folder: Path, tensors: Tensors) -> None:
    write_pickle(folder / PICKLE, tensors)


def as_legacy_pickle(folder: Path, tensors: Tensors) -> None:
    write_pickle(folder / PICKLE, tensors, legacy=True)


def as_flax(folder: Path, tensors: Tensors) -> None:
    write_flax(folder / FLAX, tensors)


def as_shards(folder: Path, tensors: Tensors) -> None:
    write_safetensors(folder, lazy(tensors), max_shard_bytes=300)
    assert not (folder / SAFETENSORS).exists()


def as_pickle_shards(folder: Path, tensors: Tensors) -> None:
    files = {f"pytorch_model-{n}.bin": half for n, half in enumerate(halves(tensors))}
    for name, half in files.items():
        write_pickle(folder / name, half)
    write_index(folder, PICKLE + ".index.json", files)


def as_flax_shards(folder: Path, tensors: Tensors) -> None:
    files = {f"flax_model-{n}.msgpack": half for n, half in enumerate(halves(tensors))}
    for name, half in files.items():
        write_flax(folder / name, half)
    paths = {
        file: ["/".join(flax_path(name, array)[0]) for name, array in half.items()]
        for file, half in files.items()
    }
    write_index(folder, FLAX + ".index.json", paths)


WRITERS = {
    "safetensors": as_safetensors,
    "shards": as_shards,
    "pickle": as_pickle,
    "legacy pickle": as_legacy_pickle,
    "pickle shards": as_pickle_shards,
    "flax": as_flax,
    "flax shards": as_flax_shards,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_layouts(tmp_path: Path, tensors: Tensors, layout: str) -> None:
    WRITERS[layout](tmp_path, tensors)
    assert_read(tmp_path, tensors)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("layout", WRITERS)
def test_layouts_in_pieces(tmp_path: Path, tensors: Tensors, layout: str) -> None:
    odd = {"bert.one": np.ones(1, np.float32), "bert.none": np.zeros((0, 4), np.float32)}
    WRITERS[layout](tmp_path, tensors | odd)
    assert_read(tmp_path, tensors | odd)


@pytest.mark.parametrize("layout", ["safetensors", "pickle", "flax"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_precisions(tmp_path: Path, tensors: Tensors, layout: str, dtype: str) -> None:
    """The numbers that are stored come as float32; bfloat16 is told from two bytes of another."""
    target = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    rounded = {name: array.astype(target) for name, array in tensors.items()}
    if layout == "safetensors" and dtype == "bfloat16":
        write_safetensors(tmp_path, lazy(tensors), dtype=dtype)
    elif layout == "pickle":
        torch = pytest.importorskip("torch", reason="needs the torch extra")
        state = {n: torch.from_numpy(a).to(getattr(torch, dtype)) for n, a in tensors.items()}
        torch.save(state, tmp_path / PICKLE)
    else:
        WRITERS[layout](tmp_path, rounded)
    assert_read(tmp_path, rounded)


def test_a_chunked_flax_array(
    tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    as_flax(tmp_path, tensors)
    assert (tmp_path / FLAX).read_bytes().count(b"__msgpack_chunked_array__") == 2
    assert_read(tmp_path, tensors)


@pytest.mark.usefixtures("small_pieces")
def test_a_transposed_tensor_in_a_pickle(tmp_path: Path) -> None:
    """As pickles hold that were converted from TensorFlow."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    matrix = torch.arange(24.0).reshape(4, 6).T
    torch.save({QUERY: torch.nn.Parameter(matrix)}, tmp_path / PICKLE)
    assert_read(tmp_path, {QUERY: matrix.numpy()})


def test_a_compressed_pickle(tmp_path: Path, tensors: Tensors) -> None:
    """It cannot be mapped, and is read as a whole."""
    as_pickle(tmp_path, tensors)
    repacked(tmp_path / PICKLE, lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert_read(tmp_path, tensors)


@pytest.mark.usefixtures("small_pieces")
def test_an_array_outlives_the_file(tmp_path: Path, tensors: Tensors) -> None:
    """What was read is the caller's own: nothing of it is mapped."""
    as_pickle(tmp_path, tensors)
    found = everything(open_weights(tmp_path))
    (tmp_path / PICKLE).write_bytes(b"")
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)


# In little memory

PEAK = """
import sys
from pathlib import Path
import numpy as np
from bertjax.convert.files import open_weights
from bertjax.convert.writing import LazyTensor, write_safetensors
if "pickle" in sys.argv[1]:
    import torch

def peak():
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

folder = Path(sys.argv[2])
before = peak()
if sys.argv[1] == "write":
    kept = {str(n): np.ones((8, 2**20), np.float32) for n in range(4)}
    items = [LazyTensor(n, a.shape, lambda a=a: a) for n, a in kept.items()]
    write_safetensors(folder, items, dtype="bfloat16")
else:
    weights = open_weights(folder)
    kept = {name: weights.read(name) for name in weights.names()}
print(peak() - before - sum(a.nbytes for a in kept.values()) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("layout", ["write", "safetensors", "shards", "pickle", "flax"])
def test_peak_memory(tmp_path: Path, layout: str) -> None:
    """One large tensor and some smaller ones, 192 MiB: less than 64 MiB beside the arrays."""
    big = {"big.kernel": (24, 2**20)} | {f"small{n}.bias": (6, 2**20) for n in range(4)}
    if layout == "shards":
        items = [LazyTensor(n, s, lambda s=s: np.ones(s, np.float32)) for n, s in big.items()]
        assert len(write_safetensors(tmp_path, items, max_shard_bytes=60 * 2**20)) == 4
    elif layout != "write":
        WRITERS[layout](tmp_path, {n: np.ones(s, np.float32) for n, s in big.items()})
    command = [sys.executable, "-c", PEAK, layout, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert float(told.stdout) < 64


# Writing


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_library_reads_what_is_written(tmp_path: Path, tensors: Tensors, dtype: str) -> None:
    """Ties are rounded to the even neighbour; a name may hold any character; a view is written."""
    halfway = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11]
    ties = np.array([*halfway, np.nan, -np.inf, -0.0], np.float32)
    given = tensors | {
        "ties": ties,
        'a "name" \\ with 汉': np.arange(24.0, dtype="f4").reshape(4, 6).T,
    }
    given |= {"scalar": np.array(2, np.float32), "empty": np.zeros((0, 3), np.float32)}
    assert write_safetensors(tmp_path, lazy(given), dtype=dtype) == [SAFETENSORS]
    found = load_file(tmp_path / SAFETENSORS)
    assert list(tmp_path.iterdir()) == [tmp_path / SAFETENSORS]
    assert found.keys() == given.keys()
    target = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for name, array in given.items():
        assert found[name].dtype == target
        assert found[name].tobytes() == array.astype(target).tobytes(), name
    with safe_open(tmp_path / SAFETENSORS, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert struct.unpack("<Q", (tmp_path / SAFETENSORS).read_bytes()[:8])[0] % 8 == 0


def test_bfloat16_is_rounded_as_torch_rounds(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from safetensors.torch import load_file as load_torch

    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[np.abs(numbers) < 3e38]
    write_safetensors(tmp_path, lazy({"x": numbers}), dtype="bfloat16")
    assert torch.equal(
        load_torch(tmp_path / SAFETENSORS)["x"], torch.from_numpy(numbers).bfloat16()
    )


@pytest.mark.parametrize("limit", [5 * 10**9, 9_000, 4_000, 1])
def test_transformers_lays_shards_out_the_same(tmp_path: Path, limit: int) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    sizes: Any = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=90, intermediate_size=20, **sizes)
    model = transformers.BertModel(config)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model.save_pretrained(theirs, max_shard_size=limit)
    config.save_pretrained(ours)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    written = write_safetensors(ours, lazy(state), max_shard_bytes=limit)
    expected = sorted(path.name for path in theirs.iterdir() if path.name != "config.json")
    assert sorted(written) == expected
    assert (len(written) > 2) == (limit < 10_000)
    if limit < 10_000:
        index = [json.loads((side / writing.INDEX).read_text()) for side in (theirs, ours)]
        assert index[0] == index[1]
    peer: Any = transformers.BertModel
    again, info = peer.from_pretrained(ours, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, array in state.items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), array, err_msg=name)


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (7e4, {"dtype": "float16"}, "^tensor 'x' holds 7e\\+04, which is too large for float16; "),
        (3.4e38, {"dtype": "bfloat16"}, "^tensor 'x' holds 3.4e\\+38, .* for bfloat16; write"),
        (1e40, {"dtype": "float32"}, "^tensor 'x' holds 1e\\+40, .* too large for float32; write"),
        (1, {"dtype": "float61"}, "cannot be written as 'float61'; did you mean 'float16'"),
        (1, {"max_shard_bytes": 0}, "the size of a shard must be at least one byte, not 0"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, number: float, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_safetensors(tmp_path, lazy({"x": np.array([[0.0], [-number]])}), **options)


def test_a_program_that_describes_its_tensors_wrongly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 tensors have the name of another one"):
        write_safetensors(tmp_path, lazy({"x": np.zeros(2)}) * 2)
    wrong = dataclasses.replace(lazy({"x": np.zeros(2)})[0], shape=(3,))
    with pytest.raises(ValueError, match=r"tensor 'x' has shape \(2,\), not \(3,\)"):
        write_safetensors(tmp_path, [wrong])


def test_permissions_are_those_of_any_new_file(tmp_path: Path, tensors: Tensors) -> None:
    (tmp_path / "any").touch()
    names = write_safetensors(tmp_path, lazy(tensors), max_shard_bytes=300)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ["any", *names]}
    assert len(modes) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, tensors: Tensors) -> None:
    """save_huggingface tells it to the user."""
    (tmp_path / SAFETENSORS).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(tmp_path, lazy(tensors))


def test_eight_bits_are_no_weights(tmp_path: Path, tensors: Tensors) -> None:
    header(dtype="F8_E4M3", shape=[4, 48])(tmp_path, tensors)
    weights = open_weights(tmp_path)
    with pytest.raises(UserError, match=r"type that cannot be read \(F8_E4M3\); save the model in"):
        weights.read(QUERY)


# Hostile files: each is one sentence, from the readers and from a command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A trained model's folder without weights, and its weights."""
    head = HeadConfig("classification", 2)
    folder = tiny_model(tmp_path_factory.mktemp("given") / "m", head=head, labels=["no", "yes"])
    tensors = load_file(folder / SAFETENSORS)
    (folder / SAFETENSORS).unlink()
    return folder, tensors


Harm = Callable[[Path, Tensors], object]


def raw(name: str, content: bytes) -> Harm:
    return lambda folder, _: (folder / name).write_bytes(content)


def cut(layout: str, name: str, share: float) -> Harm:
    """The layout's file, of which only a share is left; of almost all, the last byte is gone."""

    def harm(folder: Path, tensors: Tensors) -> None:
        WRITERS[layout](folder, tensors)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return harm


def changed(layout: str, change: Callable[[np.ndarray], np.ndarray]) -> Harm:
    return lambda folder, tensors: WRITERS[layout](
        folder, tensors | {QUERY: change(tensors[QUERY].copy())}
    )


def poisoned(number: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[-1, -1] = number
        return array

    return change


def header(**changes: Any) -> Harm:
    """A safetensors file whose header is changed for one tensor."""

    def harm(folder: Path, tensors: Tensors) -> None:
        as_safetensors(folder, tensors)
        content = (folder / SAFETENSORS).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        entries = json.loads(content[8 : 8 + length])
        first, stop = entries[QUERY]["data_offsets"]
        moves = {"data_offsets": [first + changes.pop("by", 0), stop + changes.pop("to", 0)]}
        entries[QUERY] |= moves | changes
        text = json.dumps(entries).encode()
        (folder / SAFETENSORS).write_bytes(
            struct.pack("<Q", len(text)) + text + content[8 + length :]
        )

    return harm


def indexed(shard: object) -> Harm:
    def harm(folder: Path, tensors: Tensors) -> None:
        save_file(tensors, folder.parent / "elsewhere.safetensors")
        (folder / writing.INDEX).write_text(json.dumps({"weight_map": {QUERY: shard}}))

    return harm


class Payload:
    """Makes a folder when it is unpickled by someone careless."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def payload(*, legacy: bool) -> Harm:
    return lambda folder, tensors: write_pickle(
        folder / PICKLE, {**tensors, "extra": Payload()}, legacy=legacy
    )


def short_storage(folder: Path, tensors: Tensors) -> None:
    """A zip pickle whose storages have fewer bytes than the pickle promises."""
    as_pickle(folder, tensors)
    repacked(folder / PICKLE, lambda name, content: content[:4] if "/data/" in name else content)


def sparse(folder: Path, tensors: Tensors) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    write_pickle(folder / PICKLE, tensors | {QUERY: torch.from_numpy(tensors[QUERY]).to_sparse()})


def packed(value: object) -> bytes:
    content = msgpack.packb(value)
    assert isinstance(content, bytes)
    return content


def leaf(value: object) -> Harm:
    """A msgpack file with something else where an array would be."""

    def harm(folder: Path, tensors: Tensors) -> None:
        (folder / FLAX).write_bytes(packed({"bert": {"kernel": value}}))

    return harm


def array(shape: Any, dtype: Any, content: Any) -> msgpack.ExtType:
    return msgpack.ExtType(1, packed((shape, dtype, content)))


def chunks(shape: Any, *parts: Any) -> dict[str, Any]:
    numbered = {str(n): part for n, part in enumerate(parts)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": numbered}


FOUR = array([4], "float32", bytes(16))
NOT_WHOLE = r"safetensors is not a whole safetensors file \(.+\); get the file anew"
NOT_TORCH = r"pytorch_model\.bin is (not a whole PyTorch file|refused: its pickle is damaged) "
REFUSED = r"pytorch_model\.bin is refused: .* more than weights .*; save the model as safetensors"
NOT_FLAX = r"msgpack is not a whole msgpack file of a Flax model \({}\); get the file anew"
EARLY = NOT_FLAX.format("it ends too early")
NOT_FINITE = f"tensor '{QUERY}' in .* holds NaN or infinite numbers; .* get another"
INTEGERS = f"tensor '{QUERY}' in .* holds int8 where weights are floating-point numbers; quant"

HOSTILE: dict[str, tuple[Harm, str]] = {
    "empty": (raw(SAFETENSORS, b""), NOT_WHOLE),
    "cut": (cut("safetensors", SAFETENSORS, 0.7), NOT_WHOLE),
    "cut header": (cut("safetensors", SAFETENSORS, 0.01), NOT_WHOLE),
    "wrong magic": (raw(SAFETENSORS, b"version https://git-lfs.github.com/spec/v1"), NOT_WHOLE),
    "long header": (raw(SAFETENSORS, struct.pack("<Q", 2**60) + b"{}"), NOT_WHOLE),
    "no JSON": (raw(SAFETENSORS, struct.pack("<Q", 8) + b"{{{{{{{{"), NOT_WHOLE),
    "beyond the file": (header(to=10**9), NOT_WHOLE),
    "overlap": (header(by=-8, to=-8), NOT_WHOLE),
    "negative offset": (header(by=-(10**9)), NOT_WHOLE),
    "false shape": (header(shape=[10**6, 10**6]), NOT_WHOLE),
    "unknown type": (header(dtype="F128"), NOT_WHOLE),
    "NaN": (changed("safetensors", poisoned(np.nan)), NOT_FINITE),
    "infinite": (changed("safetensors", poisoned(-np.inf)), NOT_FINITE),
    "integers": (changed("safetensors", lambda array: array.astype(np.int8)), INTEGERS),
    "missing shard": (indexed("model-1.safetensors"), "names the shard model-1.safetensors, which"),
    "shard outside": (indexed("../elsewhere.safetensors"), "has no 'weight_map' from tensors to"),
    "shard above": (indexed(".."), r"names the shard \.\., which is not there; copy every shard"),
    "shard at the root": (indexed("/dev/zero"), "has no 'weight_map' from tensors to files; get"),
    "no shard": (indexed(None), "has no 'weight_map' from tensors to files; get the file anew"),
    "empty pickle": (raw(PICKLE, b""), NOT_TORCH),
    "wrong pickle": (raw(PICKLE, b"version https://git-lfs.github.com/spec/v1"), NOT_TORCH),
    "cut pickle": (cut("pickle", PICKLE, 0.7), NOT_TORCH),
    "cut legacy pickle": (cut("legacy pickle", PICKLE, 0.7), NOT_TORCH),
    "payload": (payload(legacy=False), REFUSED),
    "legacy payload": (payload(legacy=True), REFUSED),
    "short storage": (short_storage, NOT_TORCH),
    "sparse": (sparse, f"tensor '{QUERY}' in .* cannot be read as numbers .*; save the model in"),
    "NaN in a pickle": (changed("pickle", poisoned(np.nan)), NOT_FINITE),
    "integers in a pickle": (changed("pickle", lambda array: array.astype(np.int8)), INTEGERS),
    "empty msgpack": (raw(FLAX, b""), EARLY),
    "cut msgpack": (cut("flax", FLAX, 0.5), NOT_FLAX.format("it ends .*")),
    "cut end": (cut("flax", FLAX, 0.999999), NOT_FLAX.format("it ends within '.*'")),
    "wrong msgpack": (raw(FLAX, b"version"), NOT_FLAX.format("it does not begin with a map")),
    "much promised": (raw(FLAX, b"\xdf\xff\xff\xff\xff"), EARLY),
    "long name": (raw(FLAX, b"\x81\xdb\xff\xff\xff\xffname"), EARLY),
    "no text": (raw(FLAX, b"\x81\xa1\xff\xc0"), NOT_FLAX.format(".*codec.*")),
    "more follows": (raw(FLAX, b"\x80\x80"), NOT_FLAX.format("more follows .*")),
    "deep": (raw(FLAX, b"\x81\xa1a" * 5000), NOT_FLAX.format("its maps are nested deeper .*")),
    "object": (
        leaf(msgpack.ExtType(5, b"x")),
        NOT_FLAX.format("'kernel' is an object of .* 5, .*"),
    ),
    "timestamp": (leaf(msgpack.Timestamp(1)), NOT_FLAX.format("'kernel' is an object of .*")),
    "text": (leaf("text"), NOT_FLAX.format("'kernel' is neither a map nor an array")),
    "number": (leaf(3), NOT_FLAX.format("bert/kernel is not an array")),
    "no list": (leaf(msgpack.ExtType(1, b"x")), NOT_FLAX.format("'kernel' is not an array")),
    "complex": (
        leaf(array([1], "complex64", bytes(8))),
        NOT_FLAX.format("'kernel' holds complex64, which is not a type of weights"),
    ),
    "no shape": (leaf(array([-1], "float32", b"")), NOT_FLAX.format("'kernel' has no shape")),
    "false msgpack shape": (
        leaf(array([2**62], "float32", bytes(16))),
        NOT_FLAX.format("'kernel' does not have the numbers that its shape asks for"),
    ),
    "false chunks": (
        leaf(chunks({"0": 9}, FOUR, FOUR)),
        NOT_FLAX.format("the chunks of bert/kernel do not make its shape"),
    ),
    "mixed chunks": (
        leaf(chunks({"0": 8}, FOUR, array([8], "float16", bytes(16)))),
        NOT_FLAX.format("bert/kernel is not a chunked array"),
    ),
    "no chunks": (leaf(chunks({"0": 0})), NOT_FLAX.format("bert/kernel is not a chunked array")),
    "two names": (
        lambda folder, _: (folder / FLAX).write_bytes(
            packed({"norm": {"scale": FOUR, "kernel": FOUR}})
        ),
        NOT_FLAX.format(r"two arrays are named norm\.weight"),
    ),
    "NaN in msgpack": (changed("flax", poisoned(np.nan)), NOT_FINITE),
    "integers in msgpack": (changed("flax", lambda array: array.astype(np.int8)), INTEGERS),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(
    name: str,
    model: tuple[Path, Tensors],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given, tensors = model
    folder = tmp_path / "model"
    folder.mkdir()
    for path in given.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    harm, message = HOSTILE[name]
    harm(folder, tensors)
    if (folder / PICKLE).exists():
        pytest.importorskip("torch", reason="needs the torch extra")
    (tmp_path / "in.txt").write_text("the cat sleeps\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=message) as caught:
        everything(open_weights(folder))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(folder) in sentence
    command = ["predict", f"--model={folder}", "--task=cola", f"--input={tmp_path / 'in.txt'}"]
    assert refused(command, capsys) == sentence
    assert not list((tmp_path / "here").iterdir())
