"""MVHumanNet (Xiong et al. 2024, arXiv 2312.02963): images of half resolution, masks and EasyMocap SMPL-X fits.

`<root>/<subject>/`
    images_lr/<camera>/<nnnn>_img.jpg         half resolution; numbers 5, 10, 15, ..: the frame is number / 5 - 1
    fmask_lr/<camera>/<nnnn>_img_fmask.png    nonzero = person
    camera_intrinsics.json                    intrinsics [3, 3], OpenCV, of the FULL resolution; one for all cameras
    camera_extrinsics.json                    '1_<camera>.png' to rotation [3, 3], translation [3]: world-to-camera
    camera_scale.pkl                          a number s: translation * s / 1000 is in metres
    smplx/smpl/<frame, 6 digits>.json         a list of one {poses, shapes, expression, Rh, Th}

poses holds 75 + 2 n numbers: root 3, body 63, jaw 3, eyes 6, left and right hand n coefficients (n = 6) of SMPL-X's
principal components about its mean hand pose. The body is R(Rh) SMPL-X(poses) + Th: the root's rotation in poses and Rh
both apply, Rh about the origin.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from r3avatar.body.pickles import load_pickle
from r3avatar.captures.capture import CaptureError, Split, parse_recorded
from r3avatar.captures.checked import check_intrinsics, check_rotation, numbers, read_bytes, read_json
from r3avatar.captures.hand_pca import HandPca
from r3avatar.captures.image_files import ImageFileCapture, View, numbered_files
from r3avatar.captures.mend import Mend
from r3avatar.captures.smpl_fits import require_fits
from r3avatar.types import BodyPose

_DOWNLOAD = "download the file again"
_STEP = 5  # every fifth frame of the recording was extracted, and numbered from 5
_BODY = 75  # numbers before the hands': root, body, jaw, eyes
_IMAGE, _MASK, _FIT = (re.compile(p) for p in (r"([0-9]+)_img\.jpg", r"([0-9]+)_img_fmask\.png", r"([0-9]+)\.json"))
_EXTRINSICS_KEY = re.compile(r"[0-9]+_(.+)\.(?:png|jpg)")


class MvHumanNet(ImageFileCapture):
    """One MVHumanNet capture, `<root>/<subject>/` in the layout above.

    splits: train, novel_view, novel_pose to Split; cameras by full name (CC32871A004), frames from 0. The capture's
        cameras are those that some split names; its frames are those of the SMPL-X fits.
    recorded: (first frame, length T) of the time axis that the avatar records.
    hands: SMPL-X's principal components (`read_hand_pca`), by which the fits' hands become joint rotations. None leaves
        all fingers straight.
    scale: image size relative to the half-resolution files'. fps: frames a second, None if unknown.
    gender: of the body that was fitted. box_margin: metres around the posed body for the bound mask.
    mend: what to change in the conventions of cameras and poses as they are read; None: nothing (`Mend`).

    Threads may read at once. Instances pickle as their arguments.
    Raises CaptureError at construction for what the splits need and the files lack; images are decoded by `read` only.
    """

    body_kind = "smplx"

    def __init__(
        self,
        root: str | Path,
        subject: str,
        *,
        splits: Mapping[str, Split],
        recorded: Sequence[int],
        hands: HandPca | None,
        scale: float = 0.25,
        fps: float | None = None,
        gender: str | None = "neutral",
        box_margin: float = 0.05,
        mend: Mend | None = None,
    ):
        self.recorded = parse_recorded(recorded)
        self.fps, self.gender, self.box_margin = fps, gender, box_margin
        self._begin(
            root, subject, splits, scale, mend, recorded=self.recorded, hands=hands, fps=fps, gender=gender,
            box_margin=box_margin,
        )  # fmt: skip
        needed = {frame for split in self.splits.values() for frame in split.frames}
        self.frame_ids, self.poses = _read_fits(self.folder / "smplx" / "smpl", hands, needed)
        self._K = _read_intrinsics(self.folder / "camera_intrinsics.json")
        self._metres = _read_scale(self.folder / "camera_scale.pkl") / 1000
        self._extrinsics = _read_extrinsics(self.folder / "camera_extrinsics.json")
        self._open(self._view, undistort=False)
        self._check_resolution()

    def _view(self, camera: str) -> View:
        path = self.folder / "camera_extrinsics.json"
        fix = f"take camera {camera} out of the splits, or {_DOWNLOAD}"
        if camera not in self._extrinsics:
            known = ", ".join(sorted(self._extrinsics))
            raise CaptureError(path, f"camera {camera}", expected="its extrinsics", found=f"only {known}", fix=fix)
        place, entry = self._extrinsics[camera]
        if not isinstance(entry, dict) or not {"rotation", "translation"} <= set(entry):
            raise CaptureError(path, place, expected="rotation and translation", found=str(entry)[:80], fix=fix)
        w2c = np.eye(4)
        w2c[:3, :3] = numbers(entry["rotation"], [(3, 3)], file=path, place=f"{place}, rotation", fix=fix)
        check_rotation(w2c[:3, :3], file=path, place=f"{place}, rotation", fix=fix)
        translation = numbers(entry["translation"], [(3,), (3, 1)], file=path, place=f"{place}, translation", fix=fix)
        metres = translation.ravel() * self._metres
        w2c[:3, 3] = numbers(metres, [(3,)], file=path, place=f"{place}, translation in metres", fix=fix)
        folders = self.folder / "images_lr" / camera, self.folder / "fmask_lr" / camera
        images, masks = (
            {
                number // _STEP - 1: file
                for number, file in numbered_files(folder, pattern, what=what, fix=fix).items()
                if number >= _STEP and number % _STEP == 0
            }
            for folder, pattern, what in zip(folders, (_IMAGE, _MASK), ("images", "masks"))
        )
        image_of, mask_of = (
            lambda frame, folder=folder, end=end: folder / f"{_STEP * (frame + 1):04d}_img{end}"
            for folder, end in zip(folders, (".jpg", "_fmask.png"))
        )
        return View(camera, self._K, w2c, None, images, masks, image_of, mask_of)

    def _check_resolution(self) -> None:
        for camera, view in zip(self.camera_ids, self._views):
            off = np.abs(view.K[:2, 2] / view.size - 0.5).max()
            if off > 0.2:
                raise CaptureError(
                    self.folder / "images_lr" / camera, "the images' size",
                    expected=f"half of the size that camera_intrinsics.json is for (camera {camera}'s principal point "
                    f"is at {view.K[:2, 2].tolist()} then)",
                    found=f"{view.size[0]}x{view.size[1]}",
                    fix="use the images of images_lr with the original calibration, or set "
                    "capture.mend.intrinsics_scale (`r3avatar inspect` tries the usual factors)",
                )  # fmt: skip


def _read_intrinsics(path: Path) -> np.ndarray:
    """K [3, 3] of the half-resolution images, the first pixel's centre at (0.5, 0.5)."""
    content = read_json(path, what="the cameras' intrinsics", fix=_DOWNLOAD)
    if not isinstance(content, dict) or "intrinsics" not in content:
        raise CaptureError(path, "intrinsics", expected="a [3, 3] matrix", found="none", fix=_DOWNLOAD)
    K = numbers(content["intrinsics"], [(3, 3)], file=path, place="intrinsics", fix=_DOWNLOAD)
    check_intrinsics(K, file=path, place="intrinsics", fix=_DOWNLOAD)
    K[:2, 2] += 0.5  # OpenCV's first pixel centre is (0, 0), ours (0.5, 0.5): then halving is a mere factor
    K[:2] *= 0.5
    return K


