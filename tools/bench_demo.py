"""Time and peak memory of the demo's steps, as `make demo` runs them after installing.

    python tools/bench_demo.py [--name bench_demo] [--json FILE] [--cold]

Memory is the sum of resident sets over a step's whole process tree, sampled five times a second (Linux). --cold clears
numba's cache and the frame cache first, so that compilation and preparation are in the figures, as on a clean machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tree_memory(root: int) -> int:
    """Resident bytes of a process and its descendants."""
    parents, resident = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                resident[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                continue  # the process has ended meanwhile
            parents[int(entry.name)] = int(fields[1])
    total = 0
    for pid, size in resident.items():
        ancestor = pid
        while ancestor not in (root, 0) and ancestor in parents:
            ancestor = parents[ancestor]
        total += size if ancestor == root else 0
    return total


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; seconds and peak GiB. Ends the benchmark if it fails."""
    start, peak = time.monotonic(), 0
    with subprocess.Popen(command, env=environment) as process:
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.2):
                peak = max(peak, tree_memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return time.monotonic() - start, peak / 2**30


def main() -> None:
    """Run synthesize, train (with evaluation) and animate; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="bench_demo", help="run folder outputs/NAME; the capture lies below it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("overrides", nargs="*", help="for training, e.g. budget.images=3000")
    options = parser.parse_args()
    run = Path("outputs") / options.name
    if run.exists():
        sys.exit(f"{run} exists; choose another with --name, or remove it")
    scratch = Path(tempfile.mkdtemp())
    environment = {**os.environ, "R3AVATAR_CACHE": str(scratch / "cache")}
    if options.cold:
        environment["NUMBA_CACHE_DIR"] = str(scratch / "numba")
    captures, verb = str(scratch / "captures"), [sys.executable, "-m", "r3avatar.cli"]
    steps = {
        "synthesize": [*verb, "synthesize", f"root={captures}"],
        "train, evaluate": [*verb, "train", "experiment=demo", f"name={options.name}", f"capture.root={captures}",
                            *options.overrides],
        "animate": [*verb, "animate", f"run={run}"],
    }  # fmt: skip
    try:
        rows = {name: measure(command, environment) for name, command in steps.items()}
    finally:
        shutil.rmtree(scratch)
    rows["all"] = sum(seconds for seconds, _ in rows.values()), max(memory for _, memory in rows.values())
    caches = "cold" if options.cold else "warm"
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {caches} caches")
    for name, (seconds, memory) in rows.items():
        print(f"{name:16} {seconds:7.1f} s {memory:6.2f} GiB")
    metrics = json.loads((run / "metrics.json").read_text())
    print(json.dumps({k: metrics[k] for k in ("novel_view", "novel_pose", "train")}, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"steps": rows, "metrics": metrics, "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
