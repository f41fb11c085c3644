"""Vectors of texts and states of layers, beside NumPy, transformers and sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import peer
from tiny import WORDS, tiny_model

import bertjax
from bertjax.convert.sentence import Pooling, SentenceConfig, read_sentence_config
from bertjax.folders import write_json
from bertjax.predict import Predictor, Text
from bertjax.tokenizers import load_tokenizer, wordpiece_tokenizer
from bertjax.types import HeadConfig, UserError

TOLERANCE = 1e-5
TEXTS: list[Text] = [
    "a dog",
    ("the cat eats .", "a bird"),
    "",
    "the bird sings here there quickly . " * 6,
    "a child sleeps slowly .",
]
OLD_TYPES = [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling")]
NORMALIZE = "sentence_transformers.models.Normalize"
NEW_TYPES = [
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "sentence_transformers.base.modules.normalize.Normalize",
]
OLD_MODES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bare BERT, whose pooler is stored."""
    return tiny_model(tmp_path_factory.mktemp("bare"), initializer_range=0.3)


@pytest.fixture(scope="module")
def tiny(bare: Path) -> Predictor:
    return bertjax.load(str(bare))


@pytest.fixture
def old(bare: Path, tmp_path: Path) -> Path:
    """A sentence-transformers folder as versions before 5.4 wrote them."""
    return old_folder(bare, tmp_path / "old")


@pytest.fixture
def new(bare: Path, tmp_path: Path) -> Path:
    """The same as version 6 writes it."""
    return new_folder(bare, tmp_path / "new")


def modules(types: list[str]) -> list[dict[str, Any]]:
    """What ``modules.json`` holds."""
    paths = ["", *(f"{i}_{kind.split('.')[-1]}" for i, kind in enumerate(types) if i)]
    return [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(zip(paths, types, strict=True))
    ]


def old_folder(bare: Path, folder: Path, pooling: str = "mean", normalize: bool = True) -> Path:
    """A bare model's folder with the modules of versions before 5.4."""
    shutil.copytree(bare, folder)
    types = OLD_TYPES + [NORMALIZE] * normalize
    (folder / "modules.json").write_text(json.dumps(modules(types)))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{field}": mode == pooling for mode, field in OLD_MODES.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **modes})
    return folder


def new_folder(bare: Path, folder: Path) -> Path:
    """The same with the modules of version 6."""
    old_folder(bare, folder)
    (folder / "modules.json").write_text(json.dumps(modules(NEW_TYPES)))
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": text},
        "module_output_name": "token_embeddings",
    }
    write_json(folder / "sentence_bert_config.json", transformer)
    pooling = {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    (folder / "2_Normalize").mkdir()
    names = ("module_input_name", "module_output_name")
    write_json(folder / "2_Normalize" / "config.json", dict.fromkeys(names, "sentence_embedding"))
    prompts = {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}
    write_json(folder / "config_sentence_transformers.json", prompts)
    change(folder / "tokenizer_config.json", model_max_length=9)
    return folder


def change(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file, which need not be there."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    write_json(path, before | fields)


def by_hand(hidden: np.ndarray, pooling: Pooling, params: Any) -> np.ndarray:
    """The vector ``[D]`` of one text from its last states ``[length, D]``."""
    hidden = hidden.astype(np.float64)
    if pooling == "pooler":
        pooler = params["encoder"]["pooler"]
        return np.tanh(hidden[0] @ np.asarray(pooler["kernel"]) + np.asarray(pooler["bias"]))
    return {"cls": hidden[0], "mean": hidden.mean(axis=0), "max": hidden.max(axis=0)}[pooling]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "pooler"])
def test_pooling_is_what_numpy_makes_of_the_states(
    tiny: Predictor, pooling: Pooling, batch_size: int
):
    """In order, whatever the batch size; padding has no part in it."""
    vectors = tiny.encode(TEXTS, pooling, batch_size)
    assert vectors.dtype == np.float32
    states = tiny.states(TEXTS)
    expected = [by_hand(state.hidden_states[-1], pooling, tiny.params) for state in states]
    np.testing.assert_allclose(vectors, np.stack(expected), atol=TOLERANCE)
    assert len(np.unique(vectors.round(4), axis=0)) == len(TEXTS)
    unit = tiny.encode(TEXTS, pooling, batch_size, normalize=True)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected / lengths, atol=TOLERANCE)


