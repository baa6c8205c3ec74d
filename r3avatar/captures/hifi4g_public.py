"""HiFi4G as downloaded, converted to the layout that the reader opens (hifi4g.py).

The download: image_white/<frame>/<view>.png, white behind the person, and image_white/transforms.json (or beside it) in
instant-ngp's format. There, each view has `file_path` (its name is the view's number), `transform_matrix`,
camera-to-world with y up and z backward, and fl_x, fl_y, cx, cy, w, h, k1, k2, p1, p2, k3, which may also stand once
for all views; the first pixel's centre is (0.5, 0.5) as in COLMAP, half a pixel from OpenCV's. `scale` and `offset`
place the scene in instant-ngp's unit cube and are no part of the calibration.

The download has no body: SMPL fits in metres, in the world of transforms.json, come from elsewhere (smpl_fits.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from r3avatar.captures.calibration import Calibration
from r3avatar.captures.capture import CaptureError
from r3avatar.captures.checked import check_rotation, numbers, read_bytes, read_json
from r3avatar.captures.checked_image import checked_size
from r3avatar.captures.image_files import numbered_files
from r3avatar.captures.smpl_fits import read_json_fit, require_fits
from r3avatar.captures.stored_dict import keyed

_IMAGE, _FIT = re.compile(r"([0-9]+)\.png"), re.compile(r"([0-9]+)\.json")
_DOWNLOAD = "download the file again"
_LENS = ("k1", "k2", "p1", "p2", "k3")  # in OpenCV's order
_OTHER_LENS = ("k4", "k5", "k6")


@dataclass
class PublicCamera:
    """A view of transforms.json."""

    calibration: Calibration
    size: tuple[int, int]  # width, height


@dataclass
class Converted:
    """What a conversion wrote."""

    cameras: int
    frames: int
    images: int
    missing: list[str]  # '<frame>/<view>.png' of the images that the download lacks


def convert_hifi4g(
    public: str | Path, fits: str | Path, out: str | Path, *, metres: float = 1.0, copy: bool = False
) -> Converted:
    """Write the prepared capture `out` from a download `public` and the folder `fits` of <frame>.json.

    metres: length of a unit of transforms.json. copy: copy the images instead of linking them (hard links: the same
    file system). `out` appears once it is complete. FileExistsError if it exists, CaptureError for what is missing or
    wrong in the inputs; single images that are missing are listed in the answer.
    """
    public, fits, out = (Path(path).expanduser() for path in (public, fits, out))
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or choose another folder")
    if not metres > 0:
        raise ValueError(f"metres is {metres}; expected a number above 0")
    cameras = read_transforms(_transforms(public), metres)
    images = _images(public / "image_white", cameras)
    poses = numbered_files(fits, _FIT, what="SMPL fits <frame>.json", fix="fit the body first (e.g. EasyMocap)")
    require_fits(fits, poses, sorted(images), "{:06d}.json")
    for path in poses.values():
        read_json_fit(path)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed run's
    for view in cameras:
        (partial / "images" / view).mkdir(parents=True)
    for frame, views in images.items():
        for view, path in views.items():
            _place(path, partial / "images" / str(view) / f"{frame:06d}.png", copy)
    (partial / "smpl" / "smpl").mkdir(parents=True)
    for frame, path in poses.items():
        shutil.copyfile(path, partial / "smpl" / "smpl" / f"{frame:06d}.json")
    (partial / "camera.json").write_text(json.dumps([_entry(view, camera) for view, camera in cameras.items()]))
    os.replace(partial, out)
    missing = [f"{f}/{view}.png" for f, views in images.items() for view in cameras if int(view) not in views]
    return Converted(len(cameras), len(images), sum(map(len, images.values())), missing)


def read_transforms(path: Path, metres: float) -> dict[str, PublicCamera]:
    """View to camera of a transforms.json, by number; CaptureError for what is not a calibration."""
    content = keyed(read_json(path, what="cameras", fix=_DOWNLOAD), ["frames"], path, "the file", _DOWNLOAD)
    if not isinstance(content["frames"], list) or not content["frames"]:
        raise CaptureError(path, "frames", expected="a list of views", found=str(content["frames"])[:80], fix=_DOWNLOAD)
    cameras: dict[int, PublicCamera] = {}
    for index, entry in enumerate(content["frames"]):
        entry = keyed(entry, ["file_path", "transform_matrix"], path, f"frames[{index}]", _DOWNLOAD)
        name = PurePosixPath(str(entry["file_path"])).stem
        if not (name.isascii() and name.isdecimal()):
            place, found = f"frames[{index}], file_path", repr(entry["file_path"])
            raise CaptureError(path, place, expected="<view>.png, a number", found=found, fix=_DOWNLOAD)
        if int(name) in cameras:
            raise CaptureError(path, f"view {int(name)}", expected="one entry", found="two", fix="remove one of them")
        common = {key: value for key, value in content.items() if key != "frames"}
        cameras[int(name)] = _camera({**common, **entry}, path, f"view {int(name)}", metres)
    return {str(view): cameras[view] for view in sorted(cameras)}


def _camera(entry: dict, path: Path, place: str, metres: float) -> PublicCamera:
    at = {"file": path, "fix": _DOWNLOAD}
    keyed(entry, ["fl_x", "fl_y", "cx", "cy", "w", "h"], path, place, _DOWNLOAD)

    def number(key: str) -> float:
        return numbers(entry.get(key, 0.0), [()], place=f"{place}, {key}", **at).item()

    others = [key for key in _OTHER_LENS if number(key) != 0]
    fisheye = bool(entry.get("is_fisheye")) or "FISHEYE" in str(entry.get("camera_model", ""))
    if others or fisheye:
        found = "a fisheye lens" if fisheye else f"{', '.join(others)} not 0"
        raise CaptureError(
            path, place, expected="a lens of k1, k2, p1, p2, k3", found=found, fix="undistort the images"
        )
    c2w = numbers(entry["transform_matrix"], [(4, 4), (3, 4)], place=f"{place}, transform_matrix", **at)
    check_rotation(c2w[:3, :3], place=f"{place}, transform_matrix", **at)
    rotation = (c2w[:3, :3] * [1, -1, -1]).T  # OpenCV's y is down and z forward
    # The first pixel's centre is OpenCV's (0, 0).
    K = [[number("fl_x"), 0, number("cx") - 0.5], [0, number("fl_y"), number("cy") - 0.5], [0, 0, 1]]
    D = [number(key) for key in _LENS]
    calibration = Calibration.checked(
        K, D, rotation, -rotation @ c2w[:3, 3], metres=metres, file=path, place=place, fix=_DOWNLOAD
    )
    return PublicCamera(calibration, (round(number("w")), round(number("h"))))


def _transforms(public: Path) -> Path:
    beside = public / "transforms.json"
    return beside if beside.is_file() else public / "image_white" / "transforms.json"


def _images(folder: Path, cameras: dict[str, PublicCamera]) -> dict[int, dict[int, Path]]:
    """Frame to view to image; the first image of each view is checked against its camera."""
    frames = _numbered_folders(folder)
    images = {}
    unseen = dict(cameras)
    for frame in sorted(frames):
        views = numbered_files(frames[frame], _IMAGE, what="images <view>.png", fix=_DOWNLOAD)
        unknown = sorted(view for view in views if str(view) not in cameras)
        if unknown:
            expected, found = "views of transforms.json", f"view {unknown[0]}"
            raise CaptureError(frames[frame], "the folder", expected=expected, found=found, fix=_DOWNLOAD)
        for view in [view for view in unseen if int(view) in views]:
            _check_size(views[int(view)], unseen.pop(view).size)
        images[frame] = views
    if unseen:
        found = f"none of view {next(iter(unseen))}"
        fix = "take the view out of transforms.json, or download the images again"
        raise CaptureError(folder, "the folder", expected="images of every view", found=found, fix=fix)
    return images


def _numbered_folders(folder: Path) -> dict[int, Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    frames = {int(p.name): p for p in paths if p.is_dir() and p.name.isascii() and p.name.isdecimal()}
    if not frames:
        fix = "give the folder that holds image_white"
        raise CaptureError(folder, "the folder", expected="folders 0, 1, .. of images", found="none", fix=fix)
    return frames


def _check_size(path: Path, size: tuple[int, int]) -> None:
    data = np.frombuffer(read_bytes(path, what="an image", fix=_DOWNLOAD), np.uint8)
    found = checked_size(data, file=path, place="the file", fix=_DOWNLOAD)
    if found != size:
        expected = f"{size[0]}x{size[1]}, as transforms.json says"
        fix = "take the images that the calibration is for"
        raise CaptureError(path, "the file", expected=expected, found=f"{found[0]}x{found[1]}", fix=fix)


def _place(source: Path, target: Path, copy: bool) -> None:
    if copy:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError as error:
        raise OSError(
            error.errno, f"{source} cannot be linked to {target} ({error.strerror}): copy the images"
        ) from error


def _entry(view: str, camera: PublicCamera) -> dict[str, object]:
    K, D, w2c = camera.calibration.K, camera.calibration.D, camera.calibration.w2c
    return {
        "camera_id": int(view), "K": K.ravel().tolist(), "dist": D.tolist(),
        "R": w2c[:3, :3].ravel().tolist(), "T": w2c[:3, 3].tolist(),
    }  # fmt: skip
