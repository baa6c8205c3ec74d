"""The experiments of the image-file data sets, from disk to metrics, on a small capture in each one's layout."""

import json

import pytest

from .body_files import write_body_files
from .layouts_smpl import write_hifi4g, write_zju_mocap
from .layouts_smplx import NAMES, six_components, write_mvhumannet
from .plain_capture import plain_capture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """A folder with an SMPL and an SMPL-X file: the demo body's geometry under their keys and joints."""
    return write_body_files(tmp_path_factory.mktemp("bodies"), six_components())


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


def test_subjects_are_swept(workplace, bodies):
    """By their group's members. The other way, capture.subject=386,387, composes in tests/test_data_sets.py."""
    subjects = ["386", "387"]
    for subject in subjects:
        write_zju_mocap(workplace.folder / "layouts" / "swept" / subject, plain_capture("smpl"))
    workplace(
        "train", "-m", "paper=glob(zju_mocap_38*)", *_splits("0-1", "2"), "capture.root=layouts/swept",
        f"body.path={bodies}", "capture.scale=1", "loss=no_perceptual", "lpips=none", "codebook=small", "debug=fast",
        "logger=none", "batch.views=2", "media=false", "evaluate=false", "outputs=outputs/swept",
    )  # fmt: skip
    for subject in subjects:
        runs = workplace.folder / "outputs" / "swept" / "zju_mocap" / subject
        assert len(list(runs.glob("*/checkpoints/last.ckpt"))) == 1 and len(list(runs.glob("*/logs/train.log"))) == 1
