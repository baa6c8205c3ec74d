"""Where a motion takes place: what a camera has to see of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from r3avatar.body import BodyModel
from r3avatar.motion.motion import rest_joints
from r3avatar.motion.place import heading_of, root_transform
from r3avatar.types import BodyPose

SAMPLES = 24  # poses whose surface is measured
FOLLOWING = 0.4  # seconds, standard deviation of what a following camera smooths away


@dataclass
class Stage:
    """The way of the pelvis, and an upright cylinder that the body keeps within. Metres, world axes."""

    up: Tensor  # [3]
    path: Tensor  # [F, 3] where the pelvis is
    heading: Tensor  # [3] what the first pose faces, level
    centre: Tensor  # [3] the middle of the whole motion
    low: Tensor  # [] the body's lowest point in any frame, above its pelvis (below zero)
    high: Tensor  # [] likewise the highest
    radius: Tensor  # [] the farthest from the upright line through the pelvis

    @property
    def middle(self) -> Tensor:
        """How far the middle of the body is above its pelvis, []."""
        return (self.low + self.high) / 2

    def corners(self) -> Tensor:
        """Points [F, 16, 3] around the body in every frame: the rims of the upright cylinder that holds it."""
        sideways = torch.linalg.cross(self.up, self.heading)
        angles = torch.arange(8) * torch.pi / 4
        ring = self.radius * (angles.cos()[:, None] * self.heading + angles.sin()[:, None] * sideways)
        rims = torch.cat([ring + self.low * self.up, ring + self.high * self.up])
        return self.path[:, None] + rims

    def followed(self, fps: float) -> Tensor:
        """Where a camera that goes along looks [F, 3]: the body's middle, without the shaking of its steps."""
        sigma = FOLLOWING * fps
        width = int(4 * sigma) + 1
        # Mirrored through the ends, a walk goes on before its start and behind its end: the camera does not lag there.
        path = np.pad(self.path.double().numpy(), ((width, width), (0, 0)), mode="reflect", reflect_type="odd")
        smooth = gaussian_filter1d(path, sigma, axis=0)[width : width + len(self.path)]
        return torch.from_numpy(smooth).float() + self.middle * self.up


@torch.no_grad()
def stage_of(body: BodyModel, pose: BodyPose, up: Tensor) -> Stage:
    """Measure a motion [F]: the pelvis in every frame, the surface in a few."""
    pelvis = torch.from_numpy(rest_joints(body, pose)[0]).float()
    path = (pose.R @ pelvis + pose.Th).cpu()
    up = up.float().cpu()
    rows = torch.linspace(0, len(pose) - 1, min(SAMPLES, len(pose))).round().long()
    device = body.v_template.device
    low, high, reach = [], [], []
    for row in rows.tolist():
        points = body.vertices(pose[row : row + 1].to(device))[0].cpu() - path[row]
        above = points @ up
        low.append(above.min())
        high.append(above.max())
        reach.append((points - above[:, None] * up).norm(dim=1).max())
    lowest, highest = torch.stack(low).min(), torch.stack(high).max()
    above = path @ up
    flat = path - above[:, None] * up
    centre = (flat.amin(0) + flat.amax(0)) / 2
    bottom, top = above.min() + lowest, above.max() + highest
    heading = heading_of(root_transform(pose[:1], pelvis.double().numpy())[0], up.double().numpy())
    return Stage(
        up, path, torch.from_numpy(np.ascontiguousarray(heading)).float(), centre + (bottom + top) / 2 * up,
        lowest, highest, torch.stack(reach).max(),
    )  # fmt: skip
