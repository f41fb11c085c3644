"""Inference in three lines.

model = bertjax.load("runs/mrpc")
model.predict([("He ate.", "He had a meal.")])
# [{"label": "equivalent", "probabilities": {"not_equivalent": 0.1, "equivalent": 0.9}}]
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.convert import model_folder, read_config, read_head
from bertjax.data.batching import Batcher, Encoded
from bertjax.data.pipeline import chunks
from bertjax.models import Model
from bertjax.sharding import (
    MeshConfig,
    batch_divisor,
    make_mesh,
    on_mesh,
    replicated,
    shard_batch,
)
from bertjax.tasks import Task, get_task
from bertjax.tokenizers import Tokenizer
from bertjax.train.config import DTYPES
from bertjax.train.evaluate import Forward
from bertjax.train.pretrained import Pretrained, load_pretrained
from bertjax.train.workdir import is_workdir, read_document
from bertjax.types import HeadConfig, UserError, nearest

Text = str | Sequence[str]
"""One text, or a pair of texts."""


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its tokenizer and, unless it is a bare encoder, its task."""

    model: Model
    params: Any
    tokenizer: Tokenizer
    task: Task | None
    mesh: Mesh
    max_length: int
    notes: tuple[str, ...] = ()
    """What was said when the weights were read."""
    _forwards: dict[int, Forward] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def predict(self, inputs: Sequence[Text], batch_size: int = 32) -> list[dict[str, Any]]:
        """Answers for texts or pairs of texts, one an input, in order.

        Returns:
          ``{"label": word, "probabilities": {word: p}}`` each, or ``{"score": number}``.

        Raises:
          UserError: if the model has no trained head, or an input is not a text or a pair.
        """
        return list(self.stream(inputs, batch_size))

    def stream(self, inputs: Iterable[Text], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """As :meth:`predict`, one batch at a time as the inputs come."""
        for logits in self.logits(inputs, batch_size):
            yield from self._task.decode(logits)

    def logits(self, inputs: Iterable[Text], batch_size: int = 32) -> Iterator[np.ndarray]:
        """The head's outputs, ``[batch, classes]`` float32, a batch at a time.

        Raises:
          UserError: as :meth:`predict`.
        """
        forward = self.forward(batch_size)
        for chunk in chunks(inputs, batch_size):
            yield np.stack(list(forward(self.params, map(self._encode, chunk))))

    def forward(self, batch_size: int) -> Forward:
        """Logits of encoded examples; made once for each batch size.

        Raises:
          UserError: if the model has no trained head.
        """
        if batch_size not in self._forwards:
            batcher = self._batcher(batch_size)
            self._forwards[batch_size] = Forward(self.model, self._task.name, batcher, self.mesh)
        return self._forwards[batch_size]

    def encode(
        self,
        inputs: Sequence[Text],
        pooling: Literal["cls", "mean"] = "mean",
        batch_size: int = 32,
    ) -> np.ndarray:
        """Vectors ``[inputs, D]`` from the last layer: the [CLS] state, or the mean of all tokens.

        The mean counts the special tokens, as sentence-transformers does.

        Raises:
          UserError: for another ``pooling``.
        """
        if pooling not in ("cls", "mean"):
            raise UserError(f"unknown pooling '{pooling}'{nearest(pooling, ('cls', 'mean'))}")
        vectors = [np.zeros((0, self.model.config.hidden_size), np.float32)]
        batcher = dataclasses.replace(self._batcher(batch_size), pack=False)
        for chunk in chunks(inputs, batch_size):
            batch = batcher([self._encode(text) for text in chunk])
            with on_mesh(self.mesh):
                hidden = np.asarray(self._hidden(self.params, shard_batch(batch, self.mesh)))
            real = (batch["segment_ids"] > 0)[: len(chunk), :, None]
            hidden = hidden[: len(chunk)].astype(np.float32)
            mean = (hidden * real).sum(axis=1) / real.sum(axis=1)
            vectors.append(hidden[:, 0] if pooling == "cls" else mean)
        return np.concatenate(vectors)

    @functools.cached_property
    def _hidden(self) -> Any:
        return jax.jit(
            lambda params, batch: self.model.apply({"params": params}, batch, method="encode"),
            out_shardings=replicated(self.mesh),
        )

    @property
    def _task(self) -> Task:
        if self.task is None:
            raise UserError("this model has no trained head; fine-tune it first, or use encode")
        return self.task

    def _batcher(self, batch_size: int) -> Batcher:
        multiple = batch_divisor(self.mesh)
        return Batcher(batch_size, self.max_length, self.tokenizer.pad_id, multiple=multiple)

    def _encode(self, text: Text) -> Encoded:
        texts = (text,) if isinstance(text, str) else tuple(text)
        if len(texts) not in (1, 2) or not all(isinstance(t, str) for t in texts):
            raise UserError(f"an input must be a text or a pair of texts, not {text!r}")
        token_ids, type_ids = self.tokenizer.encode(*texts, max_length=self.max_length)
        return {"token_ids": token_ids, "type_ids": type_ids}


def load(
    path_or_name: str, task: str | None = None, *, max_length: int = 0, dtype: str = "float32"
) -> Predictor:
    """Reads a trained workdir, a Hugging Face folder or a hub name.

    Args:
      path_or_name: what to read. Of a workdir it is the best checkpoint.
      task: for a folder or hub name, the task its head was trained for; without it the labels are
        those of its ``config.json``.
      max_length: longer texts are cut to so many tokens; 0: as in training, or all positions.
      dtype: of the computation, ``float32`` or ``bfloat16``.

    Raises:
      UserError: if it cannot be read, or has no head that fits the task.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    if is_workdir(path_or_name):
        its_task, length = _task_of_workdir(epath.Path(path_or_name), task)
    else:
        its_task, length = _task_of_folder(path_or_name, task), 0
    heads = {} if its_task is None else {its_task.name: its_task.head}
    labels = its_task.labels if its_task and its_task.kind == "classification" else None
    found = load_pretrained(path_or_name, heads, labels)
    if its_task is not None and not found.has_head(its_task.name):
        raise UserError(f"{path_or_name} has no trained head for task '{its_task.name}'")
    return _predictor(found, its_task, max_length or length, dtype)


def _predictor(found: Pretrained, task: Task | None, max_length: int, dtype: str) -> Predictor:
    positions = found.config.max_length
    if max_length > positions:
        raise UserError(f"max_length {max_length} is more than the model's {positions} positions")
    mesh = make_mesh(MeshConfig())
    heads = () if task is None else ((task.name, task.head),)
    unroll = found.config.num_layers if jax.default_backend() == "cpu" else 1
    model = Model(found.config, heads, DTYPES[dtype], unroll)
    wanted = {"encoder": found.params["encoder"], "heads": found.params.get("heads", {})}
    params = jax.device_put(jax.tree.map(jnp.asarray, wanted), replicated(mesh))
    return Predictor(
        model, params, found.tokenizer, task, mesh, max_length or positions, found.notes
    )


def _task_of_workdir(folder: epath.Path, task: str | None) -> tuple[Task | None, int]:
    """The task a run was trained for (None: it was pretrained), and its longest example."""
    document = read_document(folder)
    experiment, schema = document["experiment"], document.get("schema")
    name = experiment["task"]
    if task not in (None, name):
        raise UserError(f"{folder} was trained for task '{name}', not '{task}'")
    if schema is None:
        return None, experiment["max_length"]
    own = name in ("classification", "regression")
    found = get_task(
        name,
        text_columns=schema["text_columns"] if own else None,
        label_column=schema["label_column"] if own else None,
        labels=schema["labels"] if own else None,
    )
    return found, experiment["max_length"]


def _task_of_folder(source: str, task: str | None) -> Task | None:
    """The task named, or the one that ``config.json`` tells of; None for a bare encoder."""
    head = read_head(read_config(model_folder(source))[1])
    if task in (None, "classification", "regression"):
        if head is None:
            return None
        kind, labels = head[0].kind, head[1]
        if task not in (None, kind):
            raise UserError(f"{source} has a head for {kind}, not for {task}")
        return get_task(str(kind), labels=labels)
    named = get_task(task)
    if head is None or head[0] != named.head:
        there: HeadConfig | None = head and head[0]
        says = "no trained head" if there is None else f"a {there.kind} head of {there.size}"
        raise UserError(
            f"{source} has {says}, but task '{task}' needs {named.head.kind} of {named.head.size}"
        )
    return named
