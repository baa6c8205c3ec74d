"""The runs that a comparison is made of, read from their folders."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from r3avatar.evaluation.evaluate import SPLITS
from r3avatar.run import CHOICES, RunError

# Keys that say where, when and how fast a run was made, not what it is.
VOLATILE = {
    "name", "outputs", "folder", "overwrite", "resume", "launcher", "search", "logger", "evaluate", "media", "workers",
    "cache", "trainer_log_every", "checkpoint", "profile", "validation", "capture.root", "body.path",
}  # fmt: skip
# Keys of the capture that change neither which images are seen nor what they are measured against.
UNMEASURED = ("capture.root", "capture.box_margin")


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary by dotted keys; lists and empty dictionaries are values."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    inner = [flattened(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: item for part in inner for key, item in part.items()}


@dataclass(frozen=True)
class ComparedRun:
    """What a run folder says of its run.

    config: the resolved configuration by dotted keys. overrides: of its command line. choices: the member of each
    configuration group; empty in runs of versions that did not keep them. metrics: of metrics.json.
    """

    folder: Path
    config: dict[str, Any]
    overrides: tuple[str, ...]
    choices: dict[str, str]
    metrics: dict[str, Any]

    @cached_property
    def what(self) -> dict[str, Any]:
        """The configuration without seeds and without the keys that make no difference."""

        def counts(key: str) -> bool:
            parts = key.split(".")
            return parts[-1] != "seed" and VOLATILE.isdisjoint(".".join(parts[:n]) for n in range(1, len(parts) + 1))

        return {key: value for key, value in self.config.items() if counts(key)}

    @cached_property
    def measured_on(self) -> dict[str, Any]:
        """The keys that runs must share for their figures to compare: the capture, its splits, the background."""
        keys = [key for key in self.config if key.startswith("capture.") or key == "loss.white_background"]
        return {key: self.config[key] for key in keys if key not in UNMEASURED}

    def lacks(self) -> list[str]:
        """Why the run, or a split of it, cannot be compared; empty if nothing is missing."""
        if not self.metrics:
            return ["has no metrics.json: it has not come to its end; go on with it by resume=auto"]
        if self.metrics.get("pruned"):
            return ["was ended by its search (pruned)"]
        if not self.metrics.get("train"):
            return ["has no section `train` in metrics.json: it has not come to its end"]
        notes = self.metrics.get("notes", {})
        default = f"not computed; run r3avatar evaluate run={self.folder}"
        return [
            f"has no {split.replace('_', ' ')}: {notes.get(split, default)}"
            for split in SPLITS if not self.metrics.get(split)
        ]  # fmt: skip

    @property
    def usable(self) -> bool:
        """Whether it has a row: it was trained to its end and a split, at least, was evaluated."""
        return bool(self.metrics.get("train")) and any(self.metrics.get(split) for split in SPLITS)


def read_run(folder: Path) -> ComparedRun:
    """Read a run folder; raises RunError naming the file that cannot be read."""
    try:
        config = flattened(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / 'config.yaml'} cannot be read: {error}") from error

    def table(name: str) -> dict:
        path = folder / name
        try:
            value = json.loads(path.read_text()) if path.is_file() else {}
        except ValueError as error:
            raise RunError(f"{path} is not JSON ({error}); train or evaluate the run again") from error
        if not isinstance(value, dict):
            raise RunError(f"{path} holds {type(value).__name__}, not a table of sections")
        return value

    given = folder / "overrides.txt"
    overrides = tuple(given.read_text().split("\n")) if given.is_file() else ()
    return ComparedRun(folder, config, tuple(o for o in overrides if o), table(CHOICES), table("metrics.json"))


def _is_run(folder: Path) -> bool:
    """Whether a run was made there, or a sweep's job that did not get that far."""
    return (folder / "config.yaml").is_file() or (folder / "logs" / "job.log").is_file()


def _natural(path: str) -> list:
    """So that run 10 comes after run 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path)]


def find_runs(patterns: Iterable[str]) -> tuple[list[ComparedRun], list[str]]:
    """The runs in the folders that the patterns match, each once, in the patterns' order; and why others are none.

    A folder without a run stands for the runs right in it (a sweep's). Raises RunError for a pattern without a run.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        # A folder may have the characters of a pattern in its name.
        matches = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern, recursive=True), key=_natural)
        runs: list[Path] = []
        for match in map(Path, matches):
            if _is_run(match):
                runs.append(match)
            elif match.is_dir():
                runs += sorted((p for p in match.iterdir() if _is_run(p)), key=lambda p: _natural(p.name))
        if not runs:
            what = "is not there" if not matches else "holds no run (a folder with config.yaml)"
            raise RunError(f"run={pattern} {what}; patterns are read from {os.getcwd()}")
        found.update(dict.fromkeys(os.path.realpath(path) for path in runs))
    folders = [Path(os.path.relpath(path)) for path in found]  # `latest` by its own name
    never = [f for f in folders if not (f / "config.yaml").is_file()]
    return (
        [read_run(folder) for folder in folders if folder not in never],
        [f"{f} has no config.yaml: its job failed before it began; see {f / 'logs' / 'job.log'}" for f in never],
    )
