"""The sources ``tfds:`` and ``hf:``: records from TFDS and from Hugging Face data sets."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertjax.data.labels import (
    ClassIds,
    LabelReader,
    LabelSetReader,
    label_word,
    label_words,
    sorted_labels,
)
from bertjax.data.layout import Layout, may_lack_labels
from bertjax.data.records import Record, Records
from bertjax.types import TextSchema, UserError, nearest


@dataclasses.dataclass(frozen=True)
class HubSplit:
    """One split as its library gives it."""

    data: str
    """As the user named it, for messages."""
    rows: Sequence[Mapping[str, Any]]
    features: Mapping[str, Any]

    def check(self, column: str) -> None:
        """Raises UserError where the split lacks the column."""
        if column not in self.features:
            hint = nearest(column, self.features)
            raise UserError(f"{self.data} has no column '{column}'{hint}")

    def place(self, row: int) -> str:
        """Names a row, for messages."""
        return f"{self.data}, row {row}"

    def class_names(self, column: str) -> tuple[str, ...]:
        """The class names that the data set declares for its label column; none: empty."""
        feature = self.features[column]
        feature = getattr(feature, "feature", feature)  # of a list, that of its items
        return tuple(getattr(feature, "names", None) or ())


@dataclasses.dataclass(frozen=True, eq=False)
class HubRecords(Records):
    """The rows of one split; a row is read when it is asked for."""

    split: HubSplit
    texts: tuple[str, ...]
    label: str
    read_label: Callable[[Any, str], Any] | None
    """None where the split has no label column."""
    language: str | None = None
    """Of the translations in a text cell, the one that is read."""

    def __len__(self) -> int:
        return len(self.split.rows)

    def read(self, row: int) -> Record:
        """The record at ``row``.

        Raises:
          UserError: where a text is not text, or the label is not one of the task's.
        """
        cells, place = self.split.rows[row], self.split.place(row)
        texts = {
            column: text_cell(_translation(cells[column], self.language, place), column, place)
            for column in self.texts
        }
        label = self.read_label(plain(cells[self.label]), place) if self.read_label else None
        return {"index": row, **texts, "label": label}


def open_hub(data: str, split: str, schema: TextSchema, layout: Layout) -> HubRecords:
    """Opens one split of ``tfds:NAME[/CONFIG]`` or ``hf:OWNER/NAME[/CONFIG]``.

    Raises:
      UserError: where the library is not installed, the data set cannot be read, a column is
        missing, or its class names are not those of the schema.
    """
    layout = layout.of(split)
    if layout.label_sets and layout.label_sets.columns:
        raise UserError(f"columns of 0 and 1 are read from files only, not from {data}")
    opened = open_split(layout.elsewhere.get(data, data), layout.hub_splits.get(split, split))
    for column in schema.text_columns:
        opened.check(column)
    reader = None
    if schema.label_column in opened.features or not may_lack_labels(split):
        reader = _label_reader(opened, schema, layout)
    return HubRecords(opened, schema.text_columns, schema.label_column, reader, layout.language)


def hub_labels(data: str, schema: TextSchema, layout: Layout) -> tuple[str, ...]:
    """The class names that the data set declares, else those found in its train split, sorted.

    Raises:
      UserError: as :func:`open_hub`.
    """
    train = open_split(data, layout.hub_splits.get("train", "train"))
    column, sets = schema.label_column, layout.label_sets
    train.check(column)
    if names := train.class_names(column):
        return names
    rows = ((plain(train.rows[row][column]), train.place(row)) for row in range(len(train.rows)))
    if sets is None:
        return sorted_labels(label_word(cell, place) for cell, place in rows)
    found = (label_words(cell, sets.separator, place) for cell, place in rows)
    return sorted_labels(word for words in found for word in words)


def open_split(data: str, split: str) -> HubSplit:
    """Opens ``tfds:`` or ``hf:`` data; ``split`` is what the source calls it.

    Raises:
      UserError: where the library is not installed, or the data set cannot be read.
    """
    kind, _, name = data.partition(":")
    try:
        rows, features = _LIBRARIES[kind](name, split)
    except ImportError as error:
        raise UserError(f"{data} needs pip install 'bertjax[{kind}]': {error}") from error
    except Exception as error:  # The libraries raise every kind, with advice of their own.
        advice = next(iter(str(error).strip().splitlines()), type(error).__name__)
        advice = re.sub(r"^Failed to construct dataset .*?}\": ", "", advice)
        raise UserError(f"cannot read split '{split}' of {data}: {advice}") from error
    return HubSplit(data, rows, features)


def _open_tfds(name: str, split: str) -> tuple[Any, Mapping[str, Any]]:
    """Reads through ``tfds.data_source``, without TensorFlow; TFDS_DATA_DIR says where from."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # Only now does TFDS know its text data sets by name.

    rows: Any = tfds.data_source(name, split=split)
    return rows, rows.dataset_info.features


def _open_hugging_face(name: str, split: str) -> tuple[Any, Mapping[str, Any]]:
    """Reads through ``datasets.load_dataset``; ``name`` may also be a local folder."""
    import datasets

    repository, config = name, None
    if not os.path.isdir(name):
        owner, *rest = name.split("/", maxsplit=2)
        repository, config = "/".join([owner, *rest[:1]]), next(iter(rest[1:]), None)
    rows: Any = datasets.load_dataset(repository, config, split=split)
    return rows, rows.features


_LIBRARIES: dict[str, Callable[[str, str], tuple[Any, Mapping[str, Any]]]] = {
    "tfds": _open_tfds,
    "hf": _open_hugging_face,
}


def _label_reader(
    opened: HubSplit, schema: TextSchema, layout: Layout
) -> Callable[[Any, str], Any]:
    opened.check(schema.label_column)
    names = opened.class_names(schema.label_column)
    if layout.label_sets:
        return LabelSetReader(schema.labels or (), layout.label_sets.separator, names)
    if not (names and schema.labels):
        return LabelReader(schema.labels, layout.hidden_label)
    if sorted(names) != sorted(schema.labels):
        raise UserError(
            f"{opened.data} has the labels {', '.join(names)} where the task has "
            f"{', '.join(schema.labels)}; choose another task or set its labels"
        )
    return ClassIds({number: schema.labels.index(name) for number, name in enumerate(names)})


def _translation(cell: Any, language: str | None, place: str) -> Any:
    """The text of a cell that holds one in many languages: by language, or two lists."""
    if language is None or not isinstance(cell, Mapping):
        return cell
    if "translation" in cell:
        names = [plain(name) for name in cell["language"]]
        cell = dict(zip(names, cell["translation"], strict=True))
    if language not in cell:
        raise UserError(f"{place} has no language '{language}'{nearest(language, cell)}")
    return cell[language]


def text_cell(value: Any, column: str, place: str) -> str:
    """A cell that must hold text; TFDS gives bytes.

    Raises:
      UserError: where it does not; ``place`` and ``column`` say where.
    """
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UserError(f"{place}: column '{column}' is not UTF-8") from None
    if not isinstance(text, str):
        raise UserError(f"{place}: column '{column}' holds {text!r}, not text")
    return text


def plain(value: Any) -> Any:
    """A label as Python's own text, number or None; TFDS gives bytes and numpy numbers."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if getattr(value, "ndim", None) == 0 else value
