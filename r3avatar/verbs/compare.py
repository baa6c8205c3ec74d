"""`r3avatar compare`: tables, curves and pictures of several runs."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from r3avatar.comparison.pictures import side_by_side
from r3avatar.comparison.rows import Group, differing, grouped
from r3avatar.comparison.runs import ComparedRun, find_runs
from r3avatar.comparison.table import PROTOCOLS, tabulate
from r3avatar.comparison.writers import comma_separated, latex, markdown
from r3avatar.evaluation.evaluate import SPLITS
from r3avatar.evaluation.media import write_image
from r3avatar.evaluation.plots import training_curves
from r3avatar.run import RunError


def listed(value) -> list[str]:
    """A value or a list of them, as texts."""
    return [str(v) for v in value] if isinstance(value, ListConfig) else [str(value)]


def run(config: DictConfig) -> str:
    """Write table.md, table.tex, table.csv, the curves and the strips into `out`; print and return the Markdown.

    Raises RunError for a pattern without runs, an unknown key or protocol, and where no run can be compared.
    """
    if config.protocol not in PROTOCOLS:
        raise RunError(f"protocol={config.protocol} is none of {', '.join(PROTOCOLS)}: a table has one of them")
    by = None if config.by is None else listed(config.by)
    found, never = find_runs(listed(config.run))
    left_out = [f"- {why}" for why in never] + [f"- {r.folder} {why}" for r in found for why in r.lacks()]
    usable = [r for r in found if r.usable]
    if not usable:
        raise RunError("none of the runs can be compared:\n" + "\n".join(left_out))
    groups = grouped(usable, by)
    tables = [tabulate(group, config.protocol) for group in groups]
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.png"):
        if re.fullmatch(rf"({'|'.join(('curves', *SPLITS))})(_\d+)?", path.stem):
            path.unlink()  # of an earlier comparison, which the new table says nothing of
    files = [folder / "table.md", folder / "table.tex", folder / "table.csv"]
    missing: list[str] = []
    for number, group in enumerate(groups, 1):
        suffix = "" if len(groups) == 1 else f"_{number}"
        files += draw_curves(group, folder / f"curves{suffix}.png", missing)
        for split in SPLITS:
            picture, lacking = side_by_side(group, split, config.frame, config.view)
            missing += [f"- {line}" for line in lacking]
            if picture is not None:
                files.append(write_image(folder / f"{split}{suffix}.png", picture))
    text = markdown(tables)
    for title, lines in (("Lacking", left_out), ("Not drawn", missing)):
        text += f"\n{title}:\n\n" + "\n".join(lines) + "\n" if lines else ""
    files[0].write_text(text)
    files[1].write_text(latex(tables))
    files[2].write_text(comma_separated(tables, config.protocol))
    print("\n" + text + "\n" + "\n".join(f"{path}" for path in files))
    return text


def draw_curves(group: Group, path: Path, missing: list[str]) -> list[Path]:
    """PSNR against images and seconds; nothing, and the reason in `missing`, where the curves do not compare."""

    def points(run: ComparedRun) -> list[dict[str, float]]:
        return run.metrics["train"].get("curve") or []

    drawn = [run for run in group.runs if points(run)]
    missing += [f"- the curve of {run.folder}: it has no validation" for run in group.runs if not points(run)]
    if not drawn:
        return []
    validated = [{"validation.frames": run.config.get("validation.frames")} for run in drawn]
    if differing(validated):
        frames = sorted({str(v["validation.frames"]) for v in validated})
        missing.append(f"- curves: the runs validate on different frames (validation.frames={', '.join(frames)})")
        return []
    curves = {row.name: [points(run) for run in row.runs if points(run)] for row in group.rows}
    subject = group.runs[0].config.get("capture.subject")
    title = f"capture {subject}, {validated[0]['validation.frames']} novel-view frames"
    return [training_curves(path, {name: runs for name, runs in curves.items() if runs}, title)]
