"""Whether a converted model computes what the original did: both run, and their outputs compared.

A Hugging Face folder is run by transformers itself, on PyTorch, and by us; any other place by us,
read anew from the disk. It is the one place where transformers' models are run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax.convert import is_tensorflow_folder, model_folder, read_config, read_heads
from bertjax.data.batching import Batcher
from bertjax.data.python_text import collect
from bertjax.exchange import WholeModel, read_model
from bertjax.models import Model
from bertjax.models.model import TOKEN_HEADS, Batch
from bertjax.tokenizers import Tokenizer
from bertjax.train.workdir import is_workdir
from bertjax.types import ModelConfig, UserError

TOLERANCES = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 3e-2}
"""Largest difference, of outputs whose largest value is one or less; in proportion above that."""

SENTENCES, LENGTH = 8, 64

Outputs = Mapping[str, np.ndarray]
Side = Callable[[Batch], Outputs]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference of one output on one batch, between two sides."""

    output: str
    text: str
    sides: str
    largest: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it is within the tolerance; NaN never is."""
        return self.largest <= self.allowed


def verify(
    source: str, target: str, dtype: str = "float32", step: int | None = None
) -> list[Difference]:
    """Runs the model of ``source`` and the one written to ``target`` on random and on real text.

    Real text are sentences of the interpreter's own documentation; a model without a tokenizer that
    can be read is run on random text alone. ``step`` is that of the source's checkpoint.

    Raises:
      UserError: if one of the two cannot be read, or torch is needed and not installed.
    """
    original, written = read_model(source, step), read_model(target)
    reference, *others = [*_sides(source, original, "from"), *_sides(target, written, "to")]
    batches = {"random": random_batch(original.config)}
    if original.tokenizer is not None:
        batches["real"] = real_batch(original.tokenizer, original.config)
    found = []
    for text, batch in batches.items():
        expected = reference[1](batch)
        for name, side in others:
            got = side(batch)
            for output in expected.keys() & got.keys():
                tolerance = TOLERANCES["float32" if name.endswith("from)") else dtype]
                scale = max(1.0, float(np.abs(expected[output]).max()))
                largest = float(np.abs(got[output] - expected[output]).max())
                pair = f"{name} - {reference[0]}"
                found.append(Difference(output, text, pair, largest, tolerance * scale))
    return sorted(found, key=lambda row: (row.sides, row.output, row.text))


def _sides(place: str, model: WholeModel, end: str) -> list[tuple[str, Side]]:
    """Who can run what lies there, by a name for the table; transformers first."""
    ours = (f"bertjax({end})", functools.partial(run_ours, model))
    if is_workdir(place) or is_tensorflow_folder(place):
        return [ours]
    return [(f"transformers({end})", transformers_side(model_folder(place))), ours]


def random_batch(config: ModelConfig) -> Batch:
    """Rows of random tokens, of odd lengths and padded."""
    random = np.random.default_rng(0)
    longest = min(LENGTH, config.max_length)
    batcher = Batcher(4, longest, config.pad_token_id, pack=False)
    types = max(1, config.type_vocab_size)
    examples = []
    for length in (longest, max(1, longest // 2 - 1), 1, max(1, longest - 1)):
        ids = random.integers(0, config.vocab_size, length)
        ids = np.where(ids == config.pad_token_id, (ids + 1) % config.vocab_size, ids)
        examples.append({"token_ids": ids, "type_ids": random.integers(0, types, length)})
    return with_predictions(batcher(examples))


def real_batch(tokenizer: Tokenizer, config: ModelConfig) -> Batch:
    """Sentences of the interpreter's documentation, padded to the longest."""
    longest = min(LENGTH, config.max_length)
    passages = collect(("python",), SENTENCES)
    texts = [sentence for passage in passages for sentence in passage.sentences][:SENTENCES]
    encoded = tokenizer.encode_batch(texts, max_length=longest)
    examples = [{"token_ids": ids, "type_ids": types} for ids, types in encoded]
    batcher = Batcher(len(examples), longest, config.pad_token_id, pack=False)
    return with_predictions(batcher(examples))


def with_predictions(batch: dict[str, Any]) -> Batch:
    """The batch with every real token to be predicted."""
    row, position = np.nonzero(batch["segment_ids"])
    batch["prediction_row"] = row.astype(np.int32)
    batch["prediction_position"] = position.astype(np.int32)
    return batch


def run_ours(whole: WholeModel, batch: Batch) -> Outputs:
    """Hidden states, pooled output and every head's logits, of the real tokens."""
    model = Model(whole.config, tuple(whole.heads.items()))
    variables, real = {"params": whole.params}, batch["segment_ids"] > 0

    @jax.jit
    def run(variables: Any, batch: Batch) -> dict[str, Any]:
        hidden = model.apply(variables, batch, method="encode")
        found = {"hidden states": hidden}
        if "pooler" in whole.params["encoder"]:
            found["pooled output"] = model.apply(variables, hidden, method=_pool)
        return found | {
            head.kind: model.apply(variables, batch, name) for name, head in whole.heads.items()
        }

    found = {name: np.asarray(value) for name, value in run(variables, batch).items()}
    by_token = {"hidden states", *TOKEN_HEADS}
    return {name: value[real] if name in by_token else value for name, value in found.items()}


def _pool(model: Model, hidden: Any) -> Any:
    return model.encoder.pool(hidden[:, 0])


def transformers_side(folder: Path) -> Side:
    """The model of a Hugging Face folder, run by transformers.

    Raises:
      UserError: if torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "--verify runs the model in transformers too, which needs torch: "
            "pip install 'bertjax[torch]'"
        ) from None
    import transformers

    config, raw = read_config(folder)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    architecture = getattr(transformers, (raw.get("architectures") or ["AutoModel"])[0])
    model = architecture.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    kinds = [head.kind for head in read_heads(raw)[0].values()]

    def run(batch: Batch) -> Outputs:
        real = np.asarray(batch["segment_ids"]) > 0
        inputs = {"input_ids": batch["token_ids"], "attention_mask": real}
        if config.embeds_types:
            inputs["token_type_ids"] = batch["type_ids"]
        tensors = {name: torch.tensor(np.asarray(x, np.int64)) for name, x in inputs.items()}
        if "multiple_choice" in kinds:
            tensors = {name: value[None] for name, value in tensors.items()}
        with torch.no_grad():
            return their_outputs(model(**tensors, output_hidden_states=True), real, kinds)

    return run


_THEIR_NAMES = {
    "masked_lm": "prediction_logits",
    "next_sentence": "seq_relationship_logits",
    "sentence_order": "sop_logits",
}
"""Of the logits of models with two heads; where there is one head they are called logits."""


def their_outputs(output: Any, real: np.ndarray, kinds: Iterable[str]) -> Outputs:
    """What transformers gives, laid out like ours; of hidden states and tokens the real ones."""
    found = {"hidden states": output.hidden_states[-1].numpy()[real]}
    if output.get("pooler_output") is not None:
        found["pooled output"] = output.pooler_output.numpy()
    for kind in kinds:
        if kind == "span":
            ends = [output.start_logits.numpy(), output.end_logits.numpy()]
            found[kind] = np.stack(ends, -1)[real]
            continue
        name = _THEIR_NAMES.get(kind, "logits")
        logits = output[name if name in output else "logits"].numpy()
        if kind == "multiple_choice":
            logits = logits.T
        elif kind == "replaced_token":
            logits = logits[real][:, None]
        elif kind in ("masked_lm", "token_classification"):
            logits = logits[real]
        found[kind] = logits
    return found
