"""The MVHumanNet reader: what was written comes back, and what is wrong is refused by name."""

import concurrent.futures
import json
import os
import pickle
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.captures import CaptureError, HandPca, MvHumanNet, Split, prepare, read_hand_pca
from r3avatar.captures.prepared_frame import PERSON

from .layouts_smplx import NAMES, SPLITS, six_components, write_mvhumannet
from .plain_capture import plain_capture
from .refusals import EMPTY_MASK, SMALL, assert_refused_when_read
from .spoiling import Evil, cut, edit_json, put, remove, write

CAMERA = NAMES[0]


def _plain():
    """The small capture with a global rotation beside the root's, as EasyMocap's fits have."""
    plain = plain_capture("smplx")
    plain.poses.R[:] = torch.tensor(np.stack([cv2.Rodrigues(np.array([0.1 * f, 0.2, 0]))[0] for f in range(4)]))
    return plain


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The plain capture, its hands' components, and its folder, which no test changes."""
    plain, hands, root = _plain(), six_components(), tmp_path_factory.mktemp("mv humán.net")
    write_mvhumannet(root / "100003", plain, hands)
    return plain, hands, root


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the folder, to be spoiled."""
    shutil.copytree(written[2] / "100003", tmp_path / "100003")
    return tmp_path / "100003"


def _open(root, **changes):
    arguments = {"splits": SPLITS, "recorded": (0, 2), "hands": six_components(), "scale": 1.0}
    return MvHumanNet(root, "100003", **{**arguments, **changes})


def test_what_was_written_comes_back(written):
    plain, _, root = written
    capture = _open(root)
    assert (capture.name, capture.body_kind, capture.fps, capture.recorded) == ("100003", "smplx", None, (0, 2))
    assert capture.camera_ids == list(NAMES) and capture.frame_ids == [0, 1, 2, 3] and capture.splits == SPLITS
    for name in ("theta", "betas", "expression", "R", "Th"):
        value = getattr(capture.poses, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, getattr(plain.poses, name), rtol=0, atol=1e-6)
    for index, (written_camera, camera) in enumerate(zip(plain.cameras, capture.cameras)):
        K = written_camera["K"].copy()
        K[:2, 2] += 0.5  # the same pixels, counted from the image's corner
        np.testing.assert_allclose(camera.K.numpy(), K, rtol=1e-6)
        np.testing.assert_allclose(camera.w2c.numpy(), written_camera["w2c"], atol=1e-6)
        for frame in range(4):
            rgb, mask = capture.read(index, frame)
            np.testing.assert_array_equal(mask, plain.masks[index][frame])
            difference = np.abs(rgb.astype(int) - plain.images[index][frame])
            assert not rgb[mask == 0].any() and np.median(difference[mask > 0]) <= 2, "JPEG rounds a little"
            path = root / "100003" / "images_lr" / NAMES[index] / f"{5 * (frame + 1):04d}_img.jpg"
            stored = cv2.cvtColor(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            np.testing.assert_array_equal(rgb, stored * mask[..., None])


def test_scaled(written):
    capture, full = _open(written[2], scale=0.25), _open(written[2])
    assert (capture.cameras[0].width, capture.cameras[0].height) == (24, 20)
    torch.testing.assert_close(capture.cameras[0].K[:2] * 4, full.cameras[0].K[:2])
    rgb, mask = capture.read(0, 1)
    blocks = full.read(0, 1)[0].reshape(20, 4, 24, 4, 3).mean((1, 3))
    assert rgb.shape == (20, 24, 3) and np.abs(rgb - blocks).max() <= 1 and set(np.unique(mask)) == {0, 1}


def test_both_rotations_apply(written):
    """R(Rh) of the whole body, the root's own rotation inside: Rh is about the origin, the root about the pelvis."""
    body, capture = load_body("demo"), _open(written[2])
    pose = capture.poses[:2]
    inner = body.vertices(
        type(pose)(pose.theta, pose.betas, pose.expression, torch.eye(3).repeat(2, 1, 1), 0 * pose.Th)
    )
    expected = inner @ written[0].poses.R[:2].mT + pose.Th[:, None]
    torch.testing.assert_close(body.vertices(pose), expected, atol=1e-5, rtol=0)


