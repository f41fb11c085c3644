"""Published scores to print beside one's own, each as its source prints it.

Scores are on the development sets unless a row's ``split`` says otherwise. Where a task has two
numbers they are in the order of bertjax's own metrics: F1/accuracy for MRPC and QQP,
Pearson/Spearman for STS-B, matched/mismatched for MNLI.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Row:
    """One model's published scores."""

    name: str
    source: str
    """Where the numbers stand, as a reader can find them."""
    split: str
    """``dev`` or ``test``."""
    scores: Mapping[str, str]
    """By task, in per cent."""
    note: str = ""
    """What one must know before one compares."""


def _row(name: str, source: str, split: str, note: str = "", **scores: str) -> Row:
    return Row(name, source, split, MappingProxyType(scores), note)


_FLAX = (
    "huggingface/transformers, examples/flax/text-classification: mean and standard deviation of "
    "5 seeds; batch 32, learning rate 2e-5, 3 epochs (5 for MRPC and WNLI)"
)
_MINIATURES = (
    "google-research/bert; Turc et al., 2019, https://arxiv.org/abs/1908.08962: the best of batch "
    "8, 16, 32, 64, 128 and learning rate 3e-4, 1e-4, 5e-5, 3e-5 for each task, 4 epochs"
)

GLUE_ROWS = (
    _row(
        "bert-base-uncased",
        "huggingface/transformers, examples/research_projects/distillation; "
        "Sanh et al., 2019, https://arxiv.org/abs/1910.01108",
        "dev",
        "The source does not say which of their metrics it prints for MRPC, STS-B and QQP.",
        cola="56.3",
        sst2="92.7",
        mrpc="88.6",
        stsb="89.0",
        qqp="89.6",
        mnli="84.7",
        qnli="91.8",
        rte="69.3",
        wnli="53.5",
    ),
    _row(
        "bert-base-cased (Flax)",
        _FLAX,
        "dev",
        cola="59.04±1.06",
        sst2="92.23±0.57",
        mrpc="88.97±0.72/84.36±1.09",
        stsb="88.94±0.07/88.63±0.07",
        qqp="87.51±0.06/90.76±0.05",
        mnli="83.80±0.16",
        qnli="90.82±0.17",
        rte="64.76±1.04",
        wnli="37.01±6.83",
    ),
    _row(
        "MiniLM-L6-H384",
        "microsoft/unilm, minilm; Wang et al., 2020, https://arxiv.org/abs/2002.10957",
        "dev",
        "The source does not say which of their metrics it prints for MRPC and QQP.",
        cola="47.5",
        sst2="91.5",
        mrpc="88.9",
        qqp="90.6",
        mnli="83.3",
        qnli="90.5",
        rte="68.8",
    ),
    _row(
        "BERT-Tiny",
        _MINIATURES,
        "test",
        cola="0.0",
        sst2="83.2",
        mrpc="81.1/71.1",
        stsb="74.3/73.6",
        qqp="62.2/83.4",
        mnli="70.2/70.3",
        qnli="81.5",
        rte="57.2",
        wnli="62.3",
        ax="21.0",
    ),
    _row(
        "BERT-Small",
        _MINIATURES,
        "test",
        cola="27.8",
        sst2="89.7",
        mrpc="83.4/76.2",
        stsb="78.8/77.0",
        qqp="68.1/87.0",
        mnli="77.6/77.0",
        qnli="86.4",
        rte="61.8",
        wnli="62.3",
        ax="28.6",
    ),
)
"""Of GLUE, by the names of :data:`bertjax.tasks.TASK_NAMES`."""

_DEVLIN = "Devlin et al., 2019, https://aclanthology.org/N19-1423"
_MULTILINGUAL = "google-research/bert, multilingual.md"

OTHER_ROWS = (
    _row("BERT-Base", _DEVLIN, "dev", squad="80.8/88.5", conll2003="96.4", swag="81.6"),
    _row("BERT-Base", _DEVLIN, "test", conll2003="92.4"),
    _row("BERT-Large", _DEVLIN, "dev", squad="84.1/90.9"),
    _row(
        "BERT-Base multilingual cased, trained on the machine-translated set",
        _MULTILINGUAL,
        "test",
        xnli="en 81.9, zh 76.6, es 77.8, de 75.9, ar 70.7, ur 61.6",
    ),
)
"""Beyond GLUE: SQuAD 1.1 (exact match/F1), CoNLL-2003 (F1), SWAG and XNLI (accuracy)."""


def rows_for(tasks: Iterable[str], rows: Iterable[Row] = GLUE_ROWS) -> list[Row]:
    """The rows that have a score for any of ``tasks``, with the scores of these tasks alone."""
    wanted = list(tasks)
    found = []
    for row in rows:
        scores = {task: row.scores[task] for task in wanted if task in row.scores}
        if scores:
            found.append(dataclasses.replace(row, scores=MappingProxyType(scores)))
    return found
