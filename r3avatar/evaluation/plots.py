"""Plots of a run."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from r3avatar.retrieval.parts import PARTS


def retrieval_timeline(
    path: Path,
    query: list[int],
    times: np.ndarray,
    jumps: np.ndarray,
    first: int,
    truth: np.ndarray | None = None,
    title: str = "retrieved times",
    spread: np.ndarray | None = None,
) -> Path:
    """The retrieved time of every part over the query.

    query: Q frame ids; times [Q, 5] frames since the first recorded one; jumps [Q, 5] bool; first: first recorded id;
    truth: [Q, 5] the recorded frame ids that the poses were taken from, where that is known (NaN: not).
    spread: [Q, 5] frames, the standard deviation of a mixture's times about their means `times`: a band.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for p, name in enumerate(PARTS):
        (line,) = axes.plot(query, times[:, p] + first, ".-", label=name.replace("_", " "), lw=1)
        if spread is not None and spread.any():
            low, high = (times[:, p] + first + side * spread[:, p] for side in (-1, 1))
            axes.fill_between(query, low, high, color=line.get_color(), alpha=0.12, lw=0)
        if truth is not None:
            axes.plot(query, truth[:, p], "--", color=line.get_color(), lw=2.5, alpha=0.4)
        at = np.flatnonzero(jumps[:, p])
        axes.plot(np.asarray(query)[at], times[at, p] + first, "o", mfc="none", color=line.get_color())
    dashes = "" if truth is None else ", dashes: where the pose is from"
    axes.set(xlabel="query frame", ylabel="retrieved frame", title=f"{title} (circles: jumps{dashes})")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def training_curves(path: Path, curves: dict[str, list[list[dict[str, float]]]], title: str = "") -> Path:
    """Novel-view PSNR of runs against images seen and against seconds of training; logarithmic axes.

    curves: a name to the runs that share it (its seeds, drawn in one colour), a run its validations, each with
    `images`, `seconds` and `psnr` (`train.curve` of metrics.json).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab10" if len(curves) <= 10 else "tab20").colors
    for number, (name, runs) in enumerate(curves.items()):
        colour, dash = colours[number % len(colours)], ("-", "--", ":")[number // len(colours) % 3]
        for axis, key in zip(axes, ("images", "seconds")):
            for k, run in enumerate(runs):
                axis.plot([point[key] for point in run], [point["psnr"] for point in run], f".{dash}", color=colour,
                          lw=1, label=None if k else name)  # fmt: skip
    for axis, label in zip(axes, ("images seen", "seconds of training")):
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("novel-view PSNR (whole frame, black), dB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
