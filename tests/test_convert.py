"""Weights in and out: round trips bit by bit, whole tables, every layout of files, every error."""

from __future__ import annotations

import builtins
import dataclasses
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bertjax.convert import (
    FAMILIES,
    load_huggingface,
    read_config,
    read_head,
    save_huggingface,
)
from bertjax.convert.bert import BERT
from bertjax.convert.table import slots
from bertjax.tokenizers import load_tokenizer, wordpiece_tokenizer
from bertjax.types import Activation, HeadConfig, ModelConfig, UserError

CONFIG = ModelConfig(
    vocab_size=40,
    hidden_size=12,
    num_layers=3,
    num_heads=4,
    intermediate_size=20,
    max_positions=16,
    type_vocab_size=2,
)
CLASSIFIER = {"mood": HeadConfig("classification", 3)}
SCORE = {"score": HeadConfig("regression", 1)}
PRETRAINING = {"masked": HeadConfig("masked_lm"), "next": HeadConfig("next_sentence", 2)}
HEADS = [{}, CLASSIFIER, SCORE, PRETRAINING, {"masked": HeadConfig("masked_lm")}]
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
INDEX = "model.safetensors.index.json"


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, np.ndarray]:
    """Leaves by their path."""
    flat = {}
    for key, value in tree.items():
        name = f"{path}/{key}" if path else key
        flat |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return flat


def random_params(config: ModelConfig, heads: Mapping[str, HeadConfig]) -> dict[str, Any]:
    """Random parameters in the tree that the table describes."""
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {}
    for slot in slots(BERT.huggingface, config, heads):
        node = params
        for step in slot.ours[:-1]:
            node = node.setdefault(step, {})
        if slot.ours[-1] not in node:
            node[slot.ours[-1]] = rng.standard_normal(slot.our_shape, dtype=np.float32)
    return params


def assert_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Same leaves, bit by bit."""
    one, other = flatten(left), flatten(right)
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert value.dtype == other[path].dtype == np.float32
        np.testing.assert_array_equal(value, other[path], err_msg=path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small classifier as a Hugging Face folder."""
    params = random_params(CONFIG, CLASSIFIER)
    return save_huggingface(tmp_path / "model", CONFIG, params, CLASSIFIER, labels=["a", "b", "c"])


