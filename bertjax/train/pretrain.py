"""Masked-LM pretraining on sentences in memory: the simple path that the quickstart takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax import Array
from jax.sharding import Mesh

from bertjax.checkpoint import Checkpoints
from bertjax.convert import save_huggingface
from bertjax.data.batching import Batcher, Encoded
from bertjax.data.masking import Masking
from bertjax.data.pipeline import Stream, chunks
from bertjax.losses import Sums
from bertjax.models import Model
from bertjax.optim import OptimConfig
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh, on_mesh, shard_batch
from bertjax.tokenizers import Tokenizer
from bertjax.train import workdir as workdirs
from bertjax.train.loop import Loop, LoopConfig
from bertjax.train.objectives import Objective, masked_lm
from bertjax.train.state import create_state
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import HeadConfig, ModelConfig

HEAD = "masked_lm"
HEADS = {HEAD: HeadConfig("masked_lm")}


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What a pretraining run is told."""

    model: ModelConfig
    max_length: int
    steps: int
    batch_size: int
    learning_rate: float
    mask_rate: float = 0.15
    """Of training; the held-out examples always have BERT's 0.15."""
    seed: int = 0
    log_every: int = 20
    eval_every: int = 200

    @property
    def optim(self) -> OptimConfig:
        """AdamW with BERT's decay; its second moment forgets faster, as suits a short run."""
        return OptimConfig(
            learning_rate=self.learning_rate, schedule="linear", weight_decay=0.01, b2=0.98
        )


def full_examples(
    documents: Iterable[Sequence[str]], tokenizer: Tokenizer, max_length: int
) -> list[Encoded]:
    """[CLS] tokens [SEP], each of exactly ``max_length``: a document's sentences, cut anywhere.

    What is left at the end of a document is dropped. So there is no padding, and every batch has
    as many masked tokens as any other but for a few.
    """
    room = max_length - 2
    examples = []
    for sentences in documents:
        encoded = tokenizer.backend.encode_batch(list(sentences), add_special_tokens=False)
        tokens = [token for encoding in encoded for token in encoding.ids]
        for start in range(0, len(tokens) - room + 1, room):
            row = [tokenizer.cls_id, *tokens[start : start + room], tokenizer.sep_id]
            token_ids = np.array(row, np.int32)
            examples.append({"token_ids": token_ids, "type_ids": np.zeros_like(token_ids)})
    return examples


@dataclasses.dataclass(frozen=True)
class MaskedEvaluator:
    """Loss (nats) and accuracy at the masked tokens of held-out examples, masked once for all."""

    objective: Objective
    examples: Sequence[Encoded]
    batcher: Batcher
    mesh: Mesh

    def __call__(self, params: Any) -> dict[str, float]:
        """Both over all masked tokens together."""
        totals: dict[str, np.ndarray] = {}
        for chunk in chunks(self.examples, self.batcher.examples):
            batch = shard_batch(self.batcher(chunk), self.mesh)
            with on_mesh(self.mesh):
                sums = jax.device_get(self._sums(params, batch))
            for name, pair in sums.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.array(pair, np.float64)
        return {
            f"validation/{name}": float(total / weight) for name, (total, weight) in totals.items()
        }

    @functools.cached_property
    def _sums(self) -> Callable[[Any, Mapping[str, Array]], Sums]:
        key = jax.random.key(0)
        return jax.jit(lambda params, batch: self.objective(params, batch, None, key))


def masked_once(examples: Iterable[Encoded], masking: Masking, seed: int) -> list[Encoded]:
    """The examples with masks that depend on the seed and the example's number alone."""
    return [
        masking(example, np.random.default_rng([seed, index]))
        for index, example in enumerate(examples)
    ]


def pretrain(
    config: PretrainConfig,
    tokenizer: Tokenizer,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    folder: epath.Path,
) -> dict[str, Any]:
    """Trains in ``folder``, or goes on there, and writes the model as ``folder/huggingface``.

    The weights that it began with are written too, as ``folder/random``.

    Returns:
      The metrics of the held-out examples, steps, seconds and parameters.

    Raises:
      UserError: where the disk refuses.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    mesh = make_mesh(MeshConfig())
    unroll = config.model.num_layers if jax.default_backend() == "cpu" else 1
    model = Model(config.model, tuple(HEADS.items()), unroll=unroll)
    state = create_state(model, config.optim, mesh, config.seed)
    _export(config, state.params, tokenizer, folder / "random")
    checkpoints = Checkpoints(folder)
    try:
        parts = (masked_lm(model, HEAD), mesh, checkpoints, folder)
        outcome = make_loop(config, tokenizer, train, validation, *parts).run(state)
    finally:
        checkpoints.close()
    _export(config, outcome.state.params, tokenizer, folder / "huggingface")
    return {
        "metrics": outcome.position.metrics,
        "best_step": config.steps,
        "steps": config.steps,
        "train_examples": len(train),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(outcome.state.params)),
        "pretraining_seconds": round(outcome.seconds, 1),
    }


def make_loop(
    config: PretrainConfig,
    tokenizer: Tokenizer,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    objective: Objective,
    mesh: Mesh,
    checkpoints: Checkpoints,
    folder: epath.Path,
) -> Loop:
    """The loop, with masks that differ each time an example is seen."""
    batcher = Batcher(
        config.batch_size, config.max_length, tokenizer.pad_id, False, batch_divisor(mesh)
    )
    stream = Stream(
        records=train,
        encode=Masking.of(tokenizer, config.mask_rate),
        batch=lambda examples: batcher.micro_batches(examples, 1),
        batch_size=config.batch_size,
        seed=config.seed,
        random=True,
    )
    held_out = masked_once(validation, Masking.of(tokenizer), config.seed)
    return Loop(
        config=LoopConfig(config.steps, config.log_every, config.eval_every),
        train_step=make_train_step(objective, config.optim, config.steps),
        hyper=Hyper.of(config.optim, None),
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        mesh=mesh,
        batches=stream.starting_at,
        evaluate=MaskedEvaluator(objective, held_out, batcher, mesh),
        checkpoints=checkpoints,
        writer=lambda step: workdirs.MetricWriter(folder, step),
    )


def _export(config: PretrainConfig, params: Any, tokenizer: Tokenizer, folder: epath.Path) -> None:
    save_huggingface(str(folder), config.model, jax.device_get(params), HEADS, tokenizer=tokenizer)
