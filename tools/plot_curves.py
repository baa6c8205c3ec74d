"""Novel-view PSNR during training against images seen and against seconds: the mean of several runs, and their spread.

python tools/plot_curves.py r3=outputs/skirt_r3,outputs/cape_r3 r3_plus=outputs/skirt_r3_plus,outputs/cape_r3_plus
python tools/plot_curves.py r3='outputs/study_*_r3' r3_plus='outputs/study_*_r3_plus' --out outputs/curves.png

A line a group NAME=RUN,RUN..., each RUN a run folder, a folder of runs or a quoted pattern; the band is a standard
deviation of the group's runs to either side. All groups must have runs of the same captures, equally many of each: a
mean over others would say more of the captures than of the groups. `r3avatar compare` draws each run's own line.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from r3avatar.comparison.runs import ComparedRun, find_runs
from r3avatar.evaluation.plots import mean_curve, training_curves
from r3avatar.run import RunError


def main() -> None:
    """Read, check, draw; print the curves as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN,RUN...")
    parser.add_argument("--title", help="otherwise the captures and how many frames were validated on")
    parser.add_argument("--out", type=Path, default=Path("outputs/curves.png"))
    a = parser.parse_args()
    groups = {}
    for group in a.groups:
        name, equals, patterns = group.partition("=")
        if not (name and equals and patterns) or name in groups:
            parser.error(f"expected NAME=RUN,RUN... with names that differ, not {group!r}")
        groups[name] = patterns.split(",")
    try:
        runs = {name: find_runs(patterns)[0] for name, patterns in groups.items()}
        curves = {name: [curve(run) for run in own] for name, own in runs.items()}
        title = described(runs)
        rows = {name: mean_curve(own) for name, own in curves.items()}
        path = training_curves(a.out, curves, a.title or title, mean=True)
    except (RunError, ValueError) as error:
        raise SystemExit(f"plot_curves: {error}") from error
    print("| | images | seconds | novel-view PSNR |\n|---|---|---|---|")
    for name, (mean, spread) in rows.items():
        for point, off in zip(mean, spread):
            print(f"| {name} | {point['images']:.0f} | {point['seconds']:.1f} ± {off['seconds']:.1f} "
                  f"| {point['psnr']:.2f} ± {off['psnr']:.2f} |")  # fmt: skip
    print(f"\nplot: {path}")


def curve(run: ComparedRun) -> list[dict[str, float]]:
    """The run's validations; RunError where it has none."""
    found = run.metrics.get("train", {}).get("curve")
    if not found:
        raise RunError(f"{run.folder} has no validations in metrics.json: it has not come to its end, or had none")
    return found


def described(runs: dict[str, list[ComparedRun]]) -> str:
    """What all groups were validated on; RunError where they differ in captures or validated frames."""

    def measured(run: ComparedRun) -> tuple[str, str]:
        kept = {key: value for key, value in run.measured_on.items() if ".train." not in key}
        return str(run.config.get("capture.subject")), str([run.config.get("validation.frames"), sorted(kept.items())])

    first, *others = {name: Counter(map(measured, own)) for name, own in runs.items()}.items()
    for name, found in others:
        if found != first[1]:
            raise RunError(
                f"{first[0]} has runs of {subjects(first[1])}, {name} of {subjects(found)}; or they differ in splits, "
                "scale or validation.frames. Give each group runs of the same captures and validations"
            )
    frames = {run.config.get("validation.frames") for own in runs.values() for run in own}
    return f"{subjects(first[1])}; {', '.join(map(str, frames))} novel-view frames"


def subjects(found: Counter) -> str:
    """Captures and how many runs each has."""
    count = Counter()
    for (subject, _), number in found.items():
        count[subject] += number
    return ", ".join(f"{subject} ({number} run{'s' * (number > 1)})" for subject, number in sorted(count.items()))


if __name__ == "__main__":
    main()
