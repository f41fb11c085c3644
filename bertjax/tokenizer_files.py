"""The tokenizer files of a model folder: which class they name, and what they hold."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from bertjax.folders import first_line, read_json
from bertjax.tokenizer_families import (
    FAMILIES,
    MODEL_TYPES,
    ROLES,
    Vocabulary,
    add_special,
    as_added,
    build,
)
from bertjax.tokenizer_vocabularies import (
    looks_lower_cased,
    read_merges,
    read_pieces,
    read_words,
)
from bertjax.types import UserError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)

_GENERIC = {
    "PreTrainedTokenizer": "PreTrainedTokenizerFast",
    "PythonBackend": "PreTrainedTokenizerFast",
    "TokenizersBackend": "PreTrainedTokenizerFast",
    "PreTrainedTokenizerFast": "PreTrainedTokenizerFast",
}
# Without tokenizer.json. 30k-clean.model is the name in Google's own ALBERT releases.
_FILES = {
    "BertTokenizer": ("vocab.txt",),
    "DistilBertTokenizer": ("vocab.txt",),
    "ElectraTokenizer": ("vocab.txt",),
    "RobertaTokenizer": ("vocab.json",),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model",),
    "CamembertTokenizer": ("sentencepiece.bpe.model",),
    "AlbertTokenizer": ("spiece.model", "30k-clean.model"),
}
_BY_FILE = {
    "vocab.txt": "BertTokenizer",
    "vocab.json": "RobertaTokenizer",
    "spiece.model": "AlbertTokenizer",
    "30k-clean.model": "AlbertTokenizer",
}
# What a folder's settings say of the place they came from.
_NOT_KEPT = ("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file")


def read_folder(
    folder: Path, do_lower_case: bool | None
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The fast tokenizer of a folder, and its settings, complete.

    Raises:
      UserError: if files are missing or damaged, or if the folder needs a tokenizer that is not
        a fast one.
    """
    settings, described = _read_settings(folder)
    name = _class_name(folder, settings)
    if do_lower_case is not None:
        settings["do_lower_case"] = do_lower_case
    try:
        if (folder / "tokenizer.json").is_file():
            backend, whole = _from_json(folder, name, settings, described, do_lower_case)
        else:
            backend, whole = _from_vocabulary(folder, name, settings, described)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"the tokenizer files of {folder} do not make a tokenizer ({first_line(error)}); "
            "get the folder anew"
        ) from None
    whole.pop("auto_map", None)  # code of the folder, which is never run
    return backend, whole


def _read_settings(folder: Path) -> tuple[dict[str, Any], dict[str, AddedToken]]:
    """The settings, special tokens by their names; and those tokens that have flags.

    As in transformers, ``special_tokens_map.json`` wins over ``tokenizer_config.json``, unless
    the latter lists the added tokens itself.
    """
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
    names = folder / "special_tokens_map.json"
    if names.is_file() and "added_tokens_decoder" not in settings:
        settings.update(read_json(names))
    described = {}
    for role in ROLES:
        value = settings.get(role)
        if isinstance(value, Mapping):
            if not isinstance(value.get("content"), str):
                raise UserError(f"{folder}: {role} has no content; get the tokenizer files anew")
            settings[role] = value["content"]
            described[value["content"]] = as_added(value, special=True)
    kept = {key: value for key, value in settings.items() if key not in _NOT_KEPT}
    absent = [role for role in ROLES if role in kept and kept[role] is None]
    return {key: value for key, value in kept.items() if key not in absent}, described


