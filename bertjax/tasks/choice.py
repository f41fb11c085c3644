"""Multiple choice: which of a question's options is right (SWAG, RACE, DREAM, and one's own).

Every option becomes one sequence, as in the papers: ``[CLS] context [SEP] question option [SEP]``;
SWAG's first sentence is the context, the begun second one the question, an ending the option.
Without a context it is ``[CLS] question [SEP] option [SEP]``, or ``[CLS] question [SEP]`` where the
option stands in a blank of the question. A model gives each sequence one number, and the softmax
goes over those of one question.

What is too long loses tokens of the context, from its end. Only where question and option alone are
too long do they lose tokens: first of the question, those farthest from the option, and of the
option only where it fills the sequence by itself, from its end.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.choices import open_questions, read_questions, record_of
from bertjax.data.json_text import check_characters
from bertjax.data.layout import Layout
from bertjax.data.questions import question_of
from bertjax.data.records import Record
from bertjax.tasks.base import Answer, Outputs, Task
from bertjax.tokenizer_layout import Truncation
from bertjax.types import HeadConfig, HeadKind, UserError

if TYPE_CHECKING:
    from bertjax.tokenizers import Tokenizer

BLANK = re.compile("_+")
METRICS = ("accuracy",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceTask(Task):
    """A task over questions with options, of any number in each."""

    kind: HeadKind = "multiple_choice"
    metrics: tuple[str, ...] = METRICS
    layout: Layout = dataclasses.field(default_factory=Layout)
    cloze: bool = False
    """Whether an option stands in the question's blanks, each written as one or more ``_``; it
    follows the question where there is none."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("cloze",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("jsonl", "tsv")

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise UserError(f"there is no metric '{name}' of multiple choice; it has accuracy")
        if not isinstance(self.cloze, bool):
            raise UserError(f"cloze must be True or False, not {self.cloze!r}")

    @property
    def head(self) -> HeadConfig:
        """One number an option."""
        return HeadConfig("multiple_choice", 1)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the task's data has."""
        return self.layout.splits

    def open(self, data: str, split: str) -> Sequence[Record]:
        """Opens one split; see :func:`bertjax.data.choices.open_questions`.

        Raises:
          UserError: as ``open_questions``.
        """
        return open_questions(data, split, self.layout)

    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int) -> list[Encoded]:
        """One example: ``options``, each with ``token_ids`` and ``type_ids``, and ``label``.

        Raises:
          UserError: if ``max_length`` leaves no room for the special tokens.
        """
        context, question = record["context"], record["question"]
        if not context.strip() and not (self.cloze and BLANK.search(question)):
            context, question = question, ""
        seconds = [_second_text(question, option, self.cloze) for option in record["options"]]
        options = _encode_options(context, seconds, tokenizer, max_length)
        example: dict[str, Any] = {"options": options}
        if record.get("label") is not None:
            example["label"] = record["label"]
        return [example]

    def score(
        self, records: Sequence[Record], examples: Sequence[Sequence[Encoded]], outputs: Outputs
    ) -> dict[str, float]:
        """``accuracy``: the share of questions whose right option has the largest number.

        It is nan where a number is not finite, as of a model that diverged.

        Args:
          records: labelled questions.
          examples: one for each record.
          outputs: for each record one array ``[options]``.
        """
        del examples
        numbers = [values for (values,) in outputs]
        if not all(np.isfinite(values).all() for values in numbers):
            return {"accuracy": float("nan")}
        right = [
            int(np.argmax(values)) == record["label"]
            for record, values in zip(records, numbers, strict=True)
        ]
        return {"accuracy": float(np.mean(right))}

    def answer(
        self, record: Record, examples: Sequence[Encoded], outputs: Sequence[np.ndarray]
    ) -> Answer:
        """``choice``, the option's index from 0; its ``text``; ``probabilities`` of all options."""
        del examples
        (values,) = outputs
        exponentials = np.exp(values.astype(np.float64) - np.max(values))
        choice = int(np.argmax(values))
        return {
            "choice": choice,
            "text": record["options"][choice],
            "probabilities": (exponentials / exponentials.sum()).tolist(),
        }

    def record(self, given: Any) -> Record:
        """The record of a mapping with ``context``, ``question`` and ``options``.

        Raises:
          UserError: for anything else, what is no question, or half of a surrogate pair.
        """
        if not isinstance(given, Mapping):
            raise UserError(
                "an input must be a mapping with context, question and options, such as "
                f'{{"context": "...", "question": "...", "options": ["...", "..."]}}, not {given!r}'
            )
        found = question_of(given, "this input", labelled=False)
        check_characters((found.context, found.question, *found.options), "this input")
        return record_of(found, 0)

    def read(
        self, stream: Iterable[bytes], name: str, form: str, columns: Sequence[str] = ()
    ) -> Iterator[Record]:
        """The questions of a file, in order; see :func:`bertjax.data.choices.read_questions`.

        Plain lines are read as JSON lines.

        Raises:
          UserError: as ``read_questions``, or where columns are named.
        """
        if columns:
            raise UserError(f"task '{self.name}' has its own columns; leave --columns out")
        for row, question in enumerate(read_questions(stream, name, form, labelled=False)):
            yield record_of(question, row)

    def lines(self, form: str, answers: Iterable[Answer]) -> Iterator[str]:
        """One line an answer: the option's index, TAB and its text, its white space as spaces."""
        self.check_output(form)
        for answer in answers:
            yield f"{answer['choice']}\t{' '.join(answer['text'].split())}"


