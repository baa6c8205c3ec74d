"""What a sweep says at its end: a table of its jobs, and every failure with its error."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from r3avatar.sweeps.jobs import Job, Outcome
from r3avatar.sweeps.process import log_of

Result = tuple[Job, Outcome]


def _state(outcome: Outcome) -> str:
    words = {"elsewhere": "another sweep's"}
    word = words.get(outcome.state, outcome.state)
    return word if outcome.fresh or outcome.state == "elsewhere" else f"{word} before"


def table(results: Sequence[Result]) -> str:
    """A Markdown table, one row a job, by number."""
    lines = ["| job | changes | outcome | PSNR of the last validation | seconds |", "|---|---|---|---|---|"]
    for job, o in sorted(results, key=lambda result: (Path(result[0].folder).parent, result[0].number)):
        psnr = "" if o.psnr is None else f"{o.psnr:.2f}"
        seconds = f"{o.seconds:.0f}" if o.seconds else ""
        lines.append(f"| {job.folder} | {' '.join(job.changes)} | {_state(o)} | {psnr} | {seconds} |")
    return "\n".join(lines)


def failures(results: Sequence[Result]) -> str:
    """Each failed job with its error, its log and the command that repeats it; empty if none failed."""
    lines = []
    for job, o in sorted(results, key=lambda result: result[0].number):
        if o.state in ("failed", "stopped"):
            lines += [
                f"{job.folder} {o.state}: {o.error}",
                f"    output: {log_of(job).relative_to(job.directory)}",
                f"    alone:  r3avatar train {shlex.join(job.command)}",
            ]
    return "\n".join(lines)


def counts(results: Sequence[Result]) -> str:
    """'6 done, 1 failed (1 of them before)'."""
    states = [outcome.state for _, outcome in results]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(("done", *states)) if state in states]
    before = sum(not outcome.fresh for _, outcome in results)
    return f"{len(results)} jobs: {', '.join(parts)}" + (f"; {before} were there before" if before else "")


def report(results: Sequence[Result], again: str) -> str:
    """The end of a sweep; `again`: the command that does what is missing."""
    parts = [table(results), counts(results)]
    if told := failures(results):
        parts += [told, f"The same command does what is missing: {again}"]
    return "\n\n".join(parts)
