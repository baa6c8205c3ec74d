"""Which recorded moments a synthetic capture's later poses were put together from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from r3avatar.captures.synthesis.arithmetic import Array
from r3avatar.captures.synthesis.score import PARTS, part_starts

_JOINT = {"left_leg": 1, "right_leg": 2, "centre": 0, "left_arm": 13, "right_arm": 14}  # one of each part's joints


def recorded_moments(folder: Path, frames: list[int]) -> dict[str, Array] | None:
    """The recorded frame [F] that each body part repeats in `frames`, by the part's name in retrieval.

    Recorded frames are their own; NaN where the parts are still on their way to their moments. The cloth is simulated
    on from what was before: its folds are nowhere recorded exactly. None where `folder` holds no synthetic capture.
    """
    path = folder / "synthesis.json"
    if not path.is_file():
        return None
    options = json.loads(path.read_text())["options"]
    recorded, transition = options["recorded_frames"], options["transition_frames"]
    starts = part_starts(recorded, options["later_frames"], options["seed"])
    frame = np.asarray(frames, np.float64)
    on_the_way = (frame >= recorded) & (frame - (recorded - 1) < transition)
    found = {}
    for name, joint in _JOINT.items():
        start = next(s for s, joints in zip(starts, PARTS) if joint in joints)
        source = np.where(frame < recorded, frame, start + frame - recorded)
        found[name] = np.where(on_the_way, np.nan, source)
    return found
