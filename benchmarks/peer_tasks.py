"""The peer beyond GLUE: the same recipes in transformers + PyTorch.

Shares no code with bertjax (see :mod:`peer_data` for its own reading, decoding and scores). What is
shared on purpose: the initial weights, written to ``--init`` before the first step, and the order
of the examples (Grain's seeded shuffle, epoch after epoch). A batch is computed in a few parts of
similar length, each padded to its longest row, and its loss divided once, by the whole batch: the
mean over examples, for tags over labelled words. The softmax of a span leaves padding out.

    python benchmarks/peer_tasks.py --model=FOLDER --data=DIR --task=squad --workdir=DIR

``--model`` may be a ``vocab.txt``: then a model of two layers of 128 begins with random weights.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import grain
import numpy as np
import torch
from peer_data import IGNORED, RECIPES, TASKS
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BertConfig, BertTokenizer

SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
PARTS = 4
MASKS = ("token_type_ids", "attention_mask")


def load(task, path: Path, dropout: float | None):
    """Model, with a new head, and tokenizer."""
    options = {}
    if task.labels:
        options["id2label"] = dict(enumerate(task.labels))
        options["label2id"] = {label: i for i, label in options["id2label"].items()}
    if dropout is not None:
        options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if path.name.endswith("vocab.txt"):
        tokenizer = BertTokenizer(str(path), model_max_length=512)
        config = BertConfig(vocab_size=len(tokenizer), **SMALL, **options)
        return task.model_class.from_config(config), tokenizer
    model = task.model_class.from_pretrained(path, **options)
    return model, AutoTokenizer.from_pretrained(path)


def encode_all(task, tokenizer, split: str, max_length: int):
    """The records of a split and, for each, its examples."""
    records = task.read(split)
    return records, [task.encode(record, tokenizer, max_length) for record in records]


def longest(example) -> int:
    return max(len(ids) for ids, _ in example["rows"])


def collate(examples, pad_id: int) -> dict[str, torch.Tensor]:
    """Padded inputs ``[examples, length]``; with options ``[examples, options, length]``."""
    width, options = max(map(longest, examples)), len(examples[0]["rows"])
    shape = (len(examples), options, width) if options > 1 else (len(examples), width)
    rows = [row for example in examples for row in example["rows"]]
    columns = {"input_ids": np.full((len(rows), width), pad_id)}
    columns |= {name: np.zeros_like(columns["input_ids"]) for name in MASKS}
    for i, (ids, types) in enumerate(rows):
        columns["input_ids"][i, : len(ids)] = ids
        columns["token_type_ids"][i, : len(ids)] = types
        columns["attention_mask"][i, : len(ids)] = 1
    return {name: torch.from_numpy(column.reshape(shape)) for name, column in columns.items()}


def outputs_of(model, inputs) -> torch.Tensor:
    """Logits; those of a span ``[examples, length, 2]``, minus infinity at padding."""
    found = model(**inputs)
    if "logits" in found:
        return found.logits
    both = torch.stack([found.start_logits, found.end_logits], -1)
    return both.masked_fill(inputs["attention_mask"][..., None] == 0, -torch.inf)


def weight(examples) -> int:
    """What the sum of the losses of a batch is divided by."""
    labels = [example["label"] for example in examples]
    if isinstance(labels[0], list):
        return sum(label != IGNORED for row in labels for label in row)
    return len(labels)


def loss_sum(logits: torch.Tensor, examples) -> torch.Tensor:
    """Cross entropy summed over examples or words; of a span the mean of its two ends."""
    labels = [example["label"] for example in examples]
    if isinstance(labels[0], int):
        return cross_entropy(logits, torch.tensor(labels), reduction="sum")
    if isinstance(labels[0], tuple):
        return cross_entropy(logits, torch.tensor(labels), reduction="sum") / 2
    padded = torch.full(logits.shape[:2], IGNORED)
    for row, label in zip(padded, labels, strict=True):
        row[: len(label)] = torch.tensor(label)
    return cross_entropy(
        logits.flatten(0, 1), padded.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def decay_groups(model, weight_decay: float):
    """Biases and LayerNorms are not decayed."""
    plain = ("bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if not n.endswith(plain)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if n.endswith(plain)], "weight_decay": 0.0},
    ]


def train(model, pad_id: int, examples, recipe, args, folder: Path) -> dict[str, float]:
    """Runs the recipe, writing each step's loss to ``losses.txt``, and returns its cost."""
    size, count = recipe.batch_size, len(examples)
    steps = args.steps or -(-count * recipe.epochs // size)
    warmup = int(steps * 0.1)
    order = grain.MapDataset.range(count).shuffle(seed=args.seed).repeat()
    optimizer = torch.optim.AdamW(decay_groups(model, 0.01), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            step / max(1, warmup) if step < warmup else (steps - step) / max(1, steps - warmup)
        ),
    )
    model.train()
    start = time.perf_counter()
    with (folder / "losses.txt").open("w") as log:
        for step in range(steps):
            batch = [examples[order[step * size + i]] for i in range(size)]
            batch.sort(key=longest)
            total, loss = weight(batch), 0.0
            for part in range(0, size, size // PARTS):
                chosen = batch[part : part + size // PARTS]
                share = loss_sum(outputs_of(model, collate(chosen, pad_id)), chosen) / total
                share.backward()
                loss += share.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            print(step, f"{loss:.6f}", file=log, flush=True)
            if step % 20 == 0:
                seconds = time.perf_counter() - start
                print(f"step {step}/{steps} loss {loss:.4f} {seconds:.0f} s", flush=True)
    return {"steps": steps, "train_seconds": time.perf_counter() - start}


def evaluate(model, pad_id: int, examples, size: int) -> list[list[np.ndarray]]:
    """The outputs of every example, cut to its own length, record by record."""
    model.eval()
    flat = [example for windows in examples for example in windows]
    found = {}
    by_length = sorted(range(len(flat)), key=lambda i: longest(flat[i]))
    with torch.inference_mode():
        for start in range(0, len(flat), size):
            places = by_length[start : start + size]
            logits = outputs_of(model, collate([flat[i] for i in places], pad_id)).numpy()
            for i, output in zip(places, logits, strict=True):
                found[i] = output[: longest(flat[i])] if output.ndim > 1 else output
    ordered = (found[i] for i in range(len(flat)))
    return [[next(ordered) for _ in windows] for windows in examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init-only", action="store_true", help="write the initial model and stop")
    parser.add_argument("--dropout", type=float, help="one rate for all dropouts of the model")
    parser.add_argument("--steps", type=int, default=0, help="so many, without scores")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    task = TASKS[args.task](args.data)
    recipe = RECIPES[args.task]
    dropout = recipe.dropout if args.dropout is None else args.dropout
    model, tokenizer = load(task, args.model, dropout)
    init = args.workdir / "init" / f"{args.task}-{args.seed}"
    model.save_pretrained(init)
    tokenizer.save_pretrained(init)
    if args.init_only:
        return
    folder = args.workdir / "transformers" / f"{args.task}-{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pad_id = tokenizer.get_vocab()["[PAD]"]
    _, windows = encode_all(task, tokenizer, "train", recipe.max_length)
    examples = [example for record in windows for example in record]
    result = {"side": "transformers", "task": args.task, "seed": args.seed}
    result |= {"dropout": dropout, "train_examples": len(examples)}
    result |= train(model, pad_id, examples, recipe, args, folder)
    if args.steps:
        return
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for split in task.splits:
        records, windows = encode_all(task, tokenizer, split, recipe.max_length)
        outputs = evaluate(model, pad_id, windows, recipe.batch_size)
        metrics, answers = task.score(records, windows, outputs)
        result |= {f"{split}/{name}": value for name, value in metrics.items()}
        (folder / f"{split}.json").write_text(json.dumps(answers, ensure_ascii=False))
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with (args.workdir / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
