"""A motion: poses of the avatar's body at a frame rate, and what every reader of motion shares."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from r3avatar.body import BodyModel
from r3avatar.types import BodyPose


class MotionError(ValueError):
    """A motion that cannot be used: names the file, what was found and what is accepted."""


@dataclass
class Motion:
    """Poses [F] at `fps` frames a second.

    Readers leave the root's rotation in theta[:, 0] and R the identity, the world y up; `place.settle` takes that to a
    capture's world and convention.
    """

    pose: BodyPose
    fps: float
    name: str

    def __len__(self) -> int:
        return len(self.pose)


UPS = {
    "y": np.eye(3),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "-y": np.diag([1.0, -1, -1]),
}
"""Rotations [3, 3] to a world with y up, from one in which the named axis is up ('-y': camera coordinates)."""


RATES = 1, 10000
"""Frames a second that a motion may have; anything else is a mistake in its unit."""


def rest_joints(body: BodyModel, like: BodyPose) -> np.ndarray:
    """Rest joints [J, 3] float64, metres, of the body in the shape of `like`'s first frame."""
    device = body.v_template.device
    return body.joints(like.betas[:1].to(device), like.expression[:1].to(device))[0].double().cpu().numpy()


def shaped_pose(theta: np.ndarray, Th: np.ndarray, like: BodyPose) -> BodyPose:
    """A pose of axis-angles [F, J, 3] and translations [F, 3] in the shape and expression of `like`'s first frame."""
    F = len(theta)
    return BodyPose(
        torch.from_numpy(np.ascontiguousarray(theta, np.float32)),
        like.betas[:1].cpu().expand(F, -1),
        like.expression[:1].cpu().expand(F, -1),
        torch.eye(3).expand(F, 3, 3),
        torch.from_numpy(np.ascontiguousarray(Th, np.float32)),
    )


def turn_world(
    theta: np.ndarray, Th: np.ndarray, turn: np.ndarray, pelvis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Axis-angles [F, J, 3] and translations [F, 3] in a world turned by `turn` [3, 3].

    The root rotates about its rest joint `pelvis` [3], which stands at pelvis + Th: it is that point which turns.
    """
    theta = theta.copy()
    theta[:, 0] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(theta[:, 0])).as_rotvec()
    return theta, (Th + pelvis) @ turn.T - pelvis


def mean_hands(body: BodyModel) -> Tensor:
    """The relaxed hands [30, 3] of a body with fingers (joints 25-54)."""
    return body.big_pose()[25:55]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz but those of Python objects, which are never unpickled. MotionError if unreadable."""
    if not path.is_file():
        raise MotionError(f"motion file {path} does not exist")
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as data:
            if not hasattr(data, "files"):
                raise MotionError(f"{path} holds one bare array; a motion is an .npz with named arrays")
            for name in data.files:
                try:
                    arrays[name] = data[name]
                except ValueError as error:
                    if "Object arrays" not in str(error):
                        raise
                    arrays[name] = np.empty(0, object)  # e.g. AMASS's gender; `numbers` refuses it where it matters
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, MotionError):
            raise
        raise MotionError(f"{path} is not a readable .npz: damaged, truncated or another format ({error})") from error
    return arrays


def numbers(
    path: Path, arrays: dict[str, np.ndarray], name: str, shapes: Iterable[tuple[int, ...]], accepted: str
) -> np.ndarray:
    """Array `name` as float64 [F, *one of shapes], F > 0 and finite; MotionError says what was found and `accepted`."""
    if name not in arrays:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise MotionError(f"{path} lacks {name}; it holds {held}. Accepted: {accepted}")
    value = arrays[name]
    if value.dtype.hasobject:
        raise MotionError(f"{path}: {name} is an array of Python objects, which is never unpickled; save it as numbers")
    if value.dtype.kind not in "fiu":
        raise MotionError(f"{path}: {name} holds {value.dtype}, not numbers. Accepted: {accepted}")
    if value.ndim == 0 or value.shape[1:] not in set(shapes):
        raise MotionError(f"{path}: {name} is {list(value.shape)}. Accepted: {accepted}")
    if len(value) == 0:
        raise MotionError(f"{path}: {name} is {list(value.shape)}, an empty motion; expected F > 0 frames")
    value = value.astype(np.float64)
    check_finite(path, name, value)
    return value


def check_finite(path: Path, name: str, value: np.ndarray) -> None:
    """MotionError naming the first frame of `value` [F, ...] that holds a NaN or an infinity."""
    bad = ~np.isfinite(value.reshape(len(value), -1)).all(1)
    if bad.any():
        raise MotionError(f"{path}: {name} of frame {int(bad.argmax())} is not finite ({int(bad.sum())} such frames)")


def stated_rate(path: Path, arrays: dict[str, np.ndarray], keys: Iterable[str]) -> float | None:
    """The frame rate under the first of `keys` that an .npz has, None without; MotionError if it is not one number."""
    value = next((arrays[key] for key in keys if key in arrays), None)
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise MotionError(f"{path}: the frame rate is {value.dtype} {list(value.shape)}; expected one number")
    return float(value.reshape(()))


def check_rate(path: Path, fps: float | None, stated: str) -> float:
    """A usable frame rate; MotionError if it is missing or out of RATES. stated: where the file would state it."""
    if fps is None:
        raise MotionError(f"{path} states no frame rate ({stated}); give it with motion_fps=, e.g. motion_fps=120")
    if not RATES[0] <= fps <= RATES[1]:
        raise MotionError(
            f"{path}: the frame rate is {fps}; expected a positive number of frames a second, {RATES[0]} to {RATES[1]}"
        )
    return float(fps)
