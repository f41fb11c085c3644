"""What the peer reads, encodes and scores: SQuAD, CoNLL-2003, WikiANN, ChnSentiCorp, DREAM.

Shares no code with bertjax. A task makes examples from records, ``windows`` of a long one; an
example holds ``rows`` (token ids and types, one row an option where there are options) and what its
loss needs. Scores follow the official definitions, written anew, and seqeval.
"""

import collections
import csv
import dataclasses
import json
import re
import string
from pathlib import Path

import numpy as np
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What both sides do alike; the rest is the same for every task."""

    epochs: int
    batch_size: int
    learning_rate: float
    max_length: int
    dropout: float | None = None
    """One rate for all dropouts; None: the model's own."""


def with_specials(tokenizer, first, second=None):
    """[CLS] first [SEP], and second [SEP] if there is one: token ids and types."""
    ids = [tokenizer.cls_token_id, *first, tokenizer.sep_token_id]
    types = [0] * len(ids)
    if second is not None:
        ids += [*second, tokenizer.sep_token_id]
        types += [1] * (len(second) + 1)
    return ids, types


def tokens(tokenizer, text, **options):
    """The encoding of a text without special tokens, whole."""
    return tokenizer(
        text, add_special_tokens=False, truncation=False, padding=False, verbose=False, **options
    )


