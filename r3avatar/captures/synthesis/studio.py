"""Drawing one camera's view of one frame: the person before a grey wall."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis.appearance import Weave, background, mark_array, paint, palette
from r3avatar.captures.synthesis.light import light_on
from r3avatar.captures.synthesis.performance import Surface
from r3avatar.captures.synthesis.person import Marks
from r3avatar.captures.synthesis.raster import SAMPLES, project, rasterize, window
from r3avatar.captures.synthesis.rig import Camera

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


@dataclass
class View:
    """One image: rgb [H, W, 3], mask [H, W] (255: person) and the SHA-256 of both."""

    rgb: Image
    mask: Image
    digest: bytes


class Studio:
    """Draws a performance. Its methods may be called from several threads; they release the interpreter."""

    def __init__(self, surface: Surface, marks: Marks, *, legs: int, cloth: Weave, seed: int, supersampling: int = 1):
        self.surface, self._finer = surface, supersampling
        self._colours, self._marks = palette(seed), mark_array(marks, legs, cloth)
        self._threads = threading.local()
        self._walls: dict[tuple[int, int], tuple[Array, Image]] = {}

    def light(self, vertices: Array) -> Array:
        """Light on the vertices [V, 3] of one frame, for `draw`."""
        return light_on(vertices, self.surface)

    def draw(self, vertices: Array, light: Array, camera: Camera) -> View:
        """The image that a camera takes of the vertices [V, 3], through its lens."""
        surface, final = self.surface, (camera.width, camera.height)
        if self._finer > 1:
            camera = _magnified(camera, self._finer)
        wall, plain = self._wall(camera.width, camera.height)
        projected = np.empty_like(vertices)
        bounds = project(vertices, camera.w2c, camera.K, camera.D, projected)
        x0, y0, x1, y1 = window(bounds, camera.width, camera.height)
        index, nearness = self._buffers((y1 - y0) * SAMPLES, (x1 - x0) * SAMPLES)
        rasterize(projected, surface.triangles, surface.two_sided, x0, y0, SAMPLES, index, nearness)
        rgb, mask = plain.copy(), np.zeros(plain.shape[:2], np.uint8)
        paint(
            index, projected, x0, y0, surface.triangles, surface.kind, surface.pattern, light, self._colours,
            self._marks, wall, rgb, mask,
        )  # fmt: skip
        if self._finer > 1:
            rgb = cv2.resize(rgb, final, interpolation=cv2.INTER_AREA)
            mask = np.where(cv2.resize(mask, final, interpolation=cv2.INTER_AREA) > 127, 255, 0).astype(np.uint8)
        digest = hashlib.sha256(rgb)
        digest.update(mask)
        return View(rgb, mask, digest.digest())

    def _buffers(self, rows: int, columns: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """This thread's index and nearness arrays; fresh memory for every image would cost more than the drawing."""
        size = rows * columns
        if getattr(self._threads, "size", 0) < size:
            self._threads.size = size
            self._threads.arrays = np.empty(size, np.int32), np.empty(size, np.float32)
        index, nearness = self._threads.arrays
        return index[:size].reshape(rows, columns), nearness[:size].reshape(rows, columns)

    def _wall(self, width: int, height: int) -> tuple[Array, Image]:
        if (width, height) not in self._walls:
            wall = background(width, height)
            grey = np.floor(wall * 255.0 + 0.5).astype(np.uint8)
            self._walls[width, height] = wall, np.repeat(grey[..., None], 3, 2)
        return self._walls[width, height]


def _magnified(camera: Camera, factor: int) -> Camera:
    """The same camera with `factor` times as many pixels along each axis; pixel centres at whole numbers."""
    K = camera.K * np.array([[factor], [factor], [1.0]])
    K[:2, 2] += 0.5 * (factor - 1)
    return Camera(K, camera.D, camera.w2c, camera.width * factor, camera.height * factor)


def encoded(view: View, quality: int) -> tuple[bytes, bytes]:
    """A view as JPEG of the given quality, its colours at full resolution from 95 on, and its mask as PNG."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if quality >= 95:
        settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(view.rgb, cv2.COLOR_RGB2BGR), settings)
    _, png = cv2.imencode(".png", view.mask)
    return jpeg.tobytes(), png.tobytes()


def contact_sheet(tiles: dict[tuple[int, int], Image]) -> bytes:
    """A PNG of small pictures by (row, column), rows and columns in rising order."""
    rows, columns = (sorted({key[i] for key in tiles}) for i in range(2))
    sheet = np.concatenate([np.concatenate([tiles[r, c] for c in columns], 1) for r in rows], 0)
    return cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()
