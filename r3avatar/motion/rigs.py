"""Which bone of a known rig moves which joint of the body.

CMU_ASF: the Acclaim skeletons of mocap.cs.cmu.edu. CMU_BVH: their BVH conversions (cgspeed and its relatives).
MIXAMO: mixamo.com, with or without its `mixamorig:` prefix; other auto-rigs keep its names. SMPL: the body's own names.
A joint that a rig does not move keeps its parent's turn; hands that it does not move are relaxed.
"""

from __future__ import annotations

FINGERS = tuple(f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3))
BODY_JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
JOINT_NAMES = {
    "smpl": (*BODY_JOINTS, "left_hand", "right_hand"),
    "smplx": (
        *BODY_JOINTS, "jaw", "left_eye", "right_eye",
        *(f"left_{finger}" for finger in FINGERS), *(f"right_{finger}" for finger in FINGERS),
    ),
}  # fmt: skip
"""kind of body -> names of its joints, in order (SMPL, Loper 2015; SMPL-X, Pavlakos 2019)."""

NEEDED = (
    "pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "head",
)  # fmt: skip
"""Joints without which a skeleton cannot be put on a body."""


def _both(**names: str) -> dict[str, str]:
    """Left and right entries of joints whose bones differ by Left/Right ({s}) or l/r ({c}) alone."""
    return {
        f"{side}_{joint}": bone.format(s=side.capitalize(), c=side[0])
        for joint, bone in names.items()
        for side in ("left", "right")
    }


_CMU_ASF = {
    "pelvis": "root", "spine1": "lowerback", "spine2": "upperback", "spine3": "thorax",
    "neck": "lowerneck", "head": "head",
    **_both(hip="{c}femur", knee="{c}tibia", ankle="{c}foot", foot="{c}toes", collar="{c}clavicle",
            shoulder="{c}humerus", elbow="{c}radius", wrist="{c}hand"),
}  # fmt: skip
_LIMBS = _both(
    hip="{s}UpLeg", knee="{s}Leg", ankle="{s}Foot", foot="{s}ToeBase", collar="{s}Shoulder",
    shoulder="{s}Arm", elbow="{s}ForeArm", wrist="{s}Hand",
)  # fmt: skip
_CMU_BVH = {
    "pelvis": "Hips", "spine1": "LowerBack", "spine2": "Spine", "spine3": "Spine1", "neck": "Neck", "head": "Head",
    **_LIMBS,
}  # fmt: skip
_MIXAMO = {
    "pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck", "head": "Head",
    **_LIMBS,
    **_both(**{finger: "{s}Hand" + finger.capitalize() for finger in FINGERS}),
}  # fmt: skip

RIGS: dict[str, dict[str, str]] = {
    "CMU_ASF": _CMU_ASF,
    "CMU_BVH": _CMU_BVH,
    "MIXAMO": _MIXAMO,
    "SMPL": {name: name for name in JOINT_NAMES["smplx"]},
}
"""rig -> {joint of the body: bone}."""


def match_rig(bones: list[str]) -> tuple[str, dict[str, int]]:
    """The known rig whose needed bones are all among `bones`, and {joint of the body: index of its bone}.

    Prefixes up to a colon (`mixamorig:`) and case are set aside. The rig with most bones wins. Raises KeyError with
    the closest rig and what it misses.
    """
    index = {bone.rpartition(":")[2].lower(): i for i, bone in reversed(list(enumerate(bones)))}
    found = {
        rig: {joint: index[bone.lower()] for joint, bone in table.items() if bone.lower() in index}
        for rig, table in RIGS.items()
    }
    rig = max(found, key=lambda r: (all(j in found[r] for j in NEEDED), len(found[r])))
    missing = [RIGS[rig][joint] for joint in NEEDED if joint not in found[rig]]
    if missing:
        raise KeyError(f"{rig} comes closest and misses {', '.join(missing)}")
    return rig, found[rig]
