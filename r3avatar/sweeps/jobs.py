"""The jobs of a sweep: a command each, its run folder, and whether that run is there already."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

# Keys that say where and how a run is made, not what it is.
VOLATILE = ("folder", "launcher", "search", "resume", "overwrite")
SPLITS = ("novel_view", "novel_pose")  # `evaluation.evaluate.SPLITS`, which imports torch


@dataclass(frozen=True)
class Job:
    """One run of a sweep; plain values, as it travels to other machines.

    command: the overrides that make this run by hand, `r3avatar train *command`.
    changes: those of them in which the sweep's jobs differ.
    gpu: whether it needs one. devices: the GPUs to pick from, as CUDA_VISIBLE_DEVICES names them; None: whoever starts
    the process (SLURM, Ray) gives it one. environment: variables for its process. program: what takes the command.
    """

    number: int
    folder: str
    command: tuple[str, ...]
    changes: tuple[str, ...]
    evaluate: bool
    directory: str
    gpu: bool = False
    devices: tuple[str, ...] | None = ()
    jobs_per_gpu: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "r3avatar.cli", "train")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    state: done, pruned, failed, stopped (saved; resumable), elsewhere (another sweep is at it).
    fresh: whether this sweep trained it. psnr: of the last validation. error: one line, if it failed.
    """

    state: str
    fresh: bool = True
    psnr: float | None = None
    seconds: float = 0.0
    error: str = ""


def combinations(overrides: Sequence[Override]) -> Iterator[tuple[list[str], list[str]]]:
    """(overrides, those that were swept) of every combination of a sweep's comma-separated values."""
    choices = []
    for o in overrides:
        key = o.get_key_element()
        if o.is_sweep_override():
            choices.append([(f"{key}={value}", True) for value in o.sweep_string_iterator()])
        else:
            choices.append([(o.input_line, False)])
    for combination in itertools.product(*choices):
        yield [text for text, _ in combination], [text for text, swept in combination if swept]


def quoted(value: str | int) -> str:
    """A value in Hydra's override grammar that comes back as what it is; a name may look like a number."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value)
    if not isinstance(value, str) or (plain and value.lower() not in ("null", "true", "false", "inf", "nan")):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identity(config: DictConfig) -> str:
    """What a run is: its resolved configuration without the keys that do not matter."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return json.dumps({str(k): v for k, v in plain.items() if k not in VOLATILE}, sort_keys=True)


def finished(folder: Path, evaluate: bool) -> Outcome | None:
    """How the run in `folder` ended by its metrics.json; None if it has not."""
    path = folder / "metrics.json"
    if not path.is_file():
        return None
    metrics = json.loads(path.read_text())
    if metrics.get("train") and (not evaluate or all(metrics.get(split) for split in SPLITS)):
        curve = metrics["train"].get("curve")
        return Outcome("done", fresh=False, psnr=curve[-1]["psnr"] if curve else None)
    pruned = metrics.get("pruned")
    return Outcome("pruned", fresh=False, psnr=pruned["psnr"]) if pruned else None


class Folders:
    """Gives every job a folder <outputs>/<name>/<number>: the one that holds its run, else a number that is free."""

    def __init__(self):
        self._known: dict[Path, dict[str, int]] = {}  # of a sweep's folder: a run's identity to its number
        self._taken: dict[Path, set[int]] = {}

    def place(self, config: DictConfig) -> tuple[int, Path]:
        """Number and folder of a job. Jobs that are asked for in the same order get the same ones, finished or not."""
        parent = Path(config.outputs) / str(config.name)
        if parent not in self._known:
            self._read(parent)
        known, taken = self._known[parent], self._taken[parent]
        key = identity(config)
        if key not in known:
            known[key] = next(n for n in itertools.count() if n not in taken)
            taken.add(known[key])
        return known[key], parent / str(known[key])

    def _read(self, parent: Path) -> None:
        known: dict[str, int] = {}
        for path in parent.glob("*/config.yaml"):
            if path.parent.name.isdigit():
                stored = OmegaConf.load(path)
                assert isinstance(stored, DictConfig)
                known[identity(stored)] = int(path.parent.name)
        self._known[parent], self._taken[parent] = known, set(known.values())
