"""The mean hand pose that some data sets' hand parameters are relative to."""

from __future__ import annotations

import numpy as np

from r3avatar.body.files import find_body_file


def read_hand_mean(kind: str, path: str | None, gender: str) -> np.ndarray:
    """Mean pose [30, 3] (left hand, right hand; axis-angle, radians) of a body's file; arguments as `load_body`'s.

    The demo body's is zero. SMPL has no fingers: ValueError, as for a file without hands_meanl and hands_meanr.
    """
    if kind == "demo":
        return np.zeros((30, 3))
    if kind != "smplx":
        raise ValueError(f"body kind is '{kind}'; a mean hand pose needs an SMPL-X body (kind smplx or demo)")
    file = find_body_file(kind, path, gender)
    if file.suffix != ".npz":
        raise ValueError(f"{file}: expected the SMPL-X model as an .npz file")
    with np.load(file, allow_pickle=False) as model:
        missing = {"hands_meanl", "hands_meanr"} - set(model.files)
        if missing:
            raise ValueError(f"{file}: expected hands_meanl and hands_meanr [45], found no {sorted(missing)}")
        return np.concatenate([model["hands_meanl"], model["hands_meanr"]]).astype(np.float64).reshape(30, 3)
