"""Sections and tables of a report, and how they are written in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text under a header."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    text: int = 1
    """So many first columns are words; the others are numbers and stand to the right."""
    strong: int | None = None
    """The number of the row that stands out."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what is under it, in this order."""

    title: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    """In small print."""
    command: str = ""
    """What one types to have it again."""
    curves: str = ""
    """The task whose learning curves belong here; the page alone has them."""


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The report as one Markdown text."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for sentence in section.sentences:
            lines += [sentence, ""]
        for table in section.tables:
            lines += [*_rows(table), ""]
        if section.notes:
            lines += [*(f"- {note}" for note in section.notes), ""]
        if section.command:
            lines += ["```", section.command, "```", ""]
    return "\n".join(lines)


def _rows(table: Table) -> Iterator[str]:
    yield _line(table.header)
    yield _line([":--" if i < table.text else "--:" for i in range(len(table.header))])
    for number, row in enumerate(table.rows):
        cells = [cell.replace("|", "\\|") for cell in row]
        strong = number == table.strong
        yield _line([f"**{cell}**" if strong and cell else cell for cell in cells])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
