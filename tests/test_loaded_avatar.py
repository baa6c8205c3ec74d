"""`r3avatar.Avatar`: loading without the capture, posing, rendering, and what bad input is told."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tiny_run, tmp_path_factory):
    """The tiny run in a folder of its own: no capture anywhere near."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def avatar(alone):
    from r3avatar import Avatar

    return Avatar.load(alone, device="cpu")


def test_importing_the_package_is_light():
    program = "import sys, r3avatar; assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_it_knows(avatar, tiny_run):
    assert "Avatar of tiny" in repr(avatar) and avatar.fps == 15 and avatar.recording.recorded == (0, 8)
    assert {"0", "4"} <= set(avatar.cameras) and avatar.model.gaussians.positions.device.type == "cpu"


def test_recorded_poses_render_as_evaluation_renders_them(avatar):
    """At its recorded time a training frame is what Playback draws."""
    row = avatar.recording.frame_index(3)
    theta, transl = (x[3] for x in avatar.recorded())
    camera = avatar.cameras["4"]
    image = avatar.pose(theta, transl, time=3).render(camera)
    pose = avatar.recording.poses[row : row + 1]
    expected = avatar.playback().recorded(pose, torch.tensor([3.0]), camera[None, None]).rgb[0, 0].clamp(0, 1)
    assert image.shape == (camera.height, camera.width, 3)
    torch.testing.assert_close(image, expected, atol=2e-3, rtol=0)


def test_a_motion_is_the_verbs(avatar):
    """Retrieved for the whole sequence, frame for frame what `Playback.retrieved` draws."""
    theta, transl = avatar.motion("builtin:walk", end=0.3)
    posed = avatar.pose(theta, transl)
    cameras = avatar.camera("follow", theta, transl)
    images = posed.render(cameras)
    assert images.shape == (len(theta), cameras.height, cameras.width, 3) and len(theta) == 5
    retrieved = avatar._retriever.retrieve(theta)
    pose = avatar._body_pose(theta, transl)
    for f in (0, 4):
        drawn = avatar.playback().retrieved(pose[f : f + 1], retrieved[[f]], cameras[f : f + 1][:, None])
        torch.testing.assert_close(images[f], drawn.rgb[0, 0].clamp(0, 1), atol=2e-3, rtol=0)


def test_a_mixture_is_what_playback_draws(alone):
    from r3avatar import Avatar

    avatar = Avatar.load(alone, device="cpu", retrieval="mixture")
    theta, transl = avatar.motion("builtin:walk", end=0.3)
    camera = avatar.cameras["4"]
    images = avatar.pose(theta, transl).render(camera)
    retrieved, pose = avatar._retriever.retrieve(theta), avatar._body_pose(theta, transl)
    for f in (0, 4):
        drawn = avatar.playback().retrieved(pose[f : f + 1], retrieved[[f]], camera[None, None])
        torch.testing.assert_close(images[f], drawn.rgb[0, 0].clamp(0, 1), atol=2e-3, rtol=0)


def test_gaussians_are_plain_values(avatar):
    from r3avatar.types import Gaussians

    posed = avatar.pose(np.zeros((3, 55, 3)), np.array([[0.0, 1, 0]]))
    assert isinstance(posed, Gaussians) and posed.means.shape == (3, len(avatar.model.gaussians), 3)
    assert posed.sh.shape[:2] == posed.means.shape[:2] and len(posed[1:2].means) == 1
    camera = avatar.cameras["0"]
    over = posed[:1].render(camera, alpha=True)
    assert over.shape == (camera.height, camera.width, 4) and over[0, 0, 3] == 0
    white = posed[:1].render(camera, background=torch.ones(3))
    torch.testing.assert_close(white, (over[..., :3] + 1 - over[..., 3:]).clamp(0, 1), atol=1e-4, rtol=0)


