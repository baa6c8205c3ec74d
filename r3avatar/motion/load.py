"""Load a motion from a file of any known format, ready to animate an avatar in its capture's world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from r3avatar.body import BodyModel
from r3avatar.motion.amass import read_amass, read_smplx_parameters
from r3avatar.motion.asf_amc import find_asf, read_amc, read_asf
from r3avatar.motion.builtin import PREFIX, builtin_names, read_builtin
from r3avatar.motion.bvh import read_bvh
from r3avatar.motion.motion import Motion, MotionError, read_npz
from r3avatar.motion.place import facing, in_convention, in_place, settle, snapped
from r3avatar.motion.poses import read_pose_file
from r3avatar.motion.resample import resample
from r3avatar.motion.retarget import retarget
from r3avatar.types import BodyPose

ACCEPTED = (
    "a .bvh, an .amc (with its .asf), or an .npz with poses and trans (AMASS), with global_orient and body_pose "
    "(SMPL-X), or with theta and transl (this project's pose file); or one of those built in: "
    f"{', '.join(PREFIX + name for name in builtin_names())}"
)
Y = (0.0, 1.0, 0.0)


def load_motion(
    path: str | Path,
    *,
    body: BodyModel,
    like: BodyPose,
    fps: float | None = None,
    motion_fps: float | None = None,
    skeleton: str | Path | None = None,
    up: str = "auto",
    root: str = "keep",
    start: float = 0.0,
    end: float | None = None,
    place: bool | None = None,
    world_up: Tensor | Sequence[float] = Y,
    face: Tensor | Sequence[float] | None = None,
) -> Motion:
    """A motion in the avatar's own shape, in its capture's world, convention and frame rate.

    path: a file, or one of the built-in motions, e.g. 'builtin:walk'.

    Args:
        body, like: the avatar's body, and the capture's poses [F]; shape and expression are those of its first frame.
        fps: frames a second to resample to, the capture's; None keeps the motion's own. Retrieval compares changes of
            pose from frame to frame, so that another rate finds other times.
        motion_fps: the motion's rate where its file states none; refused where it states another.
        skeleton: the .asf of an .amc; None looks for it beside the clip.
        up: 'auto' (AMASS: z; SMPL-X: y; BVH and ASF: as in their rest pose), 'y', 'z' or '-y' (camera coordinates).
        root: 'keep' or 'in_place' (the way over the ground is taken out, rising and falling are kept).
        start, end: seconds of the motion.
        place: stand the first frame where the capture's first pose stands, facing the same way. None: for everything
            but this project's pose files, which are in the capture's world.
        world_up: up [3] in the capture's world.
        face: a point [3] of the capture's world, a camera's place say, that the first frame is turned to face.

    Raises MotionError naming the file, what was found and what is accepted.
    """
    builtin = str(path).startswith(PREFIX)
    for name, value, known in (("up", up, ("auto", "y", "z", "-y")), ("root", root, ("keep", "in_place"))):
        if value not in known:
            raise MotionError(f"{name}={value} is unknown; expected {', '.join(known)}")
    name, path = str(path).removeprefix(PREFIX), Path(path)
    if not builtin and not path.is_file():
        raise MotionError(f"motion file {path} does not exist; accepted are {ACCEPTED}")
    suffix = "" if builtin else path.suffix.lower()
    arrays = read_npz(path) if suffix == ".npz" else {}
    own = "theta" in arrays
    if builtin:
        motion = read_builtin(name, body, like)
    elif suffix == ".bvh":
        motion = retarget(read_bvh(path), body, like, up)
    elif suffix == ".amc":
        motion = retarget(read_amc(path, read_asf(skeleton or find_asf(path)), motion_fps), body, like, up)
    elif own:
        if up != "auto":
            raise MotionError(f"{path} is this project's pose file, in the capture's world; up={up} does not apply")
        motion = read_pose_file(path, like, motion_fps or fps, arrays)
    elif "poses" in arrays:
        motion = read_amass(path, body, like, motion_fps, up, arrays)
    elif "global_orient" in arrays or "body_pose" in arrays:
        motion = read_smplx_parameters(path, body, like, motion_fps, up, arrays)
    else:
        found = f"an .npz with {', '.join(sorted(arrays)) or 'nothing'}" if suffix == ".npz" else f"'{path.suffix}'"
        raise MotionError(f"{path} is {found}; accepted are {ACCEPTED}")
    if motion_fps is not None and abs(motion.fps - motion_fps) > 1e-3 * motion.fps:
        raise MotionError(
            f"{path} states {motion.fps:g} frames a second, motion_fps={motion_fps:g}; motion_fps is for files that "
            "state none: leave it out"
        )
    motion = resample(motion, fps or motion.fps, start, end)
    upwards = snapped(np.asarray(world_up, dtype=np.float64))
    if not own or place:
        # A pose file is in the capture's world already: only its heading and spot may be asked to change.
        source = upwards if own else np.array(Y)
        motion = settle(motion, source, upwards, like, body, first=place is not False)
    if face is not None:
        motion = facing(motion, np.asarray(face, dtype=np.float64), upwards, body, like)
    if root == "in_place":
        motion = in_place(motion, upwards)
    return replace(motion, pose=in_convention(motion.pose, like, body))
