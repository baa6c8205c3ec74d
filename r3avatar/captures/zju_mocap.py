"""ZJU-MoCap (Peng et al. 2021, Neural Body), refined (Geng et al. 2023, Instant-NVR): 23 cameras, masks, SMPL fits.

In the capture's folder, frame i being the i-th entry of `ims` and camera c the c-th of its images:

  annots.npy             a pickled dict {"cams": {K, D, R, T}, "ims": [{"ims": [image a camera]} a frame]}; K [3, 3]
                         native pixels, D [5, 1], R [3, 3] and T [3, 1] world-to-camera, T in millimetres
  images/<cc>/<name>.jpg the paths of `ims`, relative to the folder
  mask/<cc>/<name>.png   nonzero = person
  smpl_params/<i>.npy    a pickled dict, EasyMocap's record of the fit (smpl_fits.py)

Known holes: refined folders that come with the first release's annots.npy, whose paths are `Camera_B1/<name>.jpg` (the
images are then looked for in `images/<cc>/`), or with one whose `ims` is empty (GauHuman's issue 3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from r3avatar.captures.calibration import Calibration
from r3avatar.captures.capture import CaptureError, Split, parse_recorded
from r3avatar.captures.image_files import ImageFileCapture, View, numbered_files
from r3avatar.captures.mend import Mend
from r3avatar.captures.smpl_fits import body_poses, checked_fit, require_fits
from r3avatar.captures.stored_dict import keyed, read_pickled_dict
from r3avatar.types import BodyPose

_PREFIXES = ("", "my_", "CoreView_")  # of the capture's folder: plain, the refined release's, the first one's
_FIT = re.compile(r"([0-9]+)\.npy")
_DOWNLOAD = "download the file again"


class ZjuMocap(ImageFileCapture):
    """One ZJU-MoCap (refined) capture, `<root>/<subject>/`; `my_<subject>` and `CoreView_<subject>` are found as well.

    splits: train, novel_view, novel_pose to Split; cameras are numbered as in annots.npy, frames as in its `ims`. The
        capture's cameras are those that some split names; its frames are those of the SMPL fits.
    recorded: (first frame, length T) of the time axis that the avatar records.
    scale: image size relative to the files'. undistort: remove lens distortion by K and D.
    fps: frames a second, None if unknown. box_margin: metres around the posed body for the bound mask.
    masks: the folder of the masks.
    mend: what to change in the conventions of cameras and poses as they are read; None: nothing (`Mend`).

    Raises CaptureError at construction for what the splits need and the files lack; images are decoded by `read` only.
    """

    body_kind = "smpl"
    gender = None  # the files do not say

    def __init__(
        self,
        root: str | Path,
        subject: str | int,
        *,
        splits: Mapping[str, Split],
        recorded: Sequence[int],
        scale: float = 0.5,
        undistort: bool = True,
        fps: float | None = None,
        box_margin: float = 0.05,
        masks: str = "mask",
        mend: Mend | None = None,
    ):
        self._begin(
            root, subject, splits, scale, mend, recorded=recorded, undistort=undistort, fps=fps, box_margin=box_margin,
            masks=masks,
        )  # fmt: skip
        self.recorded, self.fps, self.box_margin = parse_recorded(recorded), fps, box_margin
        self.folder, self._masks = _find_folder(Path(root).expanduser(), self.name), masks
        self._calibrations, self._listed = _read_annotations(self.folder / "annots.npy")
        self.frame_ids, self.poses = self._read_fits()
        self._open(self._view, undistort)

    def _read_fits(self) -> tuple[list[int], BodyPose]:
        folder, needed = self.folder / "smpl_params", {f for split in self.splits.values() for f in split.frames}
        fits = numbered_files(folder, _FIT, what="SMPL fits 0.npy, 1.npy, ..", fix=_DOWNLOAD)
        require_fits(folder, fits, () if self.mend.frame_offset else needed, "{}.npy")
        frames = sorted(fits)
        return frames, body_poses([checked_fit(read_pickled_dict(fits[i], _DOWNLOAD), fits[i]) for i in frames])

    def _view(self, camera: str) -> View:
        annotations = self.folder / "annots.npy"
        if camera not in self._calibrations:
            raise CaptureError(
                annotations, f"camera {camera}", expected="its calibration",
                found=f"cameras {', '.join(self._calibrations)}", fix=f"take camera {camera} out of the splits",
            )  # fmt: skip
        numbered = enumerate(self._listed)
        listed = {frame: self._listed_image(camera, frame) for frame, images in numbered if int(camera) < len(images)}
        for split in self.splits.values():
            absent = sorted(set(split.frames) - set(listed)) if camera in split.cameras else []
            if absent:
                raise CaptureError(
                    annotations, f"ims[{absent[0]}]", expected=f"an image of camera {camera}",
                    found=f"none ({len(self._listed)} frames, {len(listed)} of them with the camera)",
                    fix="take the camera or the frame out of the splits",
                )  # fmt: skip
        if not any((self.folder / path).is_file() for path in listed.values()):
            listed = {frame: PurePosixPath("images", f"{int(camera):02d}", path.name) for frame, path in listed.items()}
        masks = {frame: self._mask_of(path) for frame, path in listed.items()}
        image_of, mask_of = (
            lambda frame, paths=paths: self.folder / paths.get(frame, "annots.npy") for paths in (listed, masks)
        )
        calibration = self._calibrations[camera]
        images, masks = self._present(listed), self._present(masks)
        return View(camera, calibration.K_centred, calibration.w2c, calibration.D, images, masks, image_of, mask_of)

    def _mask_of(self, image: PurePosixPath) -> PurePosixPath:
        below = image.relative_to("images") if image.parts[0] == "images" else image
        return PurePosixPath(self._masks) / below.with_suffix(".png")

    def _listed_image(self, camera: str, frame: int) -> PurePosixPath:
        path = PurePosixPath(self._listed[frame][int(camera)])
        if path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or not str(path).isprintable():
            raise CaptureError(
                self.folder / "annots.npy", f"ims[{frame}], camera {camera}",
                expected="<folder>/<image> inside of the capture", found=repr(str(path)), fix=_DOWNLOAD,
            )  # fmt: skip
        return path

    def _present(self, listed: dict[int, PurePosixPath]) -> dict[int, Path]:
        return {f: self.folder / path for f, path in listed.items() if (self.folder / path).is_file()}


def _find_folder(root: Path, subject: str) -> Path:
    folders = [root / f"{prefix}{subject}" for prefix in _PREFIXES]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        tried = ", ".join(folder.name for folder in folders)
        raise CaptureError(
            root, f"subject {subject}", expected=f"a folder, one of {tried}", found="none",
            fix="check the capture's root and subject",
        )  # fmt: skip
    return found


def _read_annotations(path: Path) -> tuple[dict[str, Calibration], list[list[str]]]:
    """Camera to calibration, and for every frame the image paths in the cameras' order."""
    annotations = keyed(read_pickled_dict(path, _DOWNLOAD), ["cams", "ims"], path, "the dict", _DOWNLOAD)
    cams = keyed(annotations["cams"], ["K", "D", "R", "T"], path, "cams", _DOWNLOAD)
    columns = [_listing(cams[key], path, f"cams, {key}") for key in ("K", "D", "R", "T")]
    counts = [len(column) for column in columns]
    if len(set(counts)) != 1:
        raise CaptureError(path, "cams", expected="as many K, D, R, T", found=str(counts), fix=_DOWNLOAD)
    calibrations = {
        str(camera): Calibration.checked(
            *values, metres=1e-3, file=path, place=f"cams, camera {camera}",
            fix=f"repair the calibration of camera {camera}, or {_DOWNLOAD}",
        )
        for camera, values in enumerate(zip(*columns))
    }  # fmt: skip
    frames = _listing(annotations["ims"], path, "ims")
    if not frames:
        fix = "take the annots.npy of the first release of ZJU-MoCap: its paths are understood here"
        raise CaptureError(path, "ims", expected="the images of every frame", found="none", fix=fix)
    listed = []
    for frame, entry in enumerate(frames):
        images = keyed(entry, ["ims"], path, f"ims[{frame}]", _DOWNLOAD)["ims"]
        listed.append([str(image) for image in _listing(images, path, f"ims[{frame}]['ims']")])
    return calibrations, listed


def _listing(value: object, path: Path, place: str) -> list:
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return list(value)
    if not isinstance(value, list | tuple):
        raise CaptureError(path, place, expected="a list", found=type(value).__name__, fix=_DOWNLOAD)
    return list(value)