@pytest.fixture
def tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of ``folder``."""
    return load_file(folder / "model.safetensors")


# The table


def test_families_have_a_head_for_each_class() -> None:
    for family in FAMILIES.values():
        for kinds in family.architectures:
            assert kinds <= set(family.huggingface.heads)
        fields = {field.name for field in dataclasses.fields(ModelConfig)}
        assert set(family.config_fields) <= fields


# Round trips


@pytest.mark.parametrize("heads", HEADS, ids=lambda heads: "+".join(heads) or "encoder")
def test_our_parameters_come_back(tmp_path: Path, heads: dict[str, HeadConfig]) -> None:
    params = random_params(CONFIG, heads)
    save_huggingface(tmp_path / "model", CONFIG, params, heads)
    loaded = load_huggingface(tmp_path / "model", heads)
    assert loaded.config == CONFIG
    assert_same(loaded.params, params)
    assert loaded.report.new == loaded.report.missing == loaded.report.unused == ()


def _peer(class_name: str, **settings: Any) -> Any:
    """A random model of transformers."""
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    transformers = pytest.importorskip("transformers", reason="needs the parity extra")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=20,
        max_position_embeddings=16,
        **settings,
    )
    model = getattr(transformers, class_name)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("layout", ["safetensors", "shards", "pickle"])
@pytest.mark.parametrize(
    ("class_name", "heads", "settings"),
    [
        ("BertModel", {}, {}),
        ("BertForSequenceClassification", CLASSIFIER, {"num_labels": 3}),
        ("BertForSequenceClassification", SCORE, {"num_labels": 1}),
        ("BertForPreTraining", PRETRAINING, {}),
    ],
)
def test_transformers_weights_come_back(
    tmp_path: Path, class_name: str, heads: dict[str, HeadConfig], settings: dict, layout: str
) -> None:
    """From transformers to ours back, bit by bit; transformers finds nothing amiss."""
    model = _peer(class_name, **settings)
    theirs = tmp_path / "theirs"
    model.save_pretrained(theirs, max_shard_size="5KB" if layout == "shards" else "1GB")
    if layout == "shards":
        assert (theirs / INDEX).is_file()
    if layout == "pickle":
        import torch

        torch.save(model.state_dict(), theirs / "pytorch_model.bin")
        (theirs / "model.safetensors").unlink()
    loaded = load_huggingface(theirs, heads)
    assert loaded.report.new == loaded.report.unused == ()
    ours = save_huggingface(tmp_path / "ours", loaded.config, loaded.params, heads)
    again, info = type(model).from_pretrained(ours, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), again.state_dict()[name].numpy(), name)
    assert again.config.num_labels == model.config.num_labels


def test_written_folder_in_transformers(folder: Path) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.problem_type == "single_label_classification"


# Reading what is really out there


def _write(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    save_file(dict(tensors), folder / "model.safetensors")


def _edit_config(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def test_names_without_prefix_and_old_norm_names(
    folder: Path, tensors: dict[str, np.ndarray]
) -> None:
    expected = load_huggingface(folder, CLASSIFIER).params
    renamed = {
        name.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    renamed["embeddings.position_ids"] = np.arange(16)
    _write(folder, renamed)
    loaded = load_huggingface(folder, CLASSIFIER)
    assert_same(loaded.params, expected)
    assert loaded.report.unused == ()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions(folder: Path, tensors: dict[str, np.ndarray], dtype: Any) -> None:
    if dtype is ml_dtypes.bfloat16:
        torch = pytest.importorskip("torch", reason="needs the parity extra")
        from safetensors.torch import save_file as save_torch

        half = {name: torch.from_numpy(value).bfloat16() for name, value in tensors.items()}
        save_torch(half, folder / "model.safetensors")
    else:
        _write(folder, {name: value.astype(dtype) for name, value in tensors.items()})
    word = load_huggingface(folder).params["encoder"]["embeddings"]["word"]
    expected = tensors["bert.embeddings.word_embeddings.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(word, expected)


def test_report(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    del tensors["bert.pooler.dense.weight"], tensors["bert.pooler.dense.bias"]
    extra = {f"bert.encoder.layer.{layer}.adapter.weight": np.zeros(1) for layer in range(3)}
    _write(folder, tensors | extra)
    report = load_huggingface(folder, {"next": HeadConfig("next_sentence", 2)}).report
    assert report.new == ("encoder/pooler", "heads/next")
    assert report.text() == (
        f"{folder}/model.safetensors: 53 tensors read\n"
        "  newly initialised: encoder/pooler, heads/next\n"
        "  missing in the file: pooler.dense.weight, pooler.dense.bias, "
        "cls.seq_relationship.weight, cls.seq_relationship.bias\n"
        "  unused in the file: bert.encoder.layer.*.adapter.weight (3x), "
        "classifier.bias, classifier.weight"
    )


def test_tied_copies_are_no_strangers(tmp_path: Path) -> None:
    """The copies that pickles of pretraining models carry are checked, and even stand in."""
    heads = {"masked": HeadConfig("masked_lm")}
    params = random_params(CONFIG, heads)
    folder = save_huggingface(tmp_path / "model", CONFIG, params, heads)
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    _write(folder, tensors)
    loaded = load_huggingface(folder, heads)
    assert_same(loaded.params, params)
    assert loaded.report.unused == ()
    tensors["cls.predictions.decoder.weight"] = tensors["cls.predictions.decoder.weight"] + 1
    _write(folder, tensors)
    with pytest.raises(UserError, match="untied output embeddings are not supported"):
        load_huggingface(folder, heads)


# config.json


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
        ("silu", "silu"),
        ("tanh", "tanh"),
    ],
)
def test_activations(folder: Path, name: str, activation: Activation) -> None:
    _edit_config(folder, hidden_act=name)
    config, _ = read_config(folder)
    assert config.activation == activation
    params = random_params(config, {})
    save_huggingface(folder.parent / "again", config, params)
    assert read_config(folder.parent / "again")[0] == config


def test_every_field_comes_back(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        norm_eps=1e-7,
        hidden_dropout=0.2,
        attention_dropout=0.3,
        classifier_dropout=0.4,
        initializer_range=0.01,
        pad_token_id=5,
    )
    save_huggingface(tmp_path / "model", config, random_params(config, {}))
    assert read_config(tmp_path / "model")[0] == config


def test_read_head(folder: Path, tmp_path: Path) -> None:
    raw = read_config(folder)[1]
    assert read_head(raw) == (HeadConfig("classification", 3), ("a", "b", "c"))
    assert read_head(raw | {"architectures": ["BertModel"]}) is None
    with pytest.raises(UserError, match="must number its labels 0, 1, 2"):
        read_head(raw | {"id2label": {"1": "a", "2": "b"}})
    save_huggingface(tmp_path / "score", CONFIG, random_params(CONFIG, SCORE), SCORE)
    assert read_head(read_config(tmp_path / "score")[1]) == (HeadConfig("regression", 1), None)


# Writing


def test_writing_into_a_folder_keeps_what_else_is_there(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    params = random_params(CONFIG, SCORE)
    tokenizer = wordpiece_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    save_huggingface(folder, CONFIG, params, SCORE, tokenizer=tokenizer)
    assert (folder / "notes.txt").read_text() == "mine"
    assert_same(load_huggingface(folder, SCORE).params, params)
    assert load_tokenizer(folder).encode("a", max_length=5)[0].tolist() == [2, 4, 3]
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_written_weights_can_be_read_by_others(folder: Path) -> None:
    (folder / "any").touch()
    modes = {stat.S_IMODE(os.stat(folder / name).st_mode) for name in ("any", "model.safetensors")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("heads", "labels", "change", "message"),
    [
        (CLASSIFIER, ["a", "b"], {}, "the head 'mood' has 3 classes but 2 labels are given"),
        (CLASSIFIER | SCORE, None, {}, "holds the heads mood, score together; write one"),
        (PRETRAINING, None, {}, "the parameters lack 'heads/masked/dense/kernel'"),
        (CLASSIFIER, None, {"vocab_size": 41}, r"'encoder/embeddings/word' has shape \[40, 12\]"),
    ],
)
def test_parameters_that_cannot_be_written(
    tmp_path: Path, heads: dict, labels: list[str] | None, change: dict, message: str
) -> None:
    params = random_params(CONFIG, CLASSIFIER)
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(UserError, match=message):
        save_huggingface(tmp_path / "model", config, params, heads, labels=labels)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertjax.convert.huggingface.write_safetensors", full)
    with pytest.raises(UserError, match=r"cannot write the model to .*No space left.*free space"):
        save_huggingface(tmp_path / "model", CONFIG, random_params(CONFIG, {}))
    assert not list(tmp_path.iterdir())


# Bad folders: each is one sentence that names the file or tensor and the remedy


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")


def _index(folder: Path, weight_map: object) -> None:
    _no_weights(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def _missing_shard(folder: Path) -> None:
    _index(folder, {QUERY: "model-00001-of-00002.safetensors"})


def _false_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"other.weight": "one.safetensors"}}))


def _no_weight_map(folder: Path) -> None:
    _index(folder, None)


def _escaping_shard(folder: Path) -> None:
    _index(folder, {QUERY: "../model.safetensors"})


def _change(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name])
        _write(folder, tensors)

    return prepare


def _one_tensor_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[QUERY]
    _write(folder, tensors)


def _twice(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    _write(folder, tensors | {QUERY.removeprefix("bert."): tensors[QUERY]})


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _edit_config(folder, **changes)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config_text(text: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return prepare


BAD_FOLDERS = {
    "no weights": (_no_weights, "has no weights: none of .*; name a folder"),
    "truncated": (_truncated, r"model\.safetensors is not a whole safetensors .*; get the file"),
    "git lfs": (_not_safetensors, r"model\.safetensors is not a whole safetensors .*; get the"),
    "no shard": (_missing_shard, r"names the shard model-00001-of-00002\.safetensors, which is"),
    "false index": (_false_index, r"one\.safetensors lacks the tensor 'other\.weight' that"),
    "no map": (_no_weight_map, "has no 'weight_map' from tensors to files; get the file anew"),
    "escape": (_escaping_shard, "has no 'weight_map' from tensors to files; get the file anew"),
    "lacks tensor": (_one_tensor_less, r"lacks the tensor 'encoder\.layer\.1\..*query\.weight'; "),
    "two names": (_twice, r"holds 'bert\.encoder.*' and 'encoder.*', which are two names of one"),
    "shape": (
        _change(QUERY, lambda value: value[:, :-1].copy()),
        rf"tensor '{QUERY}' in .* has shape \[12, 11\], but the config asks for \[12, 12\]; use",
    ),
    "classes": (
        _change("classifier.weight", lambda value: value[:2].copy()),
        r"'classifier\.weight' in .*shape \[2, 12\], but the head 'mood' asks for \[3, 12\]; give",
    ),
    "nan": (_change(QUERY, lambda value: value * np.nan), f"'{QUERY}' in .* holds NaN or infin"),
    "integers": (
        _change(QUERY, lambda value: value.astype(np.int8)),
        f"'{QUERY}' in .* holds int8 where weights are floating-point numbers; quantised",
    ),
    "no config": (_no_config, r"has no config\.json; name a folder"),
    "not JSON": (_config_text("hidden_size = 12"), r"config\.json cannot be read as JSON .*; get"),
    "a list": (_config_text("[]"), r"config\.json holds no JSON object; get the file anew"),
    "no type": (_config(model_type=None), "has no 'model_type'; add one of: albert, bert, camem"),
    "family": (_config(model_type="bart"), "'bart', which is not supported; did you mean 'bert'"),
    "t5": (
        _config(model_type="t5"),
        "has model_type 't5', which is not supported; known: albert, bert",
    ),
    "positions": (
        _config(position_embedding_type="relative_key"),
        "has position_embedding_type 'relative_key', and only 'absolute' is supported; choose",
    ),
    "activation": (_config(hidden_act="gleu"), "hidden_act 'gleu', .*; did you mean 'gelu'"),
    "decoder": (_config(is_decoder=True), "sets is_decoder, and only whole bidirectional"),
    "text": (_config(hidden_size="12"), "field 'hidden_size' must be a whole number, not '12'"),
    "negative": (_config(num_hidden_layers=-1), "field 'num_hidden_layers' must not be -1; cor"),
    "heads": (_config(num_attention_heads=5), "config.json: hidden_size 12 is not divisible by"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders(folder: Path, name: str) -> None:
    prepare, message = BAD_FOLDERS[name]
    prepare(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_huggingface(folder, CLASSIFIER)
    assert "\n" not in str(caught.value)


# Pickles


def _pickle(folder: Path, value: object) -> None:
    """Puts ``value`` where a model's pickle would be."""
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    _no_weights(folder)
    torch.save(value, folder / "pytorch_model.bin")


class Payload:
    """Runs a command when it is unpickled by someone careless."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_with_a_payload_is_refused(folder: Path) -> None:
    trace = folder / "executed"
    _pickle(folder, {"weight": Payload(trace)})
    with pytest.raises(UserError, match=r"bin is refused: .* more than weights .*save the model"):
        load_huggingface(folder)
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"hello version", b"PK\x03\x04half a zip"])
def test_a_damaged_pickle(folder: Path, data: bytes) -> None:
    pytest.importorskip("torch", reason="needs the parity extra")
    _no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(UserError, match=r"pytorch_model\.bin is (not a whole|refused)"):
        load_huggingface(folder)


def test_a_pickle_of_something_else(folder: Path) -> None:
    _pickle(folder, {"epoch": 3, "state_dict": {}})
    with pytest.raises(UserError, match=r"holds something else .* state_dict\(\) itself"):
        load_huggingface(folder)


def test_a_pickle_without_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    original = builtins.__import__

    def without_torch(name: str, *rest: Any, **options: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(UserError, match=r"needs torch: pip install bertjax\[torch\]"):
        load_huggingface(folder)
