"""Captures whose images and masks are single numbered files, in one folder a camera."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from r3avatar.captures.capture import Capture, CaptureError, Split, check_settings
from r3avatar.captures.checked import check_file_name, read_bytes
from r3avatar.captures.checked_image import checked_size, decode_checked, decode_color
from r3avatar.captures.encoded_image import decode_mask
from r3avatar.captures.mend import Mend
from r3avatar.captures.recent_maps import RecentMaps
from r3avatar.captures.undistortion import Undistortion
from r3avatar.types import Cameras

_FIX = "restore the file, or take the frame or the camera out of the splits"


def numbered_files(folder: Path, pattern: re.Pattern[str], *, what: str, fix: str) -> dict[int, Path]:
    """The folder's files by number, the pattern's first group; files that do not match are left out.

    CaptureError if the folder is absent or unreadable, and for two files of one number.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        found = "none" if isinstance(error, FileNotFoundError) else f"an unreadable one ({error.strerror})"
        raise CaptureError(folder, "the folder", expected=f"a folder of {what}", found=found, fix=fix) from error
    files: dict[int, Path] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match:
            number = int(match[1])
            if number in files:
                raise CaptureError(
                    folder, f"number {number}", expected="one file", found=f"'{files[number].name}' and '{name}'",
                    fix="keep one of them",
                )  # fmt: skip
            files[number] = folder / name
    return files


@dataclass
class View:
    """One camera as its files describe it."""

    camera: str
    K: np.ndarray  # [3, 3] pixels of the stored images, the first pixel's centre at (0.5, 0.5)
    w2c: np.ndarray  # [4, 4] metres
    D: np.ndarray | None  # OpenCV's distortion coefficients; None: none
    images: dict[int, Path]  # by frame id
    masks: dict[int, Path]
    image_of: Callable[[int], Path]  # where a frame's image should be
    mask_of: Callable[[int], Path]
    size: tuple[int, int] | None = None  # width, height; None: that of the first image

    def require(self, frame: int) -> None:
        """CaptureError if the frame has no image or no mask."""
        for files, path_of, what in ((self.images, self.image_of, "an image"), (self.masks, self.mask_of, "a mask")):
            if frame not in files:
                found = f"none (files there: {len(files)})"
                raise CaptureError(path_of(frame), self.place(frame), expected=what, found=found, fix=_FIX)

    def place(self, frame: int) -> str:
        """What errors say beside the file."""
        return f"camera {self.camera}, frame {frame}"

    def load(self, files: Mapping[int, Path], frame: int) -> np.ndarray:
        """The bytes of a frame's image or mask, uint8; CaptureError if they cannot be read."""
        return np.frombuffer(read_bytes(files[frame], place=self.place(frame), what="an image", fix=_FIX), np.uint8)


