"""``model=``: whatever it names, as a config, host parameters and a tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from bertjax.checkpoint import Checkpoints, absolute
from bertjax.convert import load_folder, read_heads
from bertjax.convert.config import LABELLED
from bertjax.models import Electra, Model
from bertjax.models.vocabulary import with_rows
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from bertjax.train.state import abstract_params
from bertjax.train.workdir import is_workdir, read_document, read_result
from bertjax.types import HeadConfig, ModelConfig, UserError, from_mapping


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model that was read."""

    config: ModelConfig
    params: Mapping[str, Any]
    """Host arrays; parts that were not found are absent."""
    tokenizer: Tokenizer
    notes: tuple[str, ...]
    """What there is to say about the reading, a line or more each."""

    def has_head(self, name: str) -> bool:
        """Whether the weights of that head were found."""
        return name in self.params.get("heads", {})


def load_pretrained(
    source: str,
    heads: Mapping[str, HeadConfig],
    labels: Sequence[str] | None = None,
    *,
    new_heads: bool = False,
) -> Pretrained:
    """Reads the encoder, and those of ``heads`` that are there, from a workdir, folder or hub name.

    ``labels`` are the class names in the order the caller counts them: where a folder's head has
    the same names in another order, its outputs are put into the caller's. ``new_heads``: the
    heads that are there are not read.

    Raises:
      UserError: if nothing can be read there, or the tokenizer is another model's.
    """
    if is_workdir(source):
        found = _from_workdir(epath.Path(source), heads, new_heads)
    else:
        loaded = load_folder(source, heads, new_heads=new_heads)
        _, theirs = read_heads(loaded.raw)
        notes = [loaded.report.text()]
        if labels is not None and theirs is not None and loaded.params.get("heads"):
            notes += reorder_heads(loaded.params, heads, theirs, labels)
        found = Pretrained(loaded.config, loaded.params, load_tokenizer(source), tuple(notes))
    notice = check_vocabulary(
        found.tokenizer, found.config.vocab_size, found.config.type_vocab_size
    )
    return dataclasses.replace(found, notes=(*found.notes, notice)) if notice else found


def reorder_heads(
    params: Mapping[str, Any],
    heads: Mapping[str, HeadConfig],
    theirs: Sequence[str],
    ours: Sequence[str],
) -> list[str]:
    """Puts heads with named classes, in place, from the class order ``theirs`` into ``ours``.

    Where the two are not the same words, as with LABEL_0, LABEL_1, the order is left as it is, and
    the note that is returned says so.
    """
    if list(theirs) == list(ours):
        return []
    if sorted(theirs) != sorted(ours):
        return [f"  its labels {', '.join(theirs)} are taken to mean {', '.join(ours)}"]
    order = [list(theirs).index(label) for label in ours]
    for name, found in params.get("heads", {}).items():
        if heads[name].kind in LABELLED:
            found["kernel"], found["bias"] = found["kernel"][:, order], found["bias"][order]
    return []


def _from_workdir(
    folder: epath.Path, heads: Mapping[str, HeadConfig], new_heads: bool
) -> Pretrained:
    document = read_document(folder)
    config = from_mapping(ModelConfig, document["model"], f"{folder / 'config.json'}: model")
    there = {name: HeadConfig(**head) for name, head in document["heads"].items()}
    step, params = restore_params(folder, config, there, document.get("generator_size", 0.0))
    wanted = {} if new_heads else {n: h for n, h in heads.items() if there.get(n) == h}
    found = {"encoder": dict(params["encoder"]), "heads": {n: params["heads"][n] for n in wanted}}
    new = [f"heads/{name}" for name in heads if name not in wanted]
    if not config.has_pooler(heads.values()):
        found["encoder"].pop("pooler", None)
    elif "pooler" not in found["encoder"]:
        new.insert(0, "encoder/pooler")
    notes = [f"{folder}: checkpoint of step {step} read"]
    if new:
        notes.append(f"  newly initialised: {', '.join(new)}")
    tokenizer = load_tokenizer(str(absolute(folder) / "tokenizer"))
    config = dataclasses.replace(config, vocab_padding=0)
    return Pretrained(config, found, tokenizer, ("\n".join(notes),))


def restore_params(
    folder: epath.Path,
    config: ModelConfig,
    heads: Mapping[str, HeadConfig],
    generator_size: float = 0.0,
    step: int | None = None,
) -> tuple[int, Any]:
    """The step and host parameters of a workdir's best checkpoint, or of its newest.

    They are without the padding of the vocabulary that the checkpoint has.

    Args:
      folder: the workdir.
      config: the model's shape in the checkpoint.
      heads: the model's heads.
      generator_size: of the generator that was trained beside the model, and is left out.
      step: of the checkpoint to read; None: the best or newest.

    Raises:
      UserError: if there is none that can be read.
    """
    model = Model(config, tuple(heads.items()))
    trained = Electra.of(model, generator_size) if generator_size else model
    shapes = abstract_params(trained, make_mesh(MeshConfig(), jax.local_devices()[:1]))
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"{folder} has no checkpoint yet; train it, or name another model")
        best = (read_result(folder) or {}).get("best_step")
        if best not in steps:
            best = checkpoints.read_meta(steps[0])["position"]["best_step"]
        if step is not None and step not in steps:
            there = ", ".join(map(str, reversed(steps)))
            raise UserError(f"{folder} has no checkpoint of step {step}; it has those of {there}")
        chosen = best if best in steps else steps[0]
        restored = checkpoints.restore_on_host(chosen if step is None else step, shapes)
    finally:
        checkpoints.close()
    params = {name: tree for name, tree in restored.params.items() if name != "generator"}
    return restored.step, with_rows(params, config.vocab_rows, config.vocab_size)
