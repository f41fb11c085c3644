"""A whole model from any place, and into any format: what ``bertjax convert`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from bertjax.checkpoint import Checkpoints, absolute
from bertjax.convert import (
    folder_heads,
    is_tensorflow_folder,
    load_folder,
    load_tensorflow,
    save_huggingface,
    save_tensorflow,
    vocabulary_note,
)
from bertjax.convert.writing import SHARD_BYTES
from bertjax.tasks import TASK_OF_HEAD
from bertjax.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from bertjax.train import workdir as workdirs
from bertjax.train.pretrained import restore_params
from bertjax.types import HeadConfig, ModelConfig, UserError, from_mapping, nearest

FORMATS = ("huggingface", "bertjax", "tensorflow")


@dataclasses.dataclass(frozen=True)
class WholeModel:
    """All that a model's place holds."""

    config: ModelConfig
    params: Mapping[str, Any]
    """Float32 host arrays."""
    heads: dict[str, HeadConfig]
    labels: tuple[str, ...] | None
    """Of a classifier, in the order of its outputs."""
    tokenizer: Tokenizer | None
    experiment: Mapping[str, Any]
    """What a workdir tells of the run that trained it; empty for other places."""
    notes: tuple[str, ...] = ()
    """What there is to say about the reading, a line or more each."""


def read_model(source: str, step: int | None = None) -> WholeModel:
    """Reads encoder, heads and tokenizer of a workdir, a folder or a hub name.

    ``step``: of a workdir's checkpoint; None: its best, or newest.

    A tokenizer that bertjax cannot read is no error: the note says why it is left out.

    Raises:
      UserError: if the model cannot be read.
    """
    if workdirs.is_workdir(source):
        place = str(absolute(epath.Path(source)) / "tokenizer")
        found = _from_workdir(source, step)
    elif step is not None:
        raise UserError(f"--step goes with a workdir of checkpoints, and {source} is none")
    else:
        place, found = source, _from_folder(source)
    try:
        tokenizer = load_tokenizer(place)
        notice = check_vocabulary(tokenizer, found.config.vocab_size, found.config.type_vocab_size)
    except UserError as error:
        return dataclasses.replace(found, notes=(*found.notes, f"no tokenizer: {error}"))
    notes = (*found.notes, notice) if notice else found.notes
    return dataclasses.replace(found, tokenizer=tokenizer, notes=notes)


def _from_folder(source: str) -> WholeModel:
    heads, labels = folder_heads(source)
    loaded = load_tensorflow(source) if is_tensorflow_folder(source) else load_folder(source, heads)
    notes = (loaded.report.text(),)
    return WholeModel(loaded.config, loaded.params, heads, labels, None, {}, notes)


def _from_workdir(source: str, wanted: int | None) -> WholeModel:
    folder = epath.Path(source)
    document = workdirs.read_document(folder)
    config = from_mapping(ModelConfig, document["model"], f"{folder / 'config.json'}: model")
    heads = {name: HeadConfig(**head) for name, head in document["heads"].items()}
    if names := document.get("labels_of"):
        raise UserError(
            f"{folder} has heads of several tasks ({', '.join(names)}), and a model that is "
            f"converted has one; take {folder / 'huggingface'}/TASK, which the run has written"
        )
    labels = document.get("labels")
    generator_size = document.get("generator_size", 0.0)
    step, params = restore_params(folder, config, heads, generator_size, wanted)
    notes = (f"{folder}: checkpoint of step {step} read",)
    labels = None if labels is None else tuple(labels)
    config = dataclasses.replace(config, vocab_padding=0)
    return WholeModel(config, params, heads, labels, None, document["experiment"], notes)


def write_model(
    model: WholeModel,
    folder: str,
    form: str,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = SHARD_BYTES,
) -> str | None:
    """Writes the model as ``huggingface``, ``bertjax`` or ``tensorflow``; a note, or None.

    Raises:
      UserError: if the format cannot hold the model, or if the disk refuses.
    """
    if form not in FORMATS:
        raise UserError(f"there is no format '{form}'{nearest(form, FORMATS)}")
    if form != "huggingface" and dtype != "float32":
        raise UserError(f"the format {form} holds float32; leave --dtype={dtype} out")
    config, params, heads = model.config, model.params, model.heads
    if form == "bertjax":
        write_workdir(model, epath.Path(folder))
    elif form == "tensorflow":
        save_tensorflow(folder, config, params, heads, tokenizer=model.tokenizer)
        return model.tokenizer and vocabulary_note(model.tokenizer)
    else:
        save_huggingface(
            folder,
            config,
            params,
            heads,
            labels=model.labels,
            tokenizer=model.tokenizer,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )
    return None


def write_workdir(model: WholeModel, folder: epath.Path) -> None:
    """Writes the folder that a run would leave: config, tokenizer and one checkpoint, of step 0.

    Raises:
      UserError: if the disk refuses.
    """
    workdirs.check_place(folder)
    kinds = [head.kind for head in model.heads.values() if head.kind in TASK_OF_HEAD]
    task = TASK_OF_HEAD[kinds[0]] if kinds else None
    experiment = {"task": task or "pretraining", "max_length": model.config.max_length}
    document = {
        "experiment": dict(model.experiment) or experiment,
        "model": dataclasses.asdict(model.config),
        "heads": {name: dataclasses.asdict(head) for name, head in model.heads.items()},
        "labels": model.labels,
    }
    workdirs.prepare(folder, document)
    if model.tokenizer is not None:
        (folder / "tokenizer").mkdir(exist_ok=True)
        model.tokenizer.save(str(folder / "tokenizer"))
    params = dict(model.params)
    if not model.config.has_pooler(model.heads.values()):
        params["encoder"] = {k: v for k, v in params["encoder"].items() if k != "pooler"}
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(0, params, None, {"position": {"best_step": 0}})
        checkpoints.wait()
    finally:
        checkpoints.close()
