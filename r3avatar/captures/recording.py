"""A capture without its images: what a run keeps of it, so that the avatar moves where the data set is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from r3avatar.captures.capture import Capture, CaptureError, Split
from r3avatar.captures.checked import check_keys, numbers, read_npz
from r3avatar.types import BodyPose, Cameras

FORMAT = 1
ARRAYS = ("about", "frames", "theta", "betas", "expression", "R", "Th", "K", "w2c", "size")
KEYS = ("format", "name", "fps", "body_kind", "gender", "camera_ids", "recorded", "splits", "box_margin",
        "fingerprint")  # fmt: skip
_MEND = "delete it and animate once where the capture is, which makes it anew"


class Recording(Capture):
    """Poses, times, cameras and splits of a capture, read from the one file that `write_recording` writes.

    Everything that a capture has but its images: `read` refuses.
    Raises CaptureError for a file that is missing, damaged or of another layout.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        arrays = read_npz(self.path, required=ARRAYS, optional=(), fix=_MEND)
        about = self._about(arrays["about"])
        self.name, self.body_kind, self.gender = about["name"], about["body_kind"], about["gender"]
        self.fps, self.box_margin, self._fingerprint = about["fps"], about["box_margin"], about["fingerprint"]
        self.camera_ids = list(about["camera_ids"])
        self.recorded = int(about["recorded"][0]), int(about["recorded"][1])
        self.splits = {name: Split(*split) for name, split in about["splits"].items()}
        self.frame_ids = arrays["frames"].astype(int).tolist()
        F, C = len(self.frame_ids), len(self.camera_ids)
        shapes = {"theta": (F, None, 3), "betas": (F, None), "R": (F, 3, 3), "Th": (F, 3)}
        shapes |= {"expression": (F, arrays["expression"].shape[-1]), "K": (C, 3, 3), "w2c": (C, 4, 4), "size": (C, 2)}
        values = {
            name: torch.from_numpy(numbers(arrays[name], [shape], file=self.path, place=name, fix=_MEND)).float()
            for name, shape in shapes.items()
        }
        self.cameras = [
            Cameras(K, w2c, int(width), int(height))
            for K, w2c, (width, height) in zip(values["K"], values["w2c"], arrays["size"].tolist())
        ]
        self.poses = BodyPose(*(values[name] for name in ("theta", "betas", "expression", "R", "Th")))
        self.check_splits()

    def read(self, camera_index: int, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Refused: a recording has no images."""
        place = f"camera {self.camera_ids[camera_index]}, frame {self.frame_ids[frame_index]}"
        raise CaptureError(
            self.path, place, expected="an image", found="poses, cameras and splits only", fix="open the capture itself"
        )

    def fingerprint(self) -> dict[str, object]:
        """The capture's own, so that its prepared frames are found where the frame cache still has them."""
        return self._fingerprint

    def _about(self, value: np.ndarray) -> dict:
        at = {"file": self.path, "place": "about", "fix": _MEND}
        try:
            about = json.loads(str(value))
        except ValueError as error:
            raise CaptureError(expected="JSON", found=str(error), **at) from error
        about = check_keys(about, required=KEYS, optional=(), **at)
        if about["format"] != FORMAT:
            raise CaptureError(expected=f"format {FORMAT}", found=f"format {about['format']}", **at)
        return about


def write_recording(path: Path, capture: Capture) -> Path:
    """Write what a run keeps of its capture, as one .npz of plain arrays; the file is there as a whole or not at all.

    `about`: JSON text with KEYS; `frames` [F] ids; theta [F, J, 3], betas [F, B], expression [F, E], R [F, 3, 3],
    Th [F, 3] of every frame, also of those behind the recorded time; K [C, 3, 3] (pixel centres at + 0.5),
    w2c [C, 4, 4] and size [C, 2] (width, height) of the cameras, undistorted and scaled as the run saw them.
    """
    splits = {name: [split.cameras, split.frames] for name, split in capture.splits.items()}
    about = {key: getattr(capture, key) for key in KEYS[1:-1] if key != "splits"}
    about = {"format": FORMAT, **about, "splits": splits, "fingerprint": capture.fingerprint()}
    poses = {name: getattr(capture.poses, name).cpu().numpy() for name in ARRAYS[2:7]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}-{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez_compressed(
                file, about=np.array(json.dumps(about)), frames=np.array(capture.frame_ids), **poses,
                K=torch.stack([c.K for c in capture.cameras]).numpy(),
                w2c=torch.stack([c.w2c for c in capture.cameras]).numpy(),
                size=np.array([[c.width, c.height] for c in capture.cameras]),
            )  # fmt: skip
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
