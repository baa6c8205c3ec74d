"""avatar.garment through the command line and from Python: fitted, trained with, kept, and moved where it never was."""

import json

import pytest
import torch

import r3avatar

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def skirt_run(workplace, only_tiny_capture):
    steps = ["budget.images=16", "batch.views=2", "validation.frames=1", "media=false", "logger=none", "name=skirt"]
    said = workplace("train", "experiment=demo", *only_tiny_capture, *steps, "avatar.garment=skirt")
    assert "wears a skirt" in said
    return workplace.folder / "outputs" / "skirt"


def test_the_checkpoint_is_all_that_an_evaluation_needs(workplace, skirt_run):
    state = torch.load(skirt_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    places, worn = state["avatar.garment.places"], state["avatar.gaussians.worn"]
    assert len(places) == 12 and places.isfinite().all() and 0 < worn.sum() < len(worn)
    trained = json.loads((skirt_run / "metrics.json").read_text())
    workplace("evaluate", f"run={skirt_run}", "media=false")
    again = json.loads((skirt_run / "metrics.json").read_text())
    for split in ("novel_view", "novel_pose"):
        assert again[split]["paper"]["psnr"] == pytest.approx(trained[split]["paper"]["psnr"], abs=1e-3)


def test_it_goes_on_from_a_checkpoint(workplace, only_tiny_capture, skirt_run):
    steps = ["budget.images=20", "batch.views=2", "validation.frames=1", "media=false", "logger=none", "name=skirt"]
    steps += ["evaluate=false", "resume=true"]
    said = workplace("train", "experiment=demo", *only_tiny_capture, *steps, "avatar.garment=skirt")
    assert "20 images" in said and "wears a" not in said  # what was fitted is kept


def test_a_film_and_a_pose_of_a_motion_that_was_never_recorded(workplace, skirt_run):
    said = workplace("animate", f"run={skirt_run}", "motion=builtin:walk", "end=0.4", "scale=0.5")
    assert "film: " in said
    avatar = r3avatar.Avatar.load(skirt_run, device="cpu")
    theta, transl = avatar.recorded("novel_pose")
    garment = avatar.model.garment
    frames = torch.tensor(avatar.recording.split("novel_pose").frames)
    shown, hold = avatar.pose(theta, transl), garment.hold(avatar.model.gaussians.positions)
    assert shown.means.isfinite().all()
    # Frames of the capture hang as they did there; a pose that is not one begins with getting dressed.
    worn = avatar.model.gaussians.worn > 0
    nearest = garment.recorded(frames)[:, hold.particles[worn, 0]]
    there = (nearest[..., :3] @ garment.rest[hold.particles[worn, 0]][..., None])[..., 0] + nearest[..., 3]
    assert (shown.means[:, worn] - there).norm(dim=-1).median() < 0.1
    moved = avatar.pose(theta[0] + 0.05, transl[0])
    body = avatar.body.vertices(avatar._body_pose(theta[0] + 0.05, transl[0]))[0]
    assert torch.cdist(moved.means[0, worn], body).amin(1).median() < 0.2