def test_defaults_of_a_model_without_modules(tiny: Predictor):
    assert tiny.sentence is None
    np.testing.assert_array_equal(
        tiny.encode(TEXTS), tiny.encode(TEXTS, pooling="mean", normalize=False)
    )
    assert tiny.encode([]).shape == tiny.encode([], "max", normalize=True).shape == (0, 16)
    assert tiny.states([]) == []


def test_states_have_no_padding(tiny: Predictor):
    """Each text alone has the states that it has in a batch; attentions come when asked for."""
    together = tiny.states(TEXTS, attentions=True)
    for text, state in zip(TEXTS, together, strict=True):
        [alone] = tiny.states([text], attentions=True)
        length = len(state.tokens)
        assert alone.tokens == state.tokens
        assert state.hidden_states.shape == (3, length, 16)
        assert state.attentions is not None
        assert alone.attentions is not None
        assert state.attentions.shape == (2, 2, length, length)
        np.testing.assert_allclose(state.hidden_states, alone.hidden_states, atol=TOLERANCE)
        np.testing.assert_allclose(state.attentions, alone.attentions, atol=TOLERANCE)
        np.testing.assert_allclose(state.attentions.sum(axis=-1), 1, atol=TOLERANCE)
    assert together[0].tokens == ["[CLS]", "a", "dog", "[SEP]"]
    assert together[1].tokens[-3:] == ["a", "bird", "[SEP]"]
    assert tiny.states(TEXTS)[0].attentions is None


@pytest.mark.parametrize("family", ["bert", "albert", "albert in groups"])
def test_states_equal_those_of_transformers(tmp_path: Path, family: str):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    model = peer(family, "Model", ())
    model.save_pretrained(tmp_path)
    wordpiece_tokenizer(WORDS[: model.config.vocab_size]).save(tmp_path)
    ours = bertjax.load(str(tmp_path))
    for text, state in zip(TEXTS, ours.states(TEXTS, attentions=True), strict=True):
        pair = (text,) if isinstance(text, str) else tuple(text)
        ids, types = ours.tokenizer.encode(*pair, max_length=ours.max_length)
        with torch.no_grad():
            theirs = model(
                input_ids=torch.tensor(ids[None]).long(),
                token_type_ids=torch.tensor(types[None]).long(),
                output_hidden_states=True,
                output_attentions=True,
            )
        hidden = torch.cat(theirs.hidden_states).numpy()
        attentions = torch.cat(theirs.attentions).numpy()
        assert state.attentions is not None
        assert state.hidden_states.shape == hidden.shape
        assert state.attentions.shape == attentions.shape
        assert np.abs(state.hidden_states - hidden).max() <= TOLERANCE
        assert np.abs(state.attentions - attentions).max() <= TOLERANCE


def test_bfloat16_is_close(tiny: Predictor, bare: Path):
    rough = bertjax.load(str(bare), dtype="bfloat16")
    for pooling in ("mean", "pooler"):
        vectors = rough.encode(TEXTS, pooling)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, tiny.encode(TEXTS, pooling), atol=0.06)
    [state] = rough.states(["a dog"], attentions=True)
    assert state.attentions is not None
    assert state.hidden_states.dtype == state.attentions.dtype == np.float32


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_modules_are_the_defaults(bare: Path, tmp_path: Path, pooling: Pooling, normalize: bool):
    """What is said in the call wins over them, one by one."""
    model = bertjax.load(str(old_folder(bare, tmp_path / "old", pooling, normalize)))
    assert model.sentence == SentenceConfig(pooling, normalize, max_length=9)
    asked = model.encode(TEXTS, pooling, normalize=normalize)
    np.testing.assert_array_equal(model.encode(TEXTS), asked)
    np.testing.assert_array_equal(
        model.encode(TEXTS, normalize=not normalize),
        model.encode(TEXTS, pooling, normalize=not normalize),
    )
    np.testing.assert_array_equal(
        model.encode(TEXTS, "pooler"), model.encode(TEXTS, "pooler", normalize=normalize)
    )


def test_old_and_new_folders_are_alike(old: Path, new: Path):
    assert read_sentence_config(old) == read_sentence_config(new) == SentenceConfig("mean", True, 9)
    np.testing.assert_array_equal(
        bertjax.load(str(old)).encode(TEXTS), bertjax.load(str(new)).encode(TEXTS)
    )


