"""The quickstart: pretrains a very small BERT on the English that Python carries, and tests it.

It goes the way a user goes, from text files to fine-tuned models. The workdir holds the data
(:mod:`bertjax.train.quickstart_data`), the pretraining run (``pretrained``), the model as that
began (``random``, a Hugging Face folder), and the two fine-tuning runs that start from them
(``finetuned``, ``finetuned-from-random``).
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from bertjax.data.batching import Batcher, round_up
from bertjax.data.records import Record
from bertjax.models import Model
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh
from bertjax.tasks import get_task
from bertjax.train import workdir as workdirs
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Forward
from bertjax.train.finetune import finetune
from bertjax.train.pretrain import assemble, export, pretrain
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.train.pretrained import load_pretrained
from bertjax.train.quickstart_data import (
    QuickstartConfig,
    Say,
    prepare_text,
    write_text,
    write_vocabulary,
)
from bertjax.train.state import create_state

RUNS = {"finetuned": "pretrained", "finetuned-from-random": "random"}
"""The fine-tuning runs, each with the folder of the model that it starts from."""
RECORD = "quickstart.json"
"""What the workdir is known by; it is not a run itself, but holds runs."""


def quickstart(config: QuickstartConfig, workdir: str, say: Say) -> dict[str, Any]:
    """Runs it, or goes on, in ``workdir``; the result is what ``result.json`` holds.

    Args:
      config: the sizes.
      workdir: a new folder, or one that an earlier call began.
      say: is told, a line or more at a time, what is going on.

    Raises:
      UserError: if the workdir holds something else, or Python carries too little text.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    began = time.perf_counter()
    folder = epath.Path(workdir)
    workdirs.check_place(folder, RECORD)
    workdirs.prepare(folder, {"experiment": dataclasses.asdict(config)}, RECORD)
    if (found := workdirs.read_result(folder)) is not None:
        say(f"The run in {folder} is finished; this is its result.")
        return found
    write_text(config, folder, say)
    write_vocabulary(config, folder, say)
    result = {"task": "quickstart", **pretrain_on(config, folder, say)}
    result |= compare(config, folder, say)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    workdirs.write_json(folder / "result.json", result)
    return result


def pretrain_on(config: QuickstartConfig, folder: epath.Path, say: Say) -> dict[str, Any]:
    """Masked-LM pretraining on the whole text, without labels."""
    corpora = prepare_text(folder, say)
    settings = pretrain_config(config, folder)
    say(
        f"Pretraining {config.num_layers} layers of width {config.hidden_size}: guess the masked "
        f"words of {corpora['train'].tokens:,} tokens of text, {config.steps} steps of "
        f"{settings.batch_size} rows of {config.max_length}"
    )
    result = pretrain(settings, str(folder / "pretrained"))
    accuracy = result["metrics"]["validation/masked_lm_accuracy"]
    say(f"  it guesses {accuracy:.1%} of the masked words of unseen text exactly")
    write_random(settings, folder / "random")
    return {
        **{name: result[name] for name in ("metrics", "steps", "parameters")},
        "train_tokens": corpora["train"].tokens,
        "pretraining_seconds": result["seconds"],
    }


def pretrain_config(config: QuickstartConfig, folder: epath.Path) -> PretrainConfig:
    """The pretraining experiment. Its second moment forgets faster, as suits a short run."""
    return PretrainConfig(
        data=(str(folder / "prepared" / "train"),),
        validation_data=(str(folder / "prepared" / "validation"),),
        model="preset:bert_tiny",
        architecture={
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "intermediate_size": 4 * config.hidden_size,
            "max_positions": config.max_length,
            "initializer_range": config.initializer_range,
        },
        sentence_task="none",
        mask_rate=config.mask_rate,
        max_length=config.max_length,
        batch_size=_divisible(config.batch_size),
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_ratio=0.1,
        b2=0.98,
        eps=1e-8,
        dropout=0.0,
        seed=config.seed,
        eval_rows=config.held_out,
        log_every=max(1, config.steps // 40),
        eval_every=max(1, config.steps // 5),
    )


def write_random(config: PretrainConfig, folder: epath.Path) -> None:
    """Writes the model with the weights that the pretraining began with."""
    parts = assemble(config)
    state = create_state(parts.model, config.optim, parts.mesh, config.seed)
    export(parts, state.params, folder)


def compare(config: QuickstartConfig, folder: epath.Path, say: Say) -> dict[str, Any]:
    """Fine-tunes from both models and scores them on the test sentences."""
    accuracy, result = {}, {}
    for run, model in RUNS.items():
        settings = finetune_config(config, folder, model)
        begin = "the pretrained model" if model == "pretrained" else "random weights"
        say(f"Fine-tuning from {begin}: which library is a sentence about?")
        finetune(settings, str(folder / run))
        labels = get_task(settings.task, data=settings.data).class_names or ()
        records, answers = predictions(settings, folder / run)
        said = [labels.index(answer["label"]) for answer in answers]
        right = np.array([record["label"] for record in records])
        accuracy[run] = float(np.mean(right == said))
        if not result:
            result["libraries"] = list(labels)
            result["labelled_sentences"] = config.train_sentences * len(labels)
            result["test_sentences"] = len(records)
            result["majority"] = max(Counter(right.tolist()).values()) / len(records)
            result["examples"] = examples(labels, records, answers)
    return {"accuracy": accuracy, **result}


def finetune_config(config: QuickstartConfig, folder: epath.Path, model: str) -> FinetuneConfig:
    """The fine-tuning experiment: the same for both models but for where it starts."""
    return FinetuneConfig(
        model=str(folder / model),
        data=f"files:{folder / 'data'}",
        task="classification",
        text_columns=("text",),
        max_length=config.finetune_max_length,
        batch_size=_divisible(config.finetune_batch_size),
        pack=False,
        epochs=config.finetune_epochs,
        learning_rate=config.finetune_learning_rate,
        dropout=0.0,
        seed=config.seed,
        eval_every=config.finetune_eval_every,
    )


def predictions(
    config: FinetuneConfig, run: epath.Path
) -> tuple[list[Record], list[dict[str, Any]]]:
    """The test sentences, and what a fine-tuned model says of them."""
    task = get_task(config.task, text_columns=config.text_columns, data=config.data)
    found = load_pretrained(str(run), {task.name: task.head})
    mesh = make_mesh(MeshConfig())
    model = Model(found.config, ((task.name, task.head),), unroll=found.config.num_layers)
    batcher = Batcher(
        config.eval_batch_size,
        config.max_length,
        found.tokenizer.pad_id,
        config.pack,
        batch_divisor(mesh),
    )
    test = task.open(config.data, "test")
    records = [test[index] for index in range(len(test))]
    encoded = [task.encode(record, found.tokenizer, config.max_length) for record in records]
    outputs = Forward(model, task.name, batcher, mesh).by_record(found.params, encoded)
    parts = zip(records, encoded, outputs, strict=True)
    return records, [task.answer(*part) for part in parts]


def examples(
    labels: Sequence[str], records: list[Record], answers: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One test sentence of each library, the first, with what the model makes of it."""
    shown: dict[int, dict[str, Any]] = {}
    for record, answer in zip(records, answers, strict=True):
        if record["label"] not in shown:
            said = answer["label"]
            shown[record["label"]] = {
                "text": record["text"],
                "library": labels[record["label"]],
                "answer": said,
                "probability": round(answer["probabilities"][said], 4),
            }
    return [shown[index] for index in sorted(shown)]


def _divisible(batch_size: int) -> int:
    """A batch size that the devices here can share."""
    return round_up(batch_size, jax.device_count())
