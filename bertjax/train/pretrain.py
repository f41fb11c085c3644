"""Pretraining: puts corpora, model, objective and evaluation together for the loop."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from bertjax.checkpoint import Checkpoints
from bertjax.convert import save_huggingface
from bertjax.data.batching import Batch, round_up
from bertjax.data.pretraining import row_batches
from bertjax.flops import peak_flops, step_flops
from bertjax.models import Dropout, Electra, Model
from bertjax.optim import check_patterns, schedule
from bertjax.sharding import batch_divisor, make_mesh
from bertjax.train import workdir as workdirs
from bertjax.train.config import DTYPES
from bertjax.train.corpora import Corpora, open_corpora
from bertjax.train.held_out import evaluate_all, make_evaluators
from bertjax.train.loop import Loop, LoopConfig, Outcome
from bertjax.train.objectives import Objective, pretraining, replaced_token
from bertjax.train.pretrain_config import PRESET, PretrainConfig, Stretch, preset, stretches
from bertjax.train.pretrained import load_pretrained
from bertjax.train.state import abstract_params, create_state
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import HeadConfig, ModelConfig, UserError

logger = logging.getLogger(__name__)

HEADS: dict[str, HeadConfig] = {
    "masked_lm": HeadConfig("masked_lm"),
    "next_sentence": HeadConfig("next_sentence", 2),
    "sentence_order": HeadConfig("sentence_order", 2),
    "replaced_token": HeadConfig("replaced_token"),
}


@dataclasses.dataclass(frozen=True)
class PretrainParts:
    """What a pretraining run is made of."""

    config: PretrainConfig
    corpora: Corpora
    model: Model
    """The one that is trained for use; ELECTRA's discriminator."""
    trained: Model | Electra
    """All that is trained."""
    params: Mapping[str, Any]
    """Host arrays to start from; empty: random."""
    notes: tuple[str, ...]
    mesh: Mesh
    stretches: tuple[Stretch, ...]


def pretrain(config: PretrainConfig, workdir: str) -> dict[str, Any]:
    """Trains, or goes on training, in ``workdir``; the result is what ``result.json`` holds.

    Raises:
      UserError: for wrong input, one sentence each.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    folder = epath.Path(workdir)
    workdirs.check_place(folder)
    parts = assemble(config)
    workdirs.prepare(folder, document(parts))
    if (result := workdirs.read_result(folder)) is not None:
        logger.info("the run in %s is finished; its result is read", folder)
        return result
    (folder / "tokenizer").mkdir(exist_ok=True)
    parts.corpora.tokenizer.save(str(folder / "tokenizer"))
    for note in parts.notes:
        logger.info("%s", note)
    checkpoints = Checkpoints(folder)
    try:
        outcome = run(parts, folder, checkpoints)
        result = conclude(parts, folder, outcome)
    finally:
        checkpoints.close()
    workdirs.write_json(folder / "result.json", result)
    return result


def assemble(config: PretrainConfig) -> PretrainParts:
    """Opens corpora and model, and checks that they and the config fit together."""
    mesh = make_mesh(config.mesh)
    parts = stretches(config)
    for part in parts:
        _check_batch(config, part.batch_size, batch_divisor(mesh))
    corpora = open_corpora(config)
    model_config, params, notes = _model(config, corpora)
    if config.minutes and jax.process_count() > 1:
        raise UserError("a budget in minutes needs one process; give steps or tokens")
    longest = max(part.max_length for part in parts)
    if longest > model_config.max_length:
        raise UserError(
            f"max_length {longest} is more than the {model_config.max_length} positions of "
            f"{config.model}; lower it, or set architecture.max_positions"
        )
    unroll = config.unroll or (model_config.num_layers if jax.default_backend() == "cpu" else 1)
    heads = tuple((name, HEADS[name]) for name in config.heads)
    model = Model(model_config, heads, DTYPES[config.dtype], unroll)
    paired = config.objective == "replaced_token"
    trained = Electra.of(model, config.generator_size) if paired else model
    if config.freeze:
        check_patterns(abstract_params(trained, mesh), config.freeze, "config field 'freeze'")
    return PretrainParts(config, corpora, model, trained, params, notes, mesh, parts)


def _model(
    config: PretrainConfig, corpora: Corpora
) -> tuple[ModelConfig, Mapping[str, Any], tuple[str, ...]]:
    """The model's shape, what is known of its parameters, and what to say about that."""
    if config.model.startswith(PRESET):
        name = config.model.removeprefix(PRESET)
        shape = preset(name, corpora.tokenizer.vocab_size, config.architecture)
        return dataclasses.replace(shape, pad_token_id=corpora.tokenizer.pad_id), {}, ()
    if config.architecture:
        raise UserError("config field 'architecture' only goes with a preset; leave it out")
    found = load_pretrained(config.model, {name: HEADS[name] for name in config.heads})
    for corpus in corpora.prepared:
        corpus.check_tokenizer(found.tokenizer, f"the one of {config.model}")
    return found.config, found.params, found.notes


def document(parts: PretrainParts) -> dict[str, Any]:
    """What ``config.json`` of the workdir says: all it needs to run again, and to be read."""
    return {
        "experiment": dataclasses.asdict(parts.config),
        "model": dataclasses.asdict(parts.model.config),
        "heads": {name: dataclasses.asdict(head) for name, head in parts.model.head_configs},
        **({"generator_size": parts.config.generator_size} if _is_pair(parts) else {}),
    }


def _is_pair(parts: PretrainParts) -> bool:
    return isinstance(parts.trained, Electra)


