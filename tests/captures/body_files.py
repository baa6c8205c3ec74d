"""SMPL and SMPL-X files that need no registration: the demo body's geometry under their keys and joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r3avatar.body.files import demo_arrays
from r3avatar.captures import HandPca

SMPL_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
_ROWS = [*range(22), 25, 40]  # SMPL's hands are SMPL-X's first finger joints


def write_body_files(folder: Path, hands: HandPca) -> Path:
    """Write smpl/SMPL_NEUTRAL.npz and smplx/SMPLX_NEUTRAL.npz, the latter with these hands; returns the folder."""
    arrays = dict(demo_arrays())
    dirs, weights, regressor = (arrays[k] for k in ("shapedirs", "weights", "J_regressor"))
    count = int(arrays["num_betas"])
    V = len(weights)
    merged = np.zeros((V, 24), np.float32)
    merged[:, :22] = weights[:, :22]
    merged[:, 15] += weights[:, 22:25].sum(1)
    merged[:, 22], merged[:, 23] = weights[:, 25:40].sum(1), weights[:, 40:].sum(1)
    shared = {"v_template": arrays["v_template"], "f": arrays["f"]}
    (folder / "smpl").mkdir(parents=True)
    shape = np.pad(dirs[..., :count], ((0, 0), (0, 0), (0, 10 - count)))
    tree = np.array([SMPL_PARENTS, range(24)])
    np.savez(
        folder / "smpl" / "SMPL_NEUTRAL.npz", **shared, shapedirs=shape, posedirs=np.zeros((V, 3, 207), np.float32),
        weights=merged, J_regressor=regressor[_ROWS], kintree_table=tree,
    )  # fmt: skip
    padded = np.zeros((V, 3, 400), np.float32)
    padded[..., :count], padded[..., 300 : 300 + dirs.shape[-1] - count] = dirs[..., :count], dirs[..., count:]
    rest = 45 - hands.components.shape[1]
    parts = {f"hands_components{s}": np.pad(c, ((0, rest), (0, 0))) for s, c in zip("lr", hands.components)}
    parts |= {f"hands_mean{s}": m.ravel() for s, m in zip("lr", hands.mean.reshape(2, 45))}
    (folder / "smplx").mkdir()
    np.savez(
        folder / "smplx" / "SMPLX_NEUTRAL.npz", **shared, **parts, shapedirs=padded,
        posedirs=np.zeros((V, 3, 486), np.float32), weights=weights, J_regressor=regressor,
        kintree_table=arrays["kintree_table"],
    )  # fmt: skip
    return folder
