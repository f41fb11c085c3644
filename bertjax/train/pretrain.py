"""Pretraining: puts corpora, model, objective and evaluation together for the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.checkpoint import Checkpoints
from bertjax.convert import save_huggingface
from bertjax.data.batching import Batch
from bertjax.data.documents import tokenizer_hash
from bertjax.data.pretraining import row_batches
from bertjax.distributed import from_first, to_host
from bertjax.models import Electra, Model
from bertjax.sharding import batch_divisor, check_rules, join_rows, make_mesh, rows_here
from bertjax.train import workdir as workdirs
from bertjax.train.corpora import Corpora, open_corpora
from bertjax.train.held_out import evaluate_all, make_evaluators
from bertjax.train.loop import Loop, LoopConfig, Outcome
from bertjax.train.pretrain_config import PRESET, PretrainConfig, Stretch, preset, stretches
from bertjax.train.pretrain_models import (
    HEADS,
    batch_flops,
    device_peak,
    dropout_rates,
    make_models,
    make_objective,
    multiplier,
)
from bertjax.train.pretrained import load_pretrained
from bertjax.train.state import (
    abstract_params,
    check_addresses,
    create_state,
    gradient_shardings,
)
from bertjax.train.step import Hyper, make_train_step
from bertjax.types import ModelConfig, UserError

logger = logging.getLogger(__name__)


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
    from_first(lambda: workdirs.check_place(folder))
    parts = assemble(config, workdirs.recorded_padding(folder))
    notes = (*parts.notes, *parts.corpora.describe(), size_note(parts))

    def train() -> dict[str, Any]:
        keep = config.keep_every
        with contextlib.closing(Checkpoints(folder, keep_every=keep)) as checkpoints:
            return conclude(parts, folder, run(parts, folder, checkpoints))

    found, defaults = parts.corpora.tokenizer, config.defaults()
    return workdirs.complete(folder, document(parts), found, notes, train, defaults)


def assemble(config: PretrainConfig, padding: int | None = None) -> PretrainParts:
    """Opens corpora and model, and checks that they and the config fit together.

    ``padding`` is that of the checkpoints from which the run goes on; None: it begins.
    """
    mesh = make_mesh(config.mesh)
    check_rules(config.rules, mesh)
    parts = stretches(config)
    for part in parts:
        config.check_batch(part.batch_size, batch_divisor(mesh))
    corpora = open_corpora(config)
    model_config, params, notes = _model(config, corpora)
    if config.minutes and jax.process_count() > 1:
        raise UserError("a budget in minutes needs one process; give steps or tokens")
    longest = max(part.max_length for part in parts)
    if longest > model_config.max_length:
        more = ", or set architecture.max_positions" * config.model.startswith(PRESET)
        raise UserError(
            f"max_length {longest} is more than the {model_config.max_length} positions of "
            f"{config.model}; lower it{more}"
        )
    model, trained = make_models(config, model_config, mesh, padding)
    check_addresses(trained, mesh, freeze=config.freeze, rates=[p for p, _ in config.rates])
    return PretrainParts(config, corpora, model, trained, params, notes, mesh, parts)


def _model(
    config: PretrainConfig, corpora: Corpora
) -> tuple[ModelConfig, Mapping[str, Any], tuple[str, ...]]:
    """The model's shape, what is known of its parameters, and what to say about that."""
    if config.model.startswith(PRESET):
        name = config.model.removeprefix(PRESET)
        shape = preset(name, corpora.tokenizer.vocab_size, config.architecture)
        return dataclasses.replace(shape, pad_token_id=corpora.tokenizer.pad_id), {}, ()
    if changes := sorted({*config.architecture} - {"initializer_range"}):  # recipes set that one
        raise UserError(
            f"config field 'architecture' only goes with a preset; leave out {', '.join(changes)}"
        )
    found = load_pretrained(config.model, {name: HEADS[name] for name in config.heads})
    for corpus in corpora.prepared:
        corpus.check_tokenizer(found.tokenizer, f"the one of {config.model}")
    if tokenizer_hash(corpora.tokenizer) != tokenizer_hash(found.tokenizer):
        raise UserError(
            f"config field 'tokenizer': {config.tokenizer} is another one than that of "
            f"{config.model}; name the model's, with which the examples must have been made"
        )
    return found.config, found.params, found.notes


