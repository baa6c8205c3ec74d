"""HiFi4G's public layout becomes the prepared one."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from r3avatar.captures import CaptureError, HiFi4G, Split
from r3avatar.captures.hifi4g_public import convert_hifi4g, read_transforms

from .layouts_smpl import write_hifi4g, write_hifi4g_public, write_json, write_json_fits
from .plain_capture import plain_capture

PLAIN = plain_capture("smpl")
PLAIN.cameras[1]["D"] = np.array([-0.12, 0.02, 1e-3, -1e-3, 0.0])
SPLITS = {"train": Split(["0", "1", "2"], [0, 1, 2, 3])}
TOOL = Path(__file__).parents[2] / "tools" / "convert_hifi4g.py"


@pytest.fixture
def download(tmp_path):
    """A download and fits in one folder, to be spoiled at will."""
    write_hifi4g_public(tmp_path / "public 4K.v1", PLAIN)
    write_json_fits(tmp_path / "fits", PLAIN)
    return tmp_path


def _convert(folder, **options):
    return convert_hifi4g(folder / "public 4K.v1", folder / "fits", folder / "out" / "Größe 1", **options)


def _open(root, subject):
    return HiFi4G(root, subject, splits=SPLITS, recorded=(0, 4), scale=1.0, mask_from_white=0.02)


@pytest.mark.parametrize("copy", [False, True])
def test_equals_the_prepared_layout(download, copy):
    done = _convert(download, copy=copy)
    assert (done.cameras, done.frames, done.images, done.missing) == (3, 4, 12, [])
    write_hifi4g(download / "prepared", PLAIN)
    ours, theirs = _open(download / "out", "Größe 1"), _open(download, "prepared")
    for c in range(3):
        np.testing.assert_allclose(ours.cameras[c].K.numpy(), theirs.cameras[c].K.numpy(), rtol=1e-6)
        np.testing.assert_allclose(ours.cameras[c].w2c.numpy(), theirs.cameras[c].w2c.numpy(), atol=1e-6)
        for f in range(4):
            for a, b in zip(ours.read(c, f), theirs.read(c, f)):
                np.testing.assert_array_equal(a, b)
    for name in ("theta", "betas", "R", "Th"):
        np.testing.assert_array_equal(getattr(ours.poses, name).numpy(), getattr(theirs.poses, name).numpy())
    linked = os.stat(download / "out/Größe 1/images/2/000003.png").st_nlink
    assert linked == (1 if copy else 2)


def test_a_point_lands_where_instant_ngp_sees_it(download):
    """Camera-to-world, y up and looking along -z; pixels from the image's corner."""
    entry = json.loads((download / "public 4K.v1/image_white/transforms.json").read_text())["frames"][2]
    point = np.array([0.2, 0.4, -0.1])
    x, y, z = np.linalg.inv(entry["transform_matrix"])[:3] @ [*point, 1]
    expected = entry["fl_x"] * x / -z + entry["cx"], entry["fl_y"] * -y / -z + entry["cy"]
    _convert(download)
    camera = _open(download / "out", "Größe 1").cameras[2]
    seen = camera.K.double().numpy() @ (camera.w2c.double().numpy() @ [*point, 1])[:3]
    np.testing.assert_allclose(seen[:2] / seen[2], expected, atol=1e-4)


def test_units(tmp_path):
    write_hifi4g_public(tmp_path, PLAIN, metres=0.4)
    cameras = read_transforms(tmp_path / "image_white/transforms.json", 0.4)
    for (view, camera), written in zip(cameras.items(), PLAIN.cameras):
        assert camera.size == (96, 80) and view.isdecimal()
        np.testing.assert_allclose(camera.calibration.w2c, written["w2c"], atol=1e-12)


def test_common_intrinsics_and_padded_names(download):
    path = download / "public 4K.v1/image_white/transforms.json"
    content = json.loads(path.read_text())
    common = {key: value for key, value in content["frames"][0].items() if key[0] not in "ft" or key[:2] == "fl"}
    frames = [{"file_path": f"{c:03d}.png", "transform_matrix": f["transform_matrix"][:3]}
              for c, f in enumerate(content["frames"])]  # fmt: skip
    path.unlink()
    write_json(path.parent.parent / "transforms.json", {**common, "frames": frames[::-1]})
    _convert(download)
    capture = _open(download / "out", "Größe 1")
    for ours, written in zip(capture.cameras, PLAIN.cameras):
        np.testing.assert_allclose(ours.w2c.numpy(), written["w2c"], atol=1e-6)


