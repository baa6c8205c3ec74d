"""A table as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from r3avatar.comparison.table import Cell, Column, Table

ARROWS = {1: "↑", -1: "↓", 0: ""}
LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", **{c: f"\\{c}" for c in "_%&#$"}}  # fmt: skip


def written(cell: Cell | None, column: Column, n: int) -> str:
    """'24.31 ± 0.12'; with (n=...) where not all n runs of the row have the figure; '-' where none has."""
    if cell is None:
        return "-"
    text = f"{cell.mean:.{column.digits}f}"
    if cell.spread is not None and (column.digits or cell.spread):
        text += f" ± {cell.spread:.{column.digits}f}"
    return text if cell.n == n else f"{text} (n={cell.n})"


def _heads(table: Table) -> list[str]:
    return [*table.heads, "n", *(f"{c.head} {ARROWS[c.best]}".rstrip() for c in table.columns)]


def markdown(tables: Sequence[Table]) -> str:
    """The captions and tables, one after the other."""

    def mark(text: str, cell: Cell | None) -> str:
        return f"**{text}**" if cell is not None and cell.best else text

    parts = []
    for table in tables:
        lines = ["| " + " | ".join(_heads(table)) + " |",
                 "|" + "---|" * len(table.heads) + "---:|" * (1 + len(table.columns))]  # fmt: skip
        for labels, n, cells in zip(table.labels, table.seeds, table.cells):
            names = [label.replace("|", r"\|") for label in labels]
            figures = [mark(written(cell, c, n), cell) for cell, c in zip(cells, table.columns)]
            lines.append("| " + " | ".join([*names, str(n), *figures]) + " |")
        parts.append(table.caption + "\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """A `table` environment each; needs booktabs."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(c, c) for c in text)

    def mark(cell: Cell | None, column: Column, n: int) -> str:
        text = escaped(written(cell, column, n))
        if cell is not None and cell.best:
            mean = f"{cell.mean:.{column.digits}f}"
            return r"\textbf{" + mean + "}" + text[len(mean):]  # fmt: skip
        return text

    parts = ["% \\usepackage{booktabs}"]
    for table in tables:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(table.caption)}}}",
                 rf"\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * (1 + len(table.columns))}}}", r"\toprule",
                 " & ".join(map(escaped, _heads(table))) + r" \\", r"\midrule"]  # fmt: skip
        for labels, n, cells in zip(table.labels, table.seeds, table.cells):
            figures = [mark(cell, c, n) for cell, c in zip(cells, table.columns)]
            lines.append(" & ".join([*map(escaped, labels), str(n), *figures]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def comma_separated(tables: Sequence[Table], protocol: str) -> str:
    """A line for each row: its table (from 1), labels, protocol, n (runs), and of each figure mean, sd, n and best.

    Figures in full precision; empty where there is none.
    """
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    figures = list(dict.fromkeys(c for table in tables for c in table.columns))
    parts = [f"{c.head} {part}" for c in figures for part in ("mean", "sd", "n", "best")]
    lines.writerow(["table", *tables[0].heads, "protocol", "n", *parts])
    for number, table in enumerate(tables, 1):
        for labels, n, cells in zip(table.labels, table.seeds, table.cells):
            own, values = dict(zip(table.columns, cells)), []
            for column in figures:
                cell = own.get(column)
                values += ["", "", 0, ""] if cell is None else [cell.mean, cell.spread, cell.n, cell.best]
            lines.writerow([number, *labels, protocol, n, *values])
    return out.getvalue()
