"""The README's line for DNA-Rendering with SMPL-X, on a pair and a body file in exactly their layouts."""

import json

import numpy as np
import pytest

from r3avatar.body.files import demo_arrays

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """A folder with smplx/SMPLX_NEUTRAL.npz: the demo body's geometry under SMPL-X's keys and column counts."""
    arrays = dict(demo_arrays())
    shape = int(arrays.pop("num_betas"))
    dirs = arrays["shapedirs"]
    V = len(arrays["v_template"])
    padded = np.zeros((V, 3, 400), np.float32)  # 300 shape columns, then 100 of expression
    padded[..., :shape], padded[..., 300 : 300 + dirs.shape[-1] - shape] = dirs[..., :shape], dirs[..., shape:]
    keys = ("v_template", "J_regressor", "weights", "kintree_table", "f", "hands_meanl", "hands_meanr")
    folder = tmp_path_factory.mktemp("bodies") / "smplx"
    folder.mkdir()
    np.savez(
        folder / "SMPLX_NEUTRAL.npz",
        shapedirs=padded,
        posedirs=np.zeros((V, 3, 486), np.float32),
        hands_componentsl=np.eye(45, dtype=np.float32),
        hands_componentsr=np.eye(45, dtype=np.float32),
        **{k: arrays[k] for k in keys},
    )
    return folder.parent


def _command(bodies, only_tiny_capture):
    return [
        "train", "capture=dna_rendering", "capture.root=outputs/captures", *only_tiny_capture, "body=smplx",
        f"body.path={bodies}", "avatar=r3", "name=dna", "debug=fast", "logger=none", "codebook=small", "batch.views=2",
    ]  # fmt: skip


def test_the_published_loss_needs_an_extra_and_says_so(workplace, bodies, only_tiny_capture):
    try:
        import lpips  # noqa: F401
    except ModuleNotFoundError:
        text = workplace(*_command(bodies, only_tiny_capture), code=2)
        assert "lpips" in text and "loss=no_perceptual" in text
    else:
        pytest.skip("the extra [lpips] is installed")


def test_training_on_a_pair_with_smplx(workplace, bodies, only_tiny_capture):
    workplace(*_command(bodies, only_tiny_capture), "loss=no_perceptual", "name=dna_smplx")
    metrics = json.loads((workplace.folder / "outputs" / "dna_smplx" / "metrics.json").read_text())
    assert metrics["novel_view"]["paper"]["psnr"] > 5


def test_missing_body_files_name_the_place_to_register(workplace, only_tiny_capture, tmp_path):
    text = workplace(*_command(tmp_path, only_tiny_capture), "loss=no_perceptual", code=2)
    assert "smpl-x.is.tue.mpg.de" in text and "body=demo" in text


def test_a_missing_capture_names_the_file(workplace):
    for _ in range(2):  # the failed run leaves no run folder that would refuse the second try
        text = workplace("train", "experiment=demo", "capture.subject=nobody", "name=nobody", code=2)
        assert "nobody.smc" in text and "Traceback" not in text
