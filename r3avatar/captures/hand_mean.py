"""The mean hand pose that some data sets' hand parameters are relative to."""

from __future__ import annotations

import numpy as np

from r3avatar.body.files import find_body_file, read_arrays


def read_hand_mean(kind: str, path: str | None, gender: str) -> np.ndarray:
    """Mean pose [30, 3] (left hand, right hand; axis-angle, radians) of a body's file; arguments as `load_body`'s.

    The demo body's is zero. SMPL has no fingers: ValueError, as for a file without hands_meanl and hands_meanr.
    """
    if kind == "demo":
        return np.zeros((30, 3))
    if kind != "smplx":
        raise ValueError(f"body kind is '{kind}'; a mean hand pose needs an SMPL-X body (kind smplx or demo)")
    file = find_body_file(kind, path, gender)
    arrays = read_arrays(file)
    for key in ("hands_meanl", "hands_meanr"):
        if key not in arrays or arrays[key].size != 45:
            found = f"one of {list(arrays[key].shape)}" if key in arrays else "none"
            raise ValueError(f"{file}: expected {key} [45], found {found}")
    hands = [arrays[key].ravel() for key in ("hands_meanl", "hands_meanr")]
    return np.concatenate(hands).astype(np.float64).reshape(30, 3)
