"""The plain layout: written and read back, documented as it is, refused by name where it is wrong."""

import concurrent.futures
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import r3avatar.configs
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from r3avatar.captures import CaptureError, FolderCapture, Split, prepare, write_folder
from r3avatar.captures.prepared_frame import PERSON

from .layouts_smplx import write_plain_folder
from .plain_capture import plain_capture
from .refusals import EMPTY_MASK, SMALL, assert_refused_when_read
from .spoiling import Evil, cut, edit_json, put, remove, write

SUBJECT = "ann é.v2"
FIELDS = ("theta", "betas", "expression", "R", "Th")


@pytest.fixture(scope="module", params=["smplx", "smpl"])
def written(request, tmp_path_factory):
    """A plain capture and the root of its folder, which no test changes."""
    plain, root = plain_capture(request.param), tmp_path_factory.mktemp("my captures.d")
    write_plain_folder(root, SUBJECT, plain)
    return request.param, plain, root


@pytest.fixture
def folder(tmp_path):
    """A folder to be spoiled."""
    return write_plain_folder(tmp_path / "captures", SUBJECT, plain_capture("smplx"))


def _open(folder, **changes):
    return FolderCapture(folder.parent, folder.name, **changes)


def test_what_was_written_comes_back(written):
    kind, plain, root = written
    capture = FolderCapture(root, SUBJECT)
    assert (capture.name, capture.body_kind, capture.gender, capture.fps) == (SUBJECT, kind, "female", 25.0)
    assert (capture.recorded, capture.box_margin, capture.frame_ids) == ((0, 2), 0.05, [0, 1, 2, 3])
    assert capture.camera_ids == ["0", "1", "2"]
    assert capture.splits["train"] == Split(["0", "1"], [0, 1]) and capture.splits["novel_pose"] == Split(["2"], [2, 3])
    for name in FIELDS:
        assert torch.equal(getattr(capture.poses, name), getattr(plain.poses, name)), name
    for index, (written_camera, camera) in enumerate(zip(plain.cameras, capture.cameras)):
        K = written_camera["K"].copy()
        K[:2, 2] += 0.5
        np.testing.assert_allclose(camera.K.numpy(), K, rtol=1e-6)
        np.testing.assert_allclose(camera.w2c.numpy(), written_camera["w2c"], atol=1e-6)
        assert (camera.width, camera.height) == (96, 80)
        for frame in range(4):
            rgb, mask = capture.read(index, frame)
            np.testing.assert_array_equal(rgb, plain.images[index][frame])
            np.testing.assert_array_equal(mask, plain.masks[index][frame])


def test_settings_override_the_files(folder):
    train = {"cameras": "2", "frames": "1-3/2"}
    capture = _open(folder, splits={"train": train, "novel_view": None}, recorded=[0, 4], fps=30, scale=0.5)
    assert capture.splits["train"] == Split(["2"], [1, 3]) and capture.splits["novel_view"] == Split(["2"], [0])
    assert (capture.recorded, capture.fps, capture.cameras[0].width) == ((0, 4), 30, 48)
    with pytest.raises(ValueError, match=r"keys \['cameras'\]"):
        _open(folder, splits={"train": {"cameras": "2"}})
    with pytest.raises(ValueError, match="subject is 'a/b'"):
        FolderCapture(folder.parent, "a/b")


def test_configuration_opens_it(folder):
    keys = [f"capture.root={folder.parent}", f"capture.subject='{SUBJECT}'", "capture.scale=0.5"]
    split = "capture.splits.train={cameras: [1], frames: 0-1}"
    with initialize_config_dir(str(Path(r3avatar.configs.__file__).parent), version_base="1.3"):
        config = compose(overrides=["+capture=folder", "+body=demo", *keys, split])
    capture = instantiate(config.capture)
    assert isinstance(capture, FolderCapture) and capture.splits["train"] == Split(["1"], [0, 1])
    assert capture.camera_ids == ["1", "2"] and capture.recorded == (0, 2)


