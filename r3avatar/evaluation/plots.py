"""Plots of a run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from r3avatar.retrieval.parts import PARTS


def _pyplot() -> ModuleType:
    """matplotlib.pyplot, imported at a first plot: a training begins without it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


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
    plt = _pyplot()
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


Curve = list[dict[str, float]]


def mean_curve(runs: list[Curve]) -> tuple[Curve, Curve]:
    """Mean and standard deviation (of a sample; 0 of a single run) of runs, at the images that all validated at.

    A run is its validations, as for `training_curves`; ValueError where no number of images is common to all.
    """
    by_images = [{point["images"]: point for point in run} for run in runs]
    common = sorted(set(by_images[0]).intersection(*by_images[1:]))
    if not common:
        raise ValueError("the runs have no validation at the same number of images; train with one every_images")
    mean, spread = [], []
    for images in common:
        values = np.array([[run[images]["seconds"], run[images]["psnr"]] for run in by_images])
        deviation = values.std(0, ddof=1) if len(values) > 1 else np.zeros(2)
        mean.append({"images": images, **dict(zip(("seconds", "psnr"), values.mean(0).tolist()))})
        spread.append({"images": images, **dict(zip(("seconds", "psnr"), deviation.tolist()))})
    return mean, spread


def training_curves(path: Path, curves: dict[str, list[Curve]], title: str = "", mean: bool = False) -> Path:
    """Novel-view PSNR of runs against images seen and against seconds of training; logarithmic axes.

    curves: a name to the runs that share it (its seeds, drawn in one colour), a run its validations, each with
    `images`, `seconds` and `psnr` (`train.curve` of metrics.json).
    mean: one line a name, the mean of its runs, in a band of their standard deviation (`mean_curve`); not a line a run.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    plt = _pyplot()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab10" if len(curves) <= 10 else "tab20").colors
    for number, (name, runs) in enumerate(curves.items()):
        colour, dash = colours[number % len(colours)], ("-", "--", ":")[number // len(colours) % 3]
        spread, drawn = None, runs
        if mean:
            line, spread = mean_curve(runs)
            drawn, name = [line], f"{name} ({len(runs)} run{'s' * (len(runs) > 1)})"
        for axis, key in zip(axes, ("images", "seconds")):
            if spread is not None:
                low, high = ([p["psnr"] + side * s["psnr"] for p, s in zip(line, spread)] for side in (-1, 1))
                axis.fill_between([point[key] for point in line], low, high, color=colour, alpha=0.15, lw=0)
            for k, run in enumerate(drawn):
                axis.plot([point[key] for point in run], [point["psnr"] for point in run], f".{dash}", color=colour,
                          lw=1, label=None if k else name)  # fmt: skip
    for axis, label in zip(axes, ("images seen", "seconds of training")):
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("novel-view PSNR (whole frame, black), dB")
    columns = min(4, len(curves))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=columns)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
