"""Our sampler beside the published one of BERT, and how full our rows are.

The published side is a simulation, token by token, of what Devlin et al. 2019, appendix A.2, and
google-research/bert ``create_pretraining_data.py`` describe. Prints Markdown tables.

    python benchmarks/sampling.py --data=PREPARED
"""

import argparse
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import numpy as np
from scipy import stats

from bertjax.data import plans
from bertjax.data.documents import Corpus
from bertjax.data.masking import Masking
from bertjax.data.plans import OTHER, Outline, Plan, Sampling, SentenceTask, make_plan, pack
from bertjax.data.pretraining import TOKENS_AN_EXAMPLE, CorpusRows, RowFormat

RATE = 0.15
MOST_MASKS = {128: 20, 512: 77}
"""max_predictions_per_seq, about 15 % of the length as the published README asks."""
Texts = list[list[list[int]]]


class Pairs(NamedTuple):
    """What a pass has made; every field is ``[pairs]``."""

    a: np.ndarray
    b: np.ndarray
    random: np.ndarray
    single: np.ndarray
    """Whether the chunk that the pair was made of had one sentence."""
    masks: np.ndarray
    """Masked tokens; -1: not drawn."""


class Published:
    """One pass of the published sampler over documents of sentences of tokens."""

    def __init__(self, texts: Texts, length: int, short: float, seed: int):
        self.texts, self.room, self.most = texts, length - 3, MOST_MASKS[length]
        self.short, self.dice = short, random.Random(seed)

    def pairs(self) -> Pairs:
        made = [pair for number in range(len(self.texts)) for pair in self.of(number)]
        return Pairs(*(np.array(column) for column in zip(*made, strict=True)))

    def of(self, number: int) -> Iterator[tuple[int, int, bool, int, int]]:
        """The pairs of a document: one target length for all, chunk after chunk."""
        sentences, dice = self.texts[number], self.dice
        short = dice.random() < self.short
        target = dice.randint(2, self.room) if short else self.room
        place = 0
        while place < len(sentences):
            chunk: list[list[int]] = []
            while place + len(chunk) < len(sentences) and sum(map(len, chunk)) < target:
                chunk.append(sentences[place + len(chunk)])
            split = dice.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a = list(itertools.chain(*chunk[:split]))
            at_random = len(chunk) == 1 or dice.random() < 0.5
            if at_random:
                b = self.elsewhere(number, target - len(a))
                place += split
            else:
                b = list(itertools.chain(*chunk[split:]))
                place += len(chunk)
            self.truncate(a, b)
            tokens = len(a) + len(b) + 3
            yield len(a), len(b), at_random, len(chunk) == 1, self.masks(tokens)

    def elsewhere(self, number: int, wanted: int) -> list[int]:
        """Sentences from a random one on, of another document, until there are enough tokens."""
        for _ in range(10):
            other = self.dice.randint(0, len(self.texts) - 1)
            if other != number:
                break
        sentences, found = self.texts[other], []
        for place in range(self.dice.randint(0, len(sentences) - 1), len(sentences)):
            found += sentences[place]
            if len(found) >= wanted:
                break
        return found

    def truncate(self, a: list[int], b: list[int]) -> None:
        """A token at a time from the longer (B where equal), at its front or its back."""
        while len(a) + len(b) > self.room:
            longer = a if len(a) > len(b) else b
            del longer[0 if self.dice.random() < 0.5 else -1]

    def masks(self, tokens: int) -> int:
        return min(self.most, max(1, round(tokens * RATE)))


class Watched(plans._Chunks):
    """Our walk, which tells how many sentences the chunk of each pair had."""

    counts: ClassVar[list[int]] = []

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.counts.clear()

    def _other(self, count: int) -> bool:
        self.counts.append(count)
        return super()._other(count)


def ours(
    corpus: Corpus, outline: Outline, sampling: Sampling, seed: int, masked_rows: int
) -> Pairs:
    """The pairs of pass 0 of a run, and the masks of those in the first rows; -1 elsewhere."""
    tokenizer = corpus.tokenizer()
    form = RowFormat.of(tokenizer, sampling.max_length, RATE, packed=True)
    masking = Masking.of(tokenizer, RATE, max_predictions=form.predictions)
    with mock.patch.object(plans, "_Chunks", Watched):
        rows = CorpusRows(corpus, outline, sampling, masking, form, seed)
    plan, masks = rows.plan(0).plan, np.full(len(rows.plan(0).plan), -1)
    for index in range(min(masked_rows, rows.count)):
        row, examples = rows[index], rows.plan(0).examples(index)
        marked = row["prediction_position"][row["prediction_weight"] > 0]
        found = np.bincount(row["segment_ids"][marked], minlength=len(examples) + 1)
        masks[examples] = found[1:]
    single = np.array(Watched.counts) == 1
    return Pairs(plan.length_a, plan.length_b, plan.label == OTHER, single, masks)


def published_texts(corpus: Corpus, numbers: np.ndarray) -> Texts:
    """Documents as sentences of tokens; equal tokens are one object, for memory's sake."""
    shared = list(range(corpus.manifest.vocab_size))
    texts = []
    for document in map(corpus.__getitem__, numbers):
        tokens = iter([shared[token] for token in document.tokens.tolist()])
        texts.append([list(itertools.islice(tokens, n)) for n in document.lengths.tolist()])
    return texts


