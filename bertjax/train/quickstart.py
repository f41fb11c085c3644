"""The quickstart: pretrains a very small BERT on the English that Python carries, and tests it.

The workdir is the pretraining run. Under it lie the sentences (``data``), two Hugging Face folders
(``huggingface``, pretrained; ``random``, as it began) and the two fine-tuning runs that start from
them (``finetuned``, ``finetuned-from-random``).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from bertjax.data.batching import Batcher, round_up
from bertjax.data.python_text import LIBRARIES, Corpus, Passage, balanced, collect, split
from bertjax.data.records import Record
from bertjax.data.vocabulary import train_wordpiece
from bertjax.models import Model
from bertjax.sharding import MeshConfig, batch_divisor, make_mesh
from bertjax.tasks import Task, get_task
from bertjax.tokenizers import Tokenizer, load_tokenizer, wordpiece_tokenizer
from bertjax.train import workdir as workdirs
from bertjax.train.config import FinetuneConfig
from bertjax.train.evaluate import Forward
from bertjax.train.finetune import finetune
from bertjax.train.pretrain import HEADS, PretrainConfig, full_examples, pretrain
from bertjax.train.pretrained import load_pretrained
from bertjax.types import ModelConfig, UserError

RUNS = {"finetuned": "huggingface", "finetuned-from-random": "random"}
"""The fine-tuning runs, each with the folder of the model that it starts from."""

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Sizes; the default takes about two and a half minutes on two CPU cores."""

    steps: int = 2500
    """Of the pretraining."""
    seed: int = 0
    sources: tuple[str, ...] = LIBRARIES
    sentences: int = 8000
    """Read of each library, at most."""
    held_out: int = 400
    """Examples on which the pretraining is evaluated."""
    classes: int = 8
    """Libraries to be told apart: those with the most held-out sentences."""
    train_sentences: int = 50
    """Labelled sentences of each library."""
    validation_sentences: int = 40
    test_sentences: int = 120
    vocab_size: int = 4096
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    initializer_range: float = 0.06
    """Larger than BERT's 0.02, as suits a narrow model."""
    max_length: int = 64
    batch_size: int = 16
    learning_rate: float = 2.5e-3
    mask_rate: float = 0.33
    """A short run learns more from more masks (Wettig et al. 2023, https://arxiv.org/abs/2202.08005)."""
    finetune_max_length: int = 32
    finetune_epochs: float = 15.0
    finetune_batch_size: int = 32
    finetune_learning_rate: float = 1e-3
    finetune_eval_every: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")


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
    workdirs.check_place(folder)
    corpus, tokenizer = prepare(config, folder, say)
    if (found := workdirs.read_result(folder)) is not None:
        say(f"The run in {folder} is finished; this is its result.")
        return found
    result = {"task": "quickstart", **pretrain_on(config, corpus, tokenizer, folder, say)}
    result |= compare(config, folder, say)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    workdirs.write_json(folder / "result.json", result)
    return result


def prepare(config: QuickstartConfig, folder: epath.Path, say: Say) -> tuple[Corpus, Tokenizer]:
    """The sentences and the vocabulary: made and written, or read where they are there already."""
    if (folder / "data").exists():
        corpus = read_corpus(folder / "data")
        tokenizer = load_tokenizer(str(folder / "tokenizer"))
        workdirs.prepare(folder, document(config, tokenizer))
        return corpus, tokenizer
    say("Reading English: the interpreter's help topics and the docstrings of installed libraries")
    corpus = split(collect(config.sources, config.sentences))
    labelled = label(config, corpus)
    counts = Counter(p.library for p in corpus.train for _ in p.sentences)
    say(f"  {sum(counts.values()):,} sentences to learn from: {_listed(counts.most_common())}")
    sentences = (sentence for passage in corpus.train for sentence in passage.sentences)
    tokenizer = wordpiece_tokenizer(train_wordpiece(sentences, config.vocab_size))
    say(f"Trained a WordPiece vocabulary of {tokenizer.vocab_size:,} pieces")
    workdirs.prepare(folder, document(config, tokenizer))
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer"))
    write_data(folder, corpus, labelled)
    return corpus, tokenizer