class Squad:
    """SQuAD 1.1: a question of at most 64 tokens before every window of its context.

    The next window begins ``STRIDE`` tokens later, as in BERT's run_squad.py; the last one ends
    with the context. A window that does not hold the whole answer is labelled [CLS], [CLS].
    """

    model_class = AutoModelForQuestionAnswering
    splits = ("validation",)
    QUESTION, STRIDE, BEST, LONGEST = 64, 128, 20, 30
    TRAIN_QUESTIONS = 10_000

    def __init__(self, data: Path):
        self.folder = data / "squad"
        self.labels = None

    def read(self, split):
        name = {"train": "train-v1.1.json", "validation": "dev-v1.1.json"}[split]
        articles = json.loads((self.folder / name).read_text(encoding="utf-8"))["data"]
        records = [
            {
                "id": question["id"],
                "question": question["question"],
                "context": paragraph["context"],
                "answers": [(a["answer_start"], a["text"]) for a in question["answers"]],
            }
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        return records[: self.TRAIN_QUESTIONS] if split == "train" else records

    def encode(self, record, tokenizer, max_length):
        question = tokens(tokenizer, record["question"])["input_ids"][: self.QUESTION]
        context = tokens(tokenizer, record["context"], return_offsets_mapping=True)
        ids, offsets = context["input_ids"], context["offset_mapping"]
        first, last = answer_tokens(offsets, *record["answers"][0])
        room, before = max_length - len(question) - 3, len(question) + 2
        examples, start = [], 0
        while True:
            end = min(start + room, len(ids))
            holds = start <= first <= last < end
            label = (first - start + before, last - start + before) if holds else (0, 0)
            row = with_specials(tokenizer, question, ids[start:end])
            examples.append(
                {"rows": [row], "label": label, "before": before, "start": start}
                | {"offsets": offsets[start:end]}
            )
            if end == len(ids):
                return examples
            start += self.STRIDE

    def answer(self, record, examples, outputs) -> str:
        """The best span over all windows, each token judged where it has most context."""
        best_score, best_text = -np.inf, ""
        home = home_windows(examples)
        for window, (example, logits) in enumerate(zip(examples, outputs, strict=True)):
            length, before = len(example["offsets"]), example["before"]
            starts, ends = logits[before : before + length].T
            for i in np.argsort(-starts, kind="stable")[: self.BEST]:
                if home[example["start"] + i] != window:
                    continue
                for j in np.argsort(-ends, kind="stable")[: self.BEST]:
                    score = starts[i] + ends[j]
                    if i <= j < i + self.LONGEST and score > best_score:
                        span = slice(example["offsets"][i][0], example["offsets"][j][1])
                        best_score, best_text = score, record["context"][span]
        return best_text

    def score(self, records, examples, outputs):
        """Exact match and F1 in percent, and the answer by question id."""
        answers = [self.answer(*all_of) for all_of in zip(records, examples, outputs, strict=True)]
        golds = [[text for _, text in record["answers"]] for record in records]
        pairs = list(zip(answers, golds, strict=True))
        metrics = {
            "exact_match": 100 * float(np.mean([max(exact(a, g) for g in gs) for a, gs in pairs])),
            "f1": 100 * float(np.mean([max(overlap(a, g) for g in gs) for a, gs in pairs])),
        }
        ids = [record["id"] for record in records]
        return metrics, dict(zip(ids, answers, strict=True))


def answer_tokens(offsets, start, text):
    """First and last token that share a character with the answer."""
    inside = [
        i for i, (begin, end) in enumerate(offsets) if begin < start + len(text) and end > start
    ]
    return (inside[0], inside[-1]) if inside else (-1, -1)


def home_windows(examples):
    """For each token of the context the window with most context around it, the first of equals."""
    best = {}
    for window, example in enumerate(examples):
        length = len(example["offsets"])
        for i in range(length):
            context = min(i, length - 1 - i) + 0.01 * length
            position = example["start"] + i
            if position not in best or context > best[position][0]:
                best[position] = (context, window)
    return {position: window for position, (_, window) in best.items()}


def normalised(text):
    """Lower case, without punctuation and articles: the words of an answer."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def exact(answer, gold):
    return normalised(answer) == normalised(gold)


def overlap(answer, gold):
    """F1 of the two bags of words."""
    ours, theirs = normalised(answer), normalised(gold)
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


class Tagging:
    """A tag for each word, trained and read at its first sub-token.

    A sentence longer than the row goes on in the next, without overlap, cut between words.
    """

    model_class = AutoModelForTokenClassification
    splits = ("validation", "test")

    def __init__(self, data: Path, folder, files, separator, prefix):
        self.files = {split: data / folder / file for split, file in files.items()}
        self.separator, self.prefix = separator, prefix
        self.labels = sorted({tag for record in self.read("train") for tag in record["tags"]})

    def read(self, split):
        records, words, tags = [], [], []
        for line in [*self.files[split].read_text(encoding="utf-8").split("\n"), ""]:
            if not line or line.startswith("-DOCSTART-"):
                if words:
                    records.append({"words": words, "tags": tags})
                words, tags = [], []
                continue
            columns = line.split(self.separator)
            words.append(columns[0].removeprefix(self.prefix))
            tags.append(columns[-1])
        return records

    def encode(self, record, tokenizer, max_length):
        encoding = tokens(tokenizer, record["words"], is_split_into_words=True)
        pieces = collections.defaultdict(list)
        for token, word in zip(encoding["input_ids"], encoding.word_ids(), strict=True):
            pieces[word].append(token)
        ids_of = {tag: i for i, tag in enumerate(self.labels)}
        windows = [([], [], [])]
        for word, ids in pieces.items():
            if len(windows[-1][0]) + len(ids) > max_length - 2 and windows[-1][0]:
                windows.append(([], [], []))
            kept = ids[: max_length - 2]
            label = ids_of.get(record["tags"][word], IGNORED)
            windows[-1][0].extend(kept)
            windows[-1][1].extend([label] + [IGNORED] * (len(kept) - 1))
            windows[-1][2].extend([word] + [None] * (len(kept) - 1))
        return [
            {
                "rows": [with_specials(tokenizer, ids)],
                "label": [IGNORED, *labels, IGNORED],
                "words": [None, *words, None],
            }
            for ids, labels, words in windows
        ]

    def score(self, records, examples, outputs):
        """Entity F1 in percent by conlleval's rules, and by strict IOB2; the tags too."""
        from seqeval.metrics import f1_score
        from seqeval.scheme import IOB2

        predicted = []
        for record, windows, logits in zip(records, examples, outputs, strict=True):
            tags = ["O"] * len(record["words"])
            for example, scores in zip(windows, logits, strict=True):
                for word, best in zip(example["words"], scores.argmax(-1), strict=True):
                    if word is not None:
                        tags[word] = self.labels[best]
            predicted.append(tags)
        gold = [record["tags"] for record in records]
        metrics = {
            "f1": 100 * np.asarray(f1_score(gold, predicted)).item(),
            "strict_f1": 100
            * np.asarray(f1_score(gold, predicted, mode="strict", scheme=IOB2)).item(),
        }
        return metrics, predicted


class ChnSentiCorp:
    """Chinese sentiment of one text, cut to the length of a row."""

    model_class = AutoModelForSequenceClassification
    splits = ("validation",)  # the test file has no labels
    labels = ("negative", "positive")

    def __init__(self, data: Path):
        self.folder = data / "chnsenticorp"

    def read(self, split):
        name = {"train": "train.tsv", "validation": "dev.tsv"}[split]
        with (self.folder / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return [{"text": text, "label": self.labels.index(label)} for text, label in rows]

    def encode(self, record, tokenizer, max_length):
        ids = tokens(tokenizer, record["text"])["input_ids"][: max_length - 2]
        return [{"rows": [with_specials(tokenizer, ids)], "label": record["label"]}]

    def score(self, records, examples, outputs):
        return accuracy(records, outputs)


class Dream:
    """DREAM: [CLS] dialogue [SEP] question option [SEP]; the dialogue's end is cut."""

    model_class = AutoModelForMultipleChoice
    splits = ("validation", "test")
    labels = None

    def __init__(self, data: Path):
        self.folder = data / "dream"

    def read(self, split):
        name = {"train": "train.json", "validation": "dev.json", "test": "test.json"}[split]
        return [
            {
                "dialogue": " ".join(turns),
                "options": [f"{question['question']} {option}" for option in question["choice"]],
                "label": question["choice"].index(question["answer"]),
            }
            for turns, questions, _ in json.loads((self.folder / name).read_text(encoding="utf-8"))
            for question in questions
        ]

    def encode(self, record, tokenizer, max_length):
        dialogue = tokens(tokenizer, record["dialogue"])["input_ids"]
        rows = []
        for option in record["options"]:
            second = tokens(tokenizer, option)["input_ids"]
            room = max_length - len(second) - 3
            rows.append(with_specials(tokenizer, dialogue[:room], second))
        return [{"rows": rows, "label": record["label"]}]

    def score(self, records, examples, outputs):
        return accuracy(records, outputs)


def accuracy(records, outputs):
    """The share of right answers in percent, that of the largest class, and the answers."""
    predicted = [int(logits.argmax()) for (logits,) in outputs]
    labels = [record["label"] for record in records]
    metrics = {
        "accuracy": 100 * float(np.mean(np.equal(predicted, labels))),
        "majority": 100 * max(collections.Counter(labels).values()) / len(labels),
    }
    return metrics, predicted


CONLL = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
WIKIANN = {"train": "train", "validation": "dev", "test": "test"}
RECIPES = {
    "conll2003": Recipe(epochs=3, batch_size=32, learning_rate=1e-4, max_length=128),
    "wikiann": Recipe(epochs=1, batch_size=32, learning_rate=1e-4, max_length=128),
    "chnsenticorp": Recipe(epochs=3, batch_size=32, learning_rate=5e-4, max_length=128),
    "squad": Recipe(epochs=1, batch_size=16, learning_rate=1e-4, max_length=384),
    # With dropout one of four runs never left the loss of a mere guess.
    "dream": Recipe(epochs=1, batch_size=8, learning_rate=1e-4, max_length=128, dropout=0.0),
}
TASKS = {
    "conll2003": lambda data: Tagging(data, "conll2003", CONLL, " ", ""),
    "wikiann": lambda data: Tagging(data, "wikiann-fr", WIKIANN, "\t", "fr:"),
    "chnsenticorp": ChnSentiCorp,
    "squad": Squad,
    "dream": Dream,
}
