"""A camera's calibration as data sets store it, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r3avatar.captures.checked import check_intrinsics, check_rotation, numbers


@dataclass(frozen=True)
class Calibration:
    """An OpenCV calibration at native size; the first pixel's centre is (0, 0)."""

    K: np.ndarray  # [3, 3] float64, pixels
    D: np.ndarray  # [5] float64: k1, k2, p1, p2, k3
    w2c: np.ndarray  # [4, 4] float64, world-to-camera, metres

    @classmethod
    def checked(
        cls, K: object, D: object, R: object, T: object, *, metres: float, file: Path, place: str, fix: str
    ) -> Calibration:
        """From a file's values: K (9 numbers), D (5), R (9) and T (3) world-to-camera; `metres` is the unit of T.

        CaptureError for other shapes, numbers that are not finite, a singular K, an R that is no rotation.
        """
        at = {"file": file, "fix": fix}
        K = numbers(K, [(3, 3), (9,)], place=f"{place}, K", **at).reshape(3, 3)
        D = numbers(D, [(5,), (5, 1), (1, 5)], place=f"{place}, D", **at).reshape(5)
        R = numbers(R, [(3, 3), (9,)], place=f"{place}, R", **at).reshape(3, 3)
        T = numbers(T, [(3,), (3, 1), (1, 3)], place=f"{place}, T", **at).reshape(3)
        check_intrinsics(K, place=f"{place}, K", **at)
        check_rotation(R, place=f"{place}, R", **at)
        w2c = np.eye(4)
        w2c[:3, :3], w2c[:3, 3] = R, T * metres
        return cls(K, D, w2c)

    @property
    def K_centred(self) -> np.ndarray:
        """K for pixel coordinates in which the first pixel's centre is (0.5, 0.5), [3, 3]."""
        return self.K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
