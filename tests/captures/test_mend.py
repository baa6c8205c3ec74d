"""Mends: what each key changes, how two become one, what is refused, and that every reader applies them alike."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from r3avatar.body import rodrigues
from r3avatar.captures import CaptureError, Mend, Split
from r3avatar.cli import check

from .mutations import LAYOUTS
from .plain_capture import plain_capture

K = np.array([[300.0, 0, 128.5], [0, 310, 127.5], [0, 0, 1]])
MEAN = np.random.default_rng(1).normal(0, 0.3, (30, 3))
READERS = [name for name in LAYOUTS]


def mean():
    return MEAN


def w2c():
    matrix = np.eye(4)
    matrix[:3, :3] = rodrigues(torch.tensor([0.3, 2.0, -0.4], dtype=torch.float64)).numpy()
    matrix[:3, 3] = 0.2, -0.1, 3.0
    return matrix


def test_nothing_by_default():
    poses = plain_capture("smplx").poses
    assert Mend().settings == {} and Mend().poses(poses) is poses
    np.testing.assert_array_equal(Mend().camera(K, w2c())[1], w2c())
    frames, same, lost = Mend().fits([3, 4], poses)
    assert (frames, lost) == ([3, 4], []) and same is poses


def test_cameras():
    _, millimetres = Mend(camera_unit=0.001).camera(K, w2c())
    np.testing.assert_allclose(millimetres[:3, 3] * 1000, w2c()[:3, 3])
    _, inverse = Mend(invert_extrinsics=True).camera(K, w2c())
    np.testing.assert_allclose(inverse @ w2c(), np.eye(4), atol=1e-15)
    _, opencv = Mend(camera_axes="opengl").camera(K, w2c())
    np.testing.assert_array_equal(opencv, np.diag([1, -1, -1, 1]) @ w2c())
    for degrees in (90, -90, 180):
        turn = rodrigues(torch.tensor([np.radians(degrees), 0, 0])).numpy()
        _, turned = Mend(turn_world=degrees).camera(K, w2c())
        np.testing.assert_allclose(turned[:3, :3], w2c()[:3, :3] @ turn, atol=1e-6)
        np.testing.assert_array_equal(turned[:, 3], w2c()[:, 3])
    half, _ = Mend(intrinsics_scale=0.5).camera(K, w2c())
    np.testing.assert_array_equal(half, [[150, 0, 64.25], [0, 155, 63.75], [0, 0, 1]])


def test_the_given_arrays_stay():
    given, k = w2c(), K.copy()
    Mend(camera_unit=2, camera_axes="opengl", turn_world=90, intrinsics_scale=3).camera(k, given)
    np.testing.assert_array_equal(given, w2c())
    np.testing.assert_array_equal(k, K)


def test_the_root_turns_about_the_other_point(body):
    poses = plain_capture("smplx").poses
    poses.R = rodrigues(torch.randn(len(poses), 3, generator=torch.Generator().manual_seed(0)))
    p = body.joints(poses.betas, poses.expression)[:, 0]
    pelvis, origin = Mend(root="pelvis").poses(poses), Mend(root="origin").poses(poses)
    whole = poses.R @ rodrigues(poses.theta[:, 0])
    assert torch.equal(pelvis.R, torch.eye(3).repeat(len(poses), 1, 1)) and not origin.theta[:, 0].any()
    torch.testing.assert_close(rodrigues(pelvis.theta[:, 0]), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(origin.R, whole, atol=1e-6, rtol=0)
    # The two are one body but for the offset R p - p.
    offset = (whole @ p[..., None])[..., 0] - p
    moved = replace(pelvis, Th=pelvis.Th + offset)
    torch.testing.assert_close(body.vertices(moved), body.vertices(origin), atol=1e-5, rtol=0)


def test_hands():
    poses = plain_capture("smplx").poses
    added = Mend(hands="relative", hand_mean=mean).poses(poses)
    np.testing.assert_allclose(added.theta[:, 25:] - poses.theta[:, 25:], np.broadcast_to(MEAN, (4, 30, 3)), atol=1e-6)
    assert torch.equal(added.theta[:, :25], poses.theta[:, :25])
    back = Mend(hands="full", hand_mean=mean).poses(added)
    torch.testing.assert_close(back.theta, poses.theta, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="24 joints has no fingers"):
        Mend(hands="full", hand_mean=mean).poses(plain_capture("smpl").poses)


@pytest.mark.parametrize(
    ("offset", "frames", "rows", "lost"), [(1, [2, 3, 4], [0, 1, 2], [5]), (-1, [4, 5, 6], [0, 1, 2], [3])]
)
def test_frames(offset, frames, rows, lost):
    poses = plain_capture("smplx", frames=3).poses
    found, moved, without = Mend(frame_offset=offset).fits([3, 4, 5], poses)
    assert (found, without) == (frames, lost) and torch.equal(moved.Th, poses.Th[rows])


def test_no_frame_comes_before_the_first_number():
    poses = plain_capture("smplx", frames=3).poses
    found, moved, lost = Mend(frame_offset=2).fits([0, 1, 2], poses)
    assert (found, lost) == ([0], [1, 2]) and torch.equal(moved.Th, poses.Th[2:])
    with pytest.raises(ValueError, match=r"frame_offset is 3; the poses are of frames 0 \.\. 2"):
        Mend(frame_offset=3).fits([0, 1, 2], poses)


def test_two_mends_are_one():
    first = Mend(
        camera_unit=0.001, turn_world=-90, root="pelvis", frame_offset=1, intrinsics_scale=0.5, camera_axes="opengl"
    )
    second = Mend(
        camera_unit=1000, turn_world=-90, root="origin", frame_offset=-1, intrinsics_scale=4, camera_axes="opengl"
    )
    both = first.then(second)
    assert both.settings == {"turn_world": 180, "root": "origin", "intrinsics_scale": 2.0}
    assert Mend(turn_world=180).then(Mend(turn_world=90)).turn_world == -90
    hands = Mend(hands="full", hand_mean=mean)
    assert hands.then(Mend(hands="relative", hand_mean=mean)).hands is None and hands.then(Mend()).hands == "full"
    inverted = Mend(invert_extrinsics=True)
    assert inverted.then(inverted).settings == {} and Mend(camera_unit=2).then(inverted).settings["camera_unit"] == 2
    assert first.then(inverted) is None  # the axes and the world were changed after the inverse
    for one, other in ((Mend(camera_unit=3), inverted), (inverted, Mend(turn_world=90, camera_axes="opengl"))):
        in_turn = other.camera(*one.camera(K, w2c()))
        np.testing.assert_allclose(one.then(other).camera(K, w2c())[1], in_turn[1], atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"camera_unit": 0}, "mend.camera_unit is 0; expected a number above 0"),
        ({"body_unit": "mm"}, "mend.body_unit is 'mm'"),
        ({"intrinsics_scale": float("nan")}, "mend.intrinsics_scale is nan"),
        ({"turn_world": 45}, "mend.turn_world is 45; expected one of 0, 90, -90, 180"),
        ({"camera_axes": "blender"}, "expected one of opencv, opengl"),
        ({"root": "hips"}, "expected one of null, pelvis, origin"),
        ({"hands": "flat"}, "expected one of null, relative, full"),
        ({"hands": "full"}, "mend.hands=full needs mend.hand_mean"),
        ({"frame_offset": 0.5}, "mend.frame_offset is 0.5; expected a whole number"),
        ({"invert_extrinsics": 2}, "expected one of false, true"),
    ],
)
def test_other_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Mend(**settings)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_mends(name, tmp_path):
    layout = LAYOUTS[name]
    layout.write(tmp_path)
    first = layout.open(tmp_path)
    splits = {part: Split(split.cameras, [0, 1, 2][:: 1 + (part != "train")]) for part, split in first.splits.items()}
    plain = type(first)(**{**first._arguments, "splits": splits, "recorded": (0, 3)})
    settings = {"camera_unit": 0.5, "camera_axes": "opengl", "turn_world": 90, "intrinsics_scale": 0.875}
    mend = Mend(**settings, invert_extrinsics=True, body_unit=2.0, root="origin", frame_offset=-1)
    arguments = {**plain._arguments, "mend": mend}
    mended = pickle.loads(pickle.dumps(type(plain)(**arguments)))  # in memory, of this test
    assert mended.mend == mend and plain.mend == Mend()
    assert mended.frame_ids == [frame + 1 for frame in plain.frame_ids]
    for part, split in plain.splits.items():
        assert mended.splits[part].frames == [frame for frame in split.frames if frame != plain.frame_ids[0]]
    assert torch.equal(mended.poses.Th, plain.poses.Th * 2) and not mended.poses.theta[:, 0].any()
    for given, camera in zip(plain.cameras, mended.cameras):
        expected = mend.camera(given.K.numpy(), given.w2c.numpy())
        np.testing.assert_allclose(camera.K, expected[0], rtol=1e-6)
        np.testing.assert_allclose(camera.w2c, expected[1], atol=1e-5)
    assert mended.fingerprint() != plain.fingerprint()
    assert [a.shape for a in mended.read(0, 1)] == [a.shape for a in plain.read(0, 1)]


def test_frames_without_a_pose_are_refused_or_leave_no_split_empty(tmp_path):
    layout = LAYOUTS["FolderCapture"]
    layout.write(tmp_path)
    arguments = layout.open(tmp_path)._arguments
    with pytest.raises(ValueError, match=r"mend\.frame_offset=3 leaves split 'novel_pose' without any pose"):
        layout.open(tmp_path).__class__(**{**arguments, "mend": Mend(frame_offset=3)})
    splits = {"train": Split(["0"], [0, 9]), "novel_view": None}
    with pytest.raises(CaptureError, match="frame 9"):
        layout.open(tmp_path).__class__(
            **{**arguments, "splits": splits, "recorded": (0, 10), "mend": Mend(frame_offset=1)}
        )


def test_fits_that_are_numbered_from_one(tmp_path):
    """Images from 0, fits from 1: refused as they stand, read with the offset."""
    layout = LAYOUTS["HiFi4G"]
    layout.write(tmp_path)
    right = layout.open(tmp_path)
    folder = right.folder / "smpl" / "smpl"
    for frame in reversed(right.frame_ids):
        (folder / f"{frame:06d}.json").rename(folder / f"{frame + 1:06d}.json")
    with pytest.raises(CaptureError, match=r"000000\.json"):
        layout.open(tmp_path)
    mended = type(right)(**{**right._arguments, "mend": Mend(frame_offset=1)})
    assert mended.frame_ids == right.frame_ids and mended.splits == right.splits
    assert torch.equal(mended.poses.theta, right.poses.theta)


@pytest.mark.parametrize("capture", ["demo", "dna_rendering", "zju_mocap", "hifi4g", "mvhumannet", "folder"])
def test_every_configuration_has_the_keys(capture):
    mend = check(
        "train", [f"capture={capture}", "capture.mend.turn_world=-90", "capture.mend.root=pelvis"]
    ).capture.mend
    assert mend.turn_world == -90 and mend.root == "pelvis"
