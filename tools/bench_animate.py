"""Memory and speed of `r3avatar animate` for films of several lengths: each in a process of its own.

    python tools/bench_animate.py RUN [--frames 200 2000] [key=value ...]  # keys of animate, e.g. scale=0.25
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from r3avatar.motion.builtin import FOLDER


def long_motion(path: Path, frames: int, fps: float) -> None:
    """The built-in swordplay there and back again, until there are enough frames, as a pose file."""
    with np.load(FOLDER / "swordplay.npz") as arrays:
        theta, transl = arrays["theta"], arrays["transl"]
    order = np.concatenate([np.arange(len(theta)), np.arange(len(theta) - 2, 0, -1)])
    rows = np.resize(order, frames)
    np.savez(path, theta=theta[rows], transl=transl[rows], fps=fps)


def measure(run: str, frames: int, folder: Path, fps: float, more: list[str]) -> dict:
    """Peak resident memory (MiB), seconds, frames a second of the film alone, bytes."""
    motion = folder / f"long_{frames}.npz"
    long_motion(motion, frames, fps)
    command = ["animate", f"run={run}", f"motion={motion}", "place=true", f"output={folder}/film_{frames}", *more]
    program = (
        "import json, resource, sys; from r3avatar.cli import main; main(sys.argv[1:]); "
        "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *command], stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - begun
    lines = done.stdout.strip().splitlines()
    (film,) = (p for p in folder.glob(f"film_{frames}.m*"))
    speed = next(line for line in lines if line.startswith("film:")).split(", ")[-1].split()[0]
    peak = json.loads(lines[-1]) / (1024 * (1024 if sys.platform == "darwin" else 1))
    return {
        "frames": frames, "peak_mib": round(peak, 1), "seconds": round(seconds, 1), "frames_per_second": float(speed),
        "bytes": film.stat().st_size,
    }  # fmt: skip


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--frames", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--fps", type=float, default=15.0, help="the capture's")
    arguments, more = parser.parse_known_args()
    print("| frames | peak memory, MiB | frames/s | bytes |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for frames in arguments.frames:
            row = measure(arguments.run, frames, Path(folder), arguments.fps, more)
            print(f"| {row['frames']} | {row['peak_mib']} | {row['frames_per_second']} | {row['bytes']} |", flush=True)


if __name__ == "__main__":
    main()
