"""What an experiment would train, without its weights and its data: models, step, row shapes."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.data.batching import Batcher, Encoded
from bertjax.data.pretraining import RowFormat
from bertjax.flops import step_flops
from bertjax.models import PRESETS, Dropout, Electra, Model
from bertjax.sharding import BATCH_AXES, batch_divisor
from bertjax.tasks import Task, get_task
from bertjax.tasks.several import task_names
from bertjax.train.config import FinetuneConfig
from bertjax.train.corpora import SPARE
from bertjax.train.execution import execution, padded_vocabulary
from bertjax.train.objectives import OBJECTIVES
from bertjax.train.pretrain_config import PRESET, PretrainConfig, Stretch, preset, stretches
from bertjax.train.pretrain_models import (
    dropout_rates,
    make_models,
    make_objective,
    multiplier,
    rows_flops,
)
from bertjax.train.state import TrainState, gradient_shardings
from bertjax.train.step import Hyper, Step, make_train_step
from bertjax.types import ModelConfig, UserError

Experiment = PretrainConfig | FinetuneConfig

TRAIN_EXAMPLES = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "stsb": 5_749,
    "qqp": 363_846,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
    "wnli": 635,
}
"""Training examples of GLUE's tasks (the data set card of ``nyu-mll/glue``)."""

OPTIONS = 4
"""Of a multiple choice, as in SWAG and RACE."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One step of an experiment, ready to be compiled."""

    experiment: Experiment
    trained: Model | Electra
    step: Step
    dropout: Dropout | None
    batch: dict[str, tuple[tuple[int, ...], Any]]
    """Shape ``[micro-batches, …]`` and type of each field."""
    batch_size: int
    """Rows of a pretraining step, examples of a fine-tuning step."""
    rows: int
    """Of a step, all micro-batches and devices together."""
    length: int
    steps: int
    """Of the recipe at this length; 0: not known."""
    flops: float
    """Of the model, in a step."""

    def arguments(self, state: TrainState, mesh: Mesh) -> tuple[Any, ...]:
        """Shapes of what the step takes, on a mesh."""
        sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, (shape, dtype) in self.batch.items()
        }
        hyper, key = jax.eval_shape(
            lambda: (Hyper.of(self.experiment.optim, self.dropout), jax.random.key(0))
        )
        return state, batch, hyper, key


def preset_models(config: PretrainConfig, mesh: Mesh) -> tuple[Model, Model | Electra]:
    """The models of a recipe from its preset, with the vocabulary that was published with it.

    ``mesh`` is where they are to run.

    Raises:
      UserError: if the model is no preset, which is all that is known without weights.
    """
    name = _preset_name(config.model)
    vocab_size = PRESETS[name].vocab_size if name in PRESETS else 0
    return make_models(config, preset(name, vocab_size, config.architecture), mesh)


def _finetuned(config: FinetuneConfig, shape: ModelConfig, task: Task, mesh: Mesh) -> Model:
    """The model that a fine-tuning run trains, as :mod:`bertjax.train.finetune` makes it."""
    how = execution(config, shape, mesh, config.max_length)
    shape = padded_vocabulary(config, shape, mesh)
    return Model(shape, ((task.name, task.head),), **how)


def _task(config: FinetuneConfig) -> Task:
    if len(task_names(config.task)) > 1:
        raise UserError(
            f"config field 'task': the step of {config.task} is that of one of its tasks at a "
            "time; name one, such as the one with the longest texts"
        )
    return get_task(
        config.task,
        text_columns=config.text_columns,
        label_column=config.label_column,
        labels=config.labels,
    )


def _preset_name(model: str) -> str:
    if not model.startswith(PRESET):
        raise UserError(
            f"config field 'model': '{model}' is no preset, and only presets are known without "
            "weights; give --config.model=preset:bert_large, or another preset's name"
        )
    return model.removeprefix(PRESET)


def lengths(experiment: Experiment, length: int | None = None) -> list[int]:
    """The lengths of rows of a run, or ``length`` alone."""
    if length:
        return [length]
    if isinstance(experiment, FinetuneConfig):
        return [experiment.max_length]
    return list(dict.fromkeys(part.max_length for part in stretches(experiment)))


