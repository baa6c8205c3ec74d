"""Motion in the body's own parameters: stretches of the capture, and this project's pose files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r3avatar.captures import Capture
from r3avatar.motion.motion import Motion, MotionError, check_rate, numbers, read_npz, shaped_pose, stated_rate
from r3avatar.types import BodyPose

__all__ = ["MotionError", "capture_motion", "read_pose_file"]


def capture_motion(capture: Capture, split: str) -> tuple[BodyPose, list[int]]:
    """Every frame from the first to the last of a split of the capture, and their ids."""
    frames = capture.split(split).frames
    first, last = capture.frame_index(min(frames)), capture.frame_index(max(frames))
    return capture.poses[first : last + 1], capture.frame_ids[first : last + 1]


def read_pose_file(
    path: str | Path, like: BodyPose, default_fps: float | None, arrays: dict[str, np.ndarray] | None = None
) -> Motion:
    """Poses of this project's pose file, in the avatar's own shape and the capture's world.

    The file is `.npz` with `theta` [F, J, 3] (axis-angle, radians, the root first), `transl` [F, 3] (metres) and
    optionally `fps`. like: a pose of the capture. default_fps: the rate of a file that states none.
    """
    path = Path(path)
    arrays = read_npz(path) if arrays is None else arrays
    joints = like.theta.shape[1]
    accepted = f"theta, of which this avatar's body takes [F, {joints}, 3], and transl [F, 3], one a frame of theta"
    theta = numbers(path, arrays, "theta", [(joints, 3)], accepted)
    transl = numbers(path, arrays, "transl", [(3,)], accepted)
    if len(transl) != len(theta):
        raise MotionError(f"{path}: transl is {list(transl.shape)}, theta {list(theta.shape)}. Accepted: {accepted}")
    fps = stated_rate(path, arrays, ["fps"])
    fps = check_rate(path, default_fps if fps is None else fps, "key fps")
    return Motion(shaped_pose(theta, transl, like), fps, path.stem)