@pytest.mark.parametrize("coefficients", [4, 5, 8])
def test_a_point_lands_where_its_camera_says(tmp_path, coefficients):
    """World point -> distorted pixel (OpenCV) -> written image -> read image -> our camera's projection."""
    settings = plain_capture("smpl", cameras=1, size=(400, 320)).cameras[0]
    dist = np.array([-0.36, 0.06, 3e-3, -3e-3, 0.003, 0.01, 0.01, 0.001])[:coefficients]
    point = np.array([0.55, 0.65, 0.1])
    seen = settings["w2c"][:3, :3] @ point + settings["w2c"][:3, 3]
    distorted = cv2.projectPoints(seen[None], np.zeros(3), np.zeros(3), settings["K"], dist)[0].ravel()
    y, x = np.mgrid[:320, :400]
    spot = (np.exp(-((x - distorted[0]) ** 2 + (y - distorted[1]) ** 2) / (2 * 4.0**2)) * 200).round()
    camera = {"K": settings["K"], "R": settings["w2c"][:3, :3], "T": settings["w2c"][:3, 3:], "dist": dist}
    write_folder(
        tmp_path, "spot", cameras={"only one": {**camera, "width": 400, "height": 320}}, frames=[7],
        poses=plain_capture("smpl", frames=1).poses, splits={"train": Split(["only one"], [7])}, recorded=(7, 1),
        fps=None, gender=None,
        pictures=lambda camera, frame: (np.stack([spot.astype(np.uint8)] * 3, -1), np.ones((320, 400), np.uint8)),
    )  # fmt: skip
    capture = FolderCapture(tmp_path, "spot", scale=0.5)
    rgb, camera = capture.read(0, 0)[0], capture.cameras[0]
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    weight = np.maximum(rgb[..., 0].astype(float) - 8, 0)
    found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    expected = camera.K.double().numpy() @ (camera.w2c.double().numpy() @ [*point, 1])[:3]
    np.testing.assert_allclose(found, expected[:2] / expected[2], atol=0.12)
    assert np.linalg.norm(distorted + 0.5 - expected[:2] / expected[2] / 0.5) > 1.0, "the lens must bend there"


def test_pickled_and_read_by_threads(folder):
    capture = pickle.loads(pickle.dumps(_open(folder, scale=0.5)))
    pairs = [(c, f) for c in range(3) for f in range(4)] * 3
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda pair: capture.read(*pair), pairs))
    for pair, (rgb, mask) in zip(pairs, at_once):
        expected = capture.read(*pair)
        assert np.array_equal(rgb, expected[0]) and np.array_equal(mask, expected[1])


def test_fingerprint(folder):
    same = _open(folder).fingerprint()
    assert json.loads(json.dumps(same)) == same == _open(folder, recorded=(0, 3), fps=3).fingerprint()
    assert _open(folder, scale=0.5).fingerprint() != same
    os.utime(folder / "images/1/000001.png", ns=(1, 1))
    changed = _open(folder).fingerprint()
    assert [name for name in "012" if changed["cameras"][name] != same["cameras"][name]] == ["1"]
    moved = folder.rename(folder.with_name("moved"))
    assert _open(moved).fingerprint() == changed


def test_a_link_to_nowhere_is_named(folder):
    link = folder / "images/1/000003.png"  # of a frame that no split needs
    link.unlink()
    link.symlink_to("elsewhere.png")
    with pytest.raises(CaptureError, match=re.escape(f"{link}: camera 1, frame 3: expected a file, found none")):
        _open(folder).fingerprint()


