"""Google's TensorFlow checkpoints, written here with TensorFlow 1's own Saver.

The variables come from random models of transformers, under the names that google-research/bert,
/albert and /electra give them; :func:`variables` spells these without bertjax's tables.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from family_models import heads_of, ours, peer, random_batch, theirs
from tiny import WORDS

from bertjax.analysis.verify import their_outputs
from bertjax.convert import FAMILIES, load_huggingface, read_config, tensorflow_files
from bertjax.convert.table import slots
from bertjax.convert.tensorflow import (
    is_tensorflow_folder,
    load_tensorflow,
    save_tensorflow,
    tensorflow_heads,
    vocabulary_note,
)
from bertjax.models import Model
from bertjax.models.model import TOKEN_HEADS
from bertjax.models.presets import FAMILY_DEFAULTS
from bertjax.tokenizers import load_tokenizer, wordpiece_tokenizer
from bertjax.types import HeadConfig, HeadKind, ModelConfig, UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

Arrays = dict[str, np.ndarray]

CASES: list[tuple[str, str, tuple[HeadKind, ...]]] = [
    ("bert", "ForPreTraining", ("masked_lm", "next_sentence")),
    ("bert", "ForSequenceClassification", ("classification",)),
    ("bert", "ForSequenceClassification", ("regression",)),
    ("bert", "ForQuestionAnswering", ("span",)),
    ("bert", "Model", ()),
    ("albert", "ForPreTraining", ("masked_lm", "sentence_order")),
    ("albert", "ForSequenceClassification", ("classification",)),
    ("albert", "ForQuestionAnswering", ("span",)),
    ("albert in groups", "ForPreTraining", ("masked_lm", "sentence_order")),
    ("albert in groups", "ForSequenceClassification", ("regression",)),
    ("albert, wide tables", "ForPreTraining", ("masked_lm", "sentence_order")),
    ("electra", "ForPreTraining", ("replaced_token",)),
    ("electra", "ForMaskedLM", ("masked_lm",)),
    ("electra, wide tables", "ForPreTraining", ("replaced_token",)),
]
IDS = [f"{family}-{suffix}-{'+'.join(kinds)}" for family, suffix, kinds in CASES]

_BERT_WORDS = (
    (r"encoder\.layer\.(\d+)", r"encoder.layer_\1"),
    (r"(cls\.predictions)\.bias", r"\1.output_bias"),
    (r"cls\.seq_relationship\.(weight|bias)", r"cls.seq_relationship.output_\1"),
    (r"classifier\.(weight|bias)", r"output_\1"),
    (r"qa_outputs\.(weight|bias)", r"cls.squad.output_\1"),
)
_ALBERT_WORDS = (
    (r"albert\.", "bert."),
    (r"encoder\.albert_layer_groups\.(\d+)", r"encoder.transformer.group_\1"),
    (r"albert_layers\.(\d+)", r"inner_group_\1"),
    (r"attention\.(query|key|value)", r"attention_1.self.\1"),
    (r"attention\.dense", "attention_1.output.dense"),
    (r"attention\.LayerNorm", "LayerNorm"),
    (r"full_layer_layer_norm", "LayerNorm_1"),
    (r"ffn\.", "ffn_1.intermediate.dense."),
    (r"ffn_output\.", "ffn_1.intermediate.output.dense."),
    (r"pooler\.", "pooler.dense."),
    (r"^predictions\.bias", "cls.predictions.output_bias"),
    (r"^predictions\.", "cls.predictions.transform."),
    (r"sop_classifier\.classifier\.(weight|bias)", r"cls.seq_relationship.output_\1"),
    (r"^classifier\.(weight|bias)", r"output_\1"),
    (r"qa_outputs\.(weight|bias)", r"cls.squad.output_\1"),
)
_DISCRIMINATOR_WORDS = (
    (r"encoder\.layer\.(\d+)", r"encoder.layer_\1"),
    (r"dense_prediction", "dense_1"),
)
_GENERATOR_WORDS = (
    *_DISCRIMINATOR_WORDS,
    (r"electra\.(encoder|embeddings_project)", r"generator.\1"),
    (r"generator_lm_head\.bias", "generator_predictions.output_bias"),
)


def variables(model: Any) -> Arrays:
    """A model of transformers as the variables of Google's code."""
    name = type(model).__name__
    words = {"Bert": _BERT_WORDS, "Albe": _ALBERT_WORDS}.get(name[:4], _DISCRIMINATOR_WORDS)
    words = _GENERATOR_WORDS if name == "ElectraForMaskedLM" else words
    bare = "" if not name.endswith("Model") else f"{model.base_model_prefix}."
    square = model.config.hidden_size == getattr(model.config, "embedding_size", None)
    found = {}
    for torch_name, tensor in model.state_dict().items():
        array, own = tensor.numpy(), bare + torch_name
        if re.search(r"decoder\.|lm_head\.weight|position_ids", own):
            continue
        if square and "embedding_hidden_mapping_in" in own:
            continue
        for pattern, replacement in words:
            own = re.sub(pattern, replacement, own)
        own = own.replace(".", "/").replace("output_weight", "output_weights")
        own = re.sub(r"(LayerNorm(?:_1)?)/weight", r"\1/gamma", own)
        own = re.sub(r"(LayerNorm(?:_1)?)/bias", r"\1/beta", own)
        own = re.sub(r"_embeddings/weight", "_embeddings", own)
        if own.endswith("/weight"):
            own, array = own.removesuffix("weight") + "kernel", array.T
        found[own] = np.ascontiguousarray(array)
    return found


