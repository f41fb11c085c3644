"""Questions whose answer is a piece of a given text: SQuAD 1.1 and 2.0, in any language.

Everything that is written as SQuAD's JSON can be read; see :mod:`bertjax.data.squad`. The recipe is
that of Devlin et al., 2019 (https://arxiv.org/abs/1810.04805), sections 4.2 and 4.3.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.json_text import check_characters
from bertjax.data.layout import SPLITS
from bertjax.data.records import Record
from bertjax.data.squad import open_questions, read_json
from bertjax.tasks.base import Answer, Outputs, Task
from bertjax.tasks.squad_decode import NOWHERE, Span, best_spans, described, null_score
from bertjax.tasks.squad_metrics import squad2_scores, squad_scores
from bertjax.tasks.squad_windows import encode_question
from bertjax.types import HeadConfig, HeadKind, UserError, nearest

if TYPE_CHECKING:
    from bertjax.tokenizers import Tokenizer

METRICS = {
    "1.1": ("exact", "f1"),
    "2.0": ("exact", "f1", "best_exact", "best_f1"),
}
SHAPE = "a mapping with 'question' and 'context' (and 'id'), or a pair of question and context"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionTask(Task):
    """Span question answering. Adding a data set in SQuAD's format is adding one of these."""

    kind: HeadKind = "span"
    version: str = "1.1"
    """Of SQuAD: 1.1, or 2.0, in which a question may have no answer."""
    stride: int = 128
    """Tokens from one window of a long context to the next (``doc_stride`` of run_squad.py; not
    the overlap of two windows, which transformers' tokenizers call so)."""
    max_query_length: int = 64
    """Longer questions are cut to so many tokens."""
    max_answer_length: int = 30
    """Tokens of an answer at most."""
    n_best: int = 20
    """Answers that ``predict`` lists."""
    null_threshold: float | None = None
    """Of 2.0: a question has no answer where the score of none exceeds the best answer's by more.
    None: what the run's last evaluation found best on its dev split, or 0 where there is none."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "stride",
        "max_query_length",
        "max_answer_length",
        "n_best",
        "null_threshold",
    )
    OUTPUTS: ClassVar[tuple[str, ...]] = ("jsonl", "json")
    PERFECT: ClassVar[float] = 100.0
    one_example: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in self.OPTIONS[:-1]:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"task '{self.name}': {field} must be a whole number above 0")
        threshold = self.null_threshold
        if threshold is not None and self.version == "1.1":
            raise UserError(
                f"task '{self.name}' has no null_threshold, as every question of SQuAD 1.1 has an "
                "answer; use task 'squad2'"
            )
        if threshold is not None and not (
            isinstance(threshold, int | float) and math.isfinite(threshold)
        ):
            raise UserError(f"task '{self.name}': null_threshold must be a finite number")
        for name in self.metrics:
            if name not in METRICS[self.version]:
                hint = nearest(name, METRICS[self.version])
                raise UserError(f"task '{self.name}' has no metric '{name}'{hint}")

    @property
    def head(self) -> HeadConfig:
        """A logit of being the start and one of being the end, for each token."""
        return HeadConfig("span", 2)

    @property
    def splits(self) -> tuple[str, ...]:
        """Train, validation and test."""
        return SPLITS

    @property
    def may_lack_answer(self) -> bool:
        """Whether a question may have no answer."""
        return self.version != "1.1"

    def open(self, data: str, split: str) -> Sequence[Record]:
        """Opens one split; see :func:`bertjax.data.squad.open_questions`.

        Raises:
          UserError: as ``open_questions``.
        """
        return open_questions(data, split, self.version)

    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int) -> list[Encoded]:
        """One example a window; see :func:`bertjax.tasks.squad_windows.encode_question`.

        Raises:
          UserError: where ``max_length`` leaves too little room for the context.
        """
        return encode_question(record, tokenizer, max_length, self.stride, self.max_query_length)

    def tuned(self, metrics: Mapping[str, float]) -> Self:
        """With the null threshold that gave the best F1 on a run's dev split, where none is set."""
        found = metrics.get("validation/best_f1_thresh")
        if self.null_threshold is not None or found is None:
            return self
        return dataclasses.replace(self, null_threshold=found)

    def score(
        self, records: Sequence[Record], examples: Sequence[Sequence[Encoded]], outputs: Outputs
    ) -> dict[str, float]:
        """The official scores in percent, see :mod:`bertjax.tasks.squad_metrics`.

        They are nan where a logit is not finite.
        """
        golds = [[answer["text"] for answer in record["answers"]] for record in records]
        rows = list(zip(records, examples, outputs, strict=True))
        best = [next(iter(self._spans(*row, 1)), NOWHERE) for row in rows]
        answers = [span.text for span in best]
        if not self.may_lack_answer:
            scores = squad_scores(answers, golds)
        else:
            odds = [_null_odds(span, found) for span, found in zip(best, outputs, strict=True)]
            scores = squad2_scores(answers, golds, odds, self._threshold)
        if all(np.isfinite(logits).all() for found in outputs for logits in found):
            return scores
        return dict.fromkeys(scores, math.nan)

    def answer(
        self, record: Record, examples: Sequence[Encoded], outputs: Sequence[np.ndarray]
    ) -> Answer:
        """The answer as it stands in the context, with its place, score and probability.

        Returns:
          ``answer``, ``start`` and ``end`` (characters of the context from and up to), ``score``
          (the sum of two logits), ``probability`` (among the best), ``n_best``, a list of the best
          with the same fields, and ``id`` where the question has one. No answer is an empty text
          with null for ``start`` and ``end``; in 2.0 it is one of the best, and ``null_odds`` is
          how much its score exceeds that of the best answer.
        """
        spans = self._spans(record, examples, outputs, self.n_best)
        best = spans[0] if spans else NOWHERE
        nothing = Span("", None, None, null_score(outputs))
        odds = {}
        if self.may_lack_answer:
            spans = sorted([*spans, nothing], key=lambda span: -span.score)
            odds = {"null_odds": _null_odds(best, outputs)}
            if odds["null_odds"] > self._threshold:
                best = nothing
        listed = described(spans or [nothing])
        chosen = next((entry for entry in listed if entry["answer"] == best.text), listed[0])
        named = {} if record.get("id") is None else {"id": record["id"]}
        return {**named, **chosen, **odds, "n_best": listed[: self.n_best]}

    def record(self, given: Any) -> Record:
        """The record of a mapping, a pair, or a text: JSON's, or a question, a TAB and its context.

        Raises:
          UserError: for anything else, an empty question, or half of a surrogate pair.
        """
        if isinstance(given, str):
            given = _object(given) or given.split("\t")
        if not isinstance(given, Mapping):
            texts = list(given) if isinstance(given, Sequence) else []
            if len(texts) != 2:
                raise UserError(f"an input must be {SHAPE}; got {_shown(given)}")
            given = dict(zip(("question", "context"), texts, strict=True))
        for field in ("question", "context"):
            if not isinstance(given.get(field), str):
                raise UserError(f"an input must be {SHAPE}; '{field}' is {_shown(given)}")
        if not given["question"].strip():
            raise UserError("the question is empty")
        check_characters((given["question"], given["context"]), "an input")
        name = given.get("id")
        return {
            "id": None if name is None else str(name),
            "question": given["question"],
            "context": given["context"],
            "answers": None,
        }

    def read(
        self, stream: Iterable[bytes], name: str, form: str, columns: Sequence[str] = ()
    ) -> Iterator[Record]:
        """Questions from a table with the columns question, context and perhaps id, or SQuAD JSON.

        A plain line is a question, a TAB and its context.

        Raises:
          UserError: as :func:`bertjax.data.squad.read_json` and ``Task.read``.
        """
        if form == "json" and not columns:
            yield from read_json(stream, name)
        else:
            yield from super().read(stream, name, form, columns)

    def lines(self, form: str, answers: Iterable[Answer]) -> Iterator[str]:
        """The official file of predictions: an object of each question's answer by its id.

        Raises:
          UserError: for a question without an id, or with one that another has.
        """
        del form
        seen: set[str] = set()
        for answer in answers:
            name = answer.get("id")
            if name is None or name in seen:
                says = "a question has none" if name is None else f"two have '{name}'"
                raise UserError(
                    f"the official predictions go by the question's id, but {says}; give each its "
                    "own, or write jsonl"
                )
            yield f"{',' if seen else '{'}{json.dumps(name)}: {json.dumps(answer['answer'])}"
            seen.add(name)
        yield "}" if seen else "{}"

    @property
    def _threshold(self) -> float:
        return self.null_threshold or 0.0

    def _spans(
        self,
        record: Record,
        examples: Sequence[Encoded],
        outputs: Sequence[np.ndarray],
        count: int,
    ) -> list[Span]:
        return best_spans(record["context"], examples, outputs, count, self.max_answer_length)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a line holds; None where it holds something else."""
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found


def _null_odds(best: Span, outputs: Sequence[np.ndarray]) -> float:
    """How much the score of no answer exceeds the best answer's; finite if the logits are."""
    if best is NOWHERE:
        return float(np.finfo(np.float32).max)
    return null_score(outputs) - best.score


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else text[:57] + "..."


SQUAD: dict[str, Task] = {
    task.name: task
    for task in (
        QuestionTask(
            name="squad",
            usual_length=384,
            metrics=("f1", "exact"),
            description="Which words of the text answer the question?",
            citation="Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250",
        ),
        QuestionTask(
            name="squad2",
            usual_length=384,
            version="2.0",
            metrics=("best_f1", "best_exact", "f1", "exact"),
            description="Which words of the text, if any, answer the question?",
            citation="Rajpurkar et al., 2018, https://arxiv.org/abs/1806.03822",
        ),
    )
}
