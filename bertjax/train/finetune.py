"""Fine-tuning: puts model, data, objective and evaluators together and hands them to the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bertjax.checkpoint import Checkpoints
from bertjax.convert import save_huggingface
from bertjax.data.batching import Batch, Batcher, Encoded
from bertjax.data.mixture import MixedStream
from bertjax.data.pipeline import Stream
from bertjax.data.records import Record
from bertjax.distributed import from_first, to_host
from bertjax.models import Dropout, Model
from bertjax.sharding import batch_divisor, check_rules, make_mesh
from bertjax.tasks import Task
from bertjax.tokenizers import Tokenizer
from bertjax.train import multitask
from bertjax.train import workdir as workdirs
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Evaluator, Forward
from bertjax.train.execution import execution, padded_vocabulary
from bertjax.train.layerwise import optim_of, renew_notes, renewed
from bertjax.train.loop import Loop, LoopConfig, Outcome
from bertjax.train.multitask import TaskParts, get_tasks
from bertjax.train.pretrained import Pretrained, load_pretrained
from bertjax.train.state import (
    abstract_state,
    check_addresses,
    create_state,
    gradient_shardings,
)
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import HeadConfig, UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    config: FinetuneConfig
    pretrained: Pretrained
    model: Model
    mesh: Mesh
    tasks: tuple[TaskParts, ...]
    """One, or several that are trained together."""
    steps: int

    @property
    def examples(self) -> int:
        """How many there are to train on."""
        return sum(len(part.examples) for part in self.tasks)


def finetune(config: FinetuneConfig, workdir: str) -> dict[str, Any]:
    """Trains, or goes on training, in ``workdir``; the result is what ``result.json`` holds.

    A finished run is not run again: its result is read.

    Raises:
      UserError: for wrong input, one sentence each.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    folder = epath.Path(workdir)
    from_first(lambda: workdirs.check_place(folder))
    parts = assemble(config, get_tasks(config), workdirs.recorded_padding(folder))
    check_addresses(
        parts.model,
        parts.mesh,
        freeze=config.freeze,
        rates=[pattern for pattern, _ in config.rates],
        reinit=config.reinit,
    )

    def train() -> dict[str, Any]:
        with contextlib.closing(Checkpoints(folder)) as checkpoints:
            return conclude(parts, folder, checkpoints, run(parts, folder, checkpoints))

    found = parts.pretrained
    notes = (*found.notes, *renew_notes(config, parts.model.config))
    given = document(parts), found.tokenizer, notes, train
    return workdirs.complete(folder, *given, config.defaults())


def assemble(config: FinetuneConfig, tasks: Sequence[Task], padding: int | None = None) -> Parts:
    """Reads model and data, and checks that they and the config fit together.

    ``padding`` is that of the checkpoints from which the run goes on; None: it begins.
    """
    mesh = make_mesh(config.mesh)
    check_rules(config.rules, mesh)
    config.check_batch(config.batch_size, batch_divisor(mesh))
    records = [training_records(config.of_task(task.name), task) for task in tasks]
    heads = {task.name: task.head for task in tasks}
    pretrained = _load(config, tasks, heads)
    _check_length(config, pretrained)
    how = execution(config, pretrained.config, mesh, config.max_length)
    shape = padded_vocabulary(config, pretrained.config, mesh, padding)
    model = Model(shape, tuple(heads.items()), **how)
    tokenizer = pretrained.tokenizer
    made = tuple(
        TaskParts(
            task,
            task.training_examples(found, tokenizer, config.max_length),
            make_evaluators(config.of_task(task.name), task, tokenizer, model, mesh),
        )
        for task, found in zip(tasks, records, strict=True)
    )
    parts = Parts(config, pretrained, model, mesh, made, config.steps)
    steps = config.steps or math.ceil(parts.examples * config.epochs / config.batch_size)
    return dataclasses.replace(parts, steps=steps)


def training_records(config: FinetuneConfig, task: Task) -> Sequence[Record]:
    """What a task is trained on.

    Raises:
      UserError: if the task has nothing to train on, or its data cannot be read.
    """
    if "train" not in task.splits:
        raise UserError(f"task '{task.name}' has no train split; it can only be predicted")
    records = task.open(config.data, "train")
    if config.max_train_examples:
        return [records[i] for i in range(min(config.max_train_examples, len(records)))]
    return records


def _load(
    config: FinetuneConfig, tasks: Sequence[Task], heads: Mapping[str, HeadConfig]
) -> Pretrained:
    """The model to begin with; a folder's one head could be any of several tasks', and is new."""
    if len(tasks) == 1:
        names = tasks[0].class_names
        return load_pretrained(config.model, heads, names, new_heads=config.new_head)
    new = config.new_head or not workdirs.is_workdir(config.model)
    return load_pretrained(config.model, heads, new_heads=new)


def make_evaluators(
    config: FinetuneConfig, task: Task, tokenizer: Tokenizer, model: Model, mesh: Mesh
) -> tuple[Evaluator, ...]:
    """One for each validation split of the task."""
    batcher = Batcher(
        config.eval_batch_size,
        config.max_length,
        tokenizer.pad_id,
        config.pack,
        batch_divisor(mesh),
    )
    forward = Forward(model, task.name, batcher, mesh)
    splits = [split for split in task.splits if split.startswith("validation")]
    return tuple(
        Evaluator.of(
            task,
            split,
            task.open(config.data, split),
            tokenizer,
            config.max_length,
            forward,
        )
        for split in splits
    )


