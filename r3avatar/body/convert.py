"""Convert a body's .pkl file (chumpy inside) to .npz, which every numpy reads without pickles.

r3avatar convert-body SMPL_NEUTRAL.pkl SMPL_NEUTRAL.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from r3avatar.body.files import REQUIRED, read_arrays


def convert_body(source: str | Path, target: str | Path) -> None:
    """Write the body arrays of `source` to `target` (.npz). Raises ValueError naming a missing key, FileExistsError."""
    source, target = Path(source), Path(target)
    if target.suffix != ".npz":
        raise ValueError(f"{target}: the converted file must end in .npz")
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it first")
    arrays = read_arrays(source)
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise ValueError(f"{source}: no key {', '.join(missing)}; it has {', '.join(sorted(arrays))}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.npz")
    try:
        np.savez_compressed(part, **arrays)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """`r3avatar convert-body SOURCE TARGET`; the exit code."""
    if len(arguments) != 2:
        print("usage: r3avatar convert-body SOURCE.pkl TARGET.npz", file=sys.stderr)
        return 2
    try:
        convert_body(*arguments)
    except (OSError, ValueError) as error:
        print(f"r3avatar convert-body: {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments[1]}")
    return 0
