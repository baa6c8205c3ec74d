"""The DNA-Rendering reader: what comes out, and what is refused."""

import pickle
import re

import cv2
import h5py
import numpy as np
import pytest
import torch

from r3avatar.captures import CaptureError, Split, read_hand_mean

IMAGES, ANNOTATIONS = "0012_09.smc", "0012_09_annots.smc"


def test_description(capture):
    assert (capture.name, capture.body_kind, capture.gender, capture.fps) == ("0012_09", "smplx", "female", 15.0)
    assert capture.camera_ids == ["0", "1", "48"] and capture.frame_ids == [0, 1, 2, 3, 4]
    assert [(c.width, c.height) for c in capture.cameras] == [(48, 40), (48, 40), (64, 56)]
    assert capture.recorded == (0, 3) and capture.box_margin == 0.05
    assert capture.camera_index("48") == 2 and capture.frame_index(3) == 3
    for call in (lambda: capture.camera_index("2"), lambda: capture.frame_index(5), lambda: capture.split("test")):
        with pytest.raises(ValueError, match="0012_09: no "):
            call()


def test_cameras(capture, small):
    for index, (width, height) in enumerate(small.SIZES.values()):
        written, read = small.camera(width, height, 0.4 * index), capture.cameras[index]
        K = written["K"].copy()
        K[:2, 2] += 0.5
        K[:2] *= 0.5
        np.testing.assert_allclose(read.K.numpy(), K, rtol=1e-6)
        np.testing.assert_allclose(read.w2c.numpy(), written["w2c"], atol=1e-6)


def test_images_and_masks_are_exact_without_distortion_and_scaling(shared_pair, small):
    capture = small.open(shared_pair, scale=1.0, undistort=False)
    for index, (camera, (width, height)) in enumerate(small.SIZES.items()):
        _, _, image, mask = small.picture(100 * camera + 3, width, height)
        rgb, read_mask = capture.read(index, 3)
        assert read_mask.dtype == rgb.dtype == np.uint8
        np.testing.assert_array_equal(read_mask, mask)
        np.testing.assert_array_equal(rgb, cv2.cvtColor(image, cv2.COLOR_BGR2RGB) * mask[..., None])


def test_scaled_images_average_over_black(shared_pair, small):
    full = small.open(shared_pair, scale=1.0).read(0, 0)
    half = small.open(shared_pair, scale=0.5).read(0, 0)
    blocks = full[0].reshape(40, 2, 48, 2, 3).mean((1, 3))
    assert np.abs(half[0] - blocks).max() <= 1
    assert set(np.unique(half[1])) == {0, 1} and abs(half[1].mean() - full[1].mean()) < 0.02


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
def test_a_point_lands_where_its_camera_says(tmp_path, small, scale):
    """World point -> distorted pixel (OpenCV) -> written image -> read image -> our camera's projection."""
    from r3avatar.captures import SmcWriter

    settings = small.camera(400, 320, 0.4)
    settings["D"] *= 3
    point = np.array([0.55, 0.65, 0.1])
    seen = settings["w2c"][:3, :3] @ point + settings["w2c"][:3, 3]
    distorted = cv2.projectPoints(seen[None], np.zeros(3), np.zeros(3), settings["K"], settings["D"])[0].ravel()
    y, x = np.mgrid[:320, :400]
    spot = np.exp(-((x - distorted[0]) ** 2 + (y - distorted[1]) ** 2) / (2 * 4.0**2)) * 200
    image = cv2.merge([spot.round().astype(np.uint8)] * 3)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    mask = cv2.imencode(".png", np.full((320, 400), 255, np.uint8))[1].tobytes()
    with SmcWriter(tmp_path, "spot", cameras={0: settings}, num_frames=1) as writer:
        writer.add(0, 0, jpeg, mask)
        writer.body(np.zeros((1, 10)), np.zeros((1, 10)), np.zeros((1, 55, 3)), np.zeros((1, 3)))
    capture = small.open(tmp_path, "spot", splits={"train": Split(["0"], [0])}, recorded=(0, 1), scale=scale)
    rgb, _ = capture.read(0, 0)
    camera = capture.cameras[0]
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5  # the first pixel's centre is (0.5, 0.5)
    weight = np.maximum(rgb[..., 0].astype(float) - 8, 0)
    found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    expected = camera.K.double().numpy() @ (camera.w2c.double().numpy() @ [*point, 1])[:3]
    np.testing.assert_allclose(found, expected[:2] / expected[2], atol=0.12)
    undistorted_shift = np.linalg.norm(distorted + 0.5 - expected[:2] / expected[2] / scale)
    assert undistorted_shift > 1.0, "the point must lie where the lens bends"


