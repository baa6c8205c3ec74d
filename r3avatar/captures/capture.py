"""What every data set's reader yields: cameras, frames, images, masks, body poses and splits in one form."""

from __future__ import annotations

import functools
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r3avatar.captures.mend import Mend
from r3avatar.types import BodyPose, Cameras

SPLIT_NAMES = ("train", "novel_view", "novel_pose")
GENDERS = ("male", "female", "neutral")
_log = logging.getLogger(__name__)
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:/(\d+))?)?")


class CaptureError(ValueError):
    """Something in a capture's files is missing or wrong: names the file, the place, what was expected, the fix."""

    def __init__(self, file: str | Path, place: str, *, expected: str, found: str, fix: str):
        super().__init__(f"{file}: {place}: expected {expected}, found {found}. Fix: {fix}.")
        self.file, self.place = Path(file), place
        self._keywords = {"expected": expected, "found": found, "fix": fix}

    def __reduce__(self):
        return functools.partial(CaptureError, self.file, self.place, **self._keywords), ()


def parse_ids(ids: str | int | Iterable[int]) -> list[int]:
    """The ids a compact notation stands for.

    '7' is 7, '0-99' is 0 to 99 with both ends, '0-99/5' takes every fifth of them (0, 5, .. 95), and a comma joins
    parts: '0, 2-46/2'. A number or a list of numbers stands for itself. Duplicates and empty ranges are a ValueError.
    """
    if isinstance(ids, int):
        ids = str(ids)
    if isinstance(ids, str):
        parsed = []
        for part in ids.split(","):
            match = _RANGE.fullmatch(part.strip())
            if not match:
                raise ValueError(f"ids '{ids}': '{part.strip()}' is not 'first', 'first-last' or 'first-last/step'")
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            if last < first or step < 1:
                raise ValueError(f"ids '{ids}': '{part.strip()}' is empty; expected first <= last and step >= 1")
            parsed += range(first, last + 1, step)
    else:
        parsed = [int(value) for value in ids]
    if len(set(parsed)) != len(parsed):
        raise ValueError(f"ids '{ids}' name some id twice")
    return parsed


def parse_recorded(recorded: Iterable[int]) -> tuple[int, int]:
    """(first frame id, length in frames) of the recorded time; ValueError for anything but two whole numbers."""
    try:
        first, length = recorded
        if int(first) != first or int(length) != length:
            raise ValueError("no whole numbers")
        return int(first), int(length)
    except (TypeError, ValueError) as error:
        raise ValueError(f"recorded is {recorded!r}; expected [first frame, length], two whole numbers") from error


def check_settings(*, scale: float, box_margin: float, fps: float | None) -> None:
    """ValueError for a scale outside of (0, 1], a margin that is negative or not finite, fps that are not above 0."""
    if not 0 < scale <= 1:
        raise ValueError(f"scale is {scale}; expected a number above 0 and at most 1")
    if not 0 <= box_margin < float("inf"):
        raise ValueError(f"box_margin is {box_margin}; expected metres, 0 or more")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps is {fps}; expected frames a second above 0, or null: unknown")


@dataclass
class Split:
    """The cameras and frames of one part of a capture, as the capture's own ids; neither may be empty."""

    cameras: list[str]
    frames: list[int]

    def __post_init__(self):
        if not self.cameras or not self.frames:
            raise ValueError(f"a split has {len(self.cameras)} cameras and {len(self.frames)} frames; give both")

    @classmethod
    def parse(cls, cameras: str | Iterable[str | int], frames: str | int | Iterable[int]) -> Split:
        """A split from configuration: `frames` and numbered cameras as `parse_ids` reads them, or lists of ids."""
        if isinstance(cameras, (str, int)):
            cameras = parse_ids(cameras)
        return cls([str(camera) for camera in cameras], parse_ids(frames))


