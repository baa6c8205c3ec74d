"""The table: means and spreads of every figure, and which are best."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from r3avatar.comparison.rows import Group, Row
from r3avatar.comparison.runs import ComparedRun
from r3avatar.evaluation.evaluate import SPLITS

PROTOCOLS = {
    "paper": "the whole frame on black, PSNR averaged over channels, LPIPS fed [0, 1]",
    "standard": "the person's box, PSNR over all its pixels, LPIPS fed [-1, 1]",
}


@dataclass(frozen=True)
class Column:
    """A figure of a run. path: in metrics.json. best: 1 the highest, -1 the lowest, 0 none is."""

    head: str
    path: tuple[str, ...]
    digits: int
    best: int = 0

    def of(self, run: ComparedRun) -> float | None:
        """The run's figure; None: it has none."""
        value = run.metrics
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, (int, float)) else None


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation of a row's n runs that have the figure. spread: None for a single one."""

    mean: float
    spread: float | None
    n: int
    best: bool = False


@dataclass(frozen=True)
class Table:
    """cells: by row and column; None where no run of the row has the figure. seeds: by row."""

    caption: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    labels: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


def columns(protocol: str) -> list[Column]:
    """What is compared, by one protocol."""
    found = []
    for split in SPLITS:
        kind = split.replace("_", " ")
        found += [Column(f"{kind} PSNR", (split, protocol, "psnr"), 2, 1),
                  Column(f"{kind} SSIM", (split, protocol, "ssim"), 4, 1),
                  Column(f"{kind} LPIPS", (split, protocol, "lpips"), 4, -1),
                  Column(f"{kind} mask IoU", (split, protocol, "mask_iou"), 4, 1)]  # fmt: skip
    return [*found, Column("steadiness", ("novel_pose", "steadiness", "error"), 3, -1),
            Column("Gaussians", ("train", "gaussians"), 0), Column("images", ("train", "images"), 0),
            Column("seconds", ("train", "seconds"), 0)]  # fmt: skip


def tabulate(group: Group, protocol: str) -> Table:
    """The table of one group by one protocol; columns that no run has are left out, and the caption says so."""
    wanted = columns(protocol)
    present = [c for c in wanted if any(c.of(run) is not None for run in group.runs)]
    cells = [[_cell(c, row.runs) for c in present] for row in group.rows]
    for k, column in enumerate(present):
        means = [round(row[k].mean, column.digits) for row in cells if row[k] is not None]  # as they are read
        if column.best and len(means) > 1:
            best = max(means) if column.best > 0 else min(means)
            for row in cells:
                cell = row[k]
                if cell is not None and round(cell.mean, column.digits) == best:
                    row[k] = Cell(cell.mean, cell.spread, cell.n, best=True)
    absent = [c.head for c in wanted if c not in present and c.path[-1] != "mask_iou"]
    return Table(
        caption(group, protocol, absent), group.heads, tuple(present), tuple(row.labels for row in group.rows),
        tuple(len(row.runs) for row in group.rows), tuple(map(tuple, cells)),
    )  # fmt: skip


def _cell(column: Column, runs: Sequence[ComparedRun]) -> Cell | None:
    values = [value for run in runs if (value := column.of(run)) is not None]
    if not values:
        return None
    return Cell(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def caption(group: Group, protocol: str, absent: Sequence[str] = ()) -> str:
    """Capture, splits, protocol, what the figures are, over how many seeds, on which devices."""
    config = group.runs[0].config
    counts = []
    for split in SPLITS:
        n = {run.metrics[split][protocol]["frames"] for run in group.runs if run.metrics.get(split)}
        counts += [f"{' or '.join(map(str, sorted(n)))} {split.replace('_', ' ')} images"] if n else []
    reader = str(config.get("capture._target_", "")).rsplit(".", 1)[-1]
    text = [f"Capture {config.get('capture.subject')} ({reader}), {', '.join(counts)}.",
            f"Protocol {protocol}: {PROTOCOLS[protocol]}."]  # fmt: skip
    numbers = sorted({len(row.runs) for row in group.rows})
    if numbers == [1]:
        text.append("One seed each: no spread is known.")
    else:
        over = f"n = {numbers[0]} seeds" if len(numbers) == 1 else "the n seeds of a row"
        text.append(f"Mean ± sample standard deviation over {over}.")
    marked = "Best mean in bold."
    if any(run.metrics.get("novel_pose") for run in group.runs):
        marked += " Steadiness: frame-difference error of novel poses, 0 moves as the truth."
    devices = sorted({str(run.metrics["train"].get("device")) for run in group.runs})
    text.append(f"{marked} Budget: images seen and seconds of training ({', '.join(devices)}).")
    if uneven(group.rows):
        text.append("The budgets differ.")
    if absent:
        text.append(f"No run has: {', '.join(absent)}.")
    if group.differs:
        text.append(f"Apart from the other tables by {'; '.join(group.differs)}.")
    return " ".join(text)


def uneven(rows: Sequence[Row]) -> bool:
    """Whether the runs saw different numbers of images (by more than 1 %)."""
    images = [run.metrics["train"]["images"] for row in rows for run in row.runs]
    return max(images) > 1.01 * min(images)
