"""One avatar on 1, 2 and 4 devices: images/s, and the time to equal quality, in one table.

    r3avatar synthesize synthesis=large subject=large   # once: the capture of experiment=synthetic_large
    python tools/bench_multi_gpu.py --out multi_gpu.json

Rows: one device; then for each number of devices the same global batch (strong: the same steps, divided), and the
same batch on each device (weak: so many times more frames in a step, and edits of density control as many steps apart).
Each row is a whole run of `r3avatar train`. Rates are between the run's validations, whose own time does not count, nor
that of checkpoints: while density control edits, and after it has stopped; compilation lies before the first one. Time
to quality is the time from the first validation until validation PSNR (interpolated) reaches the target, plus what the
images before take at the row's rate; the target is what one device ends with less 0.2 dB, unless given. A row that
fails, or for which no time is left, says so and the others go on. Further arguments are overrides.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from r3avatar.benchmarks.machine import machine, software

LEEWAY = 0.2  # dB
COLUMNS = ("row", "devices", "batch", "images_per_second", "speedup", "without_density_control", "speedup_without",
           "final_psnr", "seconds_to_psnr", "gaussians", "memory_gib", "wall_s")  # fmt: skip


def rows(devices: list[int], every: int, frames: int = 2, views: int = 4) -> list[dict]:
    """What to run: number of devices, frames x views of a step, images between edits."""
    found = [{"row": "one", "devices": 1, "frames": frames, "views": views, "every": every}]
    for n in (n for n in devices if n > 1):
        found.append({"row": "strong", "devices": n, "frames": frames, "views": views, "every": every})
        found.append({"row": "weak", "devices": n, "frames": n * frames, "views": views, "every": n * every})
    return found


def train(row: dict, options: argparse.Namespace, folder: Path, limit: float) -> dict:
    """Run a row within `limit` seconds; its figures, or {"error": text}."""
    name = f"{row['row']}_{row['devices']}"
    command = [
        sys.executable, "-m", "r3avatar.cli", "train", f"experiment={options.experiment}", f"name={name}",
        f"outputs='{folder}'", f"capture.root='{options.captures}'", f"budget.images={options.images}",
        f"batch.frames={row['frames']}", f"batch.views={row['views']}", f"density.every={row['every']}",
        f"density.stop={options.images * 3 // 5}", f"validation.every_images={options.images // 10}",
        "evaluate=false", "media=false", "logger=none", f"trainer.accelerator={options.accelerator}",
    ]  # fmt: skip
    if row["devices"] > 1:
        command += ["trainer=multi_gpu", f"trainer.devices={row['devices']}"]
    start = time.monotonic()
    try:
        # The process that ends at the limit takes those that it has started with it.
        done = subprocess.run(
            [*command, *options.overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {limit:.0f} s"}
    if done.returncode:
        return {"error": f"exit code {done.returncode}: {done.stdout[-1500:]}"}
    found = json.loads((folder / name / "metrics.json").read_text())["train"]
    return {
        "curve": found["curve"],
        "gaussians": found["gaussians"],
        "memory_gib": found["peak_memory_gib"],
        "wall_s": round(time.monotonic() - start, 1),
        "all_reduce_recorded": "cannot record" not in done.stdout if row["devices"] > 1 else None,
    }


def rate(curve: list[dict], first: float, last: float) -> float | None:
    """Images a second between the validations from `first` images to `last`, None with fewer than two."""
    inside = [point for point in curve if first <= point["images"] <= last]
    if len(inside) < 2:
        return None
    return (inside[-1]["images"] - inside[0]["images"]) / max(inside[-1]["seconds"] - inside[0]["seconds"], 1e-9)


def seconds_to(curve: list[dict], psnr: float, images_per_second: float) -> float | None:
    """Seconds until validation PSNR first reaches `psnr`, None if it never does."""
    begin = curve[0]["seconds"] - curve[0]["images"] / images_per_second
    before = None
    for point in curve:
        if point["psnr"] >= psnr:
            if before is None:
                return point["seconds"] - begin
            share = (psnr - before["psnr"]) / (point["psnr"] - before["psnr"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"]) - begin
        before = point
    return None


def figures(row: dict, options: argparse.Namespace) -> dict:
    """A row's rates, from its curve."""
    stop = options.images * 3 // 5
    curve = row["curve"]
    edited, plain = rate(curve, 0, stop), rate(curve, stop + 1, float("inf"))
    return {"images_per_second": edited, "without_density_control": plain, "final_psnr": curve[-1]["psnr"]}