def test_where_it_stands_without_a_translation(avatar):
    theta, transl = avatar.recorded()
    first = avatar.pose(theta[0], transl[0])
    torch.testing.assert_close(avatar.pose(theta[0]).means, first.means)


def test_poses_before_count(avatar):
    theta, transl = avatar.motion("builtin:swordplay", end=0.3)
    sequence = avatar.pose(theta, transl)
    one = avatar.pose(theta[4], transl[4], history=theta[2:4])
    assert one.means.shape == sequence[4:5].means.shape
    still = avatar._retriever.retrieve(theta[4:5])
    moving = avatar._retriever.retrieve(theta[4:5], theta[2:4])
    assert not torch.equal(still.distances, moving.distances)


@pytest.mark.parametrize(
    ("theta", "transl", "message"),
    [
        (np.zeros((24, 3)), None, r"theta is float64 \[24, 3\]; expected numbers \[55, 3\] or \[F, 55, 3\]"),
        (np.zeros((0, 55, 3)), None, r"theta is float64 \[0, 55, 3\]"),
        (np.full((2, 55, 3), np.nan), None, "theta of frame 0 is not finite"),
        (np.zeros((2, 55, 3)), np.zeros((3, 3)), r"transl is \[3, 3\]; expected \[3\], or \[2, 3\]"),
        (np.array(["a"]), None, "expected numbers"),
    ],
)
def test_bad_poses_are_named(avatar, theta, transl, message):
    with pytest.raises(ValueError, match=message):
        avatar.pose(theta, transl)


def test_cameras_that_do_not_fit(avatar):
    posed = avatar.pose(np.zeros((2, 55, 3)))
    cameras = avatar.camera("fixed", torch.zeros(3, 55, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"cameras are \[3\]; expected one, or one for each of the 2 frames"):
        posed.render(cameras)


def test_other_parts_by_name(alone, tmp_path):
    from r3avatar import Avatar
    from r3avatar.run import RunError

    chosen = Avatar.load(alone, retrieval="viterbi", rasterizer="torch", device="cpu")
    assert type(chosen._retriever).__name__ == "ViterbiRetriever" and "Torch" in type(chosen.rasterizer).__name__
    with pytest.raises(ValueError, match="retrieval 'best' is unknown; there are"):
        Avatar.load(alone, retrieval="best")
    with pytest.raises(RunError, match="is not a run folder"):
        Avatar.load(tmp_path)


def test_a_run_from_before_recordings_says_what_is_missing(alone, tmp_path, monkeypatch):
    from r3avatar import Avatar
    from r3avatar.run import RunError

    old = shutil.copytree(alone, tmp_path / "old")
    (old / "recording.npz").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"recording\.npz does not exist.*cannot be opened.*capture\.root=DIR"):
        Avatar.load(old, device="cpu")


def test_thumbnails_are_the_captures_pictures_or_the_avatars(avatar, workplace):
    from r3avatar.captures import FrameStore
    from r3avatar.captures.cache import cache_folder
    from r3avatar.evaluation.thumbnails import Thumbnails

    recording, playback = avatar.recording, avatar.playback()
    cache = str(workplace.folder / "cache")
    kept = Thumbnails(recording, avatar.body, playback, cache)
    store = FrameStore(cache_folder(recording, avatar.body, cache), recording.camera_ids, recording.frame_ids)
    prepared = store.get(kept._camera, recording.frame_index(5))  # found without the capture, by its fingerprint
    found = kept(5)
    assert found.max() > 100 and found.shape[0] <= prepared.rgb.shape[0] and found.shape[1] <= prepared.rgb.shape[1]
    person = prepared.rgb[prepared.mask & 1 > 0]
    assert (found.reshape(-1, 3).sum(0) >= person.sum(0)).all(), "all of the person is in it"
    rendered = Thumbnails(recording, avatar.body, playback, "off")(5)
    assert rendered.max() > 50 and 0.3 < rendered.shape[0] / found.shape[0] < 3
    assert recording.camera_ids[kept._camera] in recording.split("train").cameras
