"""Motion in SMPL's parameters: AMASS .npz files (SMPL-H and SMPL-X), and SMPL-X parameters by name.

Layouts. AMASS: `poses` [F, 156] (SMPL-H: root, 21 body joints, 15 + 15 fingers), [F, 165] (SMPL-X: root, 21 body
joints, jaw, two eyes, 15 + 15 fingers) or [F, 72] (SMPL: root, 21 body joints, two hands), `trans` [F, 3],
`mocap_framerate` or `mocap_frame_rate`; z up; fingers are full rotations. SMPL-X by name: `global_orient` [F, 3],
`body_pose` [F, 63] and optionally `transl`, `left_hand_pose`, `right_hand_pose`, `jaw_pose`, `leye_pose`, `reye_pose`,
`fps`. Source: AMASS (Mahmood 2019; amass.is.tue.mpg.de), SMPL-X (Pavlakos 2019).

The root turns about the rest pelvis in all of them, so that the pelvis stands at `trans` + rest pelvis. The file's
shape is not used, nor is its size: translations are kept in metres.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from r3avatar.body import BodyModel
from r3avatar.motion.motion import (
    UPS,
    Motion,
    MotionError,
    check_finite,
    check_rate,
    mean_hands,
    numbers,
    read_npz,
    rest_joints,
    shaped_pose,
    stated_rate,
    turn_world,
)
from r3avatar.types import BodyPose

RATE_KEYS = ("mocap_framerate", "mocap_frame_rate", "fps")
AMASS_ACCEPTED = "poses [F, 156] (SMPL-H), [F, 165] (SMPL-X) or [F, 72] (SMPL) and trans [F, 3], one a frame"
SMPLX_ACCEPTED = (
    "global_orient [F, 3], body_pose [F, 63], and optionally transl, jaw_pose, leye_pose, reye_pose [F, 3], "
    "left_hand_pose and right_hand_pose [F, 45] or [F, n <= 12] PCA coefficients"
)


def read_amass(
    path: str | Path,
    body: BodyModel,
    like: BodyPose,
    fps: float | None = None,
    up: str = "auto",
    arrays: dict[str, np.ndarray] | None = None,
) -> Motion:
    """An AMASS file's motion on the avatar's body. fps: the rate if the file states none; up: 'auto' is z."""
    path = Path(path)
    arrays = read_npz(path) if arrays is None else arrays
    poses = numbers(path, arrays, "poses", [(156,), (165,), (72,)], AMASS_ACCEPTED)
    poses = poses.reshape(len(poses), -1, 3)
    F = len(poses)
    trans = _same_length(path, "trans", numbers(path, arrays, "trans", [(3,)], AMASS_ACCEPTED), F)
    face = poses[:, 22:25] if poses.shape[1] == 55 else None
    hands = None if poses.shape[1] == 24 else poses[:, -30:]
    theta = _assemble(body, poses[:, :22], face, hands)
    return _motion(path, arrays, theta, trans, body, like, fps, "z" if up == "auto" else up)


def read_smplx_parameters(
    path: str | Path,
    body: BodyModel,
    like: BodyPose,
    fps: float | None = None,
    up: str = "auto",
    arrays: dict[str, np.ndarray] | None = None,
) -> Motion:
    """SMPL-X parameters by name, on the avatar's body. fps: the rate if the file states none; up: 'auto' is y.

    45 numbers a hand are its full pose, unless the file's `flat_hand_mean` is false: then, and for PCA coefficients
    (fewer numbers), they are relative to the body's mean hand.
    """
    path = Path(path)
    arrays = read_npz(path) if arrays is None else arrays
    arrays = {k: v.reshape(len(v), -1) if v.ndim == 3 else v for k, v in arrays.items()}  # [F, 21, 3] is common too
    root = numbers(path, arrays, "global_orient", [(3,)], SMPLX_ACCEPTED)
    F = len(root)

    def optional(name: str, width: int) -> np.ndarray:
        if name not in arrays:
            return np.zeros((F, width))
        return _same_length(path, name, numbers(path, arrays, name, [(width,)], SMPLX_ACCEPTED), F)

    if "body_pose" not in arrays:
        numbers(path, arrays, "body_pose", [], SMPLX_ACCEPTED)  # raises: nothing to pose the body with
    joints = np.concatenate([root, optional("body_pose", 63)], 1).reshape(F, 22, 3)
    face = np.stack([optional(name, 3) for name in ("jaw_pose", "leye_pose", "reye_pose")], 1)
    theta = _assemble(body, joints, face, _hands(path, arrays, body, F))
    return _motion(path, arrays, theta, optional("transl", 3), body, like, fps, "y" if up == "auto" else up)


def _hands(path: Path, arrays: dict[str, np.ndarray], body: BodyModel, F: int) -> np.ndarray | None:
    names = ("left_hand_pose", "right_hand_pose")
    if not all(name in arrays for name in names) or body.kind != "smplx":
        return None
    shapes = [(45,), *((n,) for n in range(1, 13))]
    left, right = (_same_length(path, n, numbers(path, arrays, n, shapes, SMPLX_ACCEPTED), F) for n in names)
    if left.shape != right.shape:
        raise MotionError(f"{path}: left_hand_pose is {list(left.shape)}, right_hand_pose {list(right.shape)}")
    pca = left.shape[1] != 45
    if not pca and bool(arrays.get("flat_hand_mean", True)):
        return np.concatenate([left, right], 1).reshape(F, 30, 3)
    if pca and torch.equal(body.left_hand_components.cpu(), torch.eye(45)):
        raise MotionError(
            f"{path}: the hands are {left.shape[1]} PCA coefficients, but this body has no hand PCA of "
            "its own (the demo body); give full hand poses [F, 45]"
        )
    try:
        return body.hand_pose(*(torch.from_numpy(x).to(body.v_template) for x in (left, right)), pca).cpu().numpy()
    except ValueError as error:
        raise MotionError(f"{path}: {error}; give full hand poses [F, 45]") from error


def _assemble(body: BodyModel, joints: np.ndarray, face: np.ndarray | None, hands: np.ndarray | None) -> np.ndarray:
    """Axis-angles [F, J, 3] of the avatar's body: root and 21 body joints from `joints`, the rest where it has any."""
    theta = np.zeros((len(joints), body.num_joints, 3))
    theta[:, :22] = joints
    if body.kind == "smplx":
        theta[:, 25:] = mean_hands(body).cpu().numpy() if hands is None else hands
        if face is not None:
            theta[:, 22:25] = face
    return theta


def _same_length(path: Path, name: str, value: np.ndarray, F: int) -> np.ndarray:
    if len(value) == 1 and F > 1:
        return np.repeat(value, F, 0)
    if len(value) != F:
        raise MotionError(f"{path}: {name} is {list(value.shape)}, but the poses have {F} frames; expected one a frame")
    return value


def _motion(path, arrays, theta, trans, body, like, fps, up) -> Motion:
    stated = stated_rate(path, arrays, RATE_KEYS)
    fps = check_rate(path, fps if stated is None else stated, f"none of the keys {', '.join(RATE_KEYS)}")
    theta, Th = turn_world(theta, trans, UPS[up], rest_joints(body, like)[0])
    check_finite(path, "translation", Th)
    return Motion(shaped_pose(theta, Th, like), fps, path.stem)
