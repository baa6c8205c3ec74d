"""avatar=r3_plus: what goes beyond the paper, through the command line."""

import json

import pytest
import torch
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow


def test_trains_evaluates_and_says_what_is_missing(workplace, only_tiny_capture):
    steps = ["budget.images=16", "batch.views=2", "validation.frames=1", "media=false", "name=plus"]
    workplace("train", "experiment=demo", *only_tiny_capture, *steps)  # the demo's own avatar
    folder = workplace.folder / "outputs" / "plus"
    config = OmegaConf.load(folder / "config.yaml")
    assert config.codebook.general and config.retrieval.pictures == 8 and config.loss.ssim == 0.1
    assert config.avatar.shading and config.loss.general_squared == 5
    planes = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["avatar.codebook.planes"]
    # All texels of the general moment, the last row of the time planes, begin at 1; some images have trained it.
    last = planes[-64:]  # of the last plane: z and time at the finest scale
    assert planes.isfinite().all() and (last != 1).any()
    plus = json.loads((folder / "metrics.json").read_text())["novel_pose"]["paper"]["psnr"]
    assert 5 < plus < 60
    workplace("evaluate", "run=outputs/plus", "retrieval=mixture", "retrieval.general=1", "media=false")


def test_an_avatar_without_a_general_moment_says_so(workplace, tiny_run):
    said = workplace("evaluate", f"run={tiny_run}", "retrieval=mixture_general", "media=false", code=2)
    assert "codebook.general=true" in said


@pytest.mark.parametrize(
    ("experiment", "fewer"),
    [
        ("study_sparse_frames", ["capture.splits.train.frames=0-7/4", "capture.splits.novel_view.frames=4"]),
        ("study_moving_view", []),
    ],
)
def test_trains_on_few_frames_and_on_one_view_a_frame(workplace, only_tiny_capture, experiment, fewer):
    steps = ["budget.images=8", "validation.frames=1", "validation.every_images=8", "media=false", "logger=none"]
    small = ["codebook=small", "avatar.decoder_width=64", "skinning.width=32", "capture.scale=0.25"]
    workplace("train", f"experiment={experiment}", "avatar=r3_plus", *only_tiny_capture, *small, *steps, *fewer)
    metrics = json.loads((workplace.folder / "outputs" / experiment / "metrics.json").read_text())
    assert [point["images"] for point in metrics["train"]["curve"]] == [8]
    for split in ("novel_view", "novel_pose"):
        assert 5 < metrics[split]["paper"]["psnr"] < 60