def test_poses(shared_pair, small):
    capture = small.open(shared_pair)
    with h5py.File(shared_pair / "0012_09" / ANNOTATIONS) as file:
        stored = {name: file["SMPLx"][name][()] for name in ("betas", "expression", "fullpose", "transl")}
    pose = capture.poses
    assert len(pose) == 5 and pose.theta.dtype == torch.float32
    for ours, theirs in (("theta", "fullpose"), ("betas", "betas"), ("expression", "expression"), ("Th", "transl")):
        np.testing.assert_allclose(getattr(pose, ours).numpy(), stored[theirs], rtol=1e-6)
    assert torch.equal(pose.R, torch.eye(3).repeat(5, 1, 1))


def test_the_mean_hand_pose_is_added_to_the_hands_alone(shared_pair, small, tmp_path):
    mean = np.arange(90.0)
    np.savez(tmp_path / "model.npz", hands_meanl=mean[:45], hands_meanr=mean[45:])
    hands = read_hand_mean("smplx", str(tmp_path / "model.npz"), "neutral")
    difference = small.open(shared_pair, hand_mean=hands).poses.theta - small.open(shared_pair).poses.theta
    np.testing.assert_allclose(difference[2, 25:].numpy(), mean.reshape(30, 3), atol=1e-4)
    assert not difference[:, :25].any()
    assert not read_hand_mean("demo", None, "neutral").any()
    np.savez(tmp_path / "other.npz", weights=mean)
    with pytest.raises(ValueError, match=r"other.npz: expected hands_meanl"):
        read_hand_mean("smplx", str(tmp_path / "other.npz"), "neutral")
    with pytest.raises(ValueError, match="body kind is 'smpl'"):
        read_hand_mean("smpl", None, "neutral")


def test_both_paddings(pair, small, capture):
    with h5py.File(pair / "0012_09" / IMAGES, "r+") as file:
        file.move("Camera_5mp/0", "Camera_5mp/00")
        file.move("Camera_5mp/1/color/2", "Camera_5mp/1/color/02")
    with h5py.File(pair / "0012_09" / ANNOTATIONS, "r+") as file:
        file.move("Camera_Parameter/01", "Camera_Parameter/1")
        file.move("Mask/0", "Mask/00")
        file.move("Mask/1/mask/2", "Mask/1/mask/02")
    renamed = small.open(pair)
    for camera in (0, 1):
        for ours, expected in zip(renamed.read(camera, 2), capture.read(camera, 2)):
            np.testing.assert_array_equal(ours, expected)
    assert torch.equal(renamed.cameras[1].K, capture.cameras[1].K)


def test_single_rows_are_repeated(pair, small, capture):
    with h5py.File(pair / "0012_09" / ANNOTATIONS, "r+") as file:
        for name in ("betas", "expression"):
            row = file["SMPLx"][name][:1]
            del file["SMPLx"][name]
            file["SMPLx"][name] = row
    poses = small.open(pair).poses
    assert torch.equal(poses.betas, capture.poses.betas[:1].expand(5, 10))
    assert torch.equal(poses.expression, capture.poses.expression[:1].expand(5, 10))


