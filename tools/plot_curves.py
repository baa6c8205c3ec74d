"""Novel-view PSNR of runs against images seen and against seconds: python tools/plot_curves.py RUN... [--out FILE]"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from r3avatar.evaluation.plots import training_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, each with metrics.json")
    parser.add_argument("--out", type=Path, default=Path("outputs/curves.png"))
    arguments = parser.parse_args()
    curves = {run.name: json.loads((run / "metrics.json").read_text())["train"]["curve"] for run in arguments.runs}
    print(f"picture: {training_curves(arguments.out, curves)}")


if __name__ == "__main__":
    main()
