"""Runs whose first Gaussians come from the images: by several processes, resumed, loaded without the capture."""

import json
import signal

import pytest
import torch

pytestmark = pytest.mark.slow

RUN = [
    "avatar.initial_gaussians=9000", "avatar.initial_points=hull", "avatar.initial_colours=images",
    "avatar.initial_frames=3", "avatar.static_residual=true", "avatar.cloth_bone=true",
    "batch.views=2", "budget.images=8", "validation.every_images=8", "validation.frames=1",
    "density.start=2", "density.every=3", "density.grad_threshold=1e-6", "density.max_gaussians=14000",
    "checkpoint.every_images=4", "media=false", "logger=none",
]  # fmt: skip


def _checkpoint(runs, name):
    return torch.load(runs.folder(name) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def whole(runs):
    """The final state of a run that nothing interrupts."""
    runs("first_whole", *RUN)
    return _checkpoint(runs, "first_whole")


def test_it_begins_off_the_body_and_is_evaluated(runs, whole):
    assert len(whole["avatar.gaussians.positions"]) > 9000
    metrics = json.loads((runs.folder("first_whole") / "metrics.json").read_text())
    assert 5 < metrics["novel_view"]["paper"]["psnr"] < 60
    assert whole["avatar.gaussians.sh_dc"].std() > 0.2
    cloth = whole["avatar.gaussians.cloth"]
    assert len(cloth) == len(whole["avatar.gaussians.positions"]) and 0 < int((cloth > 0).sum()) < len(cloth)


def test_resumed_it_ends_with_the_same_bits_and_looks_at_no_images_again(runs, whole):
    accident = {"accident": "kill", "where": "step", "images": 6}
    runs("first", *RUN, accidents=[accident], code=-signal.SIGKILL)
    runs("first", *RUN, "resume=true", "avatar.initial_frames=0")  # which is refused where it is read
    again = _checkpoint(runs, "first")
    assert again.keys() == whole.keys()
    assert [name for name in again if not torch.equal(again[name], whole[name])] == []


def test_loaded_it_has_its_box_and_needs_no_capture(runs, whole):
    from r3avatar import Avatar

    avatar = Avatar.load(runs.folder("first_whole"), device="cpu")
    assert torch.equal(avatar.model.codebook.aabb, whole["avatar.codebook.aabb"])
    assert torch.equal(avatar.model.gaussians.positions, whole["avatar.gaussians.positions"])
    before = json.loads((runs.folder("first_whole") / "metrics.json").read_text())["novel_pose"]["paper"]["psnr"]
    runs.place("evaluate", "run=outputs/first_whole", "media=false")
    after = json.loads((runs.folder("first_whole") / "metrics.json").read_text())["novel_pose"]["paper"]["psnr"]
    assert after == pytest.approx(before, abs=1e-4)


def test_two_processes_begin_alike(runs, workplace, tiny_capture):
    processes = ["trainer=multi_gpu", "trainer.devices=2", "trainer.accelerator=cpu", "evaluate=false"]
    workplace.afresh("train", "experiment=demo", *tiny_capture, "name=first_two", *RUN, *processes)
    assert len(_checkpoint(runs, "first_two")["avatar.gaussians.positions"]) > 9000


def test_one_view_a_frame_has_no_hull(runs):
    said = runs("first_moving", *RUN, "batch.views=1", "batch.moving_view=true", code=None)
    assert runs.code not in (0, None) and "masks of two cameras or more, not 1" in said
    assert not runs.folder("first_moving").exists()
