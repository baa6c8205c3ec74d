"""Cameras for videos: the whole motion is in the picture, paths pass their stations, mistakes are named."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r3avatar.captures import CaptureError, Recording, Split, write_recording
from r3avatar.motion.camera_path import read_camera_path
from r3avatar.motion.cameras import choose_cameras, look_at
from r3avatar.motion.motion import MotionError
from r3avatar.types import BodyPose, Cameras


@pytest.fixture
def recording(tmp_path, body, like_of):
    """Four cameras around a person who stands at (0.3, 1.2, 0.1) and faces +z, camera b."""
    K = torch.tensor([[300.0, 0, 110], [0, 300, 96], [0, 0, 1]])
    target, up = torch.tensor([0.3, 0.9, 0.1]), torch.tensor([0.0, 1, 0])
    places = {"a": (-3.0, 0.2, 0), "b": (0.2, 0.2, 3.2), "c": (3.0, 0.2, 0), "d": (0, 0.2, -3.0)}
    pose = like_of(body, 3)

    plain = SimpleNamespace(
        name="plain", fps=15.0, body_kind="smplx", gender=None, box_margin=0.05, recorded=(0, 2), frame_ids=[0, 1, 2],
        camera_ids=list(places), poses=pose, fingerprint=dict, splits={"train": Split(list("abcd"), [0, 1])},
        cameras=[Cameras(K, look_at(target + torch.tensor(p), target, up), 200, 192) for p in places.values()],
    )  # fmt: skip
    return Recording(write_recording(tmp_path / "recording.npz", plain))


def _walk(body, frames, metres):
    """Walks along -x, swaying, from where the capture's first pose stands."""
    Th = torch.tensor([0.3, 1.2, 0.1]).repeat(frames, 1)
    Th[:, 0] -= torch.linspace(0, metres, frames)
    Th[:, 1] += 0.03 * torch.sin(torch.arange(frames) * 1.3)
    return BodyPose(torch.zeros(frames, 55, 3), torch.zeros(frames, 10), torch.zeros(frames, body.num_expression),
                    torch.eye(3).expand(frames, 3, 3), Th)  # fmt: skip


def _pixels(body, pose, cameras):
    points = body.vertices(pose)  # [F, V, 3]
    seen = points @ cameras.w2c[:, :3, :3].mT + cameras.w2c[:, None, :3, 3]
    assert (seen[..., 2] > 0).all()
    image = seen @ cameras.K.mT
    return image[..., :2] / image[..., 2:]


@pytest.mark.parametrize("choice", ["turntable", "follow", "fixed"])
@pytest.mark.parametrize("metres", [0.0, 4.0])
def test_all_of_the_motion_is_in_the_picture(recording, body, choice, metres):
    pose = _walk(body, 30, metres)
    cameras = choose_cameras(choice, capture=recording, body=body, pose=pose, fps=15)
    pixels = _pixels(body, pose, cameras)
    assert pixels.min() >= 0 and (pixels[..., 0] <= 200).all() and (pixels[..., 1] <= 192).all()
    assert (pixels[..., 1].amax(1) - pixels[..., 1].amin(1)).min() > (45 if choice == "fixed" else 110)


def test_fixed_and_follow_look_from_where_the_person_faces(recording, body):
    pose = _walk(body, 30, 4.0)
    fixed = choose_cameras("fixed", capture=recording, body=body, pose=pose, fps=15)
    assert (fixed.w2c == fixed.w2c[0]).all() and fixed.centres[0, 2] > 2
    follow = choose_cameras("follow", capture=recording, body=body, pose=pose, fps=15)
    assert (follow.w2c[:, :3, :3] == follow.w2c[0, :3, :3]).all()  # it moves and never turns
    moved = follow.centres[-1] - follow.centres[0]
    assert -4.1 < moved[0] < -3.5 and moved[1:].abs().max() < 0.03
    steps = follow.centres.diff(dim=0)
    assert steps[:, 1].abs().max() < 0.4 * pose.Th[:, 1].diff().abs().max(), "the steps' shaking is smoothed away"


