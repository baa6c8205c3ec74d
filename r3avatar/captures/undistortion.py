"""From a camera's native image to the prepared one: undistorted, black behind the person, scaled."""

from __future__ import annotations

import cv2
import numpy as np

from r3avatar.captures.boxes import mask_rectangle

_CELL = 16  # pixels; how finely the maps are searched for the person
_BAND = 64  # rows that are undistorted at a time

Rectangle = tuple[int, int, int, int]  # x, y, width, height; width and height 0: empty


class Undistortion:
    """Removes one camera's lens distortion and scales; the maps are computed at first use and kept.

    K [3, 3], D [5] (k1, k2, p1, p2, k3): OpenCV calibration at native size, the first pixel's centre at (0, 0); D None
    leaves the image as it is. The undistorted image keeps K. size, scaled_size: (width, height). Threads may share it.
    """

    def __init__(self, K: np.ndarray, D: np.ndarray | None, size: tuple[int, int], scaled_size: tuple[int, int]):
        self.K, self.size, self.scaled_size = K, size, scaled_size
        self.D = D if D is not None and np.any(D != 0) else None
        self._maps: _Maps | None = None
        self._search: _Search | None = None

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """image [H, W, 3] uint8 BGR, mask [H, W] uint8 0/1, native -> rgb [h, w, 3] uint8, mask [h, w] uint8 0/1."""
        width, height = self.scaled_size
        rgb, scaled_mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        # All but the person becomes black: the rectangle around it is all that needs computing.
        person, maps, left, top = mask_rectangle(mask), None, 0, 0
        if self.D is not None:
            maps = self._maps or _Maps(self.K, self.D, self.size)
            self._maps = maps  # and the local name, as another thread may release them
            self._search = self._search or _Search(maps)
            left, top, w, h = self._whole_scaled_pixels(self._search(person))
            if not w:
                return rgb, scaled_mask
            mask = maps(mask, (left, top, w, h), cv2.INTER_NEAREST)
            x, y, w, h = mask_rectangle(mask)
            person = left + x, top + y, w, h
        x, y, w, h = self._whole_scaled_pixels(person)
        if not w:
            return rgb, scaled_mask
        mask = mask[y - top : y - top + h, x - left : x - left + w]
        # Black behind the person before scaling, so that edges blend into black.
        if maps:
            image = maps.masked(image, mask, x, y)
        else:
            here = image[y : y + h, x : x + w]
            image = cv2.bitwise_and(here, here, mask=mask)
        if self.scaled_size != self.size:
            x, w = (value * width // self.size[0] for value in (x, w))
            y, h = (value * height // self.size[1] for value in (y, h))
            image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
            # The exact variant samples next to pixel centres; INTER_NEAREST shifts the mask by up to half a pixel.
            mask = cv2.resize(mask, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
        rgb[y : y + h, x : x + w] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        scaled_mask[y : y + h, x : x + w] = mask
        return rgb, scaled_mask

    def release(self) -> None:
        """Give the maps' memory back (6 bytes a native pixel); the next call computes them again."""
        self._maps = None

    def _whole_scaled_pixels(self, rectangle: Rectangle) -> Rectangle:
        """The rectangle grown until it covers scaled pixels wholly: scaling it then equals scaling the whole image."""
        x, y, w, h = rectangle
        if not w:
            return rectangle
        (width, height), (scaled_width, scaled_height) = self.size, self.scaled_size
        if width % scaled_width or height % scaled_height:
            return 0, 0, width, height  # a scaled pixel's area begins inside a native pixel: no part stands alone
        across, down = width // scaled_width, height // scaled_height
        left, top = x // across * across, y // down * down
        return left, top, -(-(x + w) // across) * across - left, -(-(y + h) // down) * down - top


class _Maps:
    """OpenCV's fixed-point undistortion maps of one camera: which native pixel each undistorted one comes from."""

    def __init__(self, K: np.ndarray, D: np.ndarray, size: tuple[int, int]):
        # places [H, W, 2] int16: native column and row; fractions [H, W] uint16: what is left of them
        self.places, self.fractions = cv2.initUndistortRectifyMap(K, D, None, K, size, cv2.CV_16SC2)

    def __call__(self, image: np.ndarray, rectangle: Rectangle, interpolation: int) -> np.ndarray:
        """A rectangle of the undistorted image."""
        x, y, w, h = rectangle
        here = slice(y, y + h), slice(x, x + w)
        return cv2.remap(image, self.places[here], self.fractions[here], interpolation)

    def masked(self, image: np.ndarray, mask: np.ndarray, x: int, y: int) -> np.ndarray:
        """The undistorted image from (x, y) on, black outside of the undistorted mask [h, w]: [h, w, 3]."""
        height, width = mask.shape
        result = np.zeros((height, width, 3), np.uint8)
        for row in range(0, height, _BAND):  # a person is narrower at most heights than with arms spread
            band = slice(row, row + _BAND)
            left, _, w, _ = mask_rectangle(mask[band])
            if w:
                here = band, slice(left, left + w)
                h = mask[band].shape[0]
                cv2.copyTo(self(image, (x + left, y + row, w, h), cv2.INTER_LINEAR), mask[here], result[here])
        return result


class _Search:
    """Where at most in an undistorted image a part of the native one comes to lie."""

    def __init__(self, maps: _Maps):
        self._size = maps.places.shape[1::-1]
        self._corners = maps.places[::_CELL, ::_CELL].astype(np.int32)  # of each cell its first pixel
        # How far from its first pixel's place a cell can reach: the steepest steps of the map, all along the cell.
        places = maps.places
        steps = cv2.absdiff(places[1:], places[:-1]), cv2.absdiff(places[:, 1:], places[:, :-1])
        self._reach = 2 + (_CELL - 1) * sum(int(step.max(initial=0)) for step in steps)

    def __call__(self, rectangle: Rectangle) -> Rectangle:
        """A rectangle, in whole cells, that holds all pixels that come from within the native one."""
        x, y, w, h = rectangle
        if not w:
            return 0, 0, 0, 0
        low, high = np.array([x, y]) - self._reach, np.array([x + w, y + h]) + self._reach
        cells = ((self._corners >= low) & (self._corners < high)).all(2).astype(np.uint8)
        left, top, across, down = (_CELL * value for value in mask_rectangle(cells))
        return left, top, min(across, self._size[0] - left), min(down, self._size[1] - top)
