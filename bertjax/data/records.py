"""What every source gives: a sequence of records."""

from __future__ import annotations

import abc
import operator
from collections.abc import Sequence
from typing import Any, overload

Record = dict[str, Any]
"""``{"index": int, <text columns>: str, "label": int | float | None}``: ``index`` is the row's
place in its split, from 0; ``label`` a class id, a number (regression), or None (kept back)."""


class Records(Sequence[Record], abc.ABC):
    """Random access to the rows of one split."""

    @abc.abstractmethod
    def read(self, row: int) -> Record:
        """The record at ``row``, from 0 to ``len(self) - 1``."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.read(row) for row in range(*index.indices(len(self)))]
        return self.read(range(len(self))[operator.index(index)])