def make_objective(parts: PretrainParts) -> Objective:
    """What the run minimises."""
    if isinstance(parts.trained, Electra):
        return replaced_token(parts.trained, parts.config.discriminator_weight)
    return pretraining(parts.trained)


def run(parts: PretrainParts, folder: epath.Path, checkpoints: Checkpoints) -> Outcome:
    """Makes the state and the stream, and runs the loop."""
    config = parts.config
    state = create_state(parts.trained, config.optim, parts.mesh, config.seed, parts.params)
    objective = make_objective(parts)
    steps = parts.stretches[-1].last
    evaluators = make_evaluators(parts.corpora, objective, parts.mesh)
    loop = Loop(
        config=LoopConfig(
            steps=steps,
            seconds=60 * config.minutes,
            log_every=config.log_every,
            eval_every=config.eval_every,
            save_every=config.save_every,
            peak_flops=_peak(config) * jax.device_count(),
        ),
        train_step=make_train_step(objective, config.optim, steps, multiplier(config)),
        hyper=Hyper.of(config.optim, _dropout(parts)),
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        mesh=parts.mesh,
        batches=lambda step: batches(parts, step),
        evaluate=(lambda params: evaluate_all(evaluators, params)) if evaluators else None,
        checkpoints=checkpoints,
        writer=lambda step: workdirs.MetricWriter(folder, step),
        flops=lambda batch: batch_flops(parts.trained, batch),
    )
    return loop.run(state)


def _peak(config: PretrainConfig) -> float:
    """Operations a second of one device; 0 where it is neither told nor known."""
    return config.peak_flops or peak_flops(jax.devices()[0].device_kind) or 0.0


def batch_flops(trained: Model | Electra, batch: Batch) -> float:
    """The model's operations in a step over a batch ``[micro-batches, rows, …]``."""
    rows, length = batch["token_ids"][..., 0].size, batch["token_ids"].shape[-1]
    sizes = (rows, length, int(batch["prediction_weight"].sum()))
    models = (trained,)
    if isinstance(trained, Electra):
        models = (trained.discriminator, trained.generator)
    heads = [[head for _, head in model.head_configs] for model in models]
    return float(sum(step_flops(m.config, *sizes, h) for m, h in zip(models, heads, strict=True)))


def multiplier(config: PretrainConfig) -> Callable[[Any], Any]:
    """The share of ``learning_rate`` at each step: one schedule, or one a phase that restarts."""
    runs: list[list[Stretch]] = []
    for part in stretches(config):
        if part.restarts:
            runs.append([])
        runs[-1].append(part)
    parts, bounds = [], []
    for run_of in runs:
        first, last = run_of[0].first, run_of[-1].last
        optim = dataclasses.replace(config.optim, warmup_ratio=run_of[0].warmup_ratio)
        share = run_of[0].learning_rate / config.learning_rate if config.learning_rate else 0.0
        parts.append(_scaled(schedule(optim, last - first), share))
        bounds.append(first)
    return optax.join_schedules(parts, bounds[1:])


def _scaled(inner: optax.Schedule, factor: float) -> optax.Schedule:
    return lambda step: inner(step) * factor


def batches(parts: PretrainParts, step: int) -> Iterator[Batch]:
    """Training batches from a step on, through all phases."""
    config = parts.config
    for number, part in enumerate(parts.stretches):
        if step >= part.last:
            continue
        rows = parts.corpora.rows("train", part.max_length, phase_seed(config.seed, number))
        assert rows is not None
        first = max(step - part.first, 0)
        stream = row_batches(rows, part.batch_size, config.accumulation, first, config.workers)
        yield from itertools.islice(stream, part.last - part.first - first)


def phase_seed(seed: int, phase: int) -> int:
    """The seed of the rows of a phase."""
    return int(np.random.SeedSequence([seed, phase]).generate_state(1)[0])


def conclude(parts: PretrainParts, folder: epath.Path, outcome: Outcome) -> dict[str, Any]:
    """Exports the model and sums the run up."""
    params, step = outcome.state.params, int(outcome.state.step)
    result: dict[str, Any] = {
        "task": "pretraining",
        "metrics": outcome.position.metrics,
        "best_step": step,
        "steps": step,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seconds": round(outcome.seconds, 1),
        "peak_rss_mib": round(workdirs.peak_rss_mib()),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    if parts.config.export:
        result["huggingface"] = "huggingface"
        export(parts, params, folder / "huggingface")
    return result


def export(parts: PretrainParts, params: Any, folder: epath.Path) -> None:
    """Writes the model as a Hugging Face folder; ELECTRA's generator as another beside it."""
    params, tokenizer = jax.device_get(params), parts.corpora.tokenizer
    written = [(folder, parts.model, params)]
    if isinstance(pair := parts.trained, Electra):
        written = [(folder, pair.discriminator, pair.discriminator_params(params))]
        beside = folder.with_name(f"{folder.name}-generator")
        written.append((beside, pair.generator, pair.generator_params(params)))
    for place, model, arrays in written:
        heads = dict(model.head_configs)
        save_huggingface(str(place), model.config, arrays, heads, tokenizer=tokenizer)


def _dropout(parts: PretrainParts) -> Dropout | None:
    rate, model = parts.config.dropout, parts.model.config
    if rate is None:
        return Dropout.of(model)
    return Dropout.at(rate, model) if rate else None


def _check_batch(config: PretrainConfig, batch_size: int, devices: int) -> None:
    shares = config.accumulation * devices
    if batch_size % shares:
        raise UserError(
            f"batch_size {batch_size} is not divisible by accumulation {config.accumulation} times "
            f"the {devices} devices that share it; the next size that is: "
            f"{round_up(batch_size, shares)}"
        )