def test_hands_of_a_body_file(tmp_path):
    random = np.random.default_rng(0)
    arrays = {f"hands_mean{side}": random.normal(size=45) for side in "lr"}
    arrays |= {f"hands_components{side}": random.normal(size=(45, 45)) for side in "lr"}
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(path, **arrays)
    hands = read_hand_pca("smplx", str(path), "neutral")
    coefficients = random.normal(size=(2, 12))
    left = arrays["hands_meanl"] + coefficients[:, :6] @ arrays["hands_componentsl"][:6]
    right = arrays["hands_meanr"] + coefficients[:, 6:] @ arrays["hands_componentsr"][:6]
    np.testing.assert_allclose(hands(coefficients), np.concatenate([left, right], 1).reshape(2, 30, 3))
    with pytest.raises(ValueError, match=r"capture\.hands=null"):
        read_hand_pca("demo", None, "neutral")
    np.savez(path, **{**arrays, "hands_componentsl": np.zeros((5, 45))})
    with pytest.raises(ValueError, match=r"hands_componentsl: expected at least \[6, 45\], found \[5, 45\]"):
        read_hand_pca("smplx", str(path), "neutral")
    with pytest.raises(ValueError, match="expected"):
        HandPca(np.zeros((30, 3)), np.zeros((2, 6, 44)))


def test_straight_fingers(written):
    theta = _open(written[2], hands=None).poses.theta
    assert not theta[:, 25:].any() and theta[:, :25].any()


def test_pickled_and_read_by_threads(written):
    capture = pickle.loads(pickle.dumps(_open(written[2], scale=0.5)))
    pairs = [(c, f) for c in range(3) for f in range(4)] * 3
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda pair: capture.read(*pair), pairs))
    for pair, (rgb, mask) in zip(pairs, at_once):
        expected = capture.read(*pair)
        assert np.array_equal(rgb, expected[0]) and np.array_equal(mask, expected[1])


def test_fingerprint(written, copy):
    same = _open(written[2]).fingerprint()
    assert json.loads(json.dumps(same)) == same == _open(written[2], recorded=(0, 3)).fingerprint()
    assert _open(written[2], scale=0.5).fingerprint() != same
    assert _open(written[2], hands=None).fingerprint() != same
    before = _open(copy.parent).fingerprint()
    os.utime(copy / "fmask_lr" / CAMERA / "0010_img_fmask.png", ns=(1, 1))
    after = _open(copy.parent).fingerprint()
    assert [name for name in NAMES if before["cameras"][name] != after["cameras"][name]] == [CAMERA]
    (copy / "camera_scale.pkl").write_bytes(pickle.dumps(0.9))
    assert _open(copy.parent).fingerprint()["cameras"] != after["cameras"]


def test_through_the_frame_cache(written, body, tmp_path):
    capture = _open(written[2])
    store = prepare(capture, body, tmp_path / "cache", workers=0, progress=False)
    assert len(store) == 7
    for camera, frame in [(0, 1), (2, 3)]:
        prepared = store.get(camera, frame)
        rgb, mask = capture.read(camera, frame)
        here = slice(prepared.y, prepared.y + len(prepared.mask)), slice(prepared.x, prepared.x + len(prepared.mask[0]))
        np.testing.assert_array_equal(prepared.rgb, rgb[here])
        np.testing.assert_array_equal(prepared.mask & PERSON, mask[here])
        assert (prepared.mask & PERSON).sum() == mask.sum()


def _fit(change):
    return edit_json("smplx/smpl/000001.json", change)


