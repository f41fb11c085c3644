"""Inference in three lines.

model = bertjax.load("runs/mrpc")
model.predict([("He ate.", "He had a meal.")])
# [{"label": "equivalent", "probabilities": {"not_equivalent": 0.1, "equivalent": 0.9}}]

``encode`` gives vectors of texts, ``states`` what every layer computes of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.convert import folder_heads
from bertjax.convert.sentence import Pooling, SentenceConfig, lower_cased, read_sentence_config
from bertjax.data.batching import Batcher, Encoded, bucket
from bertjax.data.json_text import check_characters
from bertjax.data.pipeline import chunks
from bertjax.data.records import Record
from bertjax.features import Extractor, States, normalized
from bertjax.models import Model
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh, place, replicated
from bertjax.tasks import TASK_OF_HEAD, Task, get_task, restore_task
from bertjax.tasks.several import is_several, of_task, task_names
from bertjax.tokenizers import Tokenizer
from bertjax.train.evaluate import Forward
from bertjax.train.pretrained import Pretrained, load_pretrained
from bertjax.train.run_config import DTYPES
from bertjax.train.workdir import is_workdir, read_document, read_result
from bertjax.types import UserError, nearest

Text = str | Sequence[str]
"""One text, or a pair of texts."""
Given = Any
"""One input of a task: what its ``record`` takes, such as a text, a pair or a mapping."""


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
    sentence: SentenceConfig | None = None
    """What the modules of a sentence-transformers folder say; None for any other model."""
    _forwards: dict[int, Forward] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def predict(self, inputs: Sequence[Given], batch_size: int = 32) -> list[dict[str, Any]]:
        """Answers for what the task reads, one an input, in order.

        Inputs are texts or pairs of texts; for questions mappings with ``question`` and
        ``context``, for choices with ``options``, for tagging texts or lists of words.

        Returns:
          ``{"label": word, "probabilities": {word: p}}`` each, or ``{"score": number}``; of other
          tasks what their ``answer`` says.

        Raises:
          UserError: if the model has no trained head, or an input is not what the task reads.
        """
        return list(self.stream(inputs, batch_size))

    def stream(self, inputs: Iterable[Given], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """As :meth:`predict`, one batch at a time as the inputs come."""
        yield from self.answers(map(self._task.record, _listed(inputs)), batch_size)

    def answers(self, records: Iterable[Record], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """Answers for the task's records, such as ``task.open`` gives, in order."""
        for record, examples, outputs in self._outputs(records, batch_size):
            yield self._task.answer(record, examples, outputs)

    def logits(self, inputs: Iterable[Given], batch_size: int = 32) -> Iterator[np.ndarray]:
        """The head's outputs for texts, ``[batch, classes]`` float32, a batch at a time.

        Raises:
          UserError: as :meth:`predict`.
        """
        records = map(self._task.record, _listed(inputs))
        for chunk in chunks(self._outputs(records, batch_size), batch_size):
            yield np.stack([outputs[0] for _, _, outputs in chunk])

    def _outputs(
        self, records: Iterable[Record], batch_size: int
    ) -> Iterator[tuple[Record, list[Encoded], list[np.ndarray]]]:
        """Each record with its examples and the head's outputs for them."""
        forward = self.forward(batch_size)
        for chunk in chunks(records, batch_size):
            grouped = [
                self._task.encode(record, self.tokenizer, self.max_length) for record in chunk
            ]
            yield from zip(chunk, grouped, forward.by_record(self.params, grouped), strict=True)

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
        inputs: Iterable[Text],
        pooling: Pooling | None = None,
        batch_size: int = 32,
        normalize: bool | None = None,
    ) -> np.ndarray:
        """Vectors ``[inputs, D]`` float32, one for each text or pair, in order.

        Args:
          inputs: texts or pairs of texts.
          pooling: of the last layer's states: ``cls``, the first token's; ``mean`` or ``max``, over
            all tokens, the special ones included, as sentence-transformers does; ``pooler``, the
            first token's through the model's pooler. None: as the modules of a
            sentence-transformers folder say, and ``mean`` for any other model.
          batch_size: inputs at a time; texts of like length are computed together.
          normalize: whether vectors are scaled to length 1. None: as the modules say, else False.

        Raises:
          UserError: for another pooling, if the model has no pooler, if the folder's modules are
            not supported, or if an input is not a text or a pair.
        """
        pooling, normalize = self._recipe(pooling, normalize)
        examples = [self._encode(text) for text in _listed(inputs)]
        vectors = self._extractor.vectors(examples, pooling, self._rows(batch_size, examples))
        return normalized(vectors) if normalize else vectors

    def states(
        self, inputs: Iterable[Text], attentions: bool = False, batch_size: int = 8
    ) -> list[States]:
        """The hidden states of every layer, and the attention weights, of texts or pairs.

        Returns:
          One :class:`~bertjax.features.States` an input, in order and without padding: ``tokens``,
          ``hidden_states [layers + 1, length, D]`` and ``attentions [layers, heads, length,
          length]`` (None without ``attentions``).

        Raises:
          UserError: if an input is not a text or a pair.
        """
        examples = [self._encode(text) for text in _listed(inputs)]
        found = self._extractor.states(examples, attentions, self._rows(batch_size, examples))
        tokens = ([self._token(i) for i in example["token_ids"]] for example in examples)
        return [States(words, *arrays) for words, arrays in zip(tokens, found, strict=True)]

    def _recipe(self, pooling: Pooling | None, normalize: bool | None) -> tuple[Pooling, bool]:
        """What is asked for, and where nothing is, what the folder's modules say."""
        config = self.sentence or SentenceConfig()
        if config.problem and (pooling is None or normalize is None):
            raise UserError(config.problem)
        pooling = config.pooling if pooling is None else pooling
        if pooling not in get_args(Pooling):
            raise UserError(f"unknown pooling '{pooling}'{nearest(pooling, get_args(Pooling))}")
        has_pooler = self.model.with_pooler and "pooler" in self.params["encoder"]
        if pooling == "pooler" and not has_pooler:
            raise UserError("this model has no pooler; choose the pooling cls, mean or max")
        return pooling, config.normalize if normalize is None else normalize

    @functools.cached_property
    def _extractor(self) -> Extractor:
        return Extractor(self.model, self.params, self.mesh)

    def _rows(self, batch_size: int, examples: Sequence[Encoded]) -> Batcher:
        """One example a row, and no more rows than so many examples need."""
        batcher = self._batcher(batch_size)
        rows = min(batch_size, bucket(len(examples), 1))
        return dataclasses.replace(batcher, examples=rows, pack=False)

    def _token(self, token_id: int) -> str:
        return self.tokenizer.backend.id_to_token(int(token_id)) or ""

    @property
    def _task(self) -> Task:
        if self.task is None:
            raise UserError("this model has no trained head; fine-tune it first, or use encode")
        return self.task

    def _batcher(self, batch_size: int) -> Batcher:
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1")
        multiple = batch_divisor(self.mesh)
        return Batcher(batch_size, self.max_length, self.tokenizer.pad_id, multiple=multiple)

    def _encode(self, text: Text) -> Encoded:
        texts = (text,) if isinstance(text, str) else tuple(text)
        if len(texts) not in (1, 2) or not all(isinstance(t, str) for t in texts):
            raise UserError(f"an input must be a text or a pair of texts, not {text!r}")
        check_characters(texts, "an input")
        token_ids, type_ids = self.tokenizer.encode(*texts, max_length=self.max_length)
        return {"token_ids": token_ids, "type_ids": type_ids}


