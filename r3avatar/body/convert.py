"""Convert a body's .pkl file (chumpy inside) to .npz, which every numpy reads without pickles.

python -m r3avatar.body.convert SMPL_NEUTRAL.pkl SMPL_NEUTRAL.npz
"""

from __future__ import annotations

import argparse
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
    np.savez_compressed(target, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="the .pkl file")
    parser.add_argument("target", help="the .npz file to write")
    arguments = parser.parse_args()
    convert_body(arguments.source, arguments.target)
    print(f"wrote {arguments.target}")


if __name__ == "__main__":
    main()