@pytest.mark.parametrize("stored", [None, np.zeros((2, 10)), np.full((5, 10), np.nan)])
def test_a_face_at_rest_on_demand(pair, small, stored, caplog):
    with h5py.File(pair / "0012_09" / ANNOTATIONS, "r+") as file:
        _replace("SMPLx/expression", stored)(file)
    with pytest.raises(CaptureError, match=r"SMPLx/expression.* or take a face at rest by capture\.missing_expression"):
        small.open(pair)
    capture = small.open(pair, missing_expression="zero")
    assert not capture.poses.expression.any() and capture.poses.expression.shape == (5, 10)
    assert "SMPLx/expression" in caplog.text and "zeros are taken" in caplog.text
    assert capture.fingerprint()["missing_expression"] == "zero"
    with pytest.raises(ValueError, match="missing_expression is 'none'; expected 'refuse' or 'zero'"):
        small.open(pair, missing_expression="none")


def test_an_expression_that_is_there_is_kept(shared_pair, small, capture):
    assert torch.equal(small.open(shared_pair, missing_expression="zero").poses.expression, capture.poses.expression)


def test_pickles_as_its_arguments(capture):
    capture.read(0, 0)
    copy = pickle.loads(pickle.dumps(capture))
    assert copy._handles is None and copy.fingerprint() == capture.fingerprint()
    np.testing.assert_array_equal(copy.read(2, 3)[0], capture.read(2, 3)[0])


def _replace(name, value):
    def change(file):
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def _edit(name, edit):
    def change(file):
        value = file[name][()]
        edit(value)
        _replace(name, value)(file)

    return change


def _assign(index, number):
    return lambda value: value.__setitem__(index, number)


I, A = IMAGES, ANNOTATIONS
HOLES = {
    "gender": (I, lambda file: file.attrs.__setitem__("gender", "femalf"), "attribute gender: expected one of male"),
    "gender of numbers": (I, lambda file: file.attrs.__setitem__("gender", [1, 2]), "attribute gender: expected one"),
    "missing camera": (I, _replace("Camera_5mp/1", None), "Camera_5mp/1/color: expected the camera's images"),
    "missing group": (I, _replace("Camera_12mp", None), "Camera_12mp: expected the group, found none"),
    "missing calibration": (A, _replace("Camera_Parameter/48", None), "Camera_Parameter/48: expected the camera's"),
    "missing masks": (A, _replace("Mask/0", None), "Mask/0/mask: expected the camera's masks, found none"),
    "missing mask": (A, _replace("Mask/0/mask/2", None), "Mask/0/mask, frame 2: expected an encoded image"),
    "missing frame": (I, _replace("Camera_12mp/48/color/4", None), "Camera_12mp/48/color, frame 4: expected an"),
    "short expression": (A, _replace("SMPLx/expression", np.zeros((2, 10))), "(5, 10) or (1, 10), found (2, 10)"),
    "wrong joints": (A, _replace("SMPLx/fullpose", np.zeros((5, 24, 3))), "(F, 55, 3), found (5, 24, 3)"),
    "no poses": (A, _replace("SMPLx", None), "SMPLx: expected the group, found none"),
    "short transl": (A, _replace("SMPLx/transl", np.zeros((4, 3))), "SMPLx/transl: expected shape (5, 3), found (4"),
    "NaN poses": (A, _edit("SMPLx/fullpose", _assign((3, 7, 1), np.nan)), "SMPLx/fullpose, frame 3: expected finite"),
    "text for poses": (A, _replace("SMPLx/transl", "none"), "SMPLx/transl: expected an array"),
    "singular K": (A, _edit("Camera_Parameter/00/K", _assign((0, 0), 0.0)), "00/K: expected a regular calibration"),
    "another K": (A, _replace("Camera_Parameter/00/K", np.eye(4)), "expected shape (3, 3), found (4, 4)"),
    "NaN K": (A, _edit("Camera_Parameter/00/K", _assign((0, 2), np.nan)), "00/K, row 0: expected finite numbers"),
    "four distortions": (A, _replace("Camera_Parameter/00/D", np.zeros(4)), "expected shape (5,), found (4,)"),
    "sheared RT": (A, _edit("Camera_Parameter/00/RT", _assign((0, 1), 0.3)), "RT, camera-to-world: expected a rot"),
    "noise": (I, _replace("Camera_5mp/0/color/0", np.arange(99, dtype=np.uint8)), "color/0: expected an encoded image"),
}