def _read_scale(path: Path) -> float:
    read_bytes(path, what="a pickled number", fix=_DOWNLOAD)
    try:
        value = load_pickle(path)
    except (ValueError, OSError, MemoryError, RecursionError, OverflowError) as error:
        raise CaptureError(path, "the file", expected="a pickled number", found=str(error), fix=_DOWNLOAD) from error
    scale = numbers(value, [(), (1,), (1, 1)], file=path, place="the scale", fix=_DOWNLOAD).item()
    if scale <= 0:
        raise CaptureError(path, "the scale", expected="a number above 0", found=str(scale), fix=_DOWNLOAD)
    return scale


def _read_extrinsics(path: Path) -> dict[str, tuple[str, object]]:
    """Camera name to its key in the file and what stands there."""
    content = read_json(path, what="the cameras' extrinsics", fix=_DOWNLOAD)
    if not isinstance(content, dict):
        expected = "a dictionary by '1_<camera>.png'"
        raise CaptureError(path, "the file", expected=expected, found=type(content).__name__, fix=_DOWNLOAD)
    cameras: dict[str, tuple[str, object]] = {}
    for key, entry in content.items():
        match = _EXTRINSICS_KEY.fullmatch(key)
        if not match or match[1] in cameras:
            expected = "keys '1_<camera>.png', each camera once"
            raise CaptureError(path, key, expected=expected, found=f"'{key}'", fix=_DOWNLOAD)
        cameras[match[1]] = key, entry
    return cameras


def _read_fits(folder: Path, hands: HandPca | None, needed: Collection[int]) -> tuple[list[int], BodyPose]:
    """The frames and their poses; CaptureError names the first frame that is missing or wrong."""
    fix = "use another capture, or refit its body"
    files = numbered_files(folder, _FIT, what="SMPL-X fits", fix="check the root and the subject")
    require_fits(folder, files, needed, "{:06d}.json")
    frames = sorted(files)
    rows = [_read_fit(files[frame], hands, fix) for frame in frames]
    poses, shapes, expression, Rh, Th = (np.stack(values) for values in zip(*rows))
    theta = np.zeros((len(frames), 55, 3))
    theta[:, :25] = poses[:, :_BODY].reshape(-1, 25, 3)
    if hands is not None:
        theta[:, 25:] = hands(poses[:, _BODY:])
    R = np.stack([cv2.Rodrigues(rotation)[0] for rotation in Rh])
    values = dict(theta=theta, betas=shapes, expression=expression, R=R, Th=Th)
    return frames, BodyPose(**{name: torch.from_numpy(value).float() for name, value in values.items()})


def _read_fit(path: Path, hands: HandPca | None, fix: str) -> list[np.ndarray]:
    content = read_json(path, what="a list of one SMPL-X fit", fix=fix)
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], dict):
        found = f"a list of {len(content)}" if isinstance(content, list) else str(content)[:80]
        raise CaptureError(path, "the file", expected="a list of one fit (one person)", found=found, fix=fix)
    count = _BODY + (12 if hands is None else 2 * hands.components.shape[1])
    row = []
    for key, size in {"poses": count, "shapes": 10, "expression": 10, "Rh": 3, "Th": 3}.items():
        if key not in content[0]:
            raise CaptureError(path, key, expected=f"{size} numbers", found=f"only {sorted(content[0])}", fix=fix)
        row.append(numbers(content[0][key], [(1, size), (size,)], file=path, place=key, fix=fix).ravel())
    return row