KEY = f"1_{CAMERA}.png"
HOLES = {
    "no folder": (lambda f: shutil.rmtree(f), "smplx/smpl: the folder: expected a folder of SMPL-X fits, found none"),
    "no intrinsics": (
        remove("camera_intrinsics.json"),
        "camera_intrinsics.json: the file: expected the cameras' intr",
    ),
    "cut intrinsics": (
        cut("camera_intrinsics.json"),
        "camera_intrinsics.json: the file: expected the cameras' intrinsics, complete JSON",
    ),
    "singular K": (
        edit_json("camera_intrinsics.json", put(0.0, "intrinsics", 0, 0)),
        "intrinsics: expected a regular calib",
    ),
    "4x4 K": (
        edit_json("camera_intrinsics.json", lambda c: {"intrinsics": np.eye(4).tolist()}),
        "expected numbers [3, 3], found [4, 4]",
    ),
    "ragged K": (edit_json("camera_intrinsics.json", put([1], "intrinsics", 0)), "intrinsics: expected numbers [3, 3]"),
    "calibration of half size": (
        edit_json(
            "camera_intrinsics.json", lambda c: {"intrinsics": (np.diag([0.5, 0.5, 1]) @ c["intrinsics"]).tolist()}
        ),
        "the images' size: expected half of the size",
    ),
    "no extrinsics": (
        remove("camera_extrinsics.json"),
        "camera_extrinsics.json: the file: expected the cameras' extrin",
    ),
    "no such camera": (
        edit_json("camera_extrinsics.json", lambda c: c.pop(KEY) and c),
        f"camera {CAMERA}: expected its extr",
    ),
    "camera twice": (edit_json("camera_extrinsics.json", put({}, f"2_{CAMERA}.png")), f"2_{CAMERA}.png: expected keys"),
    "sheared": (
        edit_json("camera_extrinsics.json", put([[1, 1, 0], [0, 1, 0], [0, 0, 1]], KEY, "rotation")),
        f"{KEY}, rotation: expected a rotation matrix",
    ),
    "NaN translation": (
        edit_json("camera_extrinsics.json", put([0, float("nan"), 0], KEY, "translation")),
        f"{KEY}, translation: expected finite numbers, found nan at [1]",
    ),
    "no rotation": (edit_json("camera_extrinsics.json", put({}, KEY)), f"{KEY}: expected rotation and translation"),
    "no scale": (remove("camera_scale.pkl"), "camera_scale.pkl: the file: expected a pickled number, found none"),
    "cut scale": (cut("camera_scale.pkl"), "camera_scale.pkl: the file: expected a pickled number"),
    "scale 0": (write("camera_scale.pkl", pickle.dumps(0.0)), "the scale: expected a number above 0, found 0.0"),
    "scale of words": (write("camera_scale.pkl", pickle.dumps("big")), "the scale: expected numbers"),
    "no fit": (remove("smplx/smpl/000001.json"), "000001.json: the file: expected the body's fit to frame 1"),
    "cut fit": (
        cut("smplx/smpl/000001.json"),
        "000001.json: the file: expected a list of one SMPL-X fit, complete JSON",
    ),
    "fit twice": (write("smplx/smpl/1.json", b"[]"), "number 1: expected one file, found '000001.json' and '1.json'"),
    "NaN pose": (
        _fit(put(float("nan"), 0, "poses", 0, 7)),
        "000001.json: poses: expected finite numbers, found nan at [0, 7]",
    ),
    "short pose": (_fit(put([0.0] * 72, 0, "poses")), "poses: expected numbers [1, 87] or [87], found [72]"),
    "no Rh": (_fit(lambda c: c[0].pop("Rh") and c), "000001.json: Rh: expected 3 numbers"),
    "two people": (_fit(lambda c: c * 2), "expected a list of one fit (one person), found a list of 2"),
    "no images": (remove(f"images_lr/{CAMERA}"), f"{CAMERA}: the folder: expected a folder of images, found none"),
    "no image": (
        remove(f"images_lr/{CAMERA}/0010_img.jpg"),
        f"0010_img.jpg: camera {CAMERA}, frame 1: expected an image",
    ),
    "no mask": (
        remove(f"fmask_lr/{CAMERA}/0010_img_fmask.png"),
        f"0010_img_fmask.png: camera {CAMERA}, frame 1: expected a mask",
    ),
    "image twice": (write(f"images_lr/{CAMERA}/10_img.jpg", b""), "number 10: expected one file"),
}


@pytest.mark.parametrize("hole", HOLES)
def test_holes_are_refused_by_name_at_opening(copy, hole):
    spoil, message = HOLES[hole]
    spoil(copy)
    with pytest.raises(CaptureError, match=re.escape(message)) as error:
        _open(copy.parent)
    assert str(copy) in str(error.value) and "Fix: " in str(error.value)


def test_a_hostile_pickle_runs_nothing(copy, tmp_path):
    (copy / "camera_scale.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(CaptureError, match=r"camera_scale\.pkl: the file: expected a pickled number, found .*refused"):
        _open(copy.parent)
    assert not (tmp_path / "ran").exists()


IMAGE, MASK = f"images_lr/{CAMERA}/0010_img.jpg", f"fmask_lr/{CAMERA}/0010_img_fmask.png"
DAMAGES = {
    "cut image": (cut(IMAGE), IMAGE, "a JPEG of .* bytes that is cut off"),
    "cut mask": (cut(MASK), MASK, "a PNG of .* bytes that is cut off"),
    "no bytes": (write(IMAGE, b""), IMAGE, "0 bytes"),
    "small mask": (write(MASK, SMALL), MASK, "an image of 96x80, the camera's size, found 9x8"),
    "empty mask": (write(MASK, EMPTY_MASK), MASK, "frame 1: expected a mask of the person, found no nonzero pixel"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_refused_by_name_when_read(copy, damage):
    spoil, name, message = DAMAGES[damage]
    spoil(copy)
    assert_refused_when_read(_open(copy.parent), 0, copy / name, message)


def test_wrong_settings_are_refused(written):
    train = Split([CAMERA], [0])
    for changes, error, message in [
        ({"scale": 2}, ValueError, "scale is 2"),
        ({"splits": {"train": Split([CAMERA], [9])}}, CaptureError, "fit to frame 9, found none"),
        ({"splits": {"train": train, "test": train}}, ValueError, "split 'test' is unknown"),
        ({"splits": {"train": Split(["../x"], [0])}}, ValueError, r"a camera is '\.\./x'"),
        ({"splits": {"train": Split([CAMERA], [2])}}, ValueError, "outside the recorded time"),
    ]:
        with pytest.raises(error, match=message):
            _open(written[2], **changes)