def document(parts: Parts) -> dict[str, Any]:
    """What ``config.json`` of the workdir says: all it needs to run again, and to be read."""
    return {
        "experiment": dataclasses.asdict(parts.config),
        "model": dataclasses.asdict(parts.model.config),
        "heads": {name: dataclasses.asdict(head) for name, head in parts.model.head_configs},
        **_labels(parts),
    }


def _labels(parts: Parts) -> dict[str, Any]:
    """``labels`` of a task; of several ``labels_of`` each."""
    names = {part.task.name: part.task.class_names for part in parts.tasks}
    if len(names) > 1:
        return {"labels": None, "labels_of": names}
    return {"labels": next(iter(names.values()))}


def run(parts: Parts, folder: epath.Path, checkpoints: Checkpoints) -> Outcome:
    """Makes the state and the stream, and runs the loop."""
    config = parts.config
    mesh, rules, params = parts.mesh, config.rules, parts.pretrained.params
    optim, anew = optim_of(config, parts.model.config), renewed(config, parts.model.config)
    state = create_state(parts.model, optim, mesh, config.seed, params, rules, anew)
    shardings = gradient_shardings(parts.model, mesh, rules)
    objective = multitask.objective_of(parts.model, parts.tasks)
    per_epoch = math.ceil(parts.examples / config.batch_size)
    main_metric = multitask.main_metric(parts.tasks)
    loop = Loop(
        config=LoopConfig(
            steps=parts.steps,
            log_every=config.log_every,
            eval_every=config.eval_every or per_epoch,
            save_every=config.save_every,
            patience=config.patience,
            main_metric=main_metric,
        ),
        train_step=make_train_step(objective, optim, parts.steps, None, shardings),
        hyper=Hyper.of(optim, _dropout(parts)),
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        mesh=mesh,
        batches=make_stream(parts).starting_at,
        evaluate=(lambda p: multitask.evaluate(parts.tasks, p)) if main_metric else None,
        checkpoints=checkpoints,
        writer=lambda step: workdirs.open_writer(folder, step),
    )
    logger.info(
        "%d training examples, %d steps of %d", parts.examples, parts.steps, config.batch_size
    )
    return loop.run(state)


def make_stream(parts: Parts) -> Stream | MixedStream:
    """The training batches."""
    config = parts.config
    batcher = Batcher(
        config.batch_size // config.accumulation,
        config.max_length,
        parts.pretrained.tokenizer.pad_id,
        config.pack,
        batch_divisor(parts.mesh),
    )

    def batch(examples: Sequence[Encoded]) -> Batch:
        return batcher.micro_batches(examples, config.accumulation)

    streams = {
        part.task.name: Stream(part.examples, batch, config.batch_size, config.seed)
        for part in parts.tasks
    }
    return multitask.stream_of(config, streams)


def conclude(
    parts: Parts, folder: epath.Path, checkpoints: Checkpoints, outcome: Outcome
) -> dict[str, Any]:
    """Exports the best model and sums the run up."""
    position, state = outcome.position, outcome.state
    params, step = state.params, int(state.step)
    best_step = position.best_step if position.best_step in checkpoints.steps() else None
    if best_step is None and position.best_step is not None:
        logger.warning("the best checkpoint, of step %d, is gone", position.best_step)
    elif best_step not in (None, step):
        params = checkpoints.restore(best_step, abstract_state(state).params).params
    result: dict[str, Any] = {
        "task": parts.config.task,
        "metrics": position.metrics if best_step is None else position.best_metrics,
        "best_step": best_step or step,
        "last_metrics": position.metrics,
        "steps": step,
        "stopped_early": outcome.stopped_early,
        "train_examples": parts.examples,
        **multitask.shares(parts.tasks, make_stream(parts), step),
        **workdirs.cost(params, outcome.seconds),
    }
    if parts.config.export:
        result["huggingface"] = "huggingface"
        export(parts, params, folder / "huggingface")
    return result


def export(parts: Parts, params: Any, folder: epath.Path) -> None:
    """Writes the model as a Hugging Face folder; of several tasks one for each, ``FOLDER/TASK``."""
    arrays = to_host(params)

    def write() -> None:
        for part in parts.tasks:
            save_huggingface(
                str(folder / part.task.name if len(parts.tasks) > 1 else folder),
                parts.model.config,
                arrays,
                {part.task.name: part.task.head},
                labels=part.task.class_names,
                tokenizer=parts.pretrained.tokenizer,
            )

    from_first(write)


def _dropout(parts: Parts) -> Dropout:
    rate = parts.config.dropout
    return Dropout.of(parts.model.config) if rate is None else Dropout.at(rate, parts.model.config)


def _check_length(config: FinetuneConfig, pretrained: Pretrained) -> None:
    if config.max_length > pretrained.config.max_length:
        raise UserError(
            f"max_length {config.max_length} is more than the {pretrained.config.max_length} "
            f"positions of {config.model}; lower it"
        )
