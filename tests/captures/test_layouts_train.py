"""The experiments of the image-file data sets, from disk to metrics, on a small capture in each one's layout."""

import json

import numpy as np
import pytest

from r3avatar.body.files import demo_arrays

from .layouts_smpl import write_hifi4g, write_zju_mocap
from .layouts_smplx import NAMES, six_components, write_mvhumannet
from .plain_capture import plain_capture

pytestmark = pytest.mark.slow

SMPL_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """A folder with an SMPL and an SMPL-X file: the demo body's geometry under their keys and joints."""
    folder = tmp_path_factory.mktemp("bodies")
    arrays = dict(demo_arrays())
    dirs, weights, regressor = (arrays[k] for k in ("shapedirs", "weights", "J_regressor"))
    count = int(arrays["num_betas"])
    V = len(weights)
    rows = [*range(22), 25, 40]  # SMPL's hands are SMPL-X's first finger joints
    merged = np.zeros((V, 24), np.float32)
    merged[:, :22] = weights[:, :22]
    merged[:, 15] += weights[:, 22:25].sum(1)
    merged[:, 22], merged[:, 23] = weights[:, 25:40].sum(1), weights[:, 40:].sum(1)
    shared = {"v_template": arrays["v_template"], "f": arrays["f"]}
    (folder / "smpl").mkdir()
    shape = np.pad(dirs[..., :count], ((0, 0), (0, 0), (0, 10 - count)))
    tree = np.array([SMPL_PARENTS, range(24)])
    np.savez(
        folder / "smpl" / "SMPL_NEUTRAL.npz", **shared, shapedirs=shape, posedirs=np.zeros((V, 3, 207), np.float32),
        weights=merged, J_regressor=regressor[rows], kintree_table=tree,
    )  # fmt: skip
    padded = np.zeros((V, 3, 400), np.float32)
    padded[..., :count], padded[..., 300 : 300 + dirs.shape[-1] - count] = dirs[..., :count], dirs[..., count:]
    hands = six_components()
    parts = {f"hands_components{s}": np.pad(c, ((0, 39), (0, 0))) for s, c in zip("lr", hands.components)}
    parts |= {f"hands_mean{s}": m.ravel() for s, m in zip("lr", hands.mean.reshape(2, 45))}
    (folder / "smplx").mkdir()
    np.savez(
        folder / "smplx" / "SMPLX_NEUTRAL.npz", **shared, **parts, shapedirs=padded,
        posedirs=np.zeros((V, 3, 486), np.float32), weights=weights, J_regressor=regressor,
        kintree_table=arrays["kintree_table"],
    )  # fmt: skip
    return folder


def _splits(train, test):
    return [
        f"capture.splits.train.cameras={train}", "capture.splits.train.frames=0-2",
        f"capture.splits.novel_view.cameras={test}", "capture.splits.novel_view.frames=0-2/2",
        f"capture.splits.novel_pose.cameras={test}", "capture.splits.novel_pose.frames=3", "capture.recorded=[0,3]",
    ]  # fmt: skip


LAYOUTS = {
    "zju_mocap": ("smpl", write_zju_mocap, "386", _splits("0-1", "2")),
    "hifi4g": ("smpl", write_hifi4g, "4K_Actor1_Greeting", _splits("0-1", "2")),
    "mvhumannet": (
        "smplx", lambda folder, plain: write_mvhumannet(folder, plain, six_components()), "100003",
        _splits(f"[{NAMES[0]},{NAMES[1]}]", f"[{NAMES[2]}]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("experiment", LAYOUTS)
def test_the_experiment_runs(workplace, bodies, experiment):
    kind, write, subject, splits = LAYOUTS[experiment]
    write(workplace.folder / "layouts" / experiment / subject, plain_capture(kind))
    workplace(
        "train", f"experiment={experiment}", *splits,
        f"capture.root=layouts/{experiment}", f"capture.subject={subject}",
        f"body.path={bodies}", "capture.scale=1", "loss=no_perceptual", "lpips=none", "codebook=small", "debug=fast",
        "logger=none", "batch.views=2", "media=false", f"name={experiment}",
    )  # fmt: skip
    metrics = json.loads((workplace.folder / "outputs" / experiment / "metrics.json").read_text())
    assert metrics["novel_view"]["paper"]["psnr"] > 5 and metrics["novel_pose"]["paper"]["psnr"] > 5