def test_longest_text(new: Path):
    """The caller's length, else the folder's, and never more than there are positions."""
    assert bertjax.load(str(new)).max_length == 9
    assert bertjax.load(str(new), max_length=20).max_length == 20
    assert len(bertjax.load(str(new)).states(TEXTS)[3].tokens) == 9
    change(new / "sentence_bert_config.json", max_seq_length=11)
    assert bertjax.load(str(new)).max_length == 11
    change(new / "sentence_bert_config.json", max_seq_length=10**30)
    assert bertjax.load(str(new)).max_length == 32
    (new / "sentence_bert_config.json").rename(new / "sentence_roberta_config.json")
    change(new / "sentence_roberta_config.json", max_seq_length=12)
    assert bertjax.load(str(new)).max_length == 12
    (new / "sentence_roberta_config.json").unlink()
    settings = json.loads((new / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    write_json(new / "tokenizer_config.json", settings)
    assert bertjax.load(str(new)).max_length == 32


def test_lower_case_is_asked_for_by_the_modules(old: Path):
    wordpiece_tokenizer(WORDS, do_lower_case=False).save(old)
    assert bertjax.load(str(old)).states(["The DOG"])[0].tokens[1:3] == ["[UNK]", "[UNK]"]
    change(old / "sentence_bert_config.json", do_lower_case=True)
    assert bertjax.load(str(old)).states(["The DOG"])[0].tokens[1:3] == ["the", "dog"]
    assert load_tokenizer(old).settings["do_lower_case"] is False


POOLING, PROMPTS = "1_Pooling/config.json", "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
PROBLEMS: dict[str, tuple[str, dict[str, Any] | list[str], str]] = {
    "dense": (
        "modules.json",
        [*NEW_TYPES[:2], "sentence_transformers.base.modules.dense.Dense", NEW_TYPES[2]],
        "has the module Dense, and only a Transformer, a Pooling and then a Normalize",
    ),
    "dense at the end": (
        "modules.json",
        [*OLD_TYPES, NORMALIZE, "sentence_transformers.models.Dense"],
        "has the module Dense, and only",
    ),
    "code": ("modules.json", ["custom_st.Transformer"], "has the module custom_st.Transformer, "),
    "no pooling": ("modules.json", OLD_TYPES[:1], "has no Pooling module; give encode both"),
    "last token": (POOLING, {"pooling_mode": "lasttoken"}, "asks for the pooling lasttoken, and"),
    "two": (POOLING, {"pooling_mode": ["cls", "max"]}, "the pooling cls, max, and only one of"),
    "neither": (POOLING, {"pooling_mode": 3}, "asks for the pooling 3, and only one of"),
    "root of the length": (
        POOLING,
        {"pooling_mode": None, "pooling_mode_mean_sqrt_len_tokens": True},
        "asks for the pooling mean_sqrt_len_tokens",
    ),
    "prompt": (
        PROMPTS,
        {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
        "puts the prompt 'query' before every text",
    ),
    "shorter": (PROMPTS, {"truncate_dim": 8}, "has truncate_dim 8, which is not supported"),
    "task": (TRANSFORMER, {"transformer_task": "fill-mask"}, "has transformer_task 'fill-mask'"),
    "tokens": (
        "2_Normalize/config.json",
        {"module_input_name": "token_embeddings"},
        "has module_input_name 'token_embeddings', which is not supported",
    ),
}


@pytest.mark.parametrize(("file", "content", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_unsupported_modules_are_named(
    new: Path, file: str, content: dict[str, Any] | list[str], message: str
):
    """Only for the folder's own vectors: the model beneath them stays of use."""
    if isinstance(content, list):
        (new / file).write_text(json.dumps(modules(content)))
    else:
        change(new / file, **content)
    model = bertjax.load(str(new))
    asked: list[tuple[Pooling | None, bool | None]] = [(None, None), ("mean", None), (None, True)]
    for pooling, normalize in asked:
        with pytest.raises(UserError) as error:
            model.encode(["a dog"], pooling, normalize=normalize)
        assert message in str(error.value)
        assert f"{new / file}" in str(error.value)
    assert model.encode(["a dog"], "mean", normalize=True).shape == (1, 16)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("modules.json", "[", "cannot be read as JSON"),
        ("modules.json", "{}", "is no list of modules with 'type' and 'path'"),
        ("modules.json", "[]", "is no list of modules with 'type' and 'path'"),
        ("modules.json", '[{"path": ""}]', "is no list of modules with 'type' and 'path'"),
        (
            "modules.json",
            json.dumps([{"path": "../1_Pooling", "type": OLD_TYPES[1]}]),
            "is no list of modules with 'type' and 'path'",
        ),
        (
            "modules.json",
            json.dumps([{"path": "0_Transformer", "type": OLD_TYPES[0]}]),
            "puts the transformer into the folder '0_Transformer'",
        ),
        (TRANSFORMER, '{"max_seq_length": "long"}', "'max_seq_length' must be a number of tokens"),
        (TRANSFORMER, '{"max_seq_length": 0}', "'max_seq_length' must be a number of tokens"),
        (TRANSFORMER, "", "cannot be read as JSON"),
    ],
)
def test_damaged_folders_are_told(old: Path, file: str, text: str, message: str):
    (old / file).write_text(text)
    with pytest.raises(UserError) as error:
        bertjax.load(str(old))
    assert message in str(error.value)


def test_missing_pooling_is_told(old: Path):
    (old / POOLING).unlink()
    with pytest.raises(UserError, match=r"1_Pooling/config\.json cannot be read as JSON"):
        bertjax.load(str(old)).encode(["a dog"])


def test_wrong_calls_are_told(tiny: Predictor, tmp_path: Path):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"inputs": ["a"], "pooling": "means"}, "unknown pooling 'means'; did you mean 'mean'?"),
        ({"inputs": ["a"], "batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"inputs": "a dog"}, "give a list of texts or pairs, not a single text"),
        ({"inputs": [("a", "b", "c")]}, "must be a text or a pair of texts"),
        ({"inputs": [("a", "hi \ud83d")]}, r"an input holds half of a surrogate pair, \ud83d"),
    ]
    for arguments, message in wrong:
        with pytest.raises(UserError) as error:
            tiny.encode(**arguments)
        assert message in str(error.value)
    with pytest.raises(UserError, match="not a single text"):
        tiny.states("a dog")
    head = HeadConfig("classification", 2)
    without = tiny_model(tmp_path, model_type="distilbert", type_vocab_size=0, pooler=False)
    with pytest.raises(UserError, match="this model has no pooler; choose the pooling cls, mean"):
        bertjax.load(str(without)).encode(["a"], "pooler")
    scored = bertjax.load(str(tiny_model(tmp_path / "scored", head=head)))
    assert scored.encode(["a"], "pooler").shape == (1, 16)
    with pytest.raises(UserError, match="not a single text"):
        scored.predict("a dog")


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_equals_sentence_transformers(bare: Path, tmp_path: Path, pooling: str):
    """Their vectors of our folder, and ours of the folder that they write."""
    library = pytest.importorskip("sentence_transformers", reason="needs the parity extra")
    folder = old_folder(bare, tmp_path / "old", pooling)
    peer_model = library.SentenceTransformer(str(folder), device="cpu")
    peer_model.save(str(tmp_path / "new"))
    texts = [text for text in TEXTS if isinstance(text, str)]
    theirs = peer_model.encode(texts)
    for source in (folder, tmp_path / "new"):
        model = bertjax.load(str(source))
        assert model.max_length == peer_model.max_seq_length == 9
        assert np.abs(model.encode(texts) - theirs).max() <= TOLERANCE


def test_minilm_equals_sentence_transformers(minilm_folder: Path, data_folder: Path):
    """200 real sentences, and some that are empty, too long or of other scripts."""
    library = pytest.importorskip("sentence_transformers", reason="needs the parity extra")
    rows = (data_folder / "glue" / "MRPC" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [text for row in rows[1:101] for text in row.split("\t")[3:5]]
    assert len(set(sentences)) >= 195
    sentences += ["", "word " * 400, "Ünïcödé, ВЕРХНИЙ РЕГИСТР, 日本語", "tabs\tand  spaces "]
    model = bertjax.load(str(minilm_folder))
    assert model.sentence == SentenceConfig("mean", True, 256)
    assert model.max_length == 256
    theirs = library.SentenceTransformer(str(minilm_folder), device="cpu").encode(sentences)
    assert theirs.shape == (204, 384)
    assert np.abs(model.encode(sentences) - theirs).max() <= TOLERANCE
