"""Which runs share a table, and which of those share a row."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from r3avatar.comparison.runs import ComparedRun
from r3avatar.run import RunError


@dataclass(frozen=True)
class Row:
    """Runs of one configuration that differ in their seeds alone. labels: a value for each of the table's heads."""

    labels: tuple[str, ...]
    runs: tuple[ComparedRun, ...]

    @property
    def name(self) -> str:
        """Its labels as one text."""
        return ", ".join(self.labels)


@dataclass(frozen=True)
class Group:
    """Rows measured on the same images. differs: `key: value` of what tells them from the other groups."""

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    differs: tuple[str, ...]

    @property
    def runs(self) -> list[ComparedRun]:
        """The runs of all rows."""
        return [run for row in self.rows for run in row.runs]


def text_of(value: Any) -> str:
    """A value as it is typed on the command line; `-`: the configuration has no such key."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return str(value)


def differing(tables: Iterable[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same, and there, in all tables."""
    tables = list(tables)
    missing = object()
    keys = dict.fromkeys(key for table in tables for key in table)
    return [k for k in keys if any(t.get(k, missing) != tables[0].get(k, missing) for t in tables)]


def grouped(runs: Sequence[ComparedRun], by: Sequence[str] | None) -> list[Group]:
    """Separate runs of other captures, splits or backgrounds, and gather the rest into rows, in the order of the runs.

    by: configuration groups (`codebook`) and dotted keys (`avatar.box_margin`) that a row's runs share; None: a row for
    each configuration, named by the words of its command line that not all runs have.
    Raises RunError for an unknown key, and where runs of one row differ in more than their seeds.
    """
    if by is not None:
        _known(runs, by)
    apart = differing(run.measured_on for run in runs)
    parts: dict[str, list[ComparedRun]] = {}
    for run in runs:
        parts.setdefault(repr([run.measured_on.get(key) for key in apart]), []).append(run)
    return [
        Group(
            tuple(by) if by else ("run",),
            tuple(_rows(part, by)),
            tuple(f"{key}: {text_of(part[0].measured_on.get(key))}" for key in apart),
        )
        for part in parts.values()
    ]


def _known(runs: Sequence[ComparedRun], by: Sequence[str]) -> None:
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    keys = dict.fromkeys(key for run in runs for key in run.config)
    sections = {key.split(".")[0] for key in keys}
    for key in by:
        old = [str(run.folder) for run in runs if not run.choices]
        if old and key not in keys and key in (*groups, *sections):
            inner = next((k for k in keys if k.startswith(f"{key}.")), "codebook.temporal")
            raise RunError(
                f"by={key}: runs of an older version do not say which member of the group was chosen: "
                f"{', '.join(old)}; give a key instead, e.g. {inner}"
            )
        if key not in groups and key not in keys:
            near = difflib.get_close_matches(key, [*groups, *keys], n=1, cutoff=0.5)
            raise RunError(f"by={key}: no run has this group or key" + (f"; did you mean '{near[0]}'?" if near else ""))


def _rows(runs: Sequence[ComparedRun], by: Sequence[str] | None) -> Iterable[Row]:
    if by is None:
        found: dict[str, list[ComparedRun]] = {}
        for run in runs:
            found.setdefault(repr(sorted(run.what.items())), []).append(run)
        for label, members in zip(_names(list(found.values())), found.values()):
            yield Row((label,), tuple(members))
        return
    by_labels: dict[tuple[str, ...], list[ComparedRun]] = {}
    for run in runs:
        by_labels.setdefault(tuple(_label(run, key) for key in by), []).append(run)
    for labels, members in by_labels.items():
        others = differing(run.what for run in members)
        if others:
            named = ", ".join(f"{k} ({' | '.join(_values(members, k))})" for k in others[:4])
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            raise RunError(
                f"the runs of the row {', '.join(labels)} differ in more than their seeds, so that their mean says "
                f"nothing: {named}{more}. Add a key to by=[{','.join(by)}], leave runs out of run=..., or leave by "
                f"out for a row of each configuration. The runs: {', '.join(str(run.folder) for run in members)}"
            )
        yield Row(labels, tuple(members))


def _values(runs: Iterable[ComparedRun], key: str) -> list[str]:
    return list(dict.fromkeys(text_of(run.config[key]) if key in run.config else "-" for run in runs))


def _label(run: ComparedRun, key: str) -> str:
    if key in run.choices:
        return run.choices[key]
    return text_of(run.config[key]) if key in run.config else "-"


def _names(rows: Sequence[Sequence[ComparedRun]]) -> list[str]:
    """A name for each row: the words of its runs' command lines that not all rows have, else the run's folder."""
    if len(rows) == 1:
        return [str(rows[0][0].config.get("name", rows[0][0].folder.name))]
    place = ("name", "folder", "outputs", "overwrite", "resume", "seed", "evaluate", "media", "logger", "hydra")
    words = [[o for o in row[0].overrides if o.lstrip("+~").split("=")[0].split(".")[0] not in place] for row in rows]
    shared = set(words[0]).intersection(*words[1:])
    names = [", ".join(word for word in own if word not in shared) for own in words]
    return [n if n and names.count(n) == 1 else str(row[0].folder) for n, row in zip(names, rows)]
