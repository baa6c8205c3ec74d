"""HiFi4G (Jiang et al. 2024, arXiv 2312.03461) as prepared for avatars: images on white, cameras, SMPL fits.

In the capture's folder:

  images/<camera>/<frame>.png   white behind the person; there are no masks
  camera.json                   a list of {camera_id, K (9), dist (5), R (9), T (3)}: native pixels, R and T (metres)
                                world-to-camera
  smpl/smpl/<frame>.json        a list of one, EasyMocap's record of the fit (smpl_fits.py)

Numbers may be padded with zeros. The public download is laid out differently: `tools/convert_hifi4g.py` converts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r3avatar.captures.calibration import Calibration
from r3avatar.captures.capture import CaptureError, Split, parse_recorded
from r3avatar.captures.checked import read_json
from r3avatar.captures.image_files import ImageFileCapture, View, numbered_files, read_image
from r3avatar.captures.mend import Mend
from r3avatar.captures.smpl_fits import body_poses, read_json_fit, require_fits
from r3avatar.captures.stored_dict import keyed
from r3avatar.captures.white_background import mask_from_white_background

_IMAGE, _FIT = re.compile(r"([0-9]+)\.png"), re.compile(r"([0-9]+)\.json")
_FIX = "prepare the capture again (tools/convert_hifi4g.py)"


class HiFi4G(ImageFileCapture):
    """One HiFi4G capture in the prepared layout, `<root>/<subject>/`.

    splits: train, novel_view, novel_pose to Split. The capture's cameras are those that some split names; its frames
        are those of the SMPL fits.
    recorded: (first frame, length T) of the time axis that the avatar records.
    mask_from_white: the files hold no masks. A number t in [0, 1): a pixel is the person's where some channel lies
        more than t (of 1) below white, and the rest becomes black. 0 takes whatever is not exactly white; clothes as
        white as the background become holes. None: no mask is made: all of every image counts as the person, white
        background included, so that the loss's mask term must be off (loss.mask=0).
    scale: image size relative to the files'. undistort: remove lens distortion by K and dist.
    fps: frames a second, None if unknown. box_margin: metres around the posed body for the bound mask; 0.5 leaves room
        for wide clothes.
    mend: what to change in the conventions of cameras and poses as they are read; None: nothing (`Mend`).

    Raises CaptureError at construction for what the splits need and the files lack; images are decoded by `read` only.
    """

    body_kind = "smpl"
    gender = None  # the files do not say

    def __init__(
        self,
        root: str | Path,
        subject: str,
        *,
        splits: Mapping[str, Split],
        recorded: Sequence[int],
        mask_from_white: float | None,
        scale: float = 0.25,
        undistort: bool = True,
        fps: float | None = None,
        box_margin: float = 0.5,
        mend: Mend | None = None,
    ):
        if mask_from_white is not None and not 0 <= mask_from_white < 1:
            raise ValueError(f"mask_from_white is {mask_from_white}; expected null or a number in [0, 1)")
        self._begin(
            root, subject, splits, scale, mend, recorded=recorded, undistort=undistort, fps=fps, box_margin=box_margin,
            mask_from_white=mask_from_white,
        )  # fmt: skip
        self.recorded, self.fps, self.box_margin = parse_recorded(recorded), fps, box_margin
        self._mask_from_white = mask_from_white
        self._calibrations = read_cameras(self.folder / "camera.json")
        folder, needed = self.folder / "smpl" / "smpl", {f for split in self.splits.values() for f in split.frames}
        fits = numbered_files(folder, _FIT, what="SMPL fits 000000.json, 000001.json, ..", fix=_FIX)
        require_fits(folder, fits, () if self.mend.frame_offset else needed, "{:06d}.json")
        self.frame_ids = sorted(fits)
        self.poses = body_poses([read_json_fit(fits[frame]) for frame in self.frame_ids])
        self._open(self._view, undistort)

    def _view(self, camera: str) -> View:
        if camera not in self._calibrations:
            raise CaptureError(
                self.folder / "camera.json", f"camera {camera}", expected="its calibration",
                found=f"cameras {', '.join(self._calibrations)}", fix=f"take camera {camera} out of the splits",
            )  # fmt: skip
        calibration, folder = self._calibrations[camera], self.folder / "images" / camera
        padded = self.folder / "images" / f"{int(camera):02d}"
        if not folder.is_dir() and padded.is_dir():
            folder = padded
        images = numbered_files(folder, _IMAGE, what="images <frame>.png", fix=_FIX)

        def image_of(frame: int) -> Path:
            return folder / f"{frame:06d}.png"

        # The masks are made of the images themselves.
        return View(
            camera, calibration.K_centred, calibration.w2c, calibration.D, images, images, image_of, image_of
        )  # fmt: skip

    def _load(self, view: View, frame: int) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(view, frame)
        if self._mask_from_white is None:
            return image, np.ones(image.shape[:2], np.uint8)
        # Black before the lens is undone: resampling would mix the white into the person's edge.
        return mask_from_white_background(image, self._mask_from_white)

    def fingerprint(self) -> dict[str, object]:
        """As `ImageFileCapture.fingerprint`, and the masks' threshold."""
        return {**super().fingerprint(), "mask_from_white": self._mask_from_white}


def read_cameras(path: Path) -> dict[str, Calibration]:
    """Camera to calibration of a camera.json; CaptureError for double cameras and what is not a calibration."""
    entries = read_json(path, what="a list of cameras", fix=_FIX)
    if not isinstance(entries, list) or not entries:
        found = f"an empty {type(entries).__name__}" if not entries else type(entries).__name__
        raise CaptureError(path, "the file", expected="a list of cameras", found=found, fix=_FIX)
    calibrations: dict[str, Calibration] = {}
    for index, entry in enumerate(entries):
        entry = keyed(entry, ["camera_id", "K", "dist", "R", "T"], path, f"entry {index}", _FIX)
        number = str(entry["camera_id"])
        if not (number.isascii() and number.isdecimal()):
            found = repr(entry["camera_id"])
            raise CaptureError(path, f"entry {index}, camera_id", expected="a number", found=found, fix=_FIX)
        camera = str(int(number))
        if camera in calibrations:
            raise CaptureError(path, f"camera {camera}", expected="one entry", found="two", fix="remove one of them")
        calibrations[camera] = Calibration.checked(
            entry["K"], entry["dist"], entry["R"], entry["T"], metres=1.0, file=path, place=f"camera {camera}",
            fix=f"repair the calibration, or take camera {camera} out of the list",
        )  # fmt: skip
    return calibrations
