"""What a capture holds, in numbers, and the holes that need no image to be seen."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from r3avatar.body import BodyModel
from r3avatar.captures import Capture
from r3avatar.inspection.samples import Hole


def counts(capture: Capture) -> dict[str, object]:
    """Cameras, frames, sizes, splits and the body of a capture, as JSON values."""
    sizes: dict[str, int] = {}
    for camera in capture.cameras:
        size = f"{camera.width}x{camera.height}"
        sizes[size] = sizes.get(size, 0) + 1
    return {
        "name": capture.name,
        "reader": type(capture).__name__,
        "body_kind": capture.body_kind,
        "gender": capture.gender,
        "fps": capture.fps,
        "cameras": len(capture.camera_ids),
        "frames": len(capture.frame_ids),
        "first_frame": capture.frame_ids[0],
        "last_frame": capture.frame_ids[-1],
        "recorded": list(capture.recorded),
        "resolutions": sizes,
        "splits": {
            name: {"cameras": len(split.cameras), "frames": len(split.frames)} for name, split in capture.splits.items()
        },
        "mended": capture.mend.settings,
    }


def pose_holes(capture: Capture) -> list[Hole]:
    """Frames without a pose between the first and the last, and poses that are not finite."""
    present = set(capture.frame_ids)
    holes = [
        Hole(None, frame, "no body pose")
        for frame in range(capture.frame_ids[0], capture.frame_ids[-1] + 1)
        if frame not in present
    ]
    for field in fields(capture.poses):
        value = getattr(capture.poses, field.name)
        if value is None:  # no garment, which no capture has
            continue
        for row in torch.nonzero(~torch.isfinite(value).flatten(1).all(1)).flatten().tolist():
            holes.append(Hole(None, capture.frame_ids[row], f"the pose's {field.name} is not finite"))
    return holes


def camera_holes(capture: Capture) -> list[Hole]:
    """Cameras whose numbers cannot be a calibration: not finite, a rotation that is none, a focal length of 0."""
    holes = []
    for name, camera in zip(capture.camera_ids, capture.cameras):
        K, w2c = camera.K.double().numpy(), camera.w2c.double().numpy()
        R = w2c[:3, :3]
        if not (np.isfinite(K).all() and np.isfinite(w2c).all()):
            holes.append(Hole(name, None, "the calibration is not finite"))
        elif np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
            holes.append(Hole(name, None, "w2c's rotation is none (rows not orthonormal, or a reflection)"))
        elif K[0, 0] <= 0 or K[1, 1] <= 0:
            holes.append(Hole(name, None, f"focal lengths {K[0, 0]:g}, {K[1, 1]:g} are not positive"))
    return holes


@torch.no_grad()
def body_height(capture: Capture, body: BodyModel) -> float:
    """Height of the first frame's shaped body in its rest pose, metres."""
    betas, expression = capture.poses.betas[:1], capture.poses.expression[:1]
    rest = body.v_template + body.shape_offsets(betas, expression)[0]
    return float(rest[:, 1].max() - rest[:, 1].min())
