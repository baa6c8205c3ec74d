"""Damage small captures of every layout at random, thousands of times, and count what reading them comes to.

A damaged file may read as before ('same'), be a CaptureError ('refused'), or read as what it now says: another whole
file of the capture in its place ('swapped'), or another number or pixel in a format without checksums, HDF5, JPEG, JSON
and .npy ('altered'); PNG and .npz have checksums, and no damage to them may pass. Anything else, a crash and a hang
included, is printed with the case's number, and the exit code is 1. Reading takes in every image and every mask. What
is done to which file: tests/captures/mutations.py.

    python tools/fuzz_captures.py --cases 2000
    python tools/fuzz_captures.py --layouts ZjuMocap --first 137 --cases 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the mutations are the tests' own

from tests.captures.mutations import ALLOWED, cases
from tests.captures.small_captures import LAYOUTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--cases", type=int, default=2000, help="of each layout")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = 0
    print(f"{'layout':16}" + "".join(f"{outcome:>9}" for outcome in (*ALLOWED, "failed")))
    for name in options.layouts:
        counts, changed = Counter(), Counter()
        numbers = range(options.first, options.first + options.cases)
        with tempfile.TemporaryDirectory() as folder:
            for case in cases(name, numbers, Path(folder) / "captures", options.seed):
                changed.update([Path(case.file).suffix] if case.outcome == "altered" else [])
                counts["failed" if case.failed else case.outcome] += 1
                if case.failed:
                    print(case, flush=True)
        print(f"{name:16}" + "".join(f"{counts[outcome]:9}" for outcome in (*ALLOWED, "failed"))
              + f"   altered: {dict(changed)}", flush=True)  # fmt: skip
        failures += counts["failed"]
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
