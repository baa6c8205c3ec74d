"""What a finished run has to show: `python -m r3avatar.evaluation.summary outputs/demo`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from r3avatar.evaluation.evaluate import table


def _command() -> str:
    """How this environment's `r3avatar` is called from here."""
    own = Path(sys.executable).parent / "r3avatar"
    found = shutil.which("r3avatar")
    return "r3avatar" if found is not None and Path(found) == own else os.path.relpath(own)


def summary(folder: Path) -> str:
    """The metrics' table, where the videos and pictures are, and three commands worth trying next."""
    metrics = json.loads((folder / "metrics.json").read_text())
    train, media = metrics["train"], folder / "media"
    lines = [
        "",
        table(metrics),
        "",
        f"trained on {train['images']} images in {train['seconds']:.0f} s ({train['images_per_second']:.1f} images/s, "
        f"{train['device']}), {train['gaussians']} Gaussians",
        "",
        *(f"video    {p}" for p in sorted(media.glob("*.mp4"))),
        *(f"picture  {p}" for p in sorted(media.glob("*.png"))),
        f"frames   {media}/novel_view, {media}/novel_pose",
        f"numbers  {folder / 'metrics.json'}",
        "",
        "next:",
        f"  {_command()} render run={folder} camera=turntable",
        f"  {_command()} evaluate run={folder} retrieval=none      # what is retrieval worth?",
        f"  {_command()} train experiment=no_codebook      # and the codebook?",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
