"""Motions that come with the package: `builtin:walk` and others, for people without files.

Stretches of clips 02_01, 02_04, 02_05 and 02_07 of the CMU Graphics Lab Motion Capture Database, put on the demo body
by tools/make_builtin_motions.py. The data used in this project was obtained from mocap.cs.cmu.edu. The database was
created with funding from NSF EIA-0196217.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r3avatar.body import BodyModel
from r3avatar.motion.motion import Motion, MotionError, mean_hands, read_npz, rest_joints, shaped_pose
from r3avatar.types import BodyPose

PREFIX = "builtin:"
FOLDER = Path(__file__).parent / "clips"
CREDIT = (
    "The data used in this project was obtained from mocap.cs.cmu.edu. "
    "The database was created with funding from NSF EIA-0196217."
)


def builtin_names() -> list[str]:
    """The motions that there are, without the prefix."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def read_builtin(name: str, body: BodyModel, like: BodyPose) -> Motion:
    """A built-in motion on the avatar's body, y up; `name` without the prefix. MotionError names those that there are.

    Rotations of the root and the 21 body joints are the file's, hands are relaxed; the way is scaled by the length of
    the legs.
    """
    if name not in builtin_names():
        raise MotionError(f"{PREFIX}{name} is unknown; built in are {', '.join(PREFIX + n for n in builtin_names())}")
    arrays = read_npz(FOLDER / f"{name}.npz")
    joints = rest_joints(body, like)
    theta = np.zeros((len(arrays["theta"]), body.num_joints, 3))
    theta[:, :22] = arrays["theta"][:, :22]
    if body.kind == "smplx":
        theta[:, 25:] = mean_hands(body).cpu().numpy()
    scale = leg_length(joints) / float(arrays["leg"])
    places = (arrays["pelvis"] + arrays["transl"].astype(np.float64)) * scale
    return Motion(shaped_pose(theta, places - joints[0], like), float(arrays["fps"]), name)


def leg_length(joints: np.ndarray) -> float:
    """Mean length of both legs, hip to knee to ankle, metres, of rest joints [J, 3] in SMPL's order."""
    hips, knees, ankles = joints[[1, 2]], joints[[4, 5]], joints[[7, 8]]
    return float((np.linalg.norm(knees - hips, axis=1) + np.linalg.norm(ankles - knees, axis=1)).mean())