def subject(experiment: Experiment, length: int, mesh: Mesh) -> Subject:
    """The step of a run on rows of one length.

    Raises:
      UserError: if the model is no preset, or what it cannot be trained on.
    """
    if isinstance(experiment, FinetuneConfig):
        return _finetuning(dataclasses.replace(experiment, max_length=length), mesh)
    parts = [part for part in stretches(experiment) if part.max_length == length]
    if not parts:
        experiment = dataclasses.replace(experiment, phases=(), max_length=length)
        parts = list(stretches(experiment))
    return _pretraining(experiment, parts, mesh)


def _pretraining(config: PretrainConfig, parts: list[Stretch], mesh: Mesh) -> Subject:
    """Parts of a run that share their length; the batch is that of the first."""
    model, trained = preset_models(config, mesh)
    rows, length = parts[0].batch_size, parts[0].max_length
    if length > model.config.max_length:
        raise UserError(
            f"rows of {length} tokens are longer than the {model.config.max_length} positions of "
            f"{config.model}; set --config.architecture.max_positions"
        )
    spare = 0 if config.mask_unit == "token" else SPARE
    ids: Any = SimpleNamespace(pad_id=0, cls_id=0, sep_id=0)
    row = RowFormat.of(ids, length, config.mask_rate, config.pack, spare).empty()
    micro = (config.accumulation, rows // config.accumulation)
    steps = stretches(config)[-1].last
    return Subject(
        experiment=config,
        trained=trained,
        step=make_train_step(
            make_objective(config, trained),
            config.optim,
            steps,
            multiplier(config),
            gradient_shardings(trained, mesh, config.rules),
        ),
        dropout=dropout_rates(config, model.config),
        batch={name: ((*micro, *value.shape), value.dtype) for name, value in row.items()},
        batch_size=rows,
        rows=rows,
        length=length,
        steps=0 if config.minutes else sum(part.last - part.first for part in parts),
        flops=rows_flops(trained, rows, length, round(rows * length * config.mask_rate)),
    )


def _finetuning(config: FinetuneConfig, mesh: Mesh) -> Subject:
    """Every example has a row of its own and full length, which is the most that a step can be."""
    name = _preset_name(config.model)
    shape = preset(name, PRESETS[name].vocab_size if name in PRESETS else 0, {})
    if config.max_length > shape.max_length:
        raise UserError(
            f"max_length {config.max_length} is more than the {shape.max_length} positions of "
            f"{config.model}; lower it"
        )
    task = _task(config)
    model = _finetuned(config, shape, task, mesh)
    batch = _finetuning_batch(config, task, batch_divisor(mesh))
    micro_batches, rows, length = batch["token_ids"][0]
    known = config.max_train_examples or TRAIN_EXAMPLES.get(config.task, 0)
    steps = config.steps or math.ceil(known * config.epochs / config.batch_size)
    rate = config.dropout
    sizes = (micro_batches * rows, length)
    return Subject(
        experiment=config,
        trained=model,
        step=make_train_step(
            OBJECTIVES[task.head.kind](model, task.name),
            config.optim,
            max(steps, 1),
            gradient_shardings=gradient_shardings(model, mesh, config.rules),
        ),
        dropout=Dropout.of(shape) if rate is None else Dropout.at(rate, shape),
        batch=batch,
        batch_size=config.batch_size,
        rows=sizes[0],
        length=config.max_length,
        steps=steps,
        flops=float(step_flops(shape, *sizes, heads=[task.head], examples=config.batch_size)),
    )


def _finetuning_batch(
    config: FinetuneConfig, task: Task, divisor: int
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes of :class:`bertjax.data.batching.Batcher`'s fields, micro-batches stacked."""
    count = config.batch_size // config.accumulation
    batcher = Batcher(count, config.max_length, pack=config.pack, multiple=divisor)
    examples = [_full_example(task, config.max_length)] * config.batch_size
    batch = batcher.micro_batches(examples, config.accumulation)
    return {name: (value.shape, value.dtype) for name, value in batch.items()}


def _full_example(task: Task, length: int) -> Encoded:
    """An example as long as may be, with labels."""
    zeros = np.zeros(length, np.int32)
    text: dict[str, Any] = {"token_ids": zeros, "type_ids": zeros}
    match task.kind:
        case "multiple_choice":
            return {"options": [text] * OPTIONS, "label": 0}
        case "token_classification":
            return text | {"token_labels": zeros}
        case "span":
            return text | {"label": zeros[:2]}
        case "multi_label":
            return text | {"label": np.zeros(task.head.size, np.float32)}
        case "regression":
            return text | {"label": 0.0}
        case _:
            return text | {"label": 0}
