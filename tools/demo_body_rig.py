"""Anny's bones as SMPL-X joints, and the rotations that make its rest pose a T-pose (for build_demo_body.py).

Frame: y up, facing +z, the body's left at +x, metres. Everything is worked out for the left side and mirrored.
"""

from __future__ import annotations

import numpy as np

TO_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # from Anny's z up, facing -y
X, Y, Z = np.eye(3)
NUM_JOINTS = 55
_BODY_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15]
_HANDS = ((20, 25), (21, 40))  # wrist, first finger joint
_HAND_PARENTS = [[wrist, first, first + 1] for wrist, hand in _HANDS for first in range(hand, hand + 15, 3)]
PARENTS = np.array(_BODY_PARENTS + [p for finger in _HAND_PARENTS for p in finger])

# SMPL-X joint -> the Anny bone whose head is the joint; bones that are named nowhere belong to their parent's joint.
# {s} is the side. SMPL-X counts index, middle, pinky, ring, thumb; Anny's finger1 is the thumb.
_MIDDLE = {0: "pelvis.L", 3: "spine04", 6: "spine02", 9: "spine01", 12: "neck01", 15: "head", 22: "jaw"}
_SIDED = {1: "upperleg01", 4: "lowerleg01", 7: "foot", 10: "toe", 13: "clavicle", 16: "upperarm01", 18: "lowerarm01"}
_SIDED |= {20: "wrist", 23: "eye"}
_FINGERS = (2, 3, 5, 4, 1)


def joint_bones() -> dict[int, str]:
    """SMPL-X joint -> Anny bone; the foot joints (10, 11) name the pseudo-bone 'toe', the five toe roots together."""
    bones = dict(_MIDDLE)
    for joint, bone in _SIDED.items():
        bones[joint], bones[joint + 1] = f"{bone}.L", f"{bone}.R"
    for side, first in (("L", 25), ("R", 40)):
        for k, finger in enumerate(_FINGERS):
            for phalanx in range(3):
                bones[first + 3 * k + phalanx] = f"finger{finger}-{phalanx + 1}.{side}"
    return bones


def joint_positions(labels: list[str], heads: np.ndarray) -> np.ndarray:
    """The 55 joints [55,3] from the heads of all bones [B,3]."""
    at = {label: heads[i] for i, label in enumerate(labels)}
    for side in "LR":
        at[f"toe.{side}"] = np.mean([at[f"toe{k}-1.{side}"] for k in range(1, 6)], axis=0)
    bones = joint_bones()
    return np.stack([at[bones[j]] for j in range(NUM_JOINTS)])


def bone_to_joint(labels: list[str], parents: list[int]) -> np.ndarray:
    """[B,55] zeros and ones: the joint that takes over each bone's weights."""
    owner = {bone: joint for joint, bone in joint_bones().items()}
    owner |= {f"toe{k}-1.{side}": 10 + (side == "R") for side in "LR" for k in range(1, 6)}
    owner |= {"root": 0, "pelvis.L": 0, "pelvis.R": 0, "spine05": 0}
    table = np.zeros((len(labels), NUM_JOINTS))
    joints: list[int] = []
    for label, parent in zip(labels, parents):  # parents precede their children
        joints.append(owner[label] if label in owner else joints[parent])
        table[len(joints) - 1, joints[-1]] = 1
    return table


def t_pose_transforms(labels: list[str], parents: list[int], heads: np.ndarray) -> np.ndarray:
    """Rigid transforms [B,4,4] that take every bone from Anny's rest pose to the T-pose."""
    turned = _left_rotations({label: heads[i] for i, label in enumerate(labels)})
    mirror = np.diag([-1.0, 1.0, 1.0])
    turned |= {name.replace(".L", ".R"): mirror @ R @ mirror for name, R in turned.items()}
    transforms = np.tile(np.eye(4), (len(labels), 1, 1))
    for i, (label, parent) in enumerate(zip(labels, parents)):
        if parent < 0:
            continue
        transforms[i, :3, :3] = turned[label] if label in turned else transforms[parent, :3, :3]
        head = transforms[parent, :3, :3] @ heads[i] + transforms[parent, :3, 3]
        transforms[i, :3, 3] = head - transforms[i, :3, :3] @ heads[i]
    return transforms


def _left_rotations(at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """World rotation, from the rest pose, of every left bone that turns otherwise than its parent."""

    def along(a: str, b: str) -> np.ndarray:
        return _unit(at[f"{b}.L"] - at[f"{a}.L"])

    turned = {}
    # Legs: 2.5 degrees off the vertical, turned in the frontal plane only; the feet stay flat on the ground.
    leg = at["foot.L"] - at["upperleg01.L"]
    turned["upperleg01.L"] = rotation(Z, np.radians(2.5) - np.arctan2(leg[0], -leg[1]))
    turned["foot.L"] = np.eye(3)
    # Arms: the shoulder blade takes a small share of the lift; the upper arm goes to +x, its elbow opening forwards.
    turned["clavicle.L"] = rotation(Z, np.radians(6.0))
    upper = between(along("upperarm01", "lowerarm01"), X)
    bend = upper @ along("lowerarm01", "wrist")
    twist = np.arctan2(bend[1], bend[2])  # about x, until the bend points to +z
    turned["upperarm01.L"] = rotation(X, twist / 2) @ upper
    turned["upperarm02.L"] = rotation(X, twist) @ upper
    fore = between(turned["upperarm02.L"] @ along("lowerarm01", "wrist"), X) @ turned["upperarm02.L"]
    # Hand: towards +x, the palm down; the forearm's bones share the twist that this takes.
    hand = along("wrist", "finger3-1")
    across = np.cross(along("wrist", "finger2-1"), along("wrist", "finger5-1"))
    up = _unit(across - hand * (across @ hand))
    wrist = np.stack([X, Y, Z], 1) @ np.stack([hand, up, np.cross(hand, up)], 1).T
    rest = wrist @ fore.T
    twist = np.arctan2(rest[2, 1] - rest[1, 2], rest[1, 1] + rest[2, 2])
    turned["lowerarm01.L"] = rotation(X, twist / 3) @ fore
    turned["lowerarm02.L"] = rotation(X, 2 * twist / 3) @ fore
    turned["wrist.L"] = wrist
    # Fingers: flat, at half of their natural spread; the thumb keeps its natural place, its last two bones in line.
    for finger in (2, 3, 4, 5):
        flat = (wrist @ along(f"finger{finger}-1", f"finger{finger}-3")) * [1, 0, 1]
        goal = _unit(_unit(flat) + X)
        R = between(wrist @ along(f"finger{finger}-1", f"finger{finger}-2"), goal) @ wrist
        turned[f"finger{finger}-1.L"] = R
        turned[f"finger{finger}-2.L"] = between(R @ along(f"finger{finger}-2", f"finger{finger}-3"), goal) @ R
    return turned


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix of an angle about a unit axis (Rodrigues)."""
    K = np.cross(axis, np.eye(3)).T  # K @ x = axis x x
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes the unit vector a to the unit vector b (not its opposite)."""
    v = np.cross(a, b)
    K = np.cross(v, np.eye(3)).T
    return np.eye(3) + K + K @ K / (1 + a @ b)
