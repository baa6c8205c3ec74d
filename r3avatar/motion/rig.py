"""A skeleton of any make with its motion, before it is put on the avatar's body."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class RigMotion:
    """F frames of J joints, parents before children, in the rig's own axes and unit of length.

    In the rest pose every rotation is the identity and every joint stands at its parent's place plus its offset.
    """

    path: Path
    names: list[str]
    parents: list[int]  # [J], -1 for the root
    offsets: np.ndarray  # [J, 3] from the parent's joint, in the rest pose
    tips: dict[int, np.ndarray]  # joint without children -> the end of its bone [3], from the joint
    rotations: np.ndarray  # [F, J, 3, 3] against the parent
    translations: np.ndarray  # [F, J, 3] from the parent's joint, in the parent's axes
    fps: float

    def __len__(self) -> int:
        return len(self.rotations)

    def rest(self) -> np.ndarray:
        """Joints [J, 3] of the rest pose."""
        places = np.zeros_like(self.offsets)
        for j, parent in enumerate(self.parents):
            places[j] = self.offsets[j] + (places[parent] if parent >= 0 else 0)
        return places

    def world(self) -> tuple[np.ndarray, np.ndarray]:
        """Forward kinematics: rotations [F, J, 3, 3] from the rest pose, and joints [F, J, 3], in the rig's world."""
        turned, places = np.empty_like(self.rotations), np.empty_like(self.translations)
        for j, parent in enumerate(self.parents):
            if parent < 0:
                turned[:, j], places[:, j] = self.rotations[:, j], self.translations[:, j]
            else:
                turned[:, j] = turned[:, parent] @ self.rotations[:, j]
                moved = turned[:, parent] @ self.translations[:, j, :, None]
                places[:, j] = places[:, parent] + moved[..., 0]
        return turned, places
