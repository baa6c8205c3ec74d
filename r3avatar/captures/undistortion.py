"""From a camera's native image to the prepared one: undistorted, black behind the person, scaled."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from r3avatar.captures.boxes import mask_rectangle

_CELL = 16  # pixels; how finely the maps are searched for the person
_BAND = 64  # rows that are undistorted and scaled at a time

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
        maps = None
        if self.D is not None:
            maps = self._maps or _Maps(self.K, self.D, self.size)
            self._maps = maps  # and the local name, as another thread may release them
            self._search = self._search or _Search(maps)
        (width, height), (scaled_width, scaled_height) = self.size, self.scaled_size
        rgb = np.zeros((scaled_height, scaled_width, 3), np.uint8)
        scaled_mask = np.zeros((scaled_height, scaled_width), np.uint8)
        if width % scaled_width or height % scaled_height:
            # A scaled pixel's area begins inside a native pixel: no part can be scaled alone.
            whole, whole_mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
            for here, part, part_mask in self._person(image, mask, maps, 1, 1):
                whole[here], whole_mask[here] = part, part_mask
            if whole_mask.any():
                rgb[:], scaled_mask[:] = _scaled(whole, whole_mask, self.scaled_size)
            return rgb, scaled_mask
        across, down = width // scaled_width, height // scaled_height
        for (rows, columns), part, part_mask in self._person(image, mask, maps, across, down):
            here = slice(rows.start // down, rows.stop // down), slice(columns.start // across, columns.stop // across)
            h, w = scaled_mask[here].shape
            rgb[here], scaled_mask[here] = _scaled(part, part_mask, (w, h))
        return rgb, scaled_mask

    def release(self) -> None:
        """Give the maps' memory back (6 bytes a native pixel); the next call computes them again."""
        self._maps = None

    def _person(
        self, image: np.ndarray, mask: np.ndarray, maps: _Maps | None, across: int, down: int
    ) -> Iterator[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
        """The undistorted person by bands: (rows, columns), the image there, black behind the person, and the mask.

        Each is whole blocks of across x down pixels: scaling it then equals scaling the whole image.
        """
        person, height = mask_rectangle(mask), self.size[1]
        band = max(1, _BAND // down) * down
        for top in range(0, height, band):  # a person is narrower at most heights than with arms spread
            rows = slice(top, min(top + band, height))
            first, count = self._search(mask, person, rows) if maps else (person[0], person[2])
            if not count:
                continue
            columns = _blocks(first, count, across)
            here = maps(mask, rows, columns, cv2.INTER_NEAREST) if maps else mask[rows, columns]
            x, y, w, h = mask_rectangle(here)
            if not w:
                continue
            within = _blocks(y, h, down), _blocks(x, w, across)
            here = here[within]
            rows, columns = (slice(o.start + i.start, o.start + i.stop) for o, i in zip((rows, columns), within))
            part = maps(image, rows, columns, cv2.INTER_LINEAR) if maps else image[rows, columns]
            # Black behind the person before scaling, so that edges blend into black.
            yield (rows, columns), cv2.bitwise_and(part, part, mask=here), here


def _blocks(first: int, count: int, block: int) -> slice:
    """The whole blocks that hold `count` pixels from the first on."""
    return slice(first // block * block, -(-(first + count) // block) * block)


def _scaled(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image [H, W, 3] BGR and its mask [H, W], scaled to size (width, height), the image as RGB."""
    if size != mask.shape[::-1]:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        # The exact variant samples next to pixel centres; INTER_NEAREST shifts the mask by up to half a pixel.
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask


class _Maps:
    """OpenCV's fixed-point undistortion maps of one camera: which native pixel each undistorted one comes from."""

    def __init__(self, K: np.ndarray, D: np.ndarray, size: tuple[int, int]):
        # places [H, W, 2] int16: native column and row; fractions [H, W] uint16: what is left of them
        self.places, self.fractions = cv2.initUndistortRectifyMap(K, D, None, K, size, cv2.CV_16SC2)

    def __call__(self, image: np.ndarray, rows: slice, columns: slice, interpolation: int) -> np.ndarray:
        """A rectangle of the undistorted image."""
        return cv2.remap(image, self.places[rows, columns], self.fractions[rows, columns], interpolation)


class _Search:
    """Which columns of an undistorted image at most show a native mask."""

    def __init__(self, maps: _Maps):
        places = maps.places
        self._width = places.shape[1]
        corners = places[::_CELL, ::_CELL].astype(np.int32)  # of each cell its first pixel
        self._columns, rows = np.ascontiguousarray(corners[..., 0]), corners[..., 1]
        # How far from its first pixel's place a cell can reach: the steepest steps of the map, all along the cell.
        steps = cv2.absdiff(places[1:], places[:-1]), cv2.absdiff(places[:, 1:], places[:, :-1])
        self._reach = 2 + (_CELL - 1) * sum(int(step.max(initial=0)) for step in steps)
        self._highest, self._lowest = rows.min(1) - self._reach, rows.max(1) + self._reach + 1

    def __call__(self, mask: np.ndarray, person: Rectangle, band: slice) -> tuple[int, int]:
        """First column and width, in whole cells, of what comes from the mask in a band of rows; width 0: nothing.

        person: the native mask's rectangle.
        """
        x, y, w, h = person
        cells = slice(band.start // _CELL, -(-band.stop // _CELL))
        first, last = max(y, int(self._highest[cells].min())), min(y + h, int(self._lowest[cells].max()))
        if first >= last:
            return 0, 0
        low, _, w, _ = mask_rectangle(mask[first:last, x : x + w])
        low += x
        if not w:
            return 0, 0
        columns = self._columns[cells]
        found = ((columns >= low - self._reach) & (columns < low + w + self._reach)).any(0).nonzero()[0]
        if not len(found):
            return 0, 0
        left = int(found[0]) * _CELL
        return left, min((int(found[-1]) + 1) * _CELL, self._width) - left
