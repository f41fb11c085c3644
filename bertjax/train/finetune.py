"""Fine-tuning: puts model, data, objective and evaluators together and hands them to the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bertjax.checkpoint import Checkpoints
from bertjax.convert import save_huggingface
from bertjax.data.batching import Batcher, Encoded
from bertjax.data.pipeline import Stream
from bertjax.distributed import from_first, to_host
from bertjax.models import Dropout, Model
from bertjax.sharding import batch_divisor, check_rules, make_mesh
from bertjax.tasks import Task, get_task
from bertjax.train import workdir as workdirs
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Evaluator, Forward
from bertjax.train.execution import execution, padded_vocabulary
from bertjax.train.layerwise import optim_of, renew_notes, renewed
from bertjax.train.loop import Loop, LoopConfig, Outcome
from bertjax.train.objectives import OBJECTIVES
from bertjax.train.pretrained import Pretrained, load_pretrained
from bertjax.train.state import (
    abstract_state,
    check_addresses,
    create_state,
    gradient_shardings,
)
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    config: FinetuneConfig
    task: Task
    pretrained: Pretrained
    model: Model
    mesh: Mesh
    records: Sequence[Any]
    """Of the train split."""
    examples: Sequence[Encoded]
    """Of these records."""
    evaluators: tuple[Evaluator, ...]
    steps: int

    @property
    def main_metric(self) -> str | None:
        """The metric that keeps the best checkpoint, of the first evaluated split."""
        if not self.evaluators:
            return None
        return f"{self.evaluators[0].split}/{self.task.metrics[0]}"


def finetune(config: FinetuneConfig, workdir: str) -> dict[str, Any]:
    """Trains, or goes on training, in ``workdir``; the result is what ``result.json`` holds.

    A finished run is not run again: its result is read.

    Raises:
      UserError: for wrong input, one sentence each.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    folder = epath.Path(workdir)
    from_first(lambda: workdirs.check_place(folder))
    task = get_task(
        config.task,
        text_columns=config.text_columns,
        label_column=config.label_column,
        labels=config.labels,
        options=config.options,
        data=config.data,
    )
    parts = assemble(config, task, workdirs.recorded_padding(folder))
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


def assemble(config: FinetuneConfig, task: Task, padding: int | None = None) -> Parts:
    """Reads model and data, and checks that they and the config fit together.

    ``padding`` is that of the checkpoints from which the run goes on; None: it begins.
    """
    mesh = make_mesh(config.mesh)
    check_rules(config.rules, mesh)
    config.check_batch(config.batch_size, batch_divisor(mesh))
    if "train" not in task.splits:
        raise UserError(f"task '{task.name}' has no train split; it can only be predicted")
    records = task.open(config.data, "train")
    if config.max_train_examples:
        records = [records[i] for i in range(min(config.max_train_examples, len(records)))]
    head = {task.name: task.head}
    pretrained = load_pretrained(config.model, head, task.class_names, new_heads=config.new_head)
    _check_length(config, pretrained)
    how = execution(config, pretrained.config, mesh, config.max_length)
    shape = padded_vocabulary(config, pretrained.config, mesh, padding)
    model = Model(shape, tuple(head.items()), **how)
    examples = task.training_examples(records, pretrained.tokenizer, config.max_length)
    steps = config.steps or math.ceil(len(examples) * config.epochs / config.batch_size)
    evaluators = make_evaluators(config, task, pretrained, model, mesh)
    return Parts(config, task, pretrained, model, mesh, records, examples, evaluators, steps)


def make_evaluators(
    config: FinetuneConfig, task: Task, pretrained: Pretrained, model: Model, mesh: Mesh
) -> tuple[Evaluator, ...]:
    """One for each validation split of the task."""
    batcher = Batcher(
        config.eval_batch_size,
        config.max_length,
        pretrained.tokenizer.pad_id,
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
            pretrained.tokenizer,
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
        "labels": parts.task.class_names,
    }


def run(parts: Parts, folder: epath.Path, checkpoints: Checkpoints) -> Outcome:
    """Makes the state and the stream, and runs the loop."""
    config, task = parts.config, parts.task
    mesh, rules, params = parts.mesh, config.rules, parts.pretrained.params
    optim, anew = optim_of(config, parts.model.config), renewed(config, parts.model.config)
    state = create_state(parts.model, optim, mesh, config.seed, params, rules, anew)
    shardings = gradient_shardings(parts.model, mesh, rules)
    objective = OBJECTIVES[task.head.kind](parts.model, task.name)
    per_epoch = math.ceil(len(parts.examples) / config.batch_size)
    loop = Loop(
        config=LoopConfig(
            steps=parts.steps,
            log_every=config.log_every,
            eval_every=config.eval_every or per_epoch,
            save_every=config.save_every,
            patience=config.patience,
            main_metric=parts.main_metric,
        ),
        train_step=make_train_step(objective, optim, parts.steps, None, shardings),
        hyper=Hyper.of(optim, _dropout(parts)),
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        mesh=mesh,
        batches=make_stream(parts).starting_at,
        evaluate=(lambda params: _evaluate(parts.evaluators, params)) if parts.evaluators else None,
        checkpoints=checkpoints,
        writer=lambda step: workdirs.open_writer(folder, step),
    )
    logger.info(
        "%d training examples, %d steps of %d", len(parts.examples), parts.steps, config.batch_size
    )
    return loop.run(state)


def make_stream(parts: Parts) -> Stream:
    """The training batches."""
    config = parts.config
    batcher = Batcher(
        config.batch_size // config.accumulation,
        config.max_length,
        parts.pretrained.tokenizer.pad_id,
        config.pack,
        batch_divisor(parts.mesh),
    )
    return Stream(
        examples=parts.examples,
        batch=lambda examples: batcher.micro_batches(examples, config.accumulation),
        batch_size=config.batch_size,
        seed=config.seed,
    )


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
        "task": parts.task.name,
        "metrics": position.metrics if best_step is None else position.best_metrics,
        "best_step": best_step or step,
        "last_metrics": position.metrics,
        "steps": step,
        "stopped_early": outcome.stopped_early,
        "train_examples": len(parts.examples),
        **workdirs.cost(params, outcome.seconds),
    }
    if parts.config.export:
        result["huggingface"] = "huggingface"
        export(parts, params, folder / "huggingface")
    return result


def export(parts: Parts, params: Any, folder: epath.Path) -> None:
    """Writes the model as a Hugging Face folder."""
    arrays = to_host(params)

    def write() -> None:
        save_huggingface(
            str(folder),
            parts.model.config,
            arrays,
            dict(parts.model.head_configs),
            labels=parts.task.class_names,
            tokenizer=parts.pretrained.tokenizer,
        )

    from_first(write)


def _evaluate(evaluators: Sequence[Evaluator], params: Any) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for evaluator in evaluators:
        metrics |= evaluator(params)
    return metrics


def _dropout(parts: Parts) -> Dropout:
    rate = parts.config.dropout
    return Dropout.of(parts.model.config) if rate is None else Dropout.at(rate, parts.model.config)


def _check_length(config: FinetuneConfig, pretrained: Pretrained) -> None:
    if config.max_length > pretrained.config.max_length:
        raise UserError(
            f"max_length {config.max_length} is more than the {pretrained.config.max_length} "
            f"positions of {config.model}; lower it"
        )