def test_an_exif_orientation_is_ignored(folder):
    """Calibration knows the pixels as they are stored."""
    path = folder / "images/0/000001.png"
    image = cv2.imread(str(path))
    plain = cv2.imencode(".jpg", image)[1].tobytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: turned by 90 degrees
    exif = b"\xff\xe1" + (8 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff
    turned = plain[:2] + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (96, 80)
    path.unlink()
    path.with_suffix(".jpg").write_bytes(turned)
    rgb, mask = _open(folder).read(0, 1)
    stored = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(rgb, stored * mask[..., None])


def test_through_the_frame_cache(folder, body, tmp_path):
    capture = _open(folder)
    store = prepare(capture, body, tmp_path / "cache", workers=0, progress=False)
    assert len(store) == 7
    for camera, frame in [(0, 1), (2, 3)]:
        prepared, (rgb, mask) = store.get(camera, frame), capture.read(camera, frame)
        here = slice(prepared.y, prepared.y + len(prepared.mask)), slice(prepared.x, prepared.x + len(prepared.mask[0]))
        np.testing.assert_array_equal(prepared.rgb, rgb[here])
        np.testing.assert_array_equal(prepared.mask & PERSON, mask[here])
        assert (prepared.mask & PERSON).sum() == mask.sum()


def test_a_read_only_folder_is_read(folder):
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    _open(folder).read(0, 0)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _arrays(**changes):
    """Change arrays of poses.npz: a function of the old one, a new one, or None to leave it out."""

    def spoil(folder):
        with np.load(folder / "poses.npz") as archive:
            arrays = dict(archive)
        for name, change in changes.items():
            arrays[name] = change(arrays[name]) if callable(change) else change
        np.savez(folder / "poses.npz", **{name: value for name, value in arrays.items() if value is not None})

    return spoil


def _nan(array):
    array = array.copy()
    array[2, 5, 1] = np.nan
    return array


OBJECTS = np.array([{"a": 1}, Evil()], object)
HOLES = {
    "no folder": (lambda f: shutil.rmtree(f), "capture.json: the file: expected the capture's description, found none"),
    "cut capture.json": (
        cut("capture.json"),
        "capture.json: the file: expected the capture's description, complete JSON",
    ),
    "a list": (write("capture.json", b"[]"), "capture.json: the file: expected a dictionary, found []"),
    "not UTF-8": (
        write("capture.json", b'{"fps": "\xff"}'),
        "capture.json: the file: expected the capture's description",
    ),
    "nested": (write("capture.json", b"[" * 200000), "capture.json: the file: expected the capture's description"),
    "unknown key": (
        edit_json("capture.json", put(3, "frames")),
        "the file: expected no keys but ['fps', 'gender', 'recorded', 'splits'], found 'frames'",
    ),
    "fps": (edit_json("capture.json", put(-1, "fps")), "fps: expected a number above 0, or null, found -1.0"),
    "recorded": (edit_json("capture.json", put([0, 1.5], "recorded")), "recorded: expected [first frame, length]"),
    "no train": (
        edit_json("capture.json", lambda c: c["splits"].pop("train") and c),
        "splits, train: expected a value",
    ),
    "split's frames": (
        edit_json("capture.json", put("1-x", "splits", "train", "frames")),
        "splits, train: expected cameras and frames, as lists or as '0-99/5', found ids '1-x'",
    ),
    "no such frame": (
        edit_json("capture.json", put([9], "splits", "novel_pose", "frames")),
        "split 'novel_pose', frame 9: expec",
    ),
    "no such camera": (
        edit_json("capture.json", put(["7"], "splits", "novel_pose", "cameras")),
        "cameras.json: camera 7: expect",
    ),
    "no cameras.json": (remove("cameras.json"), "cameras.json: the file: expected the cameras, found none"),
    "cut cameras.json": (cut("cameras.json"), "cameras.json: the file: expected the cameras, complete JSON"),
    "camera twice": (write("cameras.json", b'{"0": {}, "0": {}}'), "the key '0' stands there twice"),
    "no K": (edit_json("cameras.json", lambda c: c["1"].pop("K") and c), "cameras.json: camera 1, K: expected a value"),
    "singular K": (
        edit_json("cameras.json", put(np.zeros((3, 3)).tolist(), "1", "K")),
        "camera 1, K: expected a regular calib",
    ),
    "infinite K": (
        edit_json("cameras.json", put(float("inf"), "1", "K", 0, 0)),
        "camera 1, K: expected finite numbers, found inf",
    ),
    "a huge number": (edit_json("cameras.json", put(10**400, "1", "K", 0, 0)), "camera 1, K: expected numbers [3, 3]"),
    "R alone": (
        edit_json("cameras.json", put(np.eye(3).tolist(), "1", "R")),
        "camera 1: expected w2c, or R and T, found ['R', ",
    ),
    "camera-to-world by scale": (
        edit_json("cameras.json", put(np.diag([2, 2, 2, 1]).tolist(), "1", "w2c")),
        "camera 1, w2c: expected a rotation matrix",
    ),
    "transposed w2c": (
        edit_json("cameras.json", lambda c: c["1"].update(w2c=np.transpose(c["1"]["w2c"]).tolist())),
        "camera 1, w2c: expected a last row 0 0 0 1",
    ),
    "dist of 3": (
        edit_json("cameras.json", put([0, 0, 0], "1", "dist")),
        "camera 1, dist: expected numbers [4] or [5] or [8]",
    ),
    "misspelt": (edit_json("cameras.json", put([0] * 5, "1", "distortion")), "camera 1: expected no keys but"),
    "no width": (
        edit_json("cameras.json", put(96.5, "1", "width")),
        "camera 1, width and height: expected whole numbers",
    ),
    "no poses.npz": (remove("poses.npz"), "poses.npz: the file: expected an .npz archive of plain arrays, found none"),
    "cut poses.npz": (cut("poses.npz"), "poses.npz: the file: expected an .npz archive of plain arrays, found"),
    "one array": (
        lambda f: np.save((f / "poses.npz").open("wb"), np.zeros(3)),
        "poses.npz: the file: expected an .npz",
    ),
    "a pickle": (write("poses.npz", pickle.dumps(Evil())), "poses.npz: the file: expected an .npz archive"),
    "objects": (_arrays(betas=OBJECTS), "poses.npz: betas: expected an .npz archive of plain arrays"),
    "objects nobody asked for": (_arrays(extra=OBJECTS), "poses.npz: extra: expected no arrays but"),
    "no theta": (_arrays(theta=None), "poses.npz: theta: expected an array"),
    "transl": (_arrays(transl=np.zeros((4, 3))), "poses.npz: transl: expected no arrays but"),
    "kind": (_arrays(kind=np.array("smplh")), "poses.npz: kind: expected 'smpl' or 'smplx', found 'smplh'"),
    "kind of numbers": (_arrays(kind=np.zeros(2)), "poses.npz: kind: expected 'smpl' or 'smplx'"),
    "SMPL's theta": (
        _arrays(theta=np.zeros((4, 24, 3))),
        "poses.npz: theta: expected numbers [4, 55, 3], found [4, 24, 3]",
    ),
    "NaN": (_arrays(theta=_nan), "poses.npz: theta: expected finite numbers, found nan at [2, 5, 1]"),
    "words": (_arrays(Th=np.array([["a"] * 3] * 4)), "poses.npz: Th: expected numbers [4, 3]"),
    "few expressions": (
        _arrays(expression=np.zeros((2, 10))),
        "poses.npz: expression: expected numbers [4, any] or [1, any]",
    ),
    "no expression": (
        _arrays(expression=None),
        "poses.npz: expression: expected an array [F, E] or [1, E], found none",
    ),
    "R": (_arrays(R=np.zeros((4, 3, 3))), "poses.npz: R, row 0: expected a rotation matrix"),
    "frame twice": (_arrays(frames=np.array([0, 1, 1, 2])), "poses.npz: frames: expected consecutive numbers"),
    "no frames": (_arrays(frames=np.zeros(0, int)), "poses.npz: frames: expected whole numbers [F]"),
    "no images": (
        remove("images/1"),
        "images/1: the folder: expected a folder of images <frame>.jpg or <frame>.png, found none",
    ),
    "no image": (remove("images/1/000001.png"), "000001.png: camera 1, frame 1: expected an image, found none"),
    "no mask": (remove("masks/1/000001.png"), "masks/1/000001.png: camera 1, frame 1: expected a mask, found none"),
    "image twice": (
        write("images/1/1.jpg", b""),
        "images/1: number 1: expected one file, found '000001.png' and '1.jpg'",
    ),
}


@pytest.mark.parametrize("hole", HOLES)
def test_holes_are_refused_by_name_at_opening(folder, hole, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # hostile files would leave their trace here
    spoil, message = HOLES[hole]
    spoil(folder)
    with pytest.raises(CaptureError, match=re.escape(message)) as error:
        _open(folder)
    assert str(folder) in str(error.value) and "Fix: " in str(error.value)
    assert not (tmp_path / "ran").exists()


IMAGE, MASK = "images/0/000001.png", "masks/0/000001.png"
DAMAGES = {
    "cut image": (cut(IMAGE), IMAGE, "a PNG of .* bytes that is cut off"),
    "cut mask": (cut(MASK), MASK, "not a decodable|a PNG of .* bytes that is cut off"),
    "noise": (write(IMAGE, bytes(range(99))), IMAGE, "not a decodable image"),
    "small": (write(IMAGE, SMALL), IMAGE, "of 96x80.* found 9x8"),
    "empty mask": (write(MASK, EMPTY_MASK), MASK, "found no nonzero pixel"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_refused_by_name_when_read(folder, damage):
    spoil, name, message = DAMAGES[damage]
    spoil(folder)
    capture = _open(folder)
    assert_refused_when_read(capture, 0, folder / name, message)
    (folder / name).unlink()
    with pytest.raises(CaptureError, match="expected an image, found none"):
        capture.read(0, 1)