def summary(values: np.ndarray) -> str:
    quartiles = "/".join(f"{value:.0f}" for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return f"{values.mean():.2f} ± {values.std():.2f}, {quartiles}"


def spread(values: list[np.ndarray]) -> str:
    """The mean of a pass, and its spread from pass to pass."""
    means = np.array([value.mean() for value in values])
    return f"{means.mean():.2f} ± {means.std(ddof=1):.2f}"


def share(values: list[np.ndarray]) -> str:
    """As :func:`spread`, in percent."""
    return spread([100 * value for value in values]) + " %"


def smirnov(first: list[np.ndarray], second: list[np.ndarray] | None = None) -> tuple[str, str]:
    """Kolmogorov-Smirnov distances of single passes (mean, largest), and the median p.

    p takes the pairs of a pass for independent.
    """
    both = itertools.product(first, second) if second else itertools.combinations(first, 2)
    found: list[Any] = [stats.ks_2samp(x, y, method="asymp") for x, y in both]
    distances = [result.statistic for result in found]
    median = float(np.median([result.pvalue for result in found]))
    return f"{np.mean(distances):.4f}, {max(distances):.4f}", f"{median:.2f}"


def compare(theirs: list[Pairs], mine: list[Pairs], balanced: list[Pairs], room: int) -> None:
    sides = (theirs, mine, balanced)
    header = ("", "published", "ours, `balance=False`", "ours, `balance=True`")
    print("|", " | ".join(header), "|\n|---|---|---|---|")

    def line(name: str, values: list[str]) -> None:
        print(f"| {name} |", " | ".join(values), "|")

    line("pairs a pass", [f"{np.mean([len(p.a) for p in side]):,.0f}" for side in sides])
    for name, take in (
        ("A", lambda p: p.a),
        ("B", lambda p: p.b),
        ("A and B", lambda p: p.a + p.b),
    ):
        values = [[take(p) for p in side] for side in sides]
        line(f"tokens of {name}", [summary(np.concatenate(v)) for v in values])
        line("its mean, pass by pass", [spread(v) for v in values])
        own = [smirnov(v) for v in values]
        line("KS among its own passes", [distance for distance, _ in own])
        line("its p", [p for _, p in own])
        to_theirs = [smirnov(values[0], v) for v in values[1:]]
        line("KS to published", ["", *(distance for distance, _ in to_theirs)])
        line("its p", ["", *(p for _, p in to_theirs)])
    line("masks", [summary(np.concatenate([p.masks[p.masks >= 0] for p in s])) for s in sides])
    line("random B", [share([p.random for p in side]) for side in sides])
    line("shorter than the room", [share([p.a + p.b < room for p in side]) for side in sides])
    line("half the room or less", [share([p.a + p.b <= room / 2 for p in side]) for side in sides])
    line("chunk of one sentence", [share([p.single for p in side]) for side in sides])


def fullness(plan: Plan, length: int, most: int) -> tuple[float, float]:
    """Share of the places in rows that hold a token, special ones counted; and examples a row."""
    lengths = plan.length_a + plan.length_b + 2 + (plan.length_b > 0)
    rows = len(pack(lengths, length, most)[1]) - 1
    return float(lengths.sum() / (rows * length)), len(plan) / rows


KINDS: tuple[tuple[str, SentenceTask, bool], ...] = (
    ("none, sentences cut", "none", True),
    ("none, whole sentences", "none", False),
    ("next_sentence", "next_sentence", True),
    ("sentence_order", "sentence_order", True),
)


def packing(outline: Outline, length: int) -> None:
    """How full rows are, and how fast they are planned."""
    most = max(2, length // TOKENS_AN_EXAMPLE)
    for name, task, cut in KINDS:
        special = 2 if task == "none" else 3
        sampling = Sampling(length, task, cut_sentences=cut, special_tokens=special)
        begun = time.perf_counter()
        plan = make_plan(outline, sampling, np.random.default_rng(0))
        planned = time.perf_counter()
        (full, together), (alone, _) = fullness(plan, length, most), fullness(plan, length, 1)
        packed = time.perf_counter()
        print(
            f"| {length} | {name} | {100 * alone:.1f} % | {100 * full:.2f} % | {together:.2f} "
            f"| {len(plan) / (planned - begun):,.0f} | {2 * len(plan) / (packed - planned):,.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="a prepared corpus")
    parser.add_argument("--passes", type=int, default=6, help="of each side, each with its seed")
    parser.add_argument("--masked_rows", type=int, default=2000, help="of each pass")
    parser.add_argument("--short", default="0,0.1", help="shares of short documents")
    parser.add_argument("--every", type=int, default=1, help="take one document of so many")
    args = parser.parse_args()
    corpus = Corpus(args.data)
    numbers = np.arange(0, len(corpus), args.every)
    outline, texts = Outline.of(corpus.lengths(), numbers), published_texts(corpus, numbers)
    tokens, seeds = int(outline.ends[-1]), range(args.passes)
    print(f"{len(outline):,} documents, {tokens:,} tokens, {args.passes} passes")
    for length, short in itertools.product(MOST_MASKS, map(float, args.short.split(","))):
        print(f"\n### Length {length}, short documents: {short:.0%}\n", flush=True)
        theirs = [Published(texts, length, short, seed).pairs() for seed in seeds]
        mine, balanced = (
            [ours(corpus, outline, sampling, seed, args.masked_rows) for seed in seeds]
            for sampling in (
                Sampling(length, short_share=short, balance=balance) for balance in (False, True)
            )
        )
        compare(theirs, mine, balanced, length - 3)
    print("\n### Rows\n")
    header = ("length", "sentence task", "alone", "packed", "examples a row")
    print("|", " | ".join((*header, "planned a second", "packed a second")), "|")
    print("|---" * 7 + "|")
    for length in MOST_MASKS:
        packing(outline, length)


if __name__ == "__main__":
    main()