def whole(model: Any) -> Arrays:
    """The variables, with the pooler that the original code makes also where none reads it."""
    found = variables(model)
    if model.config.model_type == "electra":
        return found
    random, width = np.random.default_rng(0), model.config.hidden_size
    kernel = random.normal(size=(width, width)).astype(np.float32)
    bias = random.normal(size=width).astype(np.float32)
    return {"bert/pooler/dense/kernel": kernel, "bert/pooler/dense/bias": bias} | found


def google_config(config: Any) -> dict[str, Any]:
    """A config of transformers in Google's fields."""
    fields = [
        *("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size"),
        *("initializer_range", "intermediate_size", "max_position_embeddings"),
        *("num_attention_heads", "num_hidden_layers", "type_vocab_size", "vocab_size"),
    ]
    if config.model_type == "albert":
        fields += ["embedding_size", "num_hidden_groups", "inner_group_num"]
    return {field: getattr(config, field) for field in fields}


def write(folder: Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    """A folder as Google's training leaves it: with the optimizer's variables and the step."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs the tf extra")
    v1 = tensorflow.compat.v1
    folder.mkdir(parents=True, exist_ok=True)
    moments = {
        f"{name}/adam_{slot}": 0 * arrays[name] for name in list(arrays)[-5:] for slot in "mv"
    }
    step = {"global_step": np.int64(7)}
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in {**arrays, **moments, **step}.items():
            v1.get_variable(name, initializer=array, use_resource=False)
        session.run(v1.global_variables_initializer())
        prefix = str(folder / "bert_model.ckpt")
        v1.train.Saver().save(session, prefix, write_meta_graph=False)
    (folder / "bert_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def restored(folder: Path, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """What TensorFlow 1's Saver restores into variables of these names and shapes."""
    v1 = pytest.importorskip("tensorflow", reason="needs the tf extra").compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        zeros = v1.zeros_initializer()
        made = {
            name: v1.get_variable(name, array.shape, v1.float32, zeros, use_resource=False)
            for name, array in arrays.items()
        }
        v1.train.Saver().restore(session, str(folder / "bert_model.ckpt"))
        return session.run(made)


def listed(folder: Path) -> dict[str, tuple[int, ...]]:
    """The variables of a checkpoint with their shapes, as TensorFlow lists them."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs the tf extra")
    names = tensorflow.train.list_variables(str(folder / "bert_model.ckpt"))
    return {name: tuple(shape) for name, shape in names}


def shapes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def assert_same(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Every variable has the same bits."""
    assert shapes_of(got) == shapes_of(expected)
    for name, array in expected.items():
        assert got[name].dtype == np.float32, name
        assert got[name].tobytes() == array.tobytes(), name


def tidy(model: Any) -> Any:
    """ALBERT as Google's code has it: without a projection between tables as wide as the layers."""
    config = model.config
    if config.model_type == "albert" and config.embedding_size == config.hidden_size:
        torch = pytest.importorskip("torch", reason="needs the parity extra")
        mapping = model.get_submodule("albert.encoder.embedding_hidden_mapping_in")
        with torch.no_grad():
            mapping.weight.copy_(torch.eye(config.hidden_size))
            mapping.bias.zero_()
    return model


@pytest.mark.parametrize(("family", "suffix", "kinds"), CASES, ids=IDS)
def test_reads_and_writes_back(
    tmp_path: Path, family: str, suffix: str, kinds: tuple[HeadKind, ...]
) -> None:
    """Heads, config and logits are right, nothing is left over, and the way back is bit-equal."""
    pytest.importorskip("torch", reason="needs the parity extra")
    model = tidy(peer(family, suffix, kinds))
    arrays = whole(model)
    folder = write(tmp_path / "google", arrays, google_config(model.config))
    assert is_tensorflow_folder(folder)
    assert tensorflow_heads(folder) == heads_of(kinds)

    loaded = load_tensorflow(folder)
    assert (loaded.report.new, loaded.report.missing, loaded.report.unused) == ((), (), ())
    assert loaded.report.loaded == len(arrays)
    model.save_pretrained(tmp_path / "huggingface")
    expected = read_config(tmp_path / "huggingface")[0]
    if family == "albert, wide tables":
        expected = dataclasses.replace(expected, embedding_projection=None)
    assert loaded.config == expected
    compare_logits(model, loaded, kinds)

    back = save_tensorflow(tmp_path / "back", loaded.config, loaded.params, heads_of(kinds))
    assert listed(back) == shapes_of(arrays)
    assert_same(restored(back, arrays), arrays)
    again = load_tensorflow(back)
    assert again.config == loaded.config
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


def compare_logits(model: Any, loaded: Any, kinds: tuple[HeadKind, ...]) -> None:
    """Our logits (or, of a bare encoder, hidden states) are transformers' to 1e-5."""
    batch = random_batch(model.config, (13, 1, 7))
    output, mask = theirs(model, batch, kinds), batch["mask"]
    converted = Model(loaded.config, tuple(heads_of(kinds).items()))
    variables = {"params": loaded.params}
    if not kinds:
        hidden = converted.apply(variables, ours(batch), method="encode")
        expected = output.hidden_states[-1].numpy()
        assert np.abs(np.asarray(hidden)[mask] - expected[mask]).max() <= 1e-5
    for kind in kinds:
        logits = np.asarray(converted.apply(variables, ours(batch), kind))
        logits = logits[mask] if kind in TOKEN_HEADS else logits
        assert np.abs(logits - their_outputs(output, mask, [kind])[kind]).max() <= 1e-5


@pytest.fixture(scope="module")
def pretrained_electra(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Discriminator and a narrower generator in one checkpoint, with shared embeddings."""
    pytest.importorskip("torch", reason="needs the parity extra")
    import transformers

    discriminator = peer("electra", "ForPreTraining", ("replaced_token",))
    shape = discriminator.config.to_dict()
    shape |= {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 32}
    generator = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**shape)).eval()
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    arrays = variables(generator) | variables(discriminator)
    folder = tmp_path_factory.mktemp("electra")
    models = {"discriminator": discriminator, "generator": generator}
    for name, model in models.items():
        write(folder / name, arrays, google_config(model.config))
    return {"folder": folder, "arrays": arrays, **models}


@pytest.mark.parametrize(
    ("name", "kind"), [("discriminator", "replaced_token"), ("generator", "masked_lm")]
)
def test_electra_pair(
    tmp_path: Path, pretrained_electra: dict[str, Any], name: str, kind: HeadKind
) -> None:
    """The config chooses between the two; what stays unread is the other's, and is said."""
    model, arrays = pretrained_electra[name], pretrained_electra["arrays"]
    loaded = load_tensorflow(pretrained_electra["folder"] / name)
    mine = variables(model)
    assert loaded.report.loaded == len(mine)
    assert loaded.report.unused == tuple(sorted(set(arrays) - set(mine)))
    assert "unused in the file" in loaded.report.text()
    compare_logits(model, loaded, (kind,))
    back = save_tensorflow(tmp_path / "back", loaded.config, loaded.params, heads_of((kind,)))
    assert listed(back) == shapes_of(mine)
    assert_same(restored(back, mine), mine)


def test_electra_heads_stay_with_their_encoder(pretrained_electra: dict[str, Any]) -> None:
    """The generator's head is not put over the discriminator."""
    wanted = heads_of(("masked_lm",))
    loaded = load_tensorflow(pretrained_electra["folder"] / "discriminator", wanted)
    assert loaded.report.new == ("heads/masked_lm",)
    assert "heads" not in loaded.params


def test_electra_pair_of_one_shape(tmp_path: Path) -> None:
    """The discriminator comes first; the head that is asked for can choose the generator."""
    pytest.importorskip("torch", reason="needs the parity extra")
    discriminator = peer("electra", "ForPreTraining", ("replaced_token",))
    generator = peer("electra", "ForMaskedLM", ("masked_lm",))
    arrays = variables(generator) | variables(discriminator)
    folder = write(tmp_path, arrays, google_config(discriminator.config))
    assert list(tensorflow_heads(folder)) == ["replaced_token"]
    for wanted, scope in (("replaced_token", "electra"), ("masked_lm", "generator")):
        params = load_tensorflow(folder, heads_of((wanted,))).params  # type: ignore[arg-type]
        kernel = params["encoder"]["layers"]["mlp"]["up"]["kernel"][1]
        assert_same(
            {"": kernel}, {"": arrays[f"{scope}/encoder/layer_1/intermediate/dense/kernel"]}
        )


@pytest.mark.parametrize("scope", ["electra", "generator"])
def test_electra_masked_lm_alone(tmp_path: Path, scope: str) -> None:
    """A generator with embeddings of its own, and a masked LM that was trained by itself."""
    pytest.importorskip("torch", reason="needs the parity extra")
    model = peer("electra", "ForMaskedLM", ("masked_lm",))
    arrays = {
        re.sub("^(electra|generator)/", f"{scope}/", name): array
        for name, array in variables(model).items()
    }
    config = google_config(model.config) | {"embedding_size": model.config.embedding_size}
    loaded = load_tensorflow(write(tmp_path, arrays, config))
    assert (loaded.report.loaded, loaded.report.unused) == (len(arrays), ())
    compare_logits(model, loaded, ("masked_lm",))


@pytest.mark.parametrize("family", ["albert", "electra"])
def test_multiple_choice_and_new_heads(tmp_path: Path, family: str) -> None:
    """Heads are those asked for: found, or reported as new where the file has none of them."""
    pytest.importorskip("tensorflow", reason="needs the tf extra")
    config = small(family)
    heads = {"race": HeadConfig("multiple_choice", 1)} if family == "albert" else {}
    folder = save_tensorflow(tmp_path / "model", config, initial(config, heads), heads)
    new = {"tags": HeadConfig("token_classification", 5)}
    loaded = load_tensorflow(folder, heads | new)
    assert loaded.report.new == ("heads/tags",)
    assert sorted(loaded.params.get("heads", {})) == sorted(heads)
    wanted = Model(loaded.config, tuple((heads | new).items())).with_pooler
    assert ("pooler" in loaded.params["encoder"]) == wanted


def test_hub_names_and_half_precision(tmp_path: Path) -> None:
    """``module/`` before the names is passed over, and other precisions become float32."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs the tf extra")
    config = small("albert")
    folder = save_tensorflow(tmp_path / "model", config, initial(config, {}), {})
    prefix = str(folder / "bert_model.ckpt")
    reader = tensorflow.train.load_checkpoint(prefix)
    half = {name: reader.get_tensor(name).astype(np.float16) for name in listed(folder)}
    tensorflow.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=[f"module/{name}" for name in half],
        shape_and_slices=[""] * len(half),
        tensors=list(half.values()),
    )
    for path in folder.glob("*.data-*"):
        if not path.name.endswith("of-00001"):
            path.unlink()
    loaded = load_tensorflow(folder)
    assert (loaded.report.loaded, loaded.report.unused) == (len(half), ())
    word = loaded.params["encoder"]["embeddings"]["word"]
    assert_same({"": word}, {"": half["bert/embeddings/word_embeddings"].astype(np.float32)})


@pytest.mark.parametrize(
    ("word", "activation", "written"),
    [
        ("gelu", "gelu", "gelu"),
        ("gelu_new", "gelu_tanh", "gelu_new"),
        ("relu", "relu", "relu"),
        ("tanh", "tanh", "tanh"),
    ],
)
def test_activations(tmp_path: Path, word: str, activation: str, written: str) -> None:
    """The word "gelu" is the exact one, as transformers' own conversion has it."""
    folder = tiny(tmp_path / "model")
    config = edit(folder, hidden_act=word)
    loaded = load_tensorflow(folder)
    assert loaded.config.activation == activation
    save_tensorflow(tmp_path / "back", loaded.config, loaded.params, {})
    assert json.loads((tmp_path / "back" / "bert_config.json").read_text()) == config
    assert config["hidden_act"] == written


def test_tokenizer_and_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary comes along, and a checkpoint that is written in many parts is one."""
    whole_folder = tiny(tmp_path / "whole")
    loaded = load_tensorflow(whole_folder)
    monkeypatch.setattr(tensorflow_files, "PART_BYTES", 1000)
    tokenizer = wordpiece_tokenizer(WORDS)
    folder = save_tensorflow(
        tmp_path / "parts", loaded.config, loaded.params, {}, tokenizer=tokenizer
    )
    names = sorted(path.name for path in folder.iterdir())
    shards = [name for name in names if ".data-" in name]
    assert len(shards) > 5
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert (folder / "vocab.txt").read_text().split() == list(WORDS)
    assert load_tokenizer(folder).backend.get_vocab() == tokenizer.backend.get_vocab()
    assert vocabulary_note(tokenizer) is None
    jax.tree.map(np.testing.assert_array_equal, load_tensorflow(folder).params, loaded.params)


def test_another_tokenizer_is_said() -> None:
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    other = dataclasses.replace(wordpiece_tokenizer(WORDS), backend=backend)
    assert "tokenizer.json" in (vocabulary_note(other) or "")


def test_newest_checkpoint_of_a_run(tmp_path: Path) -> None:
    """The file ``checkpoint`` chooses, also with the path of the machine it was trained on."""
    folder = tiny(tmp_path / "model")
    for path in list(folder.glob("bert_model.ckpt.*")):
        shutil.copy(path, folder / path.name.replace("bert_model.ckpt", "model.ckpt-9"))
    with pytest.raises(UserError, match=r"bert_model\.ckpt, model\.ckpt-9"):
        load_tensorflow(folder)
    state = 'model_checkpoint_path: "gs://bucket/run/model.ckpt-9"\nall_model_checkpoint_paths: "x"'
    (folder / "checkpoint").write_text(state)
    assert load_tensorflow(folder).report.path.name == "model.ckpt-9.index"


def test_what_is_no_such_folder(tmp_path: Path) -> None:
    assert not is_tensorflow_folder(tmp_path)
    assert not is_tensorflow_folder(tmp_path / "none")
    (tmp_path / "bert_model.ckpt.index").touch()
    assert is_tensorflow_folder(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert not is_tensorflow_folder(tmp_path)


def small(family: str, **fields: Any) -> ModelConfig:
    """A member of a family of a few thousand parameters."""
    shape: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 16, "num_layers": 2}
    shape |= {"num_heads": 2, "intermediate_size": 32, "max_positions": 16}
    shape |= {"embedding_size": 8} if family in ("albert", "electra") else {}
    return dataclasses.replace(FAMILY_DEFAULTS[family], **shape | fields)


def initial(config: ModelConfig, heads: Mapping[str, HeadConfig]) -> dict[str, Any]:
    """Random parameters."""
    random = np.random.default_rng(0)
    params: dict[str, Any] = {}
    for slot in slots(FAMILIES[config.model_type].huggingface, config, heads):
        *branches, leaf = slot.ours
        node = params
        for step in branches:
            node = node.setdefault(step, {})
        node[leaf] = random.normal(size=slot.our_shape).astype(np.float32)
    return params


def tiny(folder: Path, heads: Mapping[str, HeadConfig] | None = None) -> Path:
    """A small BERT in a folder of Google's kind."""
    pytest.importorskip("tensorflow", reason="needs the tf extra")
    config = small("bert")
    return save_tensorflow(folder, config, initial(config, heads or {}), heads or {})


def edit(folder: Path, **fields: Any) -> dict[str, Any]:
    """Changes fields of the config; None removes one."""
    path = folder / "bert_config.json"
    config = json.loads(path.read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(config))
    return config


def resave(folder: Path, changed: Mapping[str, np.ndarray | None]) -> None:
    """Writes the checkpoint anew with other variables; None leaves one out."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs the tf extra")
    prefix = str(folder / "bert_model.ckpt")
    reader = tensorflow.train.load_checkpoint(prefix)
    arrays = {name: reader.get_tensor(name) for name in listed(folder)} | dict(changed)
    kept = {name: array for name, array in arrays.items() if array is not None}
    tensorflow.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(kept),
        shape_and_slices=[""] * len(kept),
        tensors=list(kept.values()),
    )


def the(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


BIAS = "bert/pooler/dense/bias"
DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no config": (lambda f: (f / "bert_config.json").unlink(), ["has no bert_config.json"]),
    "two configs": (
        lambda f: shutil.copy(f / "bert_config.json", f / "albert_config.json"),
        ["several configs", "albert_config.json, bert_config.json"],
    ),
    "config no JSON": (lambda f: cut(f / "bert_config.json", 20), ["cannot be read as JSON"]),
    "config of words": (lambda f: edit(f, hidden_size="x"), ["'hidden_size'", "whole number"]),
    "config does not divide": (lambda f: edit(f, num_attention_heads=3), ["not divisible"]),
    "activation": (lambda f: edit(f, hidden_act="geluu"), ["'geluu'", "did you mean"]),
    "another family's config": (lambda f: edit(f, model_type="albert"), ["'albert'", "'bert'"]),
    "no checkpoint": (
        lambda f: the(f, "*.index").unlink(),
        ["no file *.index", "bert_model.ckpt.index"],
    ),
    "no data": (lambda f: the(f, "*.data-*").unlink(), [".data-00000-of-00001", "copy every"]),
    "a shard is missing": (
        lambda f: the(f, "*.data-*").rename(f / "bert_model.ckpt.data-00000-of-00002"),
        ["bert_model.ckpt.data-00001-of-00002"],
    ),
    "truncated data": (lambda f: cut(the(f, "*.data-*"), 5000), ["cannot be read", "data files"]),
    "flipped bit": (lambda f: flip(the(f, "*.data-*")), ["cannot be read", "Checksum"]),
    "truncated index": (lambda f: cut(the(f, "*.index"), 300), ["not a whole index"]),
    "empty index": (lambda f: cut(the(f, "*.index"), 0), ["not a whole index"]),
    "flipped index": (lambda f: flip(the(f, "*.index")), ["not a whole index"]),
    "wrong shape": (
        lambda f: resave(f, {BIAS: np.zeros(3, np.float32)}),
        ["'bert/pooler/dense/bias'", "[3]", "[16]"],
    ),
    "missing variable": (
        lambda f: resave(f, {"bert/encoder/layer_1/output/dense/kernel": None}),
        ["lacks", "'bert/encoder/layer_1/output/dense/kernel'"],
    ),
    "NaN": (
        lambda f: resave(f, {BIAS: np.full(16, np.nan, np.float32)}),
        ["'bert/pooler/dense/bias'", "NaN"],
    ),
    "whole numbers": (
        lambda f: resave(f, {BIAS: np.zeros(16, np.int32)}),
        ["'bert/pooler/dense/bias'", "int32"],
    ),
    "other layers": (lambda f: edit(f, num_hidden_layers=3), ["lacks", "layer_2"]),
    "another vocabulary": (lambda f: edit(f, vocab_size=99), ["word_embeddings", "[99, 16]"]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that can be read, to be copied and damaged."""
    return tiny(tmp_path_factory.mktemp("sound") / "model")


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_in_a_sentence(tmp_path: Path, sound: Path, name: str) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    damage, words = DAMAGE[name]
    load_tensorflow(folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_tensorflow(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for word in words:
        assert word in message


def test_wildcards_and_other_projects(tmp_path: Path, sound: Path) -> None:
    with pytest.raises(UserError, match="wildcards; rename"):
        load_tensorflow(shutil.copytree(sound, tmp_path / "model [1]"))
    tensorflow = pytest.importorskip("tensorflow", reason="needs the tf extra")
    folder = Path(shutil.copytree(sound, tmp_path / "keras"))
    checkpoint = tensorflow.train.Checkpoint(weight=tensorflow.Variable([1.0]))
    checkpoint.write(str(folder / "bert_model.ckpt"))
    with pytest.raises(UserError, match="no variables as Google's BERT"):
        load_tensorflow(folder)


def test_head_of_another_size(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", {"mrpc": HeadConfig("classification", 3)})
    assert tensorflow_heads(folder) == {"classification": HeadConfig("classification", 3)}
    wanted = {"mrpc": HeadConfig("classification", 2)}
    with pytest.raises(UserError, match=r"the head 'mrpc' asks for \[2, 16\]"):
        load_tensorflow(folder, wanted)
    loaded = load_tensorflow(folder, wanted, new_heads=True)
    assert loaded.report.new == ("heads/mrpc",)
    assert "pooler" in loaded.params["encoder"]


REFUSED: dict[str, tuple[ModelConfig, dict[str, HeadConfig], str]] = {
    "roberta": (small("roberta"), {}, "'roberta' has no TensorFlow code"),
    "xlm-roberta": (small("xlm-roberta"), {}, "'xlm-roberta' has no TensorFlow code"),
    "camembert": (small("camembert"), {}, "'camembert' has no TensorFlow code"),
    "distilbert": (small("distilbert"), {}, "'distilbert' has no TensorFlow code"),
    "tags": (small("bert"), heads_of(("token_classification",)), "with token_classification"),
    "a class of ELECTRA": (small("electra"), heads_of(("classification",)), "masked_lm, replaced"),
    "both of ELECTRA": (
        small("electra"),
        heads_of(("masked_lm", "replaced_token")),
        "with masked_lm and replaced_token",
    ),
    "two heads of one name": (
        small("bert"),
        heads_of(("classification", "regression")),
        "one head at a time",
    ),
    "another epsilon": (small("bert", norm_eps=1e-5), {}, "norm_eps 1e-05, but only 1e-12"),
    "another activation": (small("bert", activation="silu"), {}, "activation silu"),
    "a projection too many": (
        small("albert", embedding_size=16),
        {},
        "embedding_projection True, but only False",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_original_code_lacks_is_refused(tmp_path: Path, name: str) -> None:
    config, heads, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as caught:
        save_tensorflow(tmp_path / "model", config, initial(config, heads), heads)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's error for what the disk refuses becomes ours, and no half folder stays."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs the tf extra")

    def refuse(**_: Any) -> None:
        raise tensorflow.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tensorflow.raw_ops, "SaveV2", refuse)
    with pytest.raises(UserError, match=r"cannot write the model to .*No space left"):
        tiny(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_without_tensorflow(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[tf\]'"):
        load_tensorflow(sound)


def test_tensorflow_is_quiet(sound: Path, tmp_path: Path) -> None:
    """Neither reading nor writing prints a word."""
    code = (
        "import sys; from bertjax.convert.tensorflow import *; m = load_tensorflow(sys.argv[1]); "
        "save_tensorflow(sys.argv[2], m.config, m.params, {})"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    arguments = [sys.executable, "-c", code, str(sound), str(tmp_path / "back")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_way_over_hugging_face(tmp_path: Path, sound: Path) -> None:
    """A Google folder becomes a Hugging Face folder with the same parameters."""
    from bertjax.convert import save_huggingface

    loaded = load_tensorflow(sound)
    save_huggingface(tmp_path / "model", loaded.config, loaded.params)
    again = load_huggingface(tmp_path / "model")
    assert again.config == loaded.config
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
