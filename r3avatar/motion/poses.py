"""Motion to animate: stretches of the capture, or a pose file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from r3avatar.captures import Capture
from r3avatar.types import BodyPose


class MotionError(ValueError):
    """A motion that cannot be used: names the file, what was found and what is accepted."""


def capture_motion(capture: Capture, split: str) -> tuple[BodyPose, list[int]]:
    """Every frame from the first to the last of a split of the capture, and their ids."""
    frames = capture.split(split).frames
    first, last = capture.frame_index(min(frames)), capture.frame_index(max(frames))
    return capture.poses[first : last + 1], capture.frame_ids[first : last + 1]


def load_motion(path: str | Path, like: BodyPose) -> tuple[BodyPose, float | None]:
    """Poses from this project's pose file, in the avatar's own shape, and their frame rate (None if unstated).

    The file is `.npz` with `theta` [F, J, 3] (axis-angle, radians, the root first), `transl` [F, 3] (metres) and
    optionally `fps`. like: a pose of the capture; its shape, expression and global rotation are kept.
    """
    path = Path(path)
    if not path.is_file():
        raise MotionError(f"motion file {path} does not exist; give an .npz with theta [F, J, 3] and transl [F, 3]")
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (ValueError, OSError, EOFError) as error:
        raise MotionError(f"{path} is not a readable .npz ({error})") from error
    missing = {"theta", "transl"} - set(arrays)
    if missing:
        raise MotionError(
            f"{path} lacks {', '.join(sorted(missing))}; it holds {', '.join(sorted(arrays)) or 'nothing'}"
        )
    theta, transl, joints = arrays["theta"], arrays["transl"], like.theta.shape[1]
    if theta.ndim != 3 or theta.shape[1:] != (joints, 3) or len(theta) == 0:
        raise MotionError(f"{path}: theta is {theta.shape}; this avatar's body takes [F, {joints}, 3] with F > 0")
    if transl.shape != (len(theta), 3):
        raise MotionError(f"{path}: transl is {transl.shape}; expected [{len(theta)}, 3], one a frame of theta")
    for name, values in {"theta": theta, "transl": transl}.items():
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
        if bad.any():
            raise MotionError(f"{path}: {name} of frame {int(bad.argmax())} is not finite")
    F = len(theta)
    pose = BodyPose(
        torch.from_numpy(theta.astype(np.float32)),
        like.betas[:1].expand(F, -1),
        like.expression[:1].expand(F, -1),
        torch.eye(3).expand(F, 3, 3),
        torch.from_numpy(transl.astype(np.float32)),
    )
    return pose, float(arrays["fps"]) if "fps" in arrays else None