class Capture(ABC):
    """One subject seen by calibrated cameras, with a body pose a frame.

    Attributes, set by the reader:
      name         unique within its data set, fit for a file name
      fps          frames a second, None if unknown
      body_kind    'smpl' or 'smplx'
      gender       'male', 'female' or 'neutral'; None if unknown
      frame_ids    the capture's own frame numbers, ascending
      camera_ids   the capture's own camera names
      cameras      one `Cameras` (K [3, 3], w2c [4, 4]) a camera: full frame, undistorted, scaled
      poses        BodyPose [F], float32, row i belongs to frame_ids[i]
      recorded     (first frame id, length T in frames) of the recorded time axis
      splits       name (train, novel_view, novel_pose) to Split
      box_margin   metres added around the posed body for the bound mask
      mend         what was mended in cameras and poses as they were read (`Mend`)
    """

    name: str
    fps: float | None
    body_kind: str
    gender: str | None
    frame_ids: list[int]
    camera_ids: list[str]
    cameras: list[Cameras]
    poses: BodyPose
    recorded: tuple[int, int]
    splits: dict[str, Split]
    box_margin: float
    mend: Mend = Mend()

    @abstractmethod
    def read(self, camera_index: int, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """The image [H, W, 3] uint8 RGB, black behind the person, and the mask [H, W] uint8, 1 = person.

        Indices count along `camera_ids` and `frame_ids`. Undistorted and scaled like `cameras[camera_index]`.
        Threads may call it at once. Raises CaptureError for what the files lack.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, object]:
        """Everything that decides what `read`, `cameras` and `poses` return, as JSON values; the frame cache's key."""

    def check_splits(self) -> None:
        """Check the splits against the capture; readers call it at the end of construction.

        ValueError for an unknown split, camera or frame, for none to train on, and for training outside the recorded
        time. What the files lack of a split that is well formed, a reader says before, as a CaptureError.
        """
        for name, split in self.splits.items():
            if name not in SPLIT_NAMES:
                raise ValueError(f"{self.name}: split '{name}' is unknown; expected {', '.join(SPLIT_NAMES)}")
            for camera in split.cameras:
                self.camera_index(camera)
            for frame in split.frames:
                self.frame_index(frame)
        first, length = self.recorded
        if length < 1:
            raise ValueError(f"{self.name}: the recorded length is {length}; expected at least 1 frame")
        outside = [f for f in self.split("train").frames if not first <= f < first + length]
        if outside:
            raise ValueError(
                f"{self.name}: split 'train' has frames outside the recorded time {first} .. {first + length - 1}: "
                f"{outside[:5]}; extend `recorded` or take them out"
            )

    def mend_fits(self) -> None:
        """Apply `mend` to `frame_ids` and `poses`; readers call it once both are as the files have them.

        Frames that have no pose any more are left out of the splits, which is logged. ValueError if none remain.
        """
        self.frame_ids, self.poses, lost = self.mend.fits(self.frame_ids, self.poses)
        for name, split in self.splits.items():
            kept = [frame for frame in split.frames if frame not in lost]
            if len(kept) < len(split.frames):
                offset = self.mend.frame_offset
                if not kept:
                    raise ValueError(f"{self.name}: mend.frame_offset={offset} leaves split '{name}' without any pose")
                left = sorted(set(split.frames) - set(kept))
                _log.warning("%s: mend.frame_offset=%d: no poses for %s's frames %s", self.name, offset, name, left)
                self.splits[name] = Split(split.cameras, kept)

    def camera_index(self, camera_id: str) -> int:
        """Position of a camera in `camera_ids`; ValueError names the known ones."""
        if camera_id not in self.camera_ids:
            raise ValueError(f"{self.name}: no camera '{camera_id}'; the capture's cameras are {self.camera_ids}")
        return self.camera_ids.index(camera_id)

    def frame_index(self, frame_id: int) -> int:
        """Position of a frame in `frame_ids`; ValueError names the range."""
        if frame_id not in self.frame_ids:
            known = f"{self.frame_ids[0]} .. {self.frame_ids[-1]}"
            raise ValueError(f"{self.name}: no frame {frame_id}; the capture's frames are {known}")
        return self.frame_ids.index(frame_id)

    def split(self, name: str) -> Split:
        """A split by name; ValueError names the known ones."""
        if name not in self.splits:
            raise ValueError(f"{self.name}: no split '{name}'; the capture's splits are {sorted(self.splits)}")
        return self.splits[name]
