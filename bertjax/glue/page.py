"""The report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from bertjax.glue.charts import Line, binned, chart, colour_class
from bertjax.glue.results import PointResults, TaskResults, metric_names
from bertjax.glue.tables import Section, Table

STYLE = """
:root { --font: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  color-scheme: light dark; --paper: #fcfcfb; --card: #fff; --ink: #1c1c1a; --soft: #5d5d58;
  --rule: #e3e2dd; --strong: #eef3fb;
  --c0: #2a62c4; --c1: #c9540a; --c2: #0e8074; --c3: #a0308c; --c4: #8a6d00; --c5: #5d5fd6;
  --other: #8c8c86; }
@media (prefers-color-scheme: dark) { :root { --paper: #161615; --card: #1e1e1c; --ink: #ecebe6;
  --soft: #a5a49d; --rule: #383835; --strong: #223047;
  --c0: #7ea8f2; --c1: #f09a57; --c2: #4fc0b1; --c3: #e083cc; --c4: #d3b94a; --c5: #a9aaf7;
  --other: #85847e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 var(--font); }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 24px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 10px; }
p { max-width: 72ch; margin: 0 0 10px; color: var(--soft); }
.scroll { overflow-x: auto; margin: 12px 0; border: 1px solid var(--rule); border-radius: 6px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; vertical-align: top; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; }
.text { text-align: left; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 18em; }
tr.strong td { background: var(--strong); font-weight: 600; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 12px; }
.curves svg { width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 6px;
  background: var(--card); }
svg text { font: 11px var(--font); fill: var(--soft); }
svg .title { font-size: 13px; font-weight: 600; fill: var(--ink); }
svg .grid { stroke: var(--rule); }
svg .line { fill: none; stroke: currentColor; stroke-width: 1.2; opacity: .75;
  stroke-linejoin: round; }
svg .line.strong { stroke-width: 2; opacity: 1; }
svg .dot { fill: currentColor; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.other { color: var(--other); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; padding: 0;
  margin: 10px 0; font-size: 13px; }
.legend span { color: var(--ink); }
.legend li::before { content: ""; display: inline-block; width: 18px; height: 3px;
  background: currentColor; margin-right: 7px; vertical-align: middle; border-radius: 2px; }
.notes { font-size: 13px; color: var(--soft); padding-left: 18px; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 12px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
"""
LONG = 60
"""Cells with more letters may be broken over lines."""


def page(title: str, sections: Sequence[Section], tasks: Sequence[TaskResults]) -> str:
    """The whole file; sections that name a task get its learning curves."""
    by_name = {task.task: task for task in tasks}
    body = "\n".join(line for section in sections for line in _section(section, by_name))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section, tasks: dict[str, TaskResults]) -> Iterator[str]:
    yield f"<h2>{html.escape(section.title)}</h2>"
    for sentence in section.sentences:
        yield f"<p>{html.escape(sentence)}</p>"
    for table in section.tables:
        yield from _table(table)
    if section.curves:
        yield from _curves(tasks[section.curves])
    if section.notes:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
        yield f'<ul class="notes">{notes}</ul>'
    if section.command:
        yield f"<pre>{html.escape(section.command)}</pre>"


def _table(table: Table) -> Iterator[str]:
    yield '<div class="scroll"><table>'
    yield f"<tr>{''.join(_cell('th', i, text, table) for i, text in enumerate(table.header))}</tr>"
    for number, row in enumerate(table.rows):
        kind = ' class="strong"' if number == table.strong else ""
        yield f"<tr{kind}>{''.join(_cell('td', i, text, table) for i, text in enumerate(row))}</tr>"
    yield "</table></div>"


def _cell(tag: str, column: int, text: str, table: Table) -> str:
    kinds = ["text"] * (column < table.text) + ["long"] * (len(text) > LONG)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{kind}>{_broken(text) if column >= table.text else html.escape(text)}</{tag}>"


def _broken(text: str) -> str:
    """The two halves of a wide cell, one above the other."""
    wide = "±" in text or not any(map(str.isdigit, text))
    return html.escape(text).replace("/", "/<br>" if wide else "/")


def _curves(task: TaskResults) -> Iterator[str]:
    """Both charts of a task, and which colour is which point."""
    losses = [_line(task, i, point) for i, point in enumerate(task.points)]
    scores = [_line(task, i, point, dev=True) for i, point in enumerate(task.points)]
    yield '<div class="curves">'
    yield chart("training loss by step", [line for lines in losses for line in lines])
    yield chart(
        f"development {metric_names(task.task)[0]} by step",
        [line for lines in scores for line in lines],
    )
    yield "</div>"
    items = [
        f'<li class="{colour_class(index)}"><span>{html.escape(_named(task, point))}</span></li>'
        for index, point in enumerate(task.points)
    ]
    yield f'<ul class="legend">{"".join(items)}</ul>'


def _named(task: TaskResults, point: PointResults) -> str:
    name = point.point.replace(",", ", ").replace("=", " ") or "as configured"
    return f"{name} (best)" if point is task.best and len(task.points) > 1 else name


def _line(task: TaskResults, index: int, point: PointResults, dev: bool = False) -> list[Line]:
    """A line for every seed."""
    return [
        Line(
            name=f"{point.point} seed {result.seed}".strip(),
            colour=index,
            strong=point is task.best,
            points=result.dev if dev else binned(result.losses),
        )
        for result in point.results
    ]
