"""Tagging of words: named entities, scored by spans, and parts of speech, scored by words.

A word has the tag that the model gives to its first token, as in Devlin et al., 2019, section 5.3.
Tags of entities are read in any scheme and learned in IOB2, or in BIOES where the training data
write that; scores compare spans, so they do not depend on it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, get_args

import numpy as np

from bertjax.data.batching import Encoded
from bertjax.data.columns import Columns, Sentence, parse_columns
from bertjax.data.layout import SPLITS
from bertjax.data.records import Record
from bertjax.data.tagged import TaggedLayout, check_tag, learned_scheme, open_tagged, rewrite
from bertjax.data.tags import Scheme, canonical, ordered
from bertjax.data.word_windows import windows_of
from bertjax.tasks.base import Answer, Outputs, Task
from bertjax.tasks.tag_records import (
    answer_of,
    column_lines,
    likeliest,
    records_of,
    sentences_of,
    words_of,
)
from bertjax.tasks.tag_scores import SCORES, entity_scores, word_accuracy
from bertjax.types import HeadConfig, HeadKind, UserError, nearest

if TYPE_CHECKING:
    from bertjax.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

AUTO = "auto"
CONTEXTS = ("sentence", "document")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggingTask(Task):
    """A tag for every word of a sentence. Adding one is adding one of these."""

    kind: HeadKind = "token_classification"
    metrics: tuple[str, ...] = SCORES
    entities: bool = True
    """Whether tags mark spans (``B-PER``); else each is a class of its own (``NOUN``)."""
    layout: TaggedLayout = dataclasses.field(default_factory=TaggedLayout)
    labels: tuple[str, ...] | None = None
    """The tags in the order of their class ids; None: not known yet."""

    word_column: int = 0
    """Of a file's columns the one with the word, from 0; a negative one is counted from the end."""
    tag_column: int = -1
    separator: str = "whitespace"
    """Between columns: ``whitespace``, ``tab``, or the characters themselves."""
    comment: str = ""
    """How lines to be skipped begin."""
    prefix: str = ""
    """What is stripped from the beginning of each word; ``auto``: a language code (``fr:``)."""
    tag_field: str = ""
    """The column with the tags at TFDS and Hugging Face; empty: a usual name."""
    scheme: str = AUTO
    """In which tags of entities are learned: iob1, iob2, bioes; ``auto``: as the labels are, or
    BIOES where the train split is written so, else IOB2."""
    context: str = "sentence"
    """What the model sees at once: a ``sentence``, or a ``document`` between ``-DOCSTART-`` lines
    (as much of it as its window holds)."""
    stride: int = 0
    """Tokens between the beginnings of two windows of a long text; 0: half of a window."""

    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("word_column", "tag_column", "separator", "comment", "prefix", "tag_field"),
        *("scheme", "context", "stride"),
    )
    OUTPUTS: ClassVar[tuple[str, ...]] = ("jsonl", "tsv", "conll")
    one_example: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in self.OPTIONS and type(value) is not type(field.default):
                kind = "a whole number" if isinstance(field.default, int) else "a word"
                raise UserError(f"option {field.name} is {value!r}; set it to {kind}")
        _check_word("scheme", self.scheme, (AUTO, *get_args(Scheme)))
        _check_word("context", self.context, CONTEXTS)
        if not self.separator:
            raise UserError("option separator is empty; set it to whitespace, tab, or characters")
        if self.stride < 0:
            raise UserError(f"option stride {self.stride} is negative; set it to 0 or more")
        known = SCORES if self.entities else ("accuracy",)
        for name in self.metrics or ("",):
            if name not in known and not (self.entities and name.startswith("f1_")):
                raise UserError(f"there is no tagging metric '{name}'{nearest(name, known)}")
        for label in self.labels or ():
            if self.entities:
                check_tag(label, f"a label of task '{self.name}'")

    @property
    def head(self) -> HeadConfig:
        """One output a tag."""
        return HeadConfig(self.kind, len(self.class_names))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The tags in the order of their class ids.

        Raises:
          UserError: where they have not been inferred yet.
        """
        if self.labels is None:
            raise UserError(f"task '{self.name}' has no labels; set labels, or name data to infer")
        return self.labels

    @property
    def labels_known(self) -> bool:
        """Whether the tags are known."""
        return self.labels is not None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the task's data has."""
        return SPLITS

    def with_labels(self, labels: Sequence[str] | None) -> Self:
        """The task with these tags."""
        return self if labels is None else dataclasses.replace(self, labels=tuple(labels))

    def with_labels_of(self, data: str) -> Self:
        """The task with its tags; where it has none yet, those of the train split of ``data``.

        Raises:
          UserError: where the data cannot be read, or have fewer than two tags.
        """
        if self.labels is not None:
            return self
        sentences = open_tagged(data, "train", self._layout)
        self._learn(sentences)
        distinct = {tag for sentence in sentences for tag in sentence.tags or ()}
        labels = ordered(distinct) if self.entities else tuple(sorted(distinct))
        if len(labels) < 2:
            raise UserError(
                f"the train split of {data} has no tag but '{', '.join(labels)}'; set the option "
                "tag_column to the column with the tags"
            )
        return self.with_labels(labels)

    def open(self, data: str, split: str) -> Sequence[Record]:
        """Opens one split: a record a sentence, or a document.

        A record is ``{"index", "words", "tags", "lengths"}``: tags as they are learned, None where
        they are kept back; ``lengths`` are those of its sentences, in words.

        Raises:
          UserError: as :func:`bertjax.data.tagged.open_tagged`; for a tag that cannot be read; for
            one of the train split that is not among the labels.
        """
        task = self.with_labels_of(data)
        sentences = open_tagged(data, split, self._layout)
        task._learn(sentences)
        task._check_known(sentences, data, split)
        if self.context == "document" and all(s.document < 0 for s in sentences):
            raise UserError(f"{sentences[0].name} has no -DOCSTART- line; set context to sentence")
        records = records_of(sentences, self.context)
        return [{"index": index, **record} for index, record in enumerate(records)]

    def encode(self, record: Record, tokenizer: Tokenizer, max_length: int) -> list[Encoded]:
        """The windows of a record, [CLS] words [SEP]; every word is answered by one of them.

        Returns:
          Of each window ``token_ids``, ``type_ids`` and, where tags are known, ``token_labels``,
          int32 ``[length <= max_length]``; ``words`` and ``places``, the words that it answers and
          their first tokens. Any other token has the label -1, and so has a tag that is not among
          the labels.

        Raises:
          UserError: if ``max_length`` leaves no room for a word.
        """
        examples = []
        for window in windows_of(record["words"], tokenizer, max_length, self.stride):
            example: dict[str, Any] = {
                "token_ids": window.token_ids,
                "type_ids": np.zeros_like(window.token_ids),
                "words": window.words,
                "places": window.places,
            }
            if record.get("tags") is not None:
                labels = np.full_like(window.token_ids, -1)
                tags = (record["tags"][word] for word in window.words)
                labels[window.places] = [self._ids.get(tag, -1) for tag in tags]
                example["token_labels"] = labels
            examples.append(example)
        return examples

    def score(
        self, records: Sequence[Record], examples: Sequence[Sequence[Encoded]], outputs: Outputs
    ) -> dict[str, float]:
        """The metrics, and of entities the F1 of each type, over a whole split.

        A tag that the model does not know is a wrong answer. Where an output is not finite, all
        are nan.

        Raises:
          UserError: where tags are kept back.
        """
        if any(record.get("tags") is None for record in records):
            raise UserError("this split has no tags to score against; it can only be predicted")
        gold, guessed = [], []
        for record, windows, logits in zip(records, examples, outputs, strict=True):
            gold += sentences_of(record, record["tags"])
            classes, _ = likeliest(record, windows, logits)
            guessed += sentences_of(record, [self._read_as[number] for number in classes])
        if not all(np.isfinite(array).all() for arrays in outputs for array in arrays):
            return dict.fromkeys(self.metrics, float("nan"))
        found = {"accuracy": word_accuracy(gold, guessed)}
        if self.entities:
            found |= entity_scores(gold, guessed)
        wanted = {name: found.pop(name, 0.0) for name in self.metrics}
        return wanted | {name: found[name] for name in found if name.startswith("f1_")}

    def answer(
        self, record: Record, examples: Sequence[Encoded], outputs: Sequence[np.ndarray]
    ) -> Answer:
        """Words, tags, scores and entities; see :func:`bertjax.tasks.tag_records.answer_of`."""
        classes, scores = likeliest(record, examples, outputs)
        tags = [self.class_names[number] for number in classes]
        return answer_of(record, tags, scores, self.entities)

    def record(self, given: Any) -> Record:
        """The record of a text or of a list of words; see :mod:`bertjax.tasks.tag_records`."""
        return words_of(given)

    def read(
        self, stream: Iterable[bytes], name: str, form: str, columns: Sequence[str] = ()
    ) -> Iterator[Record]:
        """Inputs: a sentence or a JSON object a line, or columns (``conll``, ``conllu``, ``tsv``).

        Of a column file the words are read, where the options say; tags are not.

        Raises:
          UserError: for a line that is no input of this task, by its number.
        """
        if form not in ("conll", "conllu", "tsv"):
            yield from super().read(stream, name, form, columns)
            return
        if columns:
            raise UserError(f"task '{self.name}' has its own columns; leave --columns out")
        where = self._layout.columns
        where = where.universal if form == "conllu" else where.of(name)
        yield from records_of(parse_columns(stream, name, where, "ignored"), self.context)

    def lines(self, form: str, answers: Iterable[Answer]) -> Iterator[str]:
        """A column file: word TAB tag, an empty line after each sentence."""
        del form
        return column_lines(answers)

    @property
    def _layout(self) -> TaggedLayout:
        where = self.word_column, self.tag_column
        columns = Columns(*where, self.separator, self.comment, self.prefix)
        tags = (self.tag_field,) if self.tag_field else self.layout.tags
        return dataclasses.replace(self.layout, columns=columns, tags=tags)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self._read_as)}

    @functools.cached_property
    def _read_as(self) -> tuple[str, ...]:
        """The tag of data for each class: that of BIOES where the class is named as in BILOU."""
        names = self.class_names
        return tuple(map(canonical, names)) if self.entities else names

    def _learn(self, sentences: Sequence[Sentence]) -> None:
        """Rewrites the tags of entities in the scheme in which they are learned."""
        if self.entities:
            scheme = None if self.scheme == AUTO else cast("Scheme", self.scheme)
            if scheme is None and self.labels is not None:
                scheme = learned_scheme([[label] for label in self.labels])
            rewrite(sentences, scheme)

    def _check_known(self, sentences: Sequence[Sentence], data: str, split: str) -> None:
        """Refuses a tag of the train split that is not among the labels; tells of one elsewhere."""
        unknown: Counter[str] = Counter()
        for sentence in sentences:
            for word, tag in enumerate(sentence.tags or ()):
                if tag in self._ids:
                    continue
                if split == "train":
                    hint = nearest(tag, self._ids)
                    raise UserError(f"{sentence.place(word)}: tag '{tag}' is not a label{hint}")
                unknown[tag] += 1
        if unknown:
            counts = ", ".join(f"{tag} ({count})" for tag, count in sorted(unknown.items()))
            logger.warning(
                "split '%s' of %s has tags that the model has not: %s; these words count as wrong",
                *(split, data, counts),
            )


def _check_word(field: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UserError(f"option {field} is '{word}'{nearest(word, known)}")


TAGGING = {
    task.name: task
    for task in (
        TaggingTask(
            name="conll2003",
            layout=TaggedLayout(
                folder="conll2003", splits={"tfds:conll2003": {"validation": "dev"}}
            ),
            description="Persons, places, organisations and others named in English news.",
            citation="Tjong Kim Sang and De Meulder, 2003, https://aclanthology.org/W03-0419",
        ),
        TaggingTask(
            name="wikiann",
            separator="tab",
            prefix="auto",
            description="Persons, places and organisations named in Wikipedia, 282 languages.",
            citation="Pan et al., 2017, https://aclanthology.org/P17-1178",
        ),
        TaggingTask(name="ner", description="Entities of your own column files."),
        TaggingTask(
            name="pos",
            entities=False,
            metrics=("accuracy",),
            layout=TaggedLayout(tags=("pos_tags", "pos", "upos", "tags")),
            description="Parts of speech, or any other class of each word, of column files.",
        ),
    )
}
"""Entries by name."""
