"""Mending a capture's conventions as it is read: one known mistake a key, nothing by default."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from r3avatar.types import BodyPose

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

_FINGERS = slice(25, 55)  # SMPL-X's joints of both hands
# Rotations about x by multiples of 90 degrees, exact.
_TURNS = {
    0: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    90: [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    -90: [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    180: [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
}
_CHOICES = {
    "camera_axes": ("opencv", "opengl"),
    "turn_world": tuple(_TURNS),
    "root": (None, "pelvis", "origin"),
    "hands": (None, "relative", "full"),
    "invert_extrinsics": (False, True),
}
_PLACED_BEFORE = ("camera_axes", "turn_world")  # what an inversion found later would have to come before


@dataclass(frozen=True)
class Mend:
    """What every reader changes in the cameras and poses that it read; the defaults change nothing.

    Cameras, in this order:
    camera_unit: metres a unit of the cameras' translations as the reader gives them: 0.001 if they were millimetres,
        1000 if metres were taken for millimetres.
    invert_extrinsics: camera-to-world stood where the reader takes world-to-camera, or the reverse.
    camera_axes: 'opencv' (x right, y down, z forward), or 'opengl' (y up, looking along -z), which is made OpenCV's.
    turn_world: degrees about x (0, 90, -90, 180) from the poses' world to the cameras': 180 where one is y-down and
        the other y-up, 90 where the cameras are z-up and the poses y-up, -90 for the reverse.
    intrinsics_scale: factor of the intrinsics, for a calibration of images of another size: 0.5 for one of twice the
        images' size. Counted from the image's corner, that is, with pixel centres at 0.5.
    Poses:
    body_unit: metres a unit of the poses' translations.
    root: what the global rotation turns about. 'pelvis': rotation and translation are global_orient and transl, though
        the reader takes them for Rh and Th. 'origin': they are Rh and Th, though it takes them for the others. None: as
        the reader takes them.
    hands: SMPL-X's finger rotations. 'relative': they are offsets from the body's mean hand pose, which is added.
        'full': they hold it already, though the reader added it (flat_hand_mean). None: as the reader takes them.
    hand_mean: makes the mean hand pose [30, 3], radians; called only if `hands` is set (`read_hand_mean`).
    frame_offset: image i shows the pose of number i + frame_offset. Images at the ends that have no pose then are left
        out of the splits.

    ValueError for other values.
    """

    camera_unit: float = 1.0
    invert_extrinsics: bool = False
    camera_axes: str = "opencv"
    turn_world: int = 0
    intrinsics_scale: float = 1.0
    body_unit: float = 1.0
    root: str | None = None
    hands: str | None = None
    hand_mean: Callable[[], np.ndarray] | None = None
    frame_offset: int = 0

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join("null" if c is None else str(c).lower() for c in choices)
                raise ValueError(f"mend.{name} is {getattr(self, name)!r}; expected one of {known}")
        for name in ("camera_unit", "intrinsics_scale", "body_unit"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"mend.{name} is {value!r}; expected a number above 0")
        if not isinstance(self.frame_offset, int):
            raise ValueError(f"mend.frame_offset is {self.frame_offset!r}; expected a whole number of frames")
        if self.hands is not None and self.hand_mean is None:
            raise ValueError(f"mend.hands={self.hands} needs mend.hand_mean, the body's mean hand pose")

    @property
    def settings(self) -> dict[str, object]:
        """The keys that are set to more than nothing, as JSON values."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "hand_mean" and getattr(self, field.name) != field.default
        }

    def then(self, other: Mend) -> Mend | None:
        """This mend with another applied to what it gives, as one; None where no single mend does both.

        An `other` that inverts the extrinsics would have to come before the axes or the world were changed.
        """
        if other.invert_extrinsics and any(name in self.settings for name in _PLACED_BEFORE):
            return None
        turn = (self.turn_world + other.turn_world) % 360
        axes = "opencv" if self.camera_axes == other.camera_axes else "opengl"
        hands = other.hands or self.hands
        if self.hands and other.hands and self.hands != other.hands:
            hands = None
        return Mend(
            camera_unit=_product(self.camera_unit, other.camera_unit),
            invert_extrinsics=self.invert_extrinsics != other.invert_extrinsics,
            camera_axes=axes,
            turn_world=turn - 360 if turn > 180 else turn,
            intrinsics_scale=_product(self.intrinsics_scale, other.intrinsics_scale),
            body_unit=_product(self.body_unit, other.body_unit),
            root=other.root or self.root,
            hands=hands,
            hand_mean=self.hand_mean or other.hand_mean,
            frame_offset=self.frame_offset + other.frame_offset,
        )

    def camera(self, K: np.ndarray, w2c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K [3, 3] (first pixel's centre at 0.5) and w2c [4, 4] of a camera, mended; float64."""
        K, w2c = np.array(K, np.float64), np.array(w2c, np.float64)
        K[:2] *= self.intrinsics_scale
        w2c[:3, 3] *= self.camera_unit
        if self.invert_extrinsics:
            w2c = np.linalg.inv(w2c)
        if self.camera_axes == "opengl":
            w2c[1:3] *= -1
        turn = np.eye(4)
        turn[:3, :3] = _TURNS[self.turn_world]
        return K, w2c @ turn if self.turn_world else w2c

    def poses(self, poses: BodyPose) -> BodyPose:
        """The poses mended, but for `frame_offset`; the given ones stay as they are."""
        if self.body_unit != 1:
            poses = replace(poses, Th=(poses.Th.double() * self.body_unit).to(poses.Th))
        if self.hands is not None:
            poses = self._with_hands(poses)
        if self.root is not None:
            poses = _about_pelvis(poses) if self.root == "pelvis" else _about_origin(poses)
        return poses

    def fits(self, frame_ids: list[int], poses: BodyPose) -> tuple[list[int], BodyPose, list[int]]:
        """Frames and poses mended, `frame_offset` included, and the frames that thereby have no pose any more."""
        poses = self.poses(poses)
        if not self.frame_offset:
            return list(frame_ids), poses, []
        rows = [row for row, frame in enumerate(frame_ids) if frame >= self.frame_offset]
        if not rows:
            raise ValueError(
                f"mend.frame_offset is {self.frame_offset}; the poses are of frames {frame_ids[0]} .. {frame_ids[-1]}"
            )
        moved = [frame_ids[row] - self.frame_offset for row in rows]
        return moved, poses[rows], sorted(set(frame_ids) - set(moved))

    def _with_hands(self, poses: BodyPose) -> BodyPose:
        if poses.theta.shape[1] != 55:
            raise ValueError(f"mend.hands={self.hands}: a body of {poses.theta.shape[1]} joints has no fingers")
        mean = np.asarray(self.hand_mean(), np.float64).reshape(30, 3)
        theta = poses.theta.double()
        theta[:, _FINGERS] += torch.from_numpy(mean) * (1 if self.hands == "relative" else -1)
        return replace(poses, theta=theta.to(poses.theta))


def _product(a: float, b: float) -> float:
    """a b, without the rounding that would make 0.001 * 1000 other than 1."""
    return float(f"{a * b:.12g}")


def _global_rotation(poses: BodyPose) -> Rotation:
    """R and the root's rotation in theta as one, [F]."""
    from scipy.spatial.transform import Rotation  # a fifth of what a process that prepares frames would import

    outer = Rotation.from_matrix(poses.R.double().numpy())
    return outer * Rotation.from_rotvec(poses.theta[:, 0].double().numpy())


def _about_pelvis(poses: BodyPose) -> BodyPose:
    """The global rotation moved from R, which turns about the origin, to theta, where it turns about the pelvis."""
    theta = poses.theta.clone()
    theta[:, 0] = torch.from_numpy(_global_rotation(poses).as_rotvec()).to(theta)
    return replace(poses, theta=theta, R=torch.eye(3).to(poses.R).repeat(len(poses), 1, 1))


def _about_origin(poses: BodyPose) -> BodyPose:
    """The root rotation moved from theta, where it turns about the pelvis, to R, which turns about the origin."""
    theta = poses.theta.clone()
    theta[:, 0] = 0
    return replace(poses, theta=theta, R=torch.from_numpy(_global_rotation(poses).as_matrix()).to(poses.R))