def load(
    path_or_name: str,
    task: str | None = None,
    *,
    max_length: int = 0,
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Predictor:
    """Reads a trained workdir, a Hugging Face or sentence-transformers folder, or a hub name.

    Args:
      path_or_name: what to read. Of a workdir it is the best checkpoint.
      task: for a folder or hub name, the task its head was trained for; without it the labels are
        those of its ``config.json``. For a workdir of several tasks, the one that is meant.
      max_length: longer texts are cut to so many tokens; 0: as in training, as a
        sentence-transformers folder says, or all positions.
      dtype: of the computation, ``float32`` or ``bfloat16``.
      options: of the task, in place of those of the training or its defaults.

    Raises:
      UserError: if it cannot be read, or has no head that fits the task and its options.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'{nearest(dtype, DTYPES)}")
    sentence = None
    if is_workdir(path_or_name):
        its_task, length = _task_of_workdir(epath.Path(path_or_name), task)
    else:
        sentence = read_sentence_config(path_or_name)
        its_task, length = _task_of_folder(path_or_name, task), 0
    if its_task is not None:
        its_task = its_task.with_options(options or {})
    heads = {} if its_task is None else {its_task.name: its_task.head}
    labels = None if its_task is None else its_task.class_names
    found = load_pretrained(path_or_name, heads, labels)
    if its_task is not None and not found.has_head(its_task.name):
        raise UserError(f"{path_or_name} has no trained head for task '{its_task.name}'")
    if sentence is not None:
        length = min(sentence.max_length, found.config.max_length)
        if sentence.lower_case:
            found = dataclasses.replace(found, tokenizer=lower_cased(found.tokenizer))
    predictor = _predictor(found, its_task, max_length or length, dtype)
    return dataclasses.replace(predictor, sentence=sentence)


def _predictor(found: Pretrained, task: Task | None, max_length: int, dtype: str) -> Predictor:
    positions = found.config.max_length
    if max_length > positions:
        raise UserError(f"max_length {max_length} is more than the model's {positions} positions")
    mesh = make_mesh(MeshConfig())
    heads = () if task is None else ((task.name, task.head),)
    unroll = found.config.num_layers if jax.default_backend() == "cpu" else 1
    model = Model(found.config, heads, DTYPES[dtype], unroll)
    wanted = {"encoder": found.params["encoder"], "heads": found.params.get("heads", {})}
    params = jax.tree.map(lambda leaf: place(np.asarray(leaf), replicated(mesh)), wanted)
    return Predictor(
        model, params, found.tokenizer, task, mesh, max_length or positions, found.notes
    )


def _task_of_workdir(folder: epath.Path, task: str | None) -> tuple[Task | None, int]:
    """The task a run was trained for (None: it was pretrained), and its longest example."""
    document = read_document(folder)
    experiment = document["experiment"]
    name = experiment.get("task", "pretraining")
    prefix = ""
    if is_several(experiment):
        experiment, labels = of_task(experiment, _one_of(folder, name, task)), document["labels_of"]
        name = experiment["task"]
        prefix = f"{name}/"
        document = {"labels": labels.get(name)}
    elif task not in (None, name):
        raise UserError(f"{folder} was trained for task '{name}', not '{task}'")
    if name == "pretraining":
        lengths = [phase["max_length"] for phase in experiment.get("phases", ())]
        return None, max(lengths, default=experiment["max_length"])
    found = restore_task(name, experiment, document.get("labels"))
    metrics = (read_result(folder) or {}).get("metrics", {})
    own = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
    return found.tuned(own), experiment["max_length"]


def _one_of(folder: epath.Path, names: str, task: str | None) -> str:
    """The task that is meant of a run of several."""
    if task is None:
        words = ", ".join(task_names(names))
        raise UserError(f"{folder} was trained for several tasks; name one by --task: {words}")
    if task not in task_names(names):
        hint = nearest(task, task_names(names))
        raise UserError(f"{folder} was not trained for task '{task}'{hint}")
    return task


def _task_of_folder(source: str, task: str | None) -> Task | None:
    """The task named, or the one of the head that the folder holds; None for a bare encoder."""
    heads, labels = folder_heads(source)
    if task is None:
        name = next((TASK_OF_HEAD[kind] for kind in heads if kind in TASK_OF_HEAD), None)
        return None if name is None else get_task(name).with_labels(labels)
    named = get_task(task)
    head = heads.get(named.kind)
    if head is None and (others := [kind for kind in heads if kind in TASK_OF_HEAD]):
        raise UserError(f"{source} has a head for {others[0]}, not for {named.kind}")
    if head is not None and not named.labels_known:
        named = named.with_labels(labels)
    if head is None or head != named.head:
        says = "no trained head" if head is None else f"a {head.kind} head of {head.size}"
        needs = f"{named.kind} of {named.head.size}" if named.labels_known else named.kind
        raise UserError(f"{source} has {says}, but task '{task}' needs {needs}")
    return named


def _listed(inputs: Iterable[Text]) -> Iterable[Text]:
    """The inputs, if they are not one text, whose letters would else be taken for texts."""
    if isinstance(inputs, str):
        raise UserError("give a list of texts or pairs, not a single text")
    return inputs