@dataclasses.dataclass(frozen=True)
class _SecondText:
    """Question and option as one text, and where in it the option stands."""

    text: str
    start: int
    stop: int


def _second_text(question: str, option: str, cloze: bool) -> _SecondText:
    """The option in the question's blanks (the first is where it counts as standing), or after."""
    blank = BLANK.search(question) if cloze else None
    if blank is None:
        start = len(question.rstrip()) + 1 if question.strip() else 0
        text = f"{question.rstrip()} {option}" if start else option
        return _SecondText(text, start, len(text))
    text = BLANK.sub(lambda _: option, question)
    return _SecondText(text, blank.start(), blank.start() + len(option))


def _encode_options(
    context: str, seconds: Sequence[_SecondText], tokenizer: Tokenizer, max_length: int
) -> list[Encoded]:
    """The context with each of the second texts, or these alone where it is empty.

    Each has ``token_ids`` and ``type_ids``, int32 [length].
    """
    backend = tokenizer.backend
    paired = bool(context.strip())
    room = max_length - backend.num_special_tokens_to_add(paired)
    if room < 1:
        raise UserError(f"max_length {max_length} leaves no room for text beside special tokens")
    left = tokenizer.settings.get("truncation_side") == "left"
    kept = Truncation("tail" if left else "head")
    before = backend.encode(context, add_special_tokens=False).ids
    encoded = []
    for second in seconds:
        behind = _second_tokens(second, tokenizer, room)
        texts = (kept.cut(before, room - len(behind)), behind) if paired else (behind,)
        token_ids, type_ids = tokenizer.join(*texts)
        encoded.append({"token_ids": token_ids, "type_ids": type_ids})
    return encoded


def _second_tokens(second: _SecondText, tokenizer: Tokenizer, room: int) -> Sequence[int]:
    """The tokens of question and option, cut to ``room`` if there are more."""
    encoding = tokenizer.backend.encode(second.text, add_special_tokens=False)
    if len(encoding) <= room:
        return encoding.ids
    offsets = np.array(encoding.offsets)
    inside = np.flatnonzero((offsets[:, 1] > second.start) & (offsets[:, 0] < second.stop))
    first, behind = (inside[0], inside[-1] + 1) if len(inside) else (len(encoding), len(encoding))
    start = int(min(max(behind, room) - room, first))
    return encoding.ids[start : start + room]


CHOICE = {
    task.name: task
    for task in (
        ChoiceTask(
            name="swag",
            layout=Layout(
                folder="SWAG",
                files={"train": "train.csv", "validation": "val.csv", "test": "test.csv"},
            ),
            description="Which of four endings follows, in the description of a film's scene?",
            citation="Zellers et al., 2018, https://aclanthology.org/D18-1009",
        ),
        ChoiceTask(
            name="race",
            usual_length=512,
            layout=Layout(
                folder="RACE", files={"train": "train", "validation": "dev", "test": "test"}
            ),
            cloze=True,
            description="Questions about articles from Chinese pupils' examinations in English.",
            citation="Lai et al., 2017, https://aclanthology.org/D17-1082",
        ),
        ChoiceTask(
            name="dream",
            usual_length=512,
            layout=Layout(
                folder="dream",
                files={"train": "train.json", "validation": "dev.json", "test": "test.json"},
            ),
            cloze=True,
            description="Questions about dialogues, from examinations in English.",
            citation="Sun et al., 2019, https://aclanthology.org/Q19-1014",
        ),
        ChoiceTask(
            name="multiple_choice",
            description="Your own questions, each with any number of options.",
        ),
    )
}
