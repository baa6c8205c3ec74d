"""The ZJU-MoCap reader: what comes out, and what is refused."""

import re

import cv2
import numpy as np
import pytest
import torch

from r3avatar.captures import CaptureError, Split, ZjuMocap

from .layouts_smpl import fit, write_dict, write_zju_mocap
from .plain_capture import assert_cameras, assert_images, assert_read_by_threads, plain_capture
from .refusals import SMALL, assert_refused_when_read
from .small_captures import ARGUMENTS, SPLITS

PLAIN = plain_capture("smpl")
SUBJECT = "377 v1.2 Zoë"  # spaces, dots, letters beyond ASCII


def _open(root, subject=SUBJECT, **changes):
    return ZjuMocap(root, subject, **{**ARGUMENTS, **changes})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The root of a capture that no test changes; its images are PNGs, which keep every value."""
    root = tmp_path_factory.mktemp("zju mocap.d")
    write_zju_mocap(root / SUBJECT, PLAIN, ".png")
    return root


@pytest.fixture
def spoilt(tmp_path):
    """The root of a fresh capture, to be spoiled at will."""
    write_zju_mocap(tmp_path / SUBJECT, PLAIN)
    return tmp_path


def test_description(shared):
    capture = _open(shared)
    assert (capture.name, capture.body_kind, capture.gender, capture.fps) == (SUBJECT, "smpl", None, None)
    assert capture.camera_ids == ["0", "1", "2"] and capture.frame_ids == [0, 1, 2, 3]
    assert capture.recorded == (0, 3) and capture.box_margin == 0.05 and capture.splits == SPLITS


def test_cameras(shared):
    for scale in (1.0, 0.5):
        assert_cameras(PLAIN, _open(shared, scale=scale).cameras, scale)


def test_images_and_masks_are_exact(shared):
    assert_images(PLAIN, _open(shared))


def test_jpegs(spoilt):
    path = spoilt / SUBJECT / "images/02/000001.jpg"
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    rgb, mask = _open(spoilt).read(2, 1)
    np.testing.assert_array_equal(rgb, decoded * PLAIN.masks[2][1][..., None])
    np.testing.assert_array_equal(mask, PLAIN.masks[2][1])


def test_distortion_is_undone(tmp_path):
    plain = plain_capture("smpl", cameras=1, frames=1)
    plain.cameras[0]["D"] = np.array([-0.3, 0.05, 0, 0, 0])
    write_zju_mocap(tmp_path / "387", plain, ".png")
    splits = {"train": Split(["0"], [0])}
    bent = _open(tmp_path, 387, splits=splits, undistort=False).read(0, 0)
    straight = _open(tmp_path, 387, splits=splits).read(0, 0)
    np.testing.assert_array_equal(bent[0], plain.images[0][0])
    maps = cv2.initUndistortRectifyMap(
        plain.cameras[0]["K"], plain.cameras[0]["D"], None, plain.cameras[0]["K"], (96, 80), cv2.CV_16SC2
    )
    expected = cv2.remap(plain.masks[0][0], *maps, cv2.INTER_NEAREST)
    np.testing.assert_array_equal(straight[1], expected)
    assert (straight[1] != bent[1]).any()


def test_poses(shared):
    pose = _open(shared).poses
    assert len(pose) == 4 and pose.expression.shape == (4, 0) and not pose.theta[:, 0].any()
    for name in ("theta", "betas", "R", "Th"):
        ours, theirs = getattr(pose, name), getattr(PLAIN.poses, name)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize("prefix", ["my_", "CoreView_"])
def test_names_of_both_releases(tmp_path, shared, prefix):
    """The refined images under the first release's annotations, in a folder as either is called."""
    write_zju_mocap(tmp_path / f"{prefix}377", PLAIN, ".png", "Camera_B{}")
    capture = _open(tmp_path, 377)
    assert capture.name == "377"
    np.testing.assert_array_equal(capture.read(2, 3)[0], PLAIN.images[2][3])


def test_arrays_of_names(spoilt):
    """Releases differ in whether `ims` holds lists or arrays."""
    expected = _open(spoilt).read(2, 1)
    _changed("annots.npy", lambda a: a.update(ims=np.array([{"ims": np.array(e["ims"])} for e in a["ims"]])))(
        spoilt / SUBJECT
    )
    np.testing.assert_array_equal(_open(spoilt).read(2, 1)[0], expected[0])