def _class_name(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The tokenizer class that the folder's files name, without "Fast"; None where none does."""
    config = folder / "config.json"
    model = read_json(config) if config.is_file() else {}
    name = settings.get("tokenizer_class") or model.get("tokenizer_class")
    if name is None and "word_tokenizer_type" in settings:
        name = "BertJapaneseTokenizer"
    name = name or MODEL_TYPES.get(str(model.get("model_type")))
    if name is None or name in _GENERIC:
        return name and _GENERIC[name]
    return str(name).removesuffix("Fast")


def _from_json(
    folder: Path,
    name: str | None,
    settings: dict[str, Any],
    described: Mapping[str, AddedToken],
    do_lower_case: bool | None,
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Builds a known class from what ``tokenizer.json`` holds; takes any other file as it is."""
    path = folder / "tokenizer.json"
    document = read_json(path)
    vocabulary = _vocabulary_of(document, settings, folder, described)
    if name is not None and name not in FAMILIES and name not in _GENERIC:
        found = _from_class(folder, name, settings)
        if found is not None:
            return found
    if name is not None and name in FAMILIES and _kind(document) == FAMILIES[name].model:
        return _build(name, vocabulary, settings, path)
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(
            f"{path} is not a readable tokenizer ({first_line(error)}); get the file anew"
        ) from None
    backend.no_truncation()
    backend.no_padding()
    normalizer = backend.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        own = {
            "do_lower_case": normalizer.lowercase,
            "strip_accents": normalizer.strip_accents,
            "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        }
        if name is None and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer):
            return _build("BertTokenizer", vocabulary, {**own, **settings}, path)
        if do_lower_case is not None:
            normalizer.lowercase = do_lower_case
            backend.normalizer = normalizer
    add_special(backend, vocabulary, settings)
    return backend, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}


def _build(
    name: str, vocabulary: Vocabulary, settings: Mapping[str, Any], place: Path
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    whole = {**FAMILIES[name].defaults, **settings, "tokenizer_class": name}
    return build(FAMILIES[name], vocabulary, whole, place), whole


def _kind(document: Mapping[str, Any]) -> str:
    """The model of a ``tokenizer.json``; old files do not name it."""
    model = document["model"]
    guess = "BPE" if "merges" in model else "WordPiece"
    return model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else guess)


def _vocabulary_of(
    document: Mapping[str, Any],
    settings: Mapping[str, Any],
    folder: Path,
    described: Mapping[str, AddedToken],
) -> Vocabulary:
    """What the classes of transformers take from ``tokenizer.json``."""
    words, merges = document["model"]["vocab"], document["model"].get("merges", ())
    normalizer = document.get("normalizer") or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    maps = [step["precompiled_charsmap"] for step in steps if step.get("precompiled_charsmap")]
    return Vocabulary(
        words if isinstance(words, Mapping) else [(word, score) for word, score in words],
        [_pair(merge) for merge in merges],
        base64.b64decode(maps[0]) if maps else None,
        _added(settings, folder, document.get("added_tokens", ())),
        described,
        layout=_layout(document),
    )


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge, which is written as "a b" or as a list."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _layout(document: Mapping[str, Any]) -> processors.PostProcessor | None:
    """The post-processor of a ``tokenizer.json``, read without its vocabulary."""
    if document.get("post_processor") is None:
        return None
    empty = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    small = {"version": "1.0", "model": empty, "post_processor": document["post_processor"]}
    return tokenizers.Tokenizer.from_str(json.dumps(small)).post_processor


def _added(
    settings: Mapping[str, Any], folder: Path, own: Iterable[Mapping[str, Any]]
) -> list[AddedToken]:
    """The added tokens in the order of their ids: those of the settings, else of the files."""
    listed = settings.get("added_tokens_decoder")
    if listed is not None:
        tokens = {int(index): as_added(token) for index, token in listed.items()}
        return [tokens[index] for index in sorted(tokens)]
    special = {settings.get(role) for role in ROLES}
    tokens = {}
    if (folder / "added_tokens.json").is_file():
        for content, index in read_json(folder / "added_tokens.json").items():
            known = content in special
            tokens[index] = AddedToken(content, special=known, normalized=not known)
    tokens.update({token["id"]: as_added(token) for token in own})
    return [tokens[index] for index in sorted(tokens)]


def _from_class(
    folder: Path, name: str, settings: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, Any]] | None:
    """A class of transformers that is no family's own; None if ``tokenizer.json`` will do."""
    import transformers

    kind = getattr(transformers, name, None)
    code = "auto_map" in settings
    if kind is None and not code and (folder / "tokenizer.json").is_file():
        return None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedTokenizerFast):
        raise UserError(
            f"{folder} needs the tokenizer class {name}, which has no fast tokenizer (it splits "
            "text by Python code or another program); use a model whose tokenizer is a fast one"
        )
    _check_packages(folder)
    loaded = kind.from_pretrained(str(folder), local_files_only=True)
    backend = loaded.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    special = {role: str(token) for role, token in loaded.special_tokens_map.items()}
    return backend, {**settings, **special, "tokenizer_class": name}


def _check_packages(folder: Path) -> None:
    """Says which packages transformers needs for a SentencePiece file of another family."""
    from importlib.util import find_spec

    if (folder / "tokenizer.json").is_file() or not any(folder.glob("*.model")):
        return
    if find_spec("sentencepiece") is None or find_spec("google.protobuf") is None:
        raise UserError(
            f"{folder} has its tokenizer as a SentencePiece file only, which this class reads "
            "with further packages; pip install sentencepiece protobuf"
        )


def _from_vocabulary(
    folder: Path,
    name: str | None,
    settings: dict[str, Any],
    described: Mapping[str, AddedToken],
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Builds the tokenizer where there is no ``tokenizer.json``."""
    if name is None or name in _GENERIC:
        name = next((_BY_FILE[file] for file in _BY_FILE if (folder / file).is_file()), None)
    if name is None and (folder / "sentencepiece.bpe.model").is_file():
        raise UserError(
            f"{folder} does not say whose its sentencepiece.bpe.model is; put the model's "
            "config.json beside it"
        )
    if name is not None and name not in FAMILIES:
        found = _from_class(folder, name, settings)
        assert found is not None, "without tokenizer.json it is read or refused"
        return found
    files = _FILES[name or "BertTokenizer"]
    path = next((folder / file for file in files if (folder / file).is_file()), None)
    if name is None or path is None:
        raise UserError(
            f"{folder} has neither tokenizer.json nor {files[0]}; save the model's tokenizer there "
            f"(transformers: AutoTokenizer.from_pretrained(...).save_pretrained('{folder}'))"
        )
    added = _added(settings, folder, ())
    if path.suffix == ".model":
        vocabulary = read_pieces(path, name, {**FAMILIES[name].defaults, **settings})
    elif path.suffix == ".json":
        vocabulary = Vocabulary(read_json(path), read_merges(folder / "merges.txt"))
    else:
        words = read_words(path)
        vocabulary = Vocabulary(words)
        settings.setdefault("do_lower_case", looks_lower_cased(words))
    return _build(
        name, dataclasses.replace(vocabulary, added=added, described=described), settings, path
    )
