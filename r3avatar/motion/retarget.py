"""Put a rig's motion on the avatar's body, bone by bone.

Rest poses differ: one stands in T, another in A, a third has its legs apart. With W a bone's turn in the world since
its own rest pose, the body's joint turns by G = W D, where D takes the direction of the body's limb at rest to that of
the rig's: so the limb points where the rig's does, and is twisted as far from rest. D is the smallest such rotation for
upper arms, forearms, hands, fingers, thighs and shins; for the feet it is about the vertical alone (both stand flat on
the floor at rest, whatever the height of their ankles); for the trunk, the collar bones and the head it is none: both
stand upright there, and a spine that is curved otherwise must not bend the body.

Axes come from the rig's rest pose: up is the axis nearest to the way from hips to head, left runs from the right hip to
the left. The trajectory is scaled by the ratio of leg lengths; it is that of the middle of the hips, which both have.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from r3avatar.body import BodyModel
from r3avatar.motion.motion import UPS, Motion, MotionError, check_finite, mean_hands, rest_joints, shaped_pose
from r3avatar.motion.rig import RigMotion
from r3avatar.motion.rigs import FINGERS, JOINT_NAMES, RIGS, match_rig
from r3avatar.types import BodyPose

LIMBS = {
    f"{side}_{joint}": f"{side}_{end}"
    for side in ("left", "right")
    for joint, end in {
        "hip": "knee", "knee": "ankle", "shoulder": "elbow", "elbow": "wrist", "wrist": "middle1",
        **{finger: f"{finger[:-1]}{int(finger[-1]) + 1}" for finger in FINGERS if finger[-1] != "3"},
    }.items()
}  # fmt: skip
"""Joints whose limb, up to the named joint, points where the rig's does."""
FEET = {f"{side}_ankle": f"{side}_foot" for side in ("left", "right")}
WITH_PARENT = ("left_foot", "right_foot", *(f"{s}_{f}" for s in ("left", "right") for f in FINGERS if f[-1] == "3"))
"""Joints at the end of a limb, which differ from the rig's at rest as the joint before them does."""
LEG = ("hip", "knee", "ankle")


def retarget(rig: RigMotion, body: BodyModel, like: BodyPose, up: str = "auto") -> Motion:
    """The rig's motion on the avatar's body, in its own shape; y up, as `Motion` says.

    up: the rig's world: 'y', 'z', '-y', or 'auto' for the up of its rest pose, which then faces +z.
    Raises MotionError for a skeleton that is no known rig, or whose rest pose has no legs.
    """
    names = JOINT_NAMES[body.kind]
    bones = _matched(rig)
    rest = _rest_axes(rig, bones)
    upright = rest if up == "auto" else UPS[up]
    theirs = rig.rest() @ rest.T
    ours = dict(zip(names, rest_joints(body, like)))
    turned, places = rig.world()
    differences = _differences(bones, theirs, ours)
    G: dict[str, np.ndarray] = {}
    theta = np.zeros((len(rig), len(names), 3))
    for j, (name, parent) in enumerate(zip(names, body.parents)):
        above = G[names[parent]] if parent >= 0 else np.broadcast_to(np.eye(3), (len(rig), 3, 3))
        if name in bones:
            G[name] = upright @ turned[:, bones[name]] @ rest.T @ differences[name]
            theta[:, j] = Rotation.from_matrix(above.swapaxes(1, 2) @ G[name]).as_rotvec()
        else:
            theta[:, j] = _relaxed(name, j, body)
            G[name] = above @ Rotation.from_rotvec(theta[0, j]).as_matrix()
    scale = _leg(ours) / _leg({name: theirs[bone] for name, bone in bones.items()})
    hips = (places[:, bones["left_hip"]] + places[:, bones["right_hip"]]) / 2 @ upright.T * scale
    pelvis = ours["pelvis"]
    arm = (ours["left_hip"] + ours["right_hip"]) / 2 - pelvis
    Th = hips - G["pelvis"] @ arm - pelvis
    check_finite(rig.path, "translation", Th)
    return Motion(shaped_pose(theta, Th, like), rig.fps, rig.path.stem)


def _matched(rig: RigMotion) -> dict[str, int]:
    try:
        return match_rig(rig.names)[1]
    except KeyError as error:
        raise MotionError(
            f"{rig.path}: its bones are of no known rig ({', '.join(RIGS)}): {error.args[0]}. Its bones: "
            f"{', '.join(rig.names)}. Rename them to a known rig's, or to the body's own joint names (left_hip, ...)"
        ) from error


def _rest_axes(rig: RigMotion, bones: dict[str, int]) -> np.ndarray:
    """The turn [3, 3] of the rig's axes to those of the body at rest: x left, y up, z ahead."""
    rest = rig.rest()
    left = rest[bones["left_hip"]] - rest[bones["right_hip"]]
    trunk = rest[bones["head"]] - (rest[bones["left_hip"]] + rest[bones["right_hip"]]) / 2
    up = np.zeros(3)
    axis = int(np.abs(trunk).argmax())
    up[axis] = np.sign(trunk[axis])
    left = left - (left @ up) * up
    if not (np.linalg.norm(left) > 1e-9 and np.abs(trunk).max() > 0.7 * np.linalg.norm(trunk)):
        raise MotionError(
            f"{rig.path}: its rest pose does not stand: hips to head is {trunk.round(3).tolist()}, right to left hip "
            f"{left.round(3).tolist()}; expected an upright figure (T or A pose) with its hips apart"
        )
    left /= np.linalg.norm(left)
    return np.stack([left, up, np.cross(left, up)])


def _differences(bones: dict[str, int], theirs: np.ndarray, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """D [3, 3] of every joint that has a bone; `theirs` in the body's axes."""
    differences: dict[str, np.ndarray] = {}
    for name in bones:
        if name not in ours:
            continue
        end = (LIMBS | FEET).get(name)
        D = np.eye(3)
        if end in bones and end in ours:
            a, b = ours[end] - ours[name], theirs[bones[end]] - theirs[bones[name]]
            if name in FEET:
                a, b = a * [1, 0, 1], b * [1, 0, 1]
            D = _smallest(a, b)
        elif name in WITH_PARENT or name.endswith("_wrist"):
            before = name.replace("wrist", "elbow").replace("foot", "ankle").replace("3", "2")
            D = differences.get(before, D)
        differences[name] = D
    return differences


def _smallest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation [3, 3] from the direction of `a` to that of `b` [3]; none where either has no length."""
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    if not lengths > 1e-12 or not sine > 1e-9 * lengths:
        return np.eye(3)
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, a @ b)).as_matrix()


def _relaxed(name: str, joint: int, body: BodyModel) -> np.ndarray:
    finger = body.kind == "smplx" and name.partition("_")[2] in FINGERS
    return mean_hands(body)[joint - 25].double().cpu().numpy() if finger else np.zeros(3)


def _leg(joints: dict[str, np.ndarray]) -> float:
    """Mean length of both legs, hip to knee to ankle."""
    length = 0.0
    for side in ("left", "right"):
        hip, knee, ankle = (joints[f"{side}_{joint}"] for joint in LEG)
        length += (np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee)) / 2
    return float(length)
