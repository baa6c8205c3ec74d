"""DNA-Rendering (Cheng et al. 2023, arXiv 2307.10173): 60 calibrated cameras, masks and SMPL-X fits in an HDF5 pair.

The layout is smc.py's docstring. Known holes of the published files (its issues 5 and 25): expressions for 40 of 225
frames, betas with one row, missing cameras, missing masks, truncated files. A single row of betas or expression is
repeated for every frame, and `missing_expression='zero'` takes a face at rest; anything else is a CaptureError that
names file, group and frame.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from r3avatar.captures.capture import Capture, CaptureError, Split, check_settings, parse_recorded
from r3avatar.captures.checked import check_file_name
from r3avatar.captures.checked_image import checked_size, decode_checked, decode_color
from r3avatar.captures.encoded_image import decode_mask
from r3avatar.captures.hdf5_guard import trust, walk_first, walked
from r3avatar.captures.mend import Mend
from r3avatar.captures.recent_maps import RecentMaps
from r3avatar.captures.smc import smc_paths
from r3avatar.captures.smc_reader import (
    ANNOTATION_PARTS,
    IMAGE_PARTS,
    image_group,
    mask_group,
    open_smc,
    read_camera,
    read_frame,
    read_gender,
    read_poses,
    require_frames,
)
from r3avatar.captures.undistortion import Undistortion
from r3avatar.types import Cameras

_TAKE_OUT = "download the file again, or take the frame out of the splits"


@dataclass
class _StoredCamera:
    """Where a camera's images and masks are, and how they are prepared."""

    images: str  # group in the main file
    masks: str  # group in the annotations
    undistortion: Undistortion