def table(found: list[dict]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in found:
        if "error" in row:
            lines.append(f"| {row['row']} | {row['devices']} | {row['batch']} | {row['error'].splitlines()[-1][:80]} |")
            continue
        cells = (row.get(name) for name in COLUMNS)
        lines.append(f"| {' | '.join(f'{c:.4g}' if isinstance(c, float) else str(c or '') for c in cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], help="those that the machine has are used")
    parser.add_argument("--experiment", default="synthetic_large")
    parser.add_argument("--captures", type=Path, default=Path("outputs/captures"), help="folder that holds the capture")
    parser.add_argument("--images", type=int, default=10000, help="of each row")
    parser.add_argument("--frames", type=int, default=2, help="of a step on one device")
    parser.add_argument("--views", type=int, default=4, help="of a step on one device")
    parser.add_argument("--every", type=int, default=100, help="images between edits on one device")
    parser.add_argument("--psnr", type=float, help="validation PSNR to reach, dB")
    parser.add_argument("--limit", type=float, default=145, help="seconds for all rows")
    parser.add_argument("--accelerator", default="gpu", help="cpu: processes of this machine, to try the tool itself")
    parser.add_argument("--out", type=Path, help="JSON file")
    options, options.overrides = parser.parse_known_args()
    available = torch.cuda.device_count() if options.accelerator != "cpu" else os.cpu_count()
    devices = [n for n in options.devices if n <= available]
    if not devices:
        sys.exit(f"this machine has {available} devices; --accelerator cpu tries the tool without")
    deadline, found = time.monotonic() + options.limit, []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(devices, options.every, options.frames, options.views):
            left = deadline - time.monotonic()
            row["batch"] = f"{row['frames']} x {row['views']}"
            found.append(row | (train(row, options, Path(folder), left) if left > 5 else {"error": "no time was left"}))
            print(f"{row['row']} {row['devices']}: {found[-1].get('error') or found[-1]['wall_s']}", file=sys.stderr)
    good = [row for row in found if "error" not in row]
    for row in good:
        row |= figures(row, options)
    base = next((row for row in good if row["row"] == "one"), None)
    target = options.psnr if options.psnr is not None or base is None else base["final_psnr"] - LEEWAY
    for row in good:
        for speedup, name in (("speedup", "images_per_second"), ("speedup_without", "without_density_control")):
            row[speedup] = row[name] / base[name] if base is not None and row[name] and base[name] else None
        if target is not None and row["images_per_second"]:
            row["seconds_to_psnr"] = seconds_to(row["curve"], target, row["images_per_second"])
    report = {
        "machine": machine(),
        "devices": torch.cuda.device_count(),
        "versions": software(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None,
        "environment": {key: value for key, value in os.environ.items() if key.startswith("NCCL_")},
        "arguments": sys.argv[1:],
        "target_psnr": target,
        "rows": found,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    psnr = "none" if target is None else f"{target:.2f} dB"
    print(f"\n{report['machine']['gpu']} x {report['devices']}, {options.experiment}, {options.images} images a row")
    print(f"images/s: while density control edits; target PSNR {psnr}\n\n{table(found)}")
    sys.exit(0 if len(good) == len(found) else 1)


if __name__ == "__main__":
    main()