def test_a_camera_of_the_capture_and_an_unknown_one(recording, body):
    pose = _walk(body, 2, 0)
    cameras = choose_cameras("c", capture=recording, body=body, pose=pose, fps=15)
    assert torch.equal(cameras.w2c[1], recording.cameras[2].w2c) and torch.equal(cameras.K[0], recording.cameras[2].K)
    with pytest.raises(MotionError, match=r"camera=e is neither turntable, follow, fixed, nor a \.json.*a, b, c, d"):
        choose_cameras("e", capture=recording, body=body, pose=pose, fps=15)


def _file(tmp_path, **cameras):
    path = tmp_path / "path.json"
    path.write_text(json.dumps(cameras))
    return path


def _entry(x, turn=0.0, focal=300.0, **more):
    c, s = np.cos(turn), np.sin(turn)
    R = np.array([[c, 0, s], [0, -1, 0], [s, 0, -c]])
    K = [[focal, 0, 99.5], [0, focal, 95.5], [0, 0, 1]]
    return {"K": K, "R": R.tolist(), "T": (-R @ [x, 1, 4]).tolist(), "width": 200, "height": 192, **more}


def test_one_camera_of_a_file_stands_still(tmp_path):
    cameras = read_camera_path(_file(tmp_path, only=_entry(0.5)), 4, 15)
    assert (cameras.width, cameras.height) == (200, 192) and cameras.K.shape == (4, 3, 3)
    torch.testing.assert_close(cameras.centres, torch.tensor([0.5, 1, 4]).expand(4, 3))
    assert (cameras.K[:, 0, 2] == 100).all(), "OpenCV's pixel centres are moved by 0.5"


def test_a_path_passes_its_stations(tmp_path):
    path = _file(tmp_path, a=_entry(0.0), b=_entry(1.0, 0.6), c=_entry(4.0, 0.2, 400.0))
    cameras = read_camera_path(path, 21, 10)
    torch.testing.assert_close(cameras.centres[[0, 10, 20], 0], torch.tensor([0.0, 1, 4]), atol=1e-5, rtol=0)
    turns = torch.atan2(cameras.w2c[:, 0, 2], cameras.w2c[:, 0, 0])
    torch.testing.assert_close(turns[[0, 10, 20]], torch.tensor([0.0, 0.6, 0.2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.K[[0, 10, 20], 0, 0], torch.tensor([300.0, 300, 400]), atol=1e-3, rtol=0)
    R = cameras.w2c[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(21, 3, 3), atol=1e-5, rtol=0)
    assert cameras.centres[:, 0].diff().diff().abs().max() < 0.1, "no corner in the way"


def test_times_of_the_stations(tmp_path):
    path = _file(tmp_path, a=_entry(0.0, time=0.5), b=_entry(2.0, time=1.5))
    x = read_camera_path(path, 31, 10).centres[:, 0]
    torch.testing.assert_close(x[[0, 5, 10, 15, 30]], torch.tensor([0.0, 0, 1, 2, 2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ({}, "a dictionary of cameras by name, found none"),
        ({"a": {"K": [[1]]}}, "camera a"),
        ({"a": _entry(0), "b": _entry(1) | {"width": 100}}, "one image size"),
        ({"a": _entry(0, time=1), "b": _entry(1)}, "1 of 2 with a time"),
        ({"a": _entry(0, time=1), "b": _entry(1, time=1)}, "camera b, time: expected seconds above 1"),
        ({"a": _entry(0, time="x")}, "camera a, time: expected numbers"),
        ({"a": _entry(0) | {"R": np.ones((3, 3)).tolist()}}, "a rotation matrix"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, cameras, message):
    with pytest.raises(CaptureError, match=message) as error:
        read_camera_path(_file(tmp_path, **cameras), 4, 15)
    assert "path.json" in str(error.value)


def test_a_missing_file_is_named(recording, body):
    with pytest.raises(CaptureError, match=r"none\.json.*found none"):
        choose_cameras("none.json", capture=recording, body=body, pose=_walk(body, 2, 0), fps=15)
