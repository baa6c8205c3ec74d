"""Faults put into synthetic captures: of the size that was asked for, where they were asked for, and told."""

import dataclasses
import json

import cv2
import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from r3avatar.captures.synthesis import Faults, synthesize
from r3avatar.captures.synthesis.faults import FITTED_JOINTS, FaultyCamera, misfitted
from r3avatar.captures.synthesis.studio import View

SMALL = dict(
    recorded_frames=2, later_frames=0, cameras=2, held_out_cameras=1, width=128, height=128, garment="none",
    preview=False,
)  # fmt: skip
ALL = Faults(
    photons=500.0, exposure_stops=0.3, white_balance=0.1, mask_jitter_pixels=2.0, mask_blobs=3.0, pose_degrees=3.0,
    transl_cm=2.0,
)  # fmt: skip


def _view(level: int = 120, size: int = 256) -> View:
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 2, size // 2), size // 3, 255, -1)
    return View(np.full((size, size, 3), level, np.uint8), mask, b"")


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """A capture with all faults and the same one without."""
    root = tmp_path_factory.mktemp("faults")
    return synthesize(root, "spoilt", **SMALL, faults=ALL), synthesize(root, "true", **SMALL)


def _images(folder, camera):
    with (
        h5py.File(folder / f"{folder.name}.smc") as images,
        h5py.File(folder / f"{folder.name}_annots.smc") as annotations,
    ):
        image = cv2.imdecode(images[f"Camera_5mp/{camera}/color/1"][()], cv2.IMREAD_COLOR)
        return image, cv2.imdecode(annotations[f"Mask/{camera}/mask/1"][()], cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("level", [40, 120, 220])
def test_noise_is_that_of_the_light(level):
    photons = 1000.0
    seen = FaultyCamera(Faults(photons=photons), 0, 0).spoil(_view(level), 0).rgb / 255.0
    light = ((seen + 0.055) / 1.055) ** 2.4
    true = ((level / 255 + 0.055) / 1.055) ** 2.4
    assert abs(light.mean() - true) < 0.01 * true + 1e-3
    np.testing.assert_allclose(light.std(), np.sqrt(photons * true + 16.0) / photons, rtol=0.04)
    np.testing.assert_allclose(np.corrcoef(seen.reshape(-1, 3).T), np.eye(3), atol=0.02)


def test_noise_differs_by_frame_and_camera_alone():
    camera, view = FaultyCamera(Faults(photons=100.0, mask_jitter_pixels=1.0), 3, 5), _view()
    first = camera.spoil(view, 7)
    assert camera.spoil(view, 7).digest == first.digest
    assert camera.spoil(view, 8).digest != first.digest
    assert FaultyCamera(camera.faults, 3, 6).spoil(view, 7).digest != first.digest


def test_exposure_and_white_balance_spread_as_asked():
    faults = Faults(exposure_stops=0.5, white_balance=0.1)
    cameras = [FaultyCamera(faults, seed, camera) for seed in range(8) for camera in range(40)]
    assert abs(np.std([c.exposure_stops for c in cameras]) - 0.5) < 0.05
    gains = np.array([c.gains for c in cameras])
    np.testing.assert_allclose(gains.std(0), [0.1, 0.0, 0.1], atol=0.01)
    for camera in cameras[:5]:  # light is multiplied, not the image's values
        seen = camera.spoil(_view(100), 0).rgb[0, 0] / 255.0
        light = ((seen + 0.055) / 1.055) ** 2.4 / ((100 / 255 + 0.055) / 1.055) ** 2.4
        np.testing.assert_allclose(light, 2.0**camera.exposure_stops * np.array(camera.gains), rtol=0.02)


def test_mask_boundaries_wander_by_the_pixels_asked_for():
    view = _view(size=512)
    y, x = np.mgrid[:512, :512] - 256
    radius, displaced = np.hypot(x, y), []
    for frame in range(6):
        mask = FaultyCamera(Faults(mask_jitter_pixels=3.0), 0, 0).spoil(view, frame).mask
        assert set(np.unique(mask)) == {0, 255}
        wrong = (mask > 0) != (view.mask > 0)
        assert np.abs(radius[wrong] - 512 // 3).max() < 15
        displaced.append(wrong.sum() / (2 * np.pi * (512 // 3)))
    # Wrong pixels per pixel of boundary: the mean of |displacement|, which is 0.8 of a normal one's deviation.
    assert abs(np.mean(displaced) - 3.0 * np.sqrt(2 / np.pi)) < 0.4


def test_pieces_are_missing_from_masks():
    view = _view()
    lost = []
    for frame in range(40):
        mask = FaultyCamera(Faults(mask_blobs=2.0), 0, 0).spoil(view, frame).mask
        assert not (mask & ~view.mask).any()
        lost.append(cv2.connectedComponents(view.mask & ~mask)[0] - 1)
    assert 1.3 < np.mean(lost) < 2.4 and 0 in lost


def test_fits_are_wrong_by_the_degrees_and_centimetres_asked_for_and_smooth():
    pose, transl = np.random.default_rng(0).normal(size=(90, 55, 3)) * 0.4, np.zeros((90, 3))
    wrong, moved = misfitted(Faults(pose_degrees=4.0, transl_cm=3.0), 1, 15.0, pose, transl)
    error = Rotation.from_rotvec(pose.reshape(-1, 3)).inv() * Rotation.from_rotvec(wrong.reshape(-1, 3))
    error = np.rad2deg(error.as_rotvec()).reshape(90, 55, 3)
    size = np.sqrt((error**2).sum(-1).mean(0))
    np.testing.assert_allclose(size[:FITTED_JOINTS], 4.0, rtol=1e-6)
    assert (wrong[:, FITTED_JOINTS:] == pose[:, FITTED_JOINTS:]).all()
    np.testing.assert_allclose(np.sqrt((moved**2).sum(-1).mean()), 0.03, rtol=1e-9)
    assert np.linalg.norm(np.diff(moved, axis=0), axis=-1).max() < 0.03 * 15 / 30
    assert np.linalg.norm(np.diff(error, axis=0), axis=-1).max() < 2.5  # degrees a frame
    assert (misfitted(Faults(), 1, 15.0, pose, transl)[0] == pose).all()


def test_faults_are_in_the_training_cameras_files_and_told(captures):
    spoilt, true = captures
    record, clean = (json.loads((folder / "synthesis.json").read_text()) for folder in captures)
    assert record["options"]["faults"] == dataclasses.asdict(ALL)
    assert record["poses_sha256"] == clean["poses_sha256"] and record["pixels_sha256"] != clean["pixels_sha256"]
    assert sorted(record["cameras"]) == ["0", "1"] and "cameras" not in clean
    assert record["fits"]["truth"] == "truth.npz" and not (true / "truth.npz").exists()
    for camera in (0, 1):
        image, mask = _images(spoilt, camera)
        other, whole = _images(true, camera)
        assert np.abs(image.astype(int) - other).mean() > 2 and (mask != whole).any()
    for a, b in zip(_images(spoilt, 2), _images(true, 2)):
        assert (a == b).all()  # the held-out camera shows the truth
    truth = np.load(spoilt / "truth.npz")
    with h5py.File(spoilt / "spoilt_annots.smc") as wrong, h5py.File(true / "true_annots.smc") as right:
        for name in ("fullpose", "transl"):
            assert (truth[name] == right[f"SMPLx/{name}"][()]).all()
            assert np.abs(truth[name] - wrong[f"SMPLx/{name}"][()]).max() > 0.01


def test_held_out_cameras_may_have_them_too(captures, tmp_path):
    folder = synthesize(tmp_path, "all", **SMALL, faults=dataclasses.replace(ALL, held_out=True))
    assert (_images(folder, 2)[0] != _images(captures[1], 2)[0]).any()
    assert sorted(json.loads((folder / "synthesis.json").read_text())["cameras"]) == ["0", "1", "2"]


def test_captures_made_before_there_were_faults_are_kept(captures, capsys):
    record = json.loads((captures[1] / "synthesis.json").read_text())
    for name in ("faults", "length", "supersampling", "quality"):
        del record["options"][name]
    (captures[1] / "synthesis.json").write_text(json.dumps(record))
    synthesize(captures[1].parent, "true", **SMALL)
    assert "kept" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"faults=.* there"):
        synthesize(captures[1].parent, "true", **SMALL, faults=ALL)


@pytest.mark.parametrize("wrong", [{"photons": 1.0}, {"mask_blobs": -1.0}, {"pose_degrees": 40.0}])
def test_wrong_faults(wrong):
    with pytest.raises(ValueError, match=f"faults.{next(iter(wrong))} is"):
        Faults(**wrong)