class DnaRendering(Capture):
    """One DNA-Rendering capture, `<root>/<subject>/<subject>.smc` and `<subject>_annots.smc`.

    splits: train, novel_view, novel_pose to Split. The capture's cameras are those that some split names; its frames
        are those of the SMPL-X fits.
    recorded: (first frame, length T) of the time axis that the avatar records.
    hand_mean: [30, 3] rad, SMPL-X's mean hand pose (`read_hand_mean`). The file's hand joints are offsets from it
        (flat_hand_mean=False, no PCA): it is added to them, so that `poses.theta` is the full pose. None adds nothing.
    scale: image size relative to the files'. undistort: remove lens distortion by K and D. The images keep the file's
        colours (Color_Calibration is not applied).
    fps: frames a second. box_margin: metres around the posed body for the bound mask.
    missing_expression: 'refuse' files whose expressions are missing, or are not one a frame, or take 'zero' for them.
    mend: what to change in the conventions of cameras and poses as they are read; None: nothing (`Mend`).

    The files open at the first `read` of each process and never before; threads may read at once.
    Instances pickle as their arguments.
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
        hand_mean: np.ndarray | None,
        scale: float = 0.25,
        undistort: bool = True,
        fps: float | None = 15.0,
        box_margin: float = 0.05,
        missing_expression: str = "refuse",
        mend: Mend | None = None,
    ):
        if missing_expression not in ("refuse", "zero"):
            raise ValueError(f"missing_expression is {missing_expression!r}; expected 'refuse' or 'zero'")
        check_settings(scale=scale, box_margin=box_margin, fps=fps)
        subject = check_file_name(str(subject), "subject")
        self.name, self.fps, self.scale, self.undistort, self.box_margin = subject, fps, scale, undistort, box_margin
        self.images_path, self.annotations_path = smc_paths(root, subject)
        self.splits = {name: Split.parse(split.cameras, split.frames) for name, split in splits.items()}
        self.recorded = parse_recorded(recorded)
        named = {camera for split in self.splits.values() for camera in split.cameras}
        not_numbers = sorted(camera for camera in named if not camera.isdecimal() or str(int(camera)) != camera)
        if not_numbers:
            raise ValueError(f"{subject}: cameras {not_numbers}; DNA-Rendering's cameras are plain numbers, 0 to 59")
        self.camera_ids = sorted(named, key=int)
        self._hand_mean = np.zeros((30, 3)) if hand_mean is None else np.asarray(hand_mean, np.float64)
        self.mend = Mend() if mend is None else mend
        self._arguments = dict(
            root=root, subject=subject, splits=dict(self.splits), recorded=self.recorded, hand_mean=self._hand_mean,
            scale=scale, undistort=undistort, fps=fps, box_margin=box_margin,
            missing_expression=missing_expression, mend=mend,
        )  # fmt: skip
        self._handles: tuple[h5py.File, h5py.File] | None = None
        self._owner = -1
        self._lock = threading.Lock()
        self._recent = RecentMaps()
        self._walked: dict[int, set[int]] = {}
        for split in self.splits.values():
            for camera in split.cameras:
                self._walked.setdefault(int(camera), set()).update(split.frames)
        self._walk_first(self._walked)
        with open_smc(self.images_path) as images, open_smc(self.annotations_path) as annotations:
            self.gender = read_gender(images)
            self.poses = read_poses(annotations, self._hand_mean, missing_expression)
            self.frame_ids = list(range(len(self.poses)))
            self.mend_fits()
            self._require_poses()
            opened = [self._open_camera(images, annotations, camera) for camera in self.camera_ids]
        self._stored = [stored for stored, _ in opened]
        self.cameras = [cameras for _, cameras in opened]
        self.check_splits()

    def read(self, camera_index: int, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """The image [H, W, 3] uint8 RGB, black behind the person, and the mask [H, W] uint8 0/1 (`Capture.read`)."""
        images, annotations = self._files()
        stored, frame = self._stored[camera_index], self.frame_ids[frame_index]
        walked = self._walked[int(self.camera_ids[camera_index])]
        if frame not in walked:  # in no split
            self._walk_first({int(self.camera_ids[camera_index]): [frame]})
            walked.add(frame)
        decoded = []
        for file, group, decode in ((images, stored.images, decode_color), (annotations, stored.masks, decode_mask)):
            data, place = read_frame(file, group, frame)
            size = stored.undistortion.size
            decoded.append(decode_checked(data, decode, size=size, file=file.filename, place=place, fix=_TAKE_OUT))
        self._recent.use(stored.undistortion)
        image, mask = stored.undistortion(*decoded)
        if not mask.any():
            raise CaptureError(
                self.annotations_path, place, expected="a mask of the person",
                found=f"no nonzero pixel{' that is left when scaled' if decoded[1].any() else ''}", fix=_TAKE_OUT,
            )  # fmt: skip
        return image, mask

    def fingerprint(self) -> dict[str, object]:
        """Files (name, size, modification time), scale, undistortion, mean hand pose, mend (`Capture.fingerprint`)."""
        stats = [(path.name, path.stat()) for path in (self.images_path, self.annotations_path)]
        mended = self.mend.settings
        if self.mend.hands is not None:
            mended["hand_mean"] = np.asarray(self.mend.hand_mean()).ravel().tolist()
        return {
            "reader": type(self).__name__,
            "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
            "scale": self.scale,
            "undistort": self.undistort,
            "hand_mean": self._hand_mean.ravel().tolist(),
            **({} if self._arguments["missing_expression"] == "refuse" else {"missing_expression": "zero"}),
            **({"mend": mended} if mended else {}),
        }

    def __reduce__(self):
        # A copy in another process opens the files itself: HDF5 handles survive neither pickling nor a fork.
        known = walked((self.images_path, self.annotations_path))
        return functools.partial(_opened_again, known, type(self), **self._arguments), ()

    def _files(self) -> tuple[h5py.File, h5py.File]:
        with self._lock:
            if self._owner != os.getpid():
                self._handles = open_smc(self.images_path), open_smc(self.annotations_path)
                self._owner = os.getpid()
        return self._handles

    def _walk_first(self, wanted: Mapping[int, Iterable[int]]) -> None:
        for path, parts in ((self.images_path, IMAGE_PARTS), (self.annotations_path, ANNOTATION_PARTS)):
            walk_first(path, **parts, wanted=wanted)

    def _require_poses(self) -> None:
        known = set(self.frame_ids)
        for name, split in self.splits.items():
            absent = set(split.frames) - known
            if absent:
                raise CaptureError(
                    self.annotations_path, "SMPLx/fullpose", found=f"{len(self.poses)} poses",
                    expected=f"a pose for frame {max(absent)} (split '{name}')", fix="take the frame out of the split",
                )  # fmt: skip

    def _open_camera(self, images: h5py.File, annotations: h5py.File, camera_id: str) -> tuple[_StoredCamera, Cameras]:
        camera = int(camera_id)
        K, D, w2c = read_camera(annotations, camera)
        groups = image_group(images, camera), mask_group(annotations, camera)
        frames = sorted({f for split in self.splits.values() if camera_id in split.cameras for f in split.frames})
        require_frames(images, groups[0], frames)
        require_frames(annotations, groups[1], frames)
        data, place = read_frame(images, groups[0], frames[0])
        width, height = checked_size(data, file=images.filename, place=place, fix=_TAKE_OUT)
        K[:2, 2] += 0.5  # OpenCV's first pixel centre is (0, 0), ours (0.5, 0.5)
        K, w2c = self.mend.camera(K, w2c)
        native = Cameras(torch.from_numpy(K).float(), torch.from_numpy(w2c).float(), width, height)
        cameras = native.scaled(self.scale)
        size = cameras.width, cameras.height
        opencv = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        undistortion = Undistortion(opencv, D if self.undistort else None, (width, height), size)
        return _StoredCamera(*groups, undistortion), cameras


def _opened_again(known: Mapping, kind: type[DnaRendering], **arguments) -> DnaRendering:
    trust(known)
    return kind(**arguments)