@pytest.mark.parametrize("hole", HOLES)
def test_holes_are_refused_by_name_at_opening(pair, small, hole):
    name, change, message = HOLES[hole]
    with h5py.File(pair / "0012_09" / name, "r+") as file:
        change(file)
    with pytest.raises(CaptureError, match=re.escape(message)) as error:
        small.open(pair)
    assert str(pair / "0012_09" / name) in str(error.value) and "Fix: " in str(error.value)


def _cut(file, name):
    value = file[name][()]
    _replace(name, value[: len(value) // 2])(file)


def _small_png(file, name):
    _replace(name, cv2.imencode(".png", np.ones((8, 9), np.uint8))[1].ravel())(file)


DAMAGES = {
    "cut JPEG": (IMAGES, "Camera_5mp/0/color/1", _cut, "a JPEG of .* bytes that is cut off"),
    "cut PNG": (ANNOTATIONS, "Mask/0/mask/1", _cut, "a PNG of .* bytes that is cut off"),
    "noise": (IMAGES, "Camera_5mp/0/color/1", lambda f, n: _replace(n, np.zeros(50, np.uint8))(f), "not a decodable"),
    "nothing": (IMAGES, "Camera_5mp/0/color/1", lambda f, n: _replace(n, np.zeros(0, np.uint8))(f), "0 bytes"),
    "decoded image": (IMAGES, "Camera_5mp/0/color/1", lambda f, n: _replace(n, np.zeros((80, 96, 3)))(f), "1-D uint8"),
    "mask of another size": (ANNOTATIONS, "Mask/0/mask/1", _small_png, "an image of 96x80.*found 9x8"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_refused_by_name_when_read(pair, small, damage):
    name, place, change, message = DAMAGES[damage]
    with h5py.File(pair / "0012_09" / name, "r+") as file:
        change(file, place)
    capture = small.open(pair)
    capture.read(0, 0)
    with pytest.raises(CaptureError, match=message) as error:
        capture.read(0, 1)
    assert f"{pair / '0012_09' / name}: {place}: " in str(error.value)


def test_files_are_refused_by_name(pair, small):
    path = pair / "0012_09" / ANNOTATIONS
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CaptureError, match=r"annots.smc: the file: expected a complete HDF5 file, found \d+ bytes"):
        small.open(pair)
    path.unlink()
    with pytest.raises(CaptureError, match=r"annots.smc: the file: expected an HDF5 file, found none"):
        small.open(pair)


def test_wrong_settings_are_refused(shared_pair, small):
    train = Split(["0"], [0, 1])
    for changes, error, message in [
        ({"scale": 0}, ValueError, "scale is 0"),
        ({"splits": {"train": Split(["a"], [0])}}, ValueError, r"cameras \['a'\]; DNA-Rendering's cameras are plain"),
        ({"splits": {"train": train, "test": train}}, ValueError, "split 'test' is unknown"),
        ({"splits": {"train": train, "novel_pose": Split(["48"], [7])}}, CaptureError, "a pose for frame 7"),
        ({"splits": {"novel_view": train}}, ValueError, "no split 'train'"),
        ({"recorded": (0, 2)}, ValueError, r"split 'train' has frames outside the recorded time 0 .. 1: \[2\]"),
        ({"splits": {"train": Split(["7"], [0])}}, CaptureError, "Camera_Parameter/07: expected the camera's"),
    ]:
        with pytest.raises(error, match=message):
            small.open(shared_pair, **changes)
