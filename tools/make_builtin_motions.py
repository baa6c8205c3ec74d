"""Make the built-in motions from clips of the CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu).

    python tools/make_builtin_motions.py DIR    # with 02.asf, 02_01.amc, 02_04.amc, 02_05.amc and 02_07.amc

Each is a stretch of a clip, retargeted to the demo body in its mean shape, at 30 frames a second, in this project's
pose file layout (theta [F, 55, 3], transl [F, 3], fps), with the pelvis and the length of the leg that it was made for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from r3avatar.body import load_body
from r3avatar.motion.asf_amc import read_amc, read_asf
from r3avatar.motion.builtin import CREDIT, FOLDER, leg_length
from r3avatar.motion.motion import rest_joints
from r3avatar.motion.resample import resample
from r3avatar.motion.retarget import retarget
from r3avatar.types import BodyPose

CLIPS = {"walk": ("02_01", 0.0, None), "jump": ("02_04", 0.0, 3.2), "punch": ("02_05", 0.3, 5.3),
         "swordplay": ("02_07", 0.0, 5.0)}  # fmt: skip
"""Name to clip, first and last second."""
FPS = 30.0


def main() -> None:
    """Write r3avatar/motion/builtin/*.npz."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="where the .asf and .amc files are")
    folder = arguments.parse_args().folder
    body = load_body("demo")
    neutral = BodyPose(
        torch.zeros(1, body.num_joints, 3), torch.zeros(1, body.num_betas), torch.zeros(1, body.num_expression),
        torch.eye(3)[None], torch.zeros(1, 3),
    )  # fmt: skip
    joints = rest_joints(body, neutral)
    for name, (clip, start, end) in CLIPS.items():
        motion = retarget(read_amc(folder / f"{clip}.amc", read_asf(folder / "02.asf"), 120.0), body, neutral)
        motion = resample(motion, FPS, start, end)
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(
            path, theta=motion.pose.theta.numpy().round(4), transl=motion.pose.Th.numpy().round(4), fps=FPS,
            pelvis=joints[0].round(5), leg=np.round(leg_length(joints), 5), source=f"{clip}.amc", credit=CREDIT,
        )  # fmt: skip
        print(f"{path}: {len(motion)} frames, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