def test_single_missing_images_are_listed(download):
    (download / "public 4K.v1/image_white/2/1.png").unlink()
    assert _convert(download).missing == ["2/1.png"]
    with pytest.raises(CaptureError, match="frame 2: expected an image"):
        _open(download / "out", "Größe 1")


def test_existing_folders_are_kept_and_leftovers_are_not(download):
    (download / "out/Größe 1.partial/images/7").mkdir(parents=True)
    _convert(download)
    assert sorted(p.name for p in (download / "out/Größe 1/images").iterdir()) == ["0", "1", "2"]
    with pytest.raises(FileExistsError, match="remove it, or choose another folder"):
        _convert(download)


def _view(key, value, view=1):
    def spoil(folder):
        path = folder / "image_white/transforms.json"
        content = json.loads(path.read_text())
        content["frames"][view][key] = value
        if value is None:
            del content["frames"][view][key]
        write_json(path, content)

    return spoil


def _small(folder):
    (folder / "image_white/0/1.png").write_bytes(cv2.imencode(".png", np.ones((8, 9), np.uint8))[1].tobytes())


T, NAN = "image_white/transforms.json", float("nan")
HOLES = {
    "no cameras": (T, lambda d: (d / T).unlink(), "expected cameras, found none"),
    "cut cameras": (T, lambda d: (d / T).write_text('{"frames": [{'), "expected cameras, complete JSON"),
    "no views": (T, lambda d: (d / T).write_text('{"frames": []}'), "frames: expected a list of views"),
    "name": (T, _view("file_path", "left.png"), "frames[1], file_path: expected <view>.png, a number, found 'left"),
    "twice": (T, _view("file_path", "images/00.png"), "view 0: expected one entry, found two"),
    "no focal length": (T, _view("fl_x", None), "view 1: expected a dict with fl_x"),
    "zero focal length": (T, _view("fl_x", 0), "view 1, K: expected a regular calibration matrix"),
    "NaN": (T, _view("cx", NAN), "view 1, cx: expected finite numbers, found nan"),
    "k4": (T, _view("k4", 0.1), "view 1: expected a lens of k1, k2, p1, p2, k3, found k4 not 0"),
    "fisheye": (T, _view("is_fisheye", True), "view 1: expected a lens of k1, k2, p1, p2, k3, found a fisheye lens"),
    "sheared": (T, _view("transform_matrix", np.eye(4)[[2, 1, 0, 3]].tolist()), "expected a rotation"),
    "short": (T, _view("transform_matrix", [[1, 0, 0]]), "transform_matrix: expected numbers [4, 4] or [3, 4]"),
    "no images": ("image_white", lambda d: [(d / f"image_white/{f}").rename(d / f"{f}") for f in range(4)], "folders"),
    "unknown view": ("image_white/0", _view("file_path", "images/9.png"), "expected views of transforms.json, found"),
    "size": ("image_white/0/1.png", _small, "expected 96x80, as transforms.json says, found 9x8"),
    "view gone": (
        "image_white", lambda d: [(d / f"image_white/{f}/1.png").unlink() for f in range(4)], "found none of view 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_holes_are_refused_by_name(download, hole):
    name, spoil, message = HOLES[hole]
    spoil(download / "public 4K.v1")
    with pytest.raises(CaptureError, match=re.escape(message)) as error:
        _convert(download)
    assert str(error.value).startswith(f"{download / 'public 4K.v1' / name}: ")
    assert not (download / "out").exists()


def test_fits_are_checked(download):
    (download / "fits/000001.json").write_text("[{}]")
    with pytest.raises(CaptureError, match=r"000001.json: the fit: expected a dict with poses"):
        _convert(download)
    (download / "fits/000001.json").unlink()
    with pytest.raises(CaptureError, match=r"000001.json: the file: expected the body's fit to frame 1"):
        _convert(download)


def test_the_tool(download, monkeypatch, capsys):
    arguments = [str(TOOL), *(str(download / part) for part in ("public 4K.v1", "fits", "out/a"))]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(TOOL), run_name="__main__")
    assert "3 cameras, 4 frames, 12 images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists: remove it"):
        runpy.run_path(str(TOOL), run_name="__main__")
