"""From a camera's native image to the prepared one: undistorted, black behind the person, scaled."""

from __future__ import annotations

import cv2
import numpy as np


class Undistortion:
    """Removes one camera's lens distortion and scales; the maps are computed at first use and kept.

    K [3, 3], D [5] (k1, k2, p1, p2, k3): OpenCV calibration at native size, the first pixel's centre at (0, 0); D None
    leaves the image as it is. The undistorted image keeps K. size, scaled_size: (width, height).
    """

    def __init__(self, K: np.ndarray, D: np.ndarray | None, size: tuple[int, int], scaled_size: tuple[int, int]):
        self.K, self.size, self.scaled_size = K, size, scaled_size
        self.D = D if D is not None and np.any(D != 0) else None
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """image [H, W, 3] uint8 BGR, mask [H, W] uint8 0/1, native -> rgb [h, w, 3] uint8, mask [h, w] uint8 0/1."""
        # Black behind the person before scaling, so that edges blend into black.
        if self.D is not None:
            image, mask = self._undistorted(image, mask)
        else:
            image = cv2.bitwise_and(image, image, mask=mask)
        if self.scaled_size != self.size:
            image = cv2.resize(image, self.scaled_size, interpolation=cv2.INTER_AREA)
            # The exact variant samples next to pixel centres; INTER_NEAREST shifts the mask by up to half a pixel.
            mask = cv2.resize(mask, self.scaled_size, interpolation=cv2.INTER_NEAREST_EXACT)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask

    def _undistorted(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._maps is None:
            self._maps = cv2.initUndistortRectifyMap(self.K, self.D, None, self.K, self.size, cv2.CV_16SC2)
        mask = cv2.remap(mask, *self._maps, cv2.INTER_NEAREST)
        x, y, w, h = cv2.boundingRect(mask)
        person = slice(y, y + h), slice(x, x + w)  # all else becomes black: no need to compute it
        result = np.zeros_like(image)
        if w:
            patch = cv2.remap(image, *(part[person] for part in self._maps), cv2.INTER_LINEAR)
            result[person] = cv2.bitwise_and(patch, patch, mask=mask[person])
        return result, mask

    def release(self) -> None:
        """Give the maps' memory back (6 bytes a native pixel); the next call computes them again."""
        self._maps = None