def document(parts: PretrainParts) -> dict[str, Any]:
    """What ``config.json`` of the workdir says: all it needs to run again, and to be read."""
    return {
        "experiment": dataclasses.asdict(parts.config),
        "model": dataclasses.asdict(parts.model.config),
        "heads": {name: dataclasses.asdict(head) for name, head in parts.model.head_configs},
        "corpora": parts.corpora.fingerprints(),
        **({"generator_size": parts.config.generator_size} if _is_pair(parts) else {}),
    }


def size_note(parts: PretrainParts) -> str:
    """The number of parameters, and how long the run is to be."""
    shapes = jax.tree.leaves(abstract_params(parts.trained, parts.mesh))
    config, last = parts.config, parts.stretches[-1].last
    length = f"{config.minutes:g} minutes" if config.minutes else f"{last:,} steps"
    return f"{sum(leaf.size for leaf in shapes):,} parameters, to be trained for {length}"


def rows_note(config: PretrainConfig, part: Stretch, count: int) -> str:
    """What a phase reads, when it begins: rows, and passes over the corpora."""
    steps = part.last - part.first
    passes = f"a pass takes {count / part.batch_size:,.1f} steps of {part.batch_size:,} rows"
    if not config.minutes:
        rows = steps * part.batch_size
        passes = f"{steps:,} steps of {part.batch_size:,} make {rows / count:,.2f} passes"
    return f"rows of {part.max_length} tokens: {count:,} a pass; {passes}"


def _is_pair(parts: PretrainParts) -> bool:
    return isinstance(parts.trained, Electra)


def run(parts: PretrainParts, folder: epath.Path, checkpoints: Checkpoints) -> Outcome:
    """Makes the state and the stream, and runs the loop."""
    config = parts.config
    mesh, rules = parts.mesh, config.rules
    state = create_state(parts.trained, config.optim, mesh, config.seed, parts.params, rules)
    objective = make_objective(config, parts.trained)
    shardings = gradient_shardings(parts.trained, mesh, rules)
    steps = parts.stretches[-1].last
    evaluators = make_evaluators(parts.corpora, objective, mesh)
    loop = Loop(
        config=LoopConfig(
            steps=steps,
            seconds=60 * config.minutes,
            log_every=config.log_every,
            eval_every=config.eval_every,
            save_every=config.save_every,
            peak_flops=device_peak(config) * jax.device_count(),
        ),
        train_step=make_train_step(objective, config.optim, steps, multiplier(config), shardings),
        hyper=Hyper.of(config.optim, dropout_rates(config, parts.model.config)),
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        mesh=mesh,
        batches=lambda step: batches(parts, step),
        evaluate=(lambda params: evaluate_all(evaluators, params)) if evaluators else None,
        checkpoints=checkpoints,
        writer=lambda step: workdirs.open_writer(folder, step),
        assemble=join_rows,
        flops=lambda batch: batch_flops(parts.trained, batch),
    )
    return loop.run(state)


def batches(parts: PretrainParts, step: int) -> Iterator[Batch]:
    """Training batches from a step on, through all phases."""
    config = parts.config
    for number, part in enumerate(parts.stretches):
        if step >= part.last and not config.minutes:
            continue
        rows = parts.corpora.rows("train", part.max_length, phase_seed(config.seed, number))
        assert rows is not None
        logger.info("%s", rows_note(config, part, rows.count))
        first = max(step - part.first, 0)
        held = rows_here(parts.mesh, part.batch_size // config.accumulation)
        stream = row_batches(
            rows, part.batch_size, config.accumulation, first, config.workers, held
        )
        left = None if config.minutes else part.last - part.first - first
        yield from itertools.islice(stream, left)


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
        **workdirs.cost(params, outcome.seconds),
    }
    if parts.config.export:
        result["huggingface"] = "huggingface"
        export(parts, params, folder / "huggingface")
    return result


def export(parts: PretrainParts, params: Any, folder: epath.Path) -> None:
    """Writes the model as a Hugging Face folder; ELECTRA's generator as another beside it."""
    params, tokenizer = to_host(params), parts.corpora.tokenizer
    written = [(folder, parts.model, params)]
    if isinstance(pair := parts.trained, Electra):
        written = [(folder, pair.discriminator, pair.discriminator_params(params))]
        beside = folder.with_name(f"{folder.name}-generator")
        written.append((beside, pair.generator, pair.generator_params(params)))

    def write() -> None:
        for place, model, arrays in written:
            heads = dict(model.head_configs)
            save_huggingface(str(place), model.config, arrays, heads, tokenizer=tokenizer)

    from_first(write)