class ImageFileCapture(Capture):
    """What readers of numbered image files share: reading, the fingerprint, pickling as arguments.

    A subclass calls `_begin`, sets `frame_ids`, `poses` and the other attributes of `Capture`, then calls `_open`.
    """

    def _begin(
        self, root: str | Path, subject: str, splits: Mapping[str, Split], scale: float, mend: Mend | None, **others
    ) -> None:
        """Set name, folder, splits and camera ids; `others` are the constructor's remaining keywords."""
        check_settings(scale=scale, box_margin=others["box_margin"], fps=others["fps"])
        self.name, self.scale = check_file_name(str(subject), "subject"), scale
        self.folder = Path(root).expanduser() / self.name
        self.splits = {name: Split.parse(split.cameras, split.frames) for name, split in splits.items()}
        named = {camera for split in self.splits.values() for camera in split.cameras}
        for camera in named:
            check_file_name(camera, "a camera")
        self.camera_ids = sorted(named, key=lambda camera: (int(camera) if camera.isdecimal() else 0, camera))
        self.mend = Mend() if mend is None else mend
        self._arguments = dict(root=root, subject=subject, splits=dict(self.splits), scale=scale, mend=mend, **others)
        self._recent = RecentMaps()

    def _open(self, view_of: Callable[[str], View], undistort: bool) -> None:
        """Open every camera of the splits; CaptureError for what the splits need and the files lack."""
        self.mend_fits()
        self._require_poses()
        self.check_splits()
        self._views, self._undistortions, self.cameras = [], [], []
        for camera in self.camera_ids:
            view = view_of(camera)
            view.K, view.w2c = self.mend.camera(view.K, view.w2c)
            frames = sorted({f for split in self.splits.values() if camera in split.cameras for f in split.frames})
            for frame in frames:
                view.require(frame)
            if view.size is None:
                first, place = view.images[frames[0]], view.place(frames[0])
                view.size = checked_size(view.load(view.images, frames[0]), file=first, place=place, fix=_FIX)
            native = Cameras(torch.from_numpy(view.K).float(), torch.from_numpy(view.w2c).float(), *view.size)
            scaled = native.scaled(self.scale)
            opencv = view.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
            D = view.D if undistort else None
            self._undistortions.append(Undistortion(opencv, D, view.size, (scaled.width, scaled.height)))
            self._views.append(view)
            self.cameras.append(scaled)

    def _require_poses(self) -> None:
        known = set(self.frame_ids)
        for name, split in self.splits.items():
            for frame in split.frames:
                if frame not in known:
                    raise CaptureError(
                        self.folder, f"split '{name}', frame {frame}", expected="a body pose",
                        found=f"poses of the frames {self.frame_ids[0]} .. {self.frame_ids[-1]}",
                        fix="take the frame out of the split",
                    )  # fmt: skip

    def read(self, camera_index: int, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """The image [H, W, 3] uint8 RGB, black behind the person, and the mask [H, W] uint8 0/1 (`Capture.read`)."""
        view, undistortion = self._views[camera_index], self._undistortions[camera_index]
        frame = self.frame_ids[frame_index]
        view.require(frame)
        image, stored = self._load(view, frame)
        self._recent.use(undistortion)
        image, mask = undistortion(image, stored)
        if not mask.any():
            raise CaptureError(
                view.masks[frame], view.place(frame), expected="a mask of the person",
                found=f"no nonzero pixel{' that is left when scaled' if stored.any() else ''}",
                fix="mend the mask, or take the frame or the camera out of the splits",
            )  # fmt: skip
        return image, mask

    def _load(self, view: View, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """The native image [H, W, 3] uint8 BGR and mask [H, W] uint8 0/1 of a frame id, as stored."""
        return read_image(view, frame), _decoded(view, view.masks, frame, decode_mask)

    def fingerprint(self) -> dict[str, object]:
        """Images and masks (name, size, modification time), cameras, poses and scale (`Capture.fingerprint`)."""
        cameras = {}
        for camera, view, undistortion in zip(self.camera_ids, self._views, self._undistortions):
            digest = hashlib.sha256()
            for values in (view.K, view.w2c, np.zeros(0) if undistortion.D is None else undistortion.D):
                digest.update(np.ascontiguousarray(values, np.float64).tobytes())
            for frame, path in [*sorted(view.images.items()), *sorted(view.masks.items())]:
                try:
                    stat = path.stat()
                except OSError as error:  # a link to nowhere, or a file that went since
                    raise CaptureError(
                        path, view.place(frame), expected="a file", found=f"none ({error.strerror})",
                        fix="restore it, or remove its entry",
                    ) from error  # fmt: skip
                digest.update(f"{frame} {path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
            cameras[camera] = digest.hexdigest()
        digest = hashlib.sha256(np.array(self.frame_ids, np.int64).tobytes())
        for values in (self.poses.theta, self.poses.betas, self.poses.expression, self.poses.R, self.poses.Th):
            digest.update(f"{tuple(values.shape)}".encode() + values.numpy().tobytes())
        return {"reader": type(self).__name__, "cameras": cameras, "poses": digest.hexdigest(), "scale": self.scale}

    def __reduce__(self):
        return functools.partial(type(self), **self._arguments), ()


def read_image(view: View, frame: int) -> np.ndarray:
    """The stored image [H, W, 3] uint8 BGR of a frame id; CaptureError if it is damaged or of another size."""
    return _decoded(view, view.images, frame, decode_color)


def _decoded(view: View, files: Mapping[int, Path], frame: int, decode: Callable[[np.ndarray], np.ndarray]):
    return decode_checked(
        view.load(files, frame), decode, size=view.size, file=files[frame], place=view.place(frame), fix=_FIX
    )
