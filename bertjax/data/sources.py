"""Opens the data of a task, wherever it lies: ``files:``, ``tfds:`` or ``hf:``."""

from __future__ import annotations

from collections.abc import Sequence

from bertjax.data.files import file_labels, open_files
from bertjax.data.hub import hub_labels, open_hub
from bertjax.data.layout import Layout
from bertjax.data.records import Record
from bertjax.types import TextSchema, UserError, nearest

__all__ = ["Layout", "Record", "infer_labels", "open_source"]

KINDS = ("files", "tfds", "hf")


def open_source(
    data: str, split: str, schema: TextSchema, layout: Layout | None = None
) -> Sequence[Record]:
    """Opens one split for random access.

    Args:
      data: ``files:DIR``, ``files:train=PATH,validation=PATH,test=PATH``, ``tfds:glue/mrpc``, or
        ``hf:nyu-mll/glue/mrpc``. Paths may be remote (``gs://``). TFDS reads what lies under
        TFDS_DATA_DIR and prepares what does not, as always; ``hf:`` also takes a local folder.
      split: one of the layout's splits, in our own words (``validation``, never ``dev``).
      schema: the text columns, the label column and the class names.
      layout: where the data set departs from the schema; None: a user's own files.

    Raises:
      UserError: for a source, split, file, column, row or label that is not as it must be. Files
        are checked whole when they are opened, rows of TFDS and Hugging Face when they are read.
    """
    layout = layout or Layout()
    kind, location = split_source(data)
    if split not in layout.splits:
        raise UserError(f"there is no split '{split}'{nearest(split, layout.splits)}")
    if kind == "files":
        return open_files(location, split, schema, layout)
    return open_hub(data, split, schema, layout)


def infer_labels(data: str, schema: TextSchema, layout: Layout | None = None) -> tuple[str, ...]:
    """The class names of a data set: those it declares, else those of its train split, sorted.

    Raises:
      UserError: as :func:`open_source`.
    """
    layout = layout or Layout()
    kind, location = split_source(data)
    if kind == "files":
        return file_labels(location, schema, layout)
    return hub_labels(data, schema, layout)


def split_source(data: str) -> tuple[str, str]:
    """The kind of a source, one of :data:`KINDS`, and what follows its colon.

    Raises:
      UserError: where either is missing or unknown.
    """
    kind, colon, location = data.partition(":")
    if not colon:
        raise UserError(
            f"data='{data}' does not say where from; write files:{data} for a folder, "
            "or tfds:NAME or hf:NAME"
        )
    if kind not in KINDS:
        raise UserError(f"data='{data}': there is no source '{kind}'{nearest(kind, KINDS)}")
    if not location:
        raise UserError(f"data='{data}' names nothing after '{kind}:'")
    return kind, location