def document(config: QuickstartConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """What ``config.json`` of the workdir says."""
    return {
        "experiment": {"task": "masked_lm", **dataclasses.asdict(config)},
        "model": dataclasses.asdict(model_config(config, tokenizer)),
        "heads": {name: dataclasses.asdict(head) for name, head in HEADS.items()},
    }


def model_config(config: QuickstartConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The shape of the model."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        intermediate_size=4 * config.hidden_size,
        max_positions=config.max_length,
        initializer_range=config.initializer_range,
        pad_token_id=tokenizer.pad_id,
    )


def label(config: QuickstartConfig, corpus: Corpus) -> dict[str, list[tuple[str, str]]]:
    """(library, sentence) pairs of each split, equally many of each library.

    Raises:
      UserError: if fewer than two libraries have enough sentences.
    """
    wanted = config.validation_sentences + config.test_sentences
    salt = str(config.seed)
    held_out = balanced(corpus.validation, wanted, salt)
    counts = Counter(library for library, _ in held_out)
    there = Counter(p.library for p in corpus.validation for _ in p.sentences)
    libraries = [n for n, _ in there.most_common() if counts[n] == wanted][: config.classes]
    if len(libraries) < 2:
        raise UserError(
            "this Python carries too little English: fewer than two of the libraries "
            f"{', '.join(config.sources)} have {wanted} sentences to hold out"
        )
    seen: Counter[str] = Counter()
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for library, sentence in held_out:
        seen[library] += 1
        name = "validation" if seen[library] <= config.validation_sentences else "test"
        parts[name].append((library, sentence))
    parts["train"] = balanced(corpus.train, config.train_sentences, salt)
    return {name: [p for p in pairs if p[0] in libraries] for name, pairs in parts.items()}


def write_data(
    folder: epath.Path, corpus: Corpus, labelled: Mapping[str, list[tuple[str, str]]]
) -> None:
    """Writes ``folder/data``; it is there only when it is whole."""
    part = folder / "data.part"
    part.mkdir(exist_ok=True)
    for name, pairs in labelled.items():
        rows = ({"text": sentence, "label": library} for library, sentence in pairs)
        write_lines(part / f"{name}.jsonl", rows)
    for name, passages in dataclasses.asdict(corpus).items():
        write_lines(part / f"unlabelled-{name}.jsonl", passages)
    part.replace(folder / "data")


def write_lines(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_corpus(folder: epath.Path) -> Corpus:
    """Reads what :func:`write_data` wrote of the unlabelled sentences."""

    def read(name: str) -> list[Passage]:
        lines = (folder / f"unlabelled-{name}.jsonl").read_text().split("\n")
        rows = [json.loads(line) for line in lines if line]
        return [Passage(r["library"], r["file"], tuple(r["sentences"])) for r in rows]

    return Corpus(read("train"), read("validation"))


def pretrain_on(
    config: QuickstartConfig, corpus: Corpus, tokenizer: Tokenizer, folder: epath.Path, say: Say
) -> dict[str, Any]:
    """Masked-LM pretraining on the whole text, without labels."""
    train, validation = (
        full_examples(by_library(passages), tokenizer, config.max_length)
        for passages in (corpus.train, corpus.validation)
    )
    settings = PretrainConfig(
        model=model_config(config, tokenizer),
        max_length=config.max_length,
        steps=config.steps,
        batch_size=_divisible(config.batch_size),
        learning_rate=config.learning_rate,
        mask_rate=config.mask_rate,
        seed=config.seed,
        log_every=max(1, config.steps // 40),
        eval_every=max(1, config.steps // 5),
    )
    say(
        f"Pretraining {config.num_layers} layers of width {config.hidden_size}: guess the masked "
        f"words of {len(train):,} passages, {config.steps} steps of {settings.batch_size}"
    )
    picks = np.random.default_rng(config.seed).permutation(len(validation))[: config.held_out]
    result = pretrain(settings, tokenizer, train, [validation[i] for i in picks], folder)
    accuracy = result["metrics"]["validation/accuracy"]
    say(f"  it guesses {accuracy:.1%} of the masked words of unseen text exactly")
    return result


def by_library(passages: Iterable[Passage]) -> list[list[str]]:
    """The sentences of each library, in order."""
    documents: dict[str, list[str]] = {}
    for passage in passages:
        documents.setdefault(passage.library, []).extend(passage.sentences)
    return list(documents.values())


def compare(config: QuickstartConfig, folder: epath.Path, say: Say) -> dict[str, Any]:
    """Fine-tunes from both models and scores them on the test sentences."""
    accuracy, result = {}, {}
    for run, model in RUNS.items():
        settings = finetune_config(config, folder, model)
        begin = "the pretrained model" if model == "huggingface" else "random weights"
        say(f"Fine-tuning from {begin}: which library is a sentence about?")
        finetune(settings, str(folder / run))
        task, records, logits = answers(settings, folder / run)
        labels = np.array([record["label"] for record in records])
        accuracy[run] = task.compute_metrics(labels, logits)["accuracy"]
        if not result:
            result["libraries"] = list(task.labels)
            result["labelled_sentences"] = config.train_sentences * len(task.labels)
            result["test_sentences"] = len(labels)
            result["majority"] = max(Counter(labels.tolist()).values()) / len(labels)
            result["examples"] = examples(task, records, logits)
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


def answers(config: FinetuneConfig, run: epath.Path) -> tuple[Task, list[Record], np.ndarray]:
    """What a fine-tuned model says of the test sentences: task, records, logits."""
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
    encoded = (task.encode(record, found.tokenizer, config.max_length) for record in records)
    logits = np.stack(list(Forward(model, task.name, batcher, mesh)(found.params, encoded)))
    return task, records, logits


def examples(task: Task, records: list[Record], logits: np.ndarray) -> list[dict[str, Any]]:
    """One test sentence of each library, the first, with what the model makes of it."""
    shown: dict[int, dict[str, Any]] = {}
    for record, answer in zip(records, task.decode(logits), strict=True):
        if record["label"] not in shown:
            said = answer["label"]
            shown[record["label"]] = {
                "text": record["text"],
                "library": task.labels[record["label"]],
                "answer": said,
                "probability": round(answer["probabilities"][said], 4),
            }
    return [shown[index] for index in sorted(shown)]


def _divisible(batch_size: int) -> int:
    """A batch size that the devices here can share."""
    return round_up(batch_size, jax.device_count())


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts)