def test_fingerprint(shared, spoilt):
    whole, half = (_open(shared, scale=scale).fingerprint() for scale in (1.0, 0.5))
    assert whole != half
    fewer = {**SPLITS, "train": Split(["0", "2"], [1])}
    assert _open(shared, splits=fewer).fingerprint() == whole, "other frames find the same cache"
    before = _open(spoilt).fingerprint()
    for name in ("mask/01/000002.png", "images/00/000001.jpg"):
        path = spoilt / SUBJECT / name
        path.write_bytes(path.read_bytes() + b" ")
        after = _open(spoilt).fingerprint()
        assert after != before, name
        before = after
    for change in (_fit("Th", np.ones((1, 3))), _cam("T", 1, np.ones((3, 1))), _cam("D", 1, np.ones((5, 1)) / 9)):
        change(spoilt / SUBJECT)
        after = _open(spoilt).fingerprint()
        assert after != before
        before = after


def test_pickles_and_threads(shared):
    assert_read_by_threads(PLAIN, _open(shared))


class _Attack:
    """A pickle that would make a file if it ran."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["annots.npy", "smpl_params/1.npy"])
def test_hostile_pickles_do_not_run(spoilt, name):
    path, mark = spoilt / SUBJECT / name, spoilt / "mark"
    write_dict(path, {"cams": _Attack(mark), "ims": [], "poses": _Attack(mark)})
    mark.unlink(missing_ok=True)
    with pytest.raises(CaptureError, match=r"refused .*open") as error:
        _open(spoilt)
    assert not mark.exists() and str(path) in str(error.value) and "Fix: " in str(error.value)


def _changed(name, change):
    def spoil(folder):
        content = np.load(folder / name, allow_pickle=True).item()  # this test's own file
        change(content)
        write_dict(folder / name, content)

    return spoil


def _cam(key, camera, value):
    return _changed("annots.npy", lambda a: a["cams"][key].__setitem__(camera, value))


def _fit(key, value):
    return _changed("smpl_params/2.npy", lambda f: f.__setitem__(key, value))


def _cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def _gone(name):
    return lambda folder: (folder / name).unlink()


def _written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


FIRST, IMAGE, MASK = "images/00/000000.jpg", "images/02/000001.jpg", "mask/01/000003.png"
HOLES = {
    "no annotations": ("annots.npy", _gone("annots.npy"), "expected a pickled dict in an .npy file, found none"),
    "cut annotations": ("annots.npy", _cut("annots.npy"), "expected a pickled dict in an .npy file, found"),
    "empty annotations": ("annots.npy", _written("annots.npy", b""), "expected a pickled dict in an .npy file, found"),
    "noise": ("annots.npy", _written("annots.npy", b"\x93NUMPY\x01\x00\x05\x00\x28\x28\x28"), "a pickled dict in an"),
    "an array": ("annots.npy", lambda d: np.save(d / "annots.npy", np.eye(3)), "an array of float64 (3, 3)"),
    "a list": ("annots.npy", lambda d: write_dict(d / "annots.npy", ["a", None]), "an array of object (2,)"),
    "no cams": ("annots.npy", _changed("annots.npy", lambda a: a.pop("cams")), "no cams among ['ims']"),
    "no ims": ("annots.npy", _changed("annots.npy", lambda a: a["ims"].clear()), "ims: expected the images of every"),
    "few ims": ("annots.npy", _changed("annots.npy", lambda a: a["ims"].pop()), "ims[3]: expected an image of camera"),
    "few images": (
        "annots.npy", _changed("annots.npy", lambda a: a["ims"][3]["ims"].pop(1) and a["ims"][3]["ims"].pop(1)),
        "ims[3]: expected an image of camera 1, found none",
    ),
    "path outside": (
        "annots.npy", _changed("annots.npy", lambda a: a["ims"][0]["ims"].__setitem__(0, "../secret.jpg")),
        "ims[0], camera 0: expected <folder>/<image> inside of the capture, found '../secret.jpg'",
    ),
    "few D": ("annots.npy", _changed("annots.npy", lambda a: a["cams"]["D"].pop()), "found [3, 2, 3, 3]"),
    "singular K": ("annots.npy", _cam("K", 1, np.zeros((3, 3))), "camera 1, K: expected a regular calibration matrix"),
    "NaN K": ("annots.npy", _cam("K", 1, np.full((3, 3), np.nan)), "camera 1, K: expected finite numbers, found nan"),
    "four distortions": ("annots.npy", _cam("D", 0, np.zeros(4)), "camera 0, D: expected numbers [5]"),
    "sheared R": ("annots.npy", _cam("R", 2, np.eye(3) + 0.1), "camera 2, R: expected a rotation matrix"),
    "text for T": ("annots.npy", _cam("T", 2, "none"), "camera 2, T: expected numbers [3]"),
    "missing fit": ("smpl_params/2.npy", _gone("smpl_params/2.npy"), "expected the body's fit to frame 2, found none"),
    "last fit": ("smpl_params/3.npy", _gone("smpl_params/3.npy"), "expected the body's fit to frame 3, found none"),
    "two fits": (
        "smpl_params", lambda d: (d / "smpl_params/002.npy").write_bytes(b""),
        "number 2: expected one file, found '002.npy' and '2.npy'",
    ),
    "cut fit": ("smpl_params/2.npy", _cut("smpl_params/2.npy"), "expected a pickled dict in an .npy file, found"),
    "NaN pose": ("smpl_params/2.npy", _fit("poses", np.full((1, 72), np.nan)), "poses: expected finite numbers, found"),
    "SMPL-X pose": ("smpl_params/2.npy", _fit("poses", np.zeros((1, 165))), "expected numbers [72] or [1, 72], found"),
    "root in poses": ("smpl_params/2.npy", _fit("poses", np.ones((1, 72))), "poses: expected zeros for the root joint"),
    "no Th": ("smpl_params/2.npy", _changed("smpl_params/2.npy", lambda f: f.pop("Th")), "the fit: expected a dict"),
    "missing image": (IMAGE, _gone(IMAGE), "camera 2, frame 1: expected an image, found none"),
    "missing mask": (MASK, _gone(MASK), "camera 1, frame 3: expected a mask, found none"),
    "empty image": (FIRST, _written(FIRST, b""), "camera 0, frame 0: expected an encoded image, found 0"),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_holes_are_refused_by_name_at_opening(spoilt, hole):
    name, spoil, message = HOLES[hole]
    spoil(spoilt / SUBJECT)
    with pytest.raises(CaptureError, match=re.escape(message)) as error:
        _open(spoilt)
    assert str(error.value).startswith(f"{spoilt / SUBJECT / name}: ") and "Fix: " in str(error.value)


DAMAGES = {
    "cut JPEG": (_cut("images/02/000001.jpg"), "images/02/000001.jpg", "cut off"),
    "cut PNG": (_cut("mask/02/000001.png"), "mask/02/000001.png", "cut off"),
    "noise": (_written("images/02/000001.jpg", b"noise"), "images/02/000001.jpg", "not a decodable image"),
    "small": (_written("mask/02/000001.png", SMALL), "mask/02/000001.png", "an image of 96x80"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_refused_by_name_when_read(spoilt, damage):
    spoil, name, message = DAMAGES[damage]
    spoil(spoilt / SUBJECT)
    assert_refused_when_read(_open(spoilt), 2, spoilt / SUBJECT / name, message)


def test_wrong_settings_are_refused(shared):
    train = SPLITS["train"]
    for changes, error, message in [
        ({"subject": "378"}, CaptureError, "subject 378: expected a folder, one of 378, my_378, CoreView_378"),
        ({"scale": 2}, ValueError, "scale is 2"),
        ({"splits": {"train": Split(["a"], [0])}}, CaptureError, "camera a: expected its calibration"),
        ({"splits": {"train": Split(["23"], [0])}}, CaptureError, "camera 23"),
        ({"splits": {"train": train, "test": train}}, ValueError, "split 'test' is unknown"),
        ({"splits": {"train": train, "novel_pose": Split(["1"], [7])}}, CaptureError, "fit to frame 7"),
        ({"recorded": (0, 2)}, ValueError, r"outside the recorded time 0 .. 1: \[2\]"),
        ({"masks": "mask_cihp"}, CaptureError, "mask_cihp/00/000000.png: camera 0, frame 0: expected a mask"),
    ]:
        with pytest.raises(error, match=message):
            _open(shared, **changes)


def test_fit_is_what_the_layout_says():
    """The writer's record, by hand: Rodrigues(Rh) is R."""
    record = fit(PLAIN, 1)
    assert record["poses"].shape == (1, 72) and not record["poses"][:, :3].any()
    np.testing.assert_allclose(cv2.Rodrigues(record["Rh"])[0], PLAIN.poses.R[1].numpy(), atol=1e-6)


def test_numbers_beyond_float32_are_refused(spoilt):
    record = fit(PLAIN, 1)
    record["Th"][0, 2] = 1e300
    write_dict(spoilt / SUBJECT / "smpl_params/1.npy", record)
    with pytest.raises(CaptureError, match=r"1\.npy: Th: expected finite numbers, found 1e\+300 at"):
        _open(spoilt)
