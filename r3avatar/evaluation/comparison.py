"""Retrievals side by side on the novel poses of several runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import nn

from r3avatar.avatar import Avatar, Playback
from r3avatar.captures import Capture
from r3avatar.evaluation.evaluate import choose_times, evaluate_split, renderer
from r3avatar.evaluation.plots import retrieval_timeline
from r3avatar.evaluation.steadiness import Steadiness
from r3avatar.rasterizer import Rasterizer
from r3avatar.retrieval.parts import PARTS
from r3avatar.types import Batch

COLUMNS = {"psnr": ("PSNR", ".2f"), "gain": ("", "+.2f"), "ssim": ("SSIM", ".4f"), "lpips": ("LPIPS", ".4f"),
           "steadiness": ("steadiness", ".3f"), "seconds": ("retrieval s", ".2f")}  # fmt: skip
NEAR = 2.0  # recorded frames off the true moment within which a part is said to have found it


def compare_retrievals(
    avatar: Avatar,
    capture: Capture,
    rasterizer: Rasterizer,
    retrievers: Mapping[str, object],
    batches: Iterable[Batch],
    plots: Path,
    lpips: nn.Module | None = None,
    moments: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict]:
    """Novel poses with each retriever, all on the same images.

    Args:
        retrievers: by name; those without images to read are fitted on the capture here.
        batches: of the split novel_pose, one frame each, in the order of frames; gone through once a retriever.
        plots: `<plots>_<name>.png` is the timeline of each.
        moments: by part, the frame ids [F] of `capture.frame_ids` that the poses were taken from, NaN = unknown.

    Returns:
        By name: {"paper": means, "standard": means, "steadiness": {...}, "seconds": of choosing the times,
        "within_2_frames": share of parts and frames that found the moment their pose was taken from (None: unknown)}.
    """
    avatar.eval()
    device = avatar.gaussians.positions.device
    playback, frames = Playback(avatar, rasterizer), capture.splits["novel_pose"].frames
    steps = [b - a for a, b in pairwise(frames)]
    found = {}
    for name, retriever in retrievers.items():
        start = time.perf_counter()
        retrieved, rows = choose_times(playback, capture, retriever, batches, frames)
        seconds = time.perf_counter() - start
        summary, _ = evaluate_split(
            "novel_pose", batches, renderer(playback, "novel_pose", retrieved, rows), None, lpips, 1.0, device,
            Steadiness(max(min(steps, default=1), 1)),
        )  # fmt: skip
        query = sorted(rows, key=rows.__getitem__)
        truth = None
        if moments is not None:
            at = [capture.frame_ids.index(frame) for frame in query]
            truth = np.stack([moments[part][at] for part in PARTS], 1)
        times, first = retrieved.times.cpu().numpy(), capture.recorded[0]
        path = plots.with_name(f"{plots.name}_{name}.png")
        mean, spread = (x.cpu().numpy() for x in (retrieved.mean, retrieved.spread))
        retrieval_timeline(path, query, mean, retrieved.jump.cpu().numpy(), first, truth, name, spread)
        near = None
        if truth is not None:
            evaluated = np.isin(query, frames)[:, None] & np.isfinite(truth)
            near = float((np.abs(times + first - truth) <= NEAR)[evaluated].mean()) if evaluated.any() else None
        found[name] = {**summary, "seconds": seconds, "within_2_frames": near}
    return found


def flattened(sections: Mapping[str, dict], protocol: str, against: str | None) -> dict[str, dict[str, float | None]]:
    """`compare_retrievals`' result as one row of `COLUMNS` a retrieval; gain: PSNR less that of `against`, dB."""
    base = sections[against][protocol]["psnr"] if against in sections else None
    rows = {}
    for name, section in sections.items():
        own = section[protocol]
        gain = None if base is None else own["psnr"] - base
        rows[name] = {
            "psnr": own["psnr"], "gain": gain, "ssim": own["ssim"], "lpips": own["lpips"],
            "steadiness": section["steadiness"]["error"], "seconds": section["seconds"],
        }  # fmt: skip
    return rows


def spread(runs: Iterable[Mapping[str, float | None]]) -> dict[str, tuple[float, float] | None]:
    """Mean and standard deviation (of a sample) of every column over runs; None where a run has no value."""
    runs = list(runs)
    result = {}
    for column in COLUMNS:
        values = [run[column] for run in runs if run[column] is not None]
        whole = len(values) == len(runs) > 1
        result[column] = (statistics.mean(values), statistics.stdev(values)) if whole else None
    return result


def markdown(runs: Mapping[str, Mapping[str, dict]], against: str | None) -> str:
    """One table of runs' `flattened` rows, and of their mean and standard deviation where there are several runs."""
    heads = [f"PSNR over {against}" if c == "gain" else COLUMNS[c][0] for c in COLUMNS]
    lines = ["| " + " | ".join(["capture", "retrieval", *heads]) + " |", "|" + "---|" * (len(heads) + 2)]

    def line(capture: str, name: str, cells: Iterable[str]) -> None:
        lines.append("| " + " | ".join([capture, f"`{name}`", *cells]) + " |")

    for run, rows in runs.items():
        for name, row in rows.items():
            line(run, name, ("-" if row[c] is None else _number(row[c], COLUMNS[c][1]) for c in COLUMNS))
    if len(runs) > 1:
        for name in next(iter(runs.values())):
            cells = []
            for column, pair in spread(rows[name] for rows in runs.values()).items():
                digits = COLUMNS[column][1]
                cells.append(
                    "-" if pair is None else f"{_number(pair[0], digits)} ± {_number(pair[1], digits.lstrip('+'))}"
                )
            line(f"mean of {len(runs)}", name, cells)
    return "\n".join(lines)


def _number(value: float, digits: str) -> str:
    text = format(value, digits)
    return text.replace("-", "+" if "+" in digits else "") if not float(text) else text  # no minus zero
