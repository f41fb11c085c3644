"""The peer: the same fine-tuning recipe in transformers + PyTorch.

Reads GLUE's TSV files on its own and shares no code with bertjax, so an agreement of scores
says something. What is shared on purpose is what pairing by seed needs: the initial weights
(written to ``--init`` before the first step, head included) and the order of the examples (Grain's
seeded shuffle, epoch after epoch). Batches are padded to their longest example.

    python benchmarks/peer.py --model=FOLDER --data=GLUE --task=mrpc --seed=1 --output=peer.jsonl
"""

import argparse
import csv
import json
import resource
import time
from pathlib import Path

import grain
import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer

# task -> folder, text columns, label column, label words (None: a number), header
TASKS = {
    "cola": ("CoLA", [3], 1, ["0", "1"], False),
    "sst2": ("SST-2", [0], 1, ["0", "1"], True),
    "mrpc": ("MRPC", [3, 4], 0, ["0", "1"], True),
    "stsb": ("STS-B", [7, 8], 9, None, True),
    "rte": ("RTE", [1, 2], 3, ["entailment", "not_entailment"], True),
}


def read(data: Path, task: str, split: str):
    """Texts (one list a column) and labels of one split."""
    folder, text_columns, label_column, words, header = TASKS[task]
    with (data / folder / f"{split}.tsv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[int(header) :]
    texts = [[row[c] for row in rows] for c in text_columns]
    labels = [
        float(r[label_column]) if words is None else words.index(r[label_column]) for r in rows
    ]
    return texts, np.array(labels)


def metrics(task: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    if task == "stsb":
        score = logits[:, 0]
        return {
            "pearson": float(np.asarray(pearsonr(score, labels))[0]),
            "spearman": float(np.asarray(spearmanr(score, labels))[0]),
        }
    predicted = logits.argmax(-1)
    result = {"accuracy": float(accuracy_score(labels, predicted))}
    if task == "mrpc":
        result["f1"] = float(f1_score(labels, predicted))
    if task == "cola":
        result["matthews"] = float(matthews_corrcoef(labels, predicted))
    return result


def decay_groups(model, weight_decay: float):
    """Biases and LayerNorms are not decayed."""
    plain = ("bias", "LayerNorm.weight")
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if not n.endswith(plain)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if n.endswith(plain)], "weight_decay": 0.0},
    ]


def evaluate(model, tokenizer, texts, batch_size: int, max_length: int) -> np.ndarray:
    model.eval()
    logits = []
    with torch.no_grad():
        for start in range(0, len(texts[0]), batch_size):
            batch = [column[start : start + batch_size] for column in texts]
            encoded = tokenizer(
                *batch, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            logits.append(model(**encoded).logits.numpy())
    return np.concatenate(logits)


def train(model, tokenizer, texts, labels, args) -> dict[str, float]:
    """Runs the recipe and returns its speed."""
    count = len(labels)
    steps = -(-count * args.epochs // args.batch_size)
    if args.max_steps:
        steps = min(steps, args.max_steps)
    warmup = int(steps * args.warmup_ratio)
    order = grain.MapDataset.range(count).shuffle(seed=args.seed).repeat()
    optimizer = torch.optim.AdamW(decay_groups(model, args.weight_decay), lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            step / max(1, warmup) if step < warmup else (steps - step) / max(1, steps - warmup)
        ),
    )
    model.train()
    start = warm = time.perf_counter()
    for step in range(steps):
        rows = [order[step * args.batch_size + i] for i in range(args.batch_size)]
        encoded = tokenizer(
            *[[column[i] for i in rows] for column in texts],
            truncation=True,
            max_length=args.max_length,
            padding=True,
            return_tensors="pt",
        )
        dtype = torch.float32 if labels.dtype == np.float64 else torch.int64
        loss = model(**encoded, labels=torch.tensor(labels[rows], dtype=dtype)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step + 1 == args.warm_steps:
            warm = time.perf_counter()
        if step % 20 == 0:
            print(
                f"{args.task} seed {args.seed} step {step}/{steps} loss {loss.item():.4f}",
                flush=True,
            )
    end = time.perf_counter()
    return {
        "steps": steps,
        "train_seconds": end - start,
        "examples_per_second": (steps - args.warm_steps) * args.batch_size / (end - warm),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--init", help="write the initial model here, head included")
    parser.add_argument("--init-only", action="store_true", help="write --init and stop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warmup-ratio", type=float, default=0.1)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--dropout", type=float, help="one rate for all dropouts of the model")
    parser.add_argument(
        "--stream", type=int, default=0, help="other draws of dropout, same weights"
    )
    parser.add_argument("--max-steps", type=int, default=0, help="stop early (speed measurements)")
    parser.add_argument("--warm-steps", type=int, default=0, help="steps left out of the speed")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    words = TASKS[args.task][3]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model,
        num_labels=len(words) if words else 1,
        **(dict.fromkeys(rates, args.dropout) if args.dropout is not None else {}),
    )
    if args.init:
        model.save_pretrained(args.init)
        tokenizer.save_pretrained(args.init)
    if args.init_only:
        return
    if args.stream:
        torch.manual_seed(1000 * args.stream + args.seed)
    texts, labels = read(args.data, args.task, "train")
    result = {"side": "transformers", "task": args.task, "seed": args.seed}
    result |= train(model, tokenizer, texts, labels, args)
    if not args.max_steps:
        texts, labels = read(args.data, args.task, "dev")
        logits = evaluate(model, tokenizer, texts, 64, args.max_length)
        result |= metrics(args.task, logits, labels)
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with args.output.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
