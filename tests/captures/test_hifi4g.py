"""The HiFi4G reader: what comes out, and what is refused."""

import json
import re

import cv2
import numpy as np
import pytest
import torch

from r3avatar.captures import CaptureError, HiFi4G, Split, prepare
from r3avatar.captures.white_background import mask_from_white_background

from .layouts_smpl import write_hifi4g, write_json
from .plain_capture import assert_cameras, assert_images, assert_read_by_threads, plain_capture
from .refusals import SMALL, assert_refused_when_read
from .small_captures import ARGUMENTS, SPLITS

PLAIN = plain_capture("smpl")
SUBJECT = "4K Actor1.Größe"  # spaces, dots, letters beyond ASCII


def _open(root, subject=SUBJECT, **changes):
    return HiFi4G(root, subject, **{**ARGUMENTS, "mask_from_white": 0.02, **changes})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The root of a capture that no test changes."""
    root = tmp_path_factory.mktemp("hifi 4g.d")
    write_hifi4g(root / SUBJECT, PLAIN)
    return root


@pytest.fixture
def spoilt(tmp_path):
    """The root of a fresh capture, to be spoiled at will."""
    write_hifi4g(tmp_path / SUBJECT, PLAIN)
    return tmp_path


def test_description(shared):
    capture = _open(shared)
    assert (capture.name, capture.body_kind, capture.gender, capture.fps) == (SUBJECT, "smpl", None, None)
    assert capture.camera_ids == ["0", "1", "2"] and capture.frame_ids == [0, 1, 2, 3]
    assert capture.recorded == (0, 3) and capture.box_margin == 0.5 and capture.splits == SPLITS


def test_cameras_and_poses(shared):
    for scale in (1.0, 0.25):
        assert_cameras(PLAIN, _open(shared, scale=scale).cameras, scale)
    pose = _open(shared).poses
    assert len(pose) == 4 and pose.expression.shape == (4, 0) and not pose.theta[:, 0].any()
    for name in ("theta", "betas", "R", "Th"):
        ours, theirs = getattr(pose, name), getattr(PLAIN.poses, name)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_images_and_masks_are_exact(shared):
    assert_images(PLAIN, _open(shared))


def test_without_masks_all_of_the_image_is_the_person(shared):
    rgb, mask = _open(shared, mask_from_white=None).read(1, 2)
    assert mask.all()
    np.testing.assert_array_equal(rgb, np.where(PLAIN.masks[1][2][..., None] == 1, PLAIN.images[1][2], 255))


@pytest.mark.parametrize("threshold, darkest", [(0.0, 254), (0.02, 249), (0.5, 127)])
def test_threshold(threshold, darkest):
    image = np.full((1, 256, 3), 255, np.uint8)
    image[0, :, 1] = np.arange(256)
    image, mask = mask_from_white_background(image, threshold)
    np.testing.assert_array_equal(mask[0], np.arange(256) <= darkest)
    assert not image[0, darkest + 1 :].any() and image[0, : darkest + 1, 0].all()


def test_no_white_seam_where_the_lens_is_undone(tmp_path):
    """A dark person on white stays dark at the edge."""
    plain = plain_capture("smpl", cameras=1, frames=1)
    plain.cameras[0]["D"] = np.array([-0.3, 0.05, 0, 0, 0])
    plain.images[0][0] = plain.masks[0][0][..., None] * np.full(3, 40, np.uint8)
    write_hifi4g(tmp_path / "a", plain)
    rgb, mask = _open(tmp_path, "a", splits={"train": Split(["0"], [0])}).read(0, 0)
    assert rgb.max() == 40 and mask.any() and not rgb[mask == 0].any()
    assert (mask != plain.masks[0][0]).any(), "the lens must bend the mask"


def test_padded_numbers(spoilt):
    folder = spoilt / SUBJECT
    (folder / "images/1").rename(folder / "images/01")
    (folder / "images/2/000001.png").rename(folder / "images/2/1.png")
    entries = json.loads((folder / "camera.json").read_text())
    entries[1]["camera_id"] = "01"
    entries[0]["K"] = np.reshape(entries[0]["K"], (3, 3)).tolist()
    write_json(folder / "camera.json", entries)
    capture = _open(spoilt)
    for c, f in ((1, 0), (2, 1)):
        np.testing.assert_array_equal(capture.read(c, f)[0], PLAIN.images[c][f])


def test_fingerprint(spoilt):
    prints = [_open(spoilt, **c).fingerprint() for c in ({}, {"scale": 0.5}, {"mask_from_white": 0.1})]
    assert len({str(p) for p in prints}) == 3
    path = spoilt / SUBJECT / "images/1/000002.png"
    path.write_bytes(path.read_bytes() + b" ")
    assert _open(spoilt).fingerprint() != prints[0]


def test_pickles_and_threads(shared):
    assert_read_by_threads(PLAIN, _open(shared))


class _Block:
    """A small body: corners of a block that a pose moves."""

    def __init__(self):
        signs = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float32)
        self.corners = signs * torch.tensor([0.25, 0.6, 0.2])

    def vertices(self, pose):
        return self.corners @ pose.R.mT + pose.Th[:, None]


@pytest.mark.parametrize("workers", [0, 1])
def test_prepares_through_the_frame_cache(shared, tmp_path, workers):
    capture = _open(shared, box_margin=0.1)
    store = prepare(capture, _Block(), tmp_path / "cache", workers=workers, progress=False)
    assert len(store) == 2 * 3 + 2 + 1
    for c, f in ((0, 1), (1, 3), (2, 2)):
        frame = store.get(c, f)
        rgb, mask = np.zeros((80, 96, 3), np.uint8), np.zeros((80, 96), np.uint8)
        frame.copy_window(0, 0, rgb, mask)
        np.testing.assert_array_equal(rgb, PLAIN.images[c][f])
        np.testing.assert_array_equal(mask & 1, PLAIN.masks[c][f])
        assert frame.bound[2] > 0 and (mask & 2).any()


def _entry(camera, key, value):
    def spoil(folder):
        entries = json.loads((folder / "camera.json").read_text())
        entries[camera][key] = value
        write_json(folder / "camera.json", entries)

    return spoil


def _fit(key, value):
    def spoil(folder):
        people = json.loads((folder / "smpl/smpl/000002.json").read_text())
        people[0][key] = value
        write_json(folder / "smpl/smpl/000002.json", people)

    return spoil


def _gone(name):
    return lambda folder: (folder / name).unlink()


def _written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


FIT, FIRST, IMAGE = "smpl/smpl/000002.json", "images/0/000000.png", "images/2/000001.png"
HOLES = {
    "no cameras": ("camera.json", _gone("camera.json"), "expected a list of cameras, found none"),
    "cut cameras": ("camera.json", _written("camera.json", b'[{"camera_id": 0,'), "a list of cameras, complete"),
    "not UTF-8": ("camera.json", _written("camera.json", b"\xff\xfe["), "expected a list of cameras, complete JSON"),
    "empty list": ("camera.json", _written("camera.json", b"[]"), "expected a list of cameras, found an empty list"),
    "a dict": ("camera.json", _written("camera.json", b'{"0": 1}'), "expected a list of cameras, found dict"),
    "an entry": ("camera.json", _written("camera.json", b'[{"camera_id": 0}]'), "entry 0: expected a dict with"),
    "camera name": ("camera.json", _entry(1, "camera_id", "left"), "camera_id: expected a number, found 'left'"),
    "twice": ("camera.json", _entry(1, "camera_id", "00"), "camera 0: expected one entry, found two"),
    "unknown": ("camera.json", _entry(1, "camera_id", 7), "camera 1: expected its calibration, found cameras 0, 7, 2"),
    "singular K": ("camera.json", _entry(1, "K", [0] * 9), "camera 1, K: expected a regular calibration matrix"),
    "short K": ("camera.json", _entry(1, "K", [1] * 8), "camera 1, K: expected numbers [3, 3] or [9], found [8]"),
    "NaN K": ("camera.json", _entry(1, "K", [float("nan")] * 9), "camera 1, K: expected finite numbers, found nan"),
    "eight distortions": ("camera.json", _entry(0, "dist", [0] * 8), "camera 0, D: expected numbers [5]"),
    "sheared R": ("camera.json", _entry(2, "R", [1, 1, 0, 0, 1, 0, 0, 0, 1]), "camera 2, R: expected a rotation"),
    "text for T": ("camera.json", _entry(2, "T", "none"), "camera 2, T: expected numbers [3]"),
    "missing fit": (FIT, _gone(FIT), "expected the body's fit to frame 2, found none"),
    "cut fit": (FIT, _written(FIT, b'[{"poses": [['), "expected an SMPL fit, complete JSON"),
    "two people": (FIT, _written(FIT, b"[1, 2]"), "expected a list of one person's fit, found a list of 2"),
    "no dict": (FIT, _written(FIT, b"[1]"), "the fit: expected a dict with poses, shapes, Rh, Th, found int"),
    "NaN pose": (FIT, _fit("poses", [[float("nan")] * 72]), "poses: expected finite numbers, found nan at [0, 0]"),
    "SMPL-X pose": (FIT, _fit("poses", [[0] * 87]), "poses: expected numbers [72] or [1, 72], found [1, 87]"),
    "root in poses": (FIT, _fit("poses", [[1] * 72]), "poses: expected zeros for the root joint"),
    "wrong Rh": (FIT, _fit("Rh", [[0, 0]]), "Rh: expected numbers [3] or [1, 3], found [1, 2]"),
    "missing image": (IMAGE, _gone(IMAGE), "camera 2, frame 1: expected an image, found none"),
    "empty image": (FIRST, _written(FIRST, b""), "camera 0, frame 0: expected an encoded image, found 0 bytes"),
    "no images": ("images/1", lambda folder: (folder / "images/1").rename(folder / "x"), "expected a folder of images"),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_holes_are_refused_by_name_at_opening(spoilt, hole):
    name, spoil, message = HOLES[hole]
    spoil(spoilt / SUBJECT)
    with pytest.raises(CaptureError, match=re.escape(message)) as error:
        _open(spoilt)
    assert str(error.value).startswith(f"{spoilt / SUBJECT / name}: ") and "Fix: " in str(error.value)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


DAMAGES = {
    "cut": (_cut, "a PNG of .* bytes that is cut off"),
    "noise": (lambda path: path.write_bytes(b"noise"), "not a decodable image"),
    "small": (lambda path: path.write_bytes(SMALL), "an image of 96x80"),
    "white": (lambda path: cv2.imwrite(str(path), np.full((80, 96, 3), 255)), "expected a mask of the person"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_refused_by_name_when_read(spoilt, damage):
    spoil, message = DAMAGES[damage]
    path = spoilt / SUBJECT / "images/2/000001.png"
    spoil(path)
    assert_refused_when_read(_open(spoilt), 2, path, message)


def test_wrong_settings_are_refused(shared):
    train = SPLITS["train"]
    for changes, error, message in [
        ({"subject": "Actor9"}, CaptureError, "camera.json: the file: expected a list of cameras, found none"),
        ({"scale": 0}, ValueError, "scale is 0"),
        ({"mask_from_white": 1.0}, ValueError, r"mask_from_white is 1.0; expected null or a number in \[0, 1\)"),
        ({"splits": {"train": Split(["23"], [0])}}, CaptureError, "camera 23: expected its calibration"),
        ({"splits": {"train": train, "test": train}}, ValueError, "split 'test' is unknown"),
        ({"splits": {"train": train, "novel_pose": Split(["1"], [7])}}, CaptureError, "fit to frame 7"),
        ({"recorded": (0, 2)}, ValueError, r"outside the recorded time 0 .. 1: \[2\]"),
    ]:
        with pytest.raises(error, match=message):
            _open(shared, **changes)
