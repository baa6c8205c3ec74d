"""The faults of real captures, put into synthetic ones on purpose: noise, unlike cameras, poor masks, misfitted poses.

Everything is off by default, drawn from the capture's seed, and told in synthesis.json.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.studio import View

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

FITTED_JOINTS = 22  # joints 0-21 get fit errors: the root and the body; jaw, eyes and hands stay exact
_READ_NOISE = 4.0  # electrons, standard deviation of reading out a pixel
_GRAIN = 12.0  # pixels; distance over which a mask's boundary wanders
_BLOB = (0.02, 0.05)  # least and greatest half axis of a missing piece, relative to the mask's height
_PERIODS = (0.8, 6.0)  # seconds in which fit errors come and go


@dataclass(frozen=True)
class Faults:
    """How much of each fault a capture has; the default is none.

    photons: electrons that a white pixel collects (None: no noise). A pixel's variance is its electrons' plus the read
        noise's, 4 electrons squared; each channel for itself. 2000 is a dim studio, 20000 a bright one.
    exposure_stops: standard deviation of the cameras' exposures, stops.
    white_balance: standard deviation of the cameras' red and blue gains, relative to green.
    mask_jitter_pixels: standard deviation of the displacement of a mask's boundary, pixels; it wanders within 12.
    mask_blobs: mean number of pieces missing from a mask, each 4 to 10 % of the person's height across.
    pose_degrees: root mean square over time of each body joint's rotation error in the fitted poses, degrees.
    transl_cm: the same of the fitted translation, centimetres.
    held_out: whether held-out cameras' images and masks have the faults too; otherwise they show the truth, so that
        figures measured on them are of the avatar and not of the fault. Poses are the same for all cameras.
    """

    photons: float | None = None
    exposure_stops: float = 0.0
    white_balance: float = 0.0
    mask_jitter_pixels: float = 0.0
    mask_blobs: float = 0.0
    pose_degrees: float = 0.0
    transl_cm: float = 0.0
    held_out: bool = False

    def __post_init__(self):
        if self.photons is not None and not self.photons >= 10.0:
            raise ValueError(f"faults.photons is {self.photons}; expected at least 10 electrons, or null for no noise")
        most = dict(exposure_stops=2, white_balance=0.5, mask_jitter_pixels=50, mask_blobs=50, pose_degrees=30)
        for name, limit in {**most, "transl_cm": 50}.items():
            if not 0.0 <= getattr(self, name) <= limit:
                raise ValueError(f"faults.{name} is {getattr(self, name)}; expected a number from 0 to {limit}")

    @property
    def of_images(self) -> bool:
        """Whether images or masks have any."""
        photometric = self.photons is not None or self.exposure_stops > 0.0 or self.white_balance > 0.0
        return photometric or self.mask_jitter_pixels > 0.0 or self.mask_blobs > 0.0

    @property
    def of_fits(self) -> bool:
        """Whether the fitted poses have any."""
        return self.pose_degrees > 0.0 or self.transl_cm > 0.0


class FaultyCamera:
    """One camera with its faults: `spoil` changes what it saw. Calls are independent of each other and of order."""

    def __init__(self, faults: Faults, seed: int, camera: int):
        self.faults, self._key = faults, (seed, camera)
        stops, red, blue = 2.0 * np.sqrt(3.0) * (am.draws(seed, 30 + camera, 3) - 0.5)  # uniform, variance 1
        self.exposure_stops = float(faults.exposure_stops * stops)
        self.gains = float(1.0 + faults.white_balance * red), 1.0, float(1.0 + faults.white_balance * blue)
        light = _decoded(np.arange(256) / 255.0)
        gains = 2.0**self.exposure_stops * np.array(self.gains)
        self._curve = np.floor(255.0 * _encoded(np.minimum(light[:, None] * gains, 1.0)) + 0.5).astype(np.uint8)
        if faults.photons is not None:
            # The noise of the light, carried to the image's values by the slope of their curve.
            spread = np.sqrt(faults.photons * light + _READ_NOISE**2) / faults.photons
            low, high = np.maximum(light - spread, 0.0), light + spread
            self._spread = (255.0 * spread * (_encoded(high) - _encoded(low)) / (high - low)).astype(np.float32)

    def spoil(self, view: View, frame: int) -> View:
        """The view as this camera records and a segmentation finds it."""
        random = np.random.default_rng([*self._key, frame])
        rgb, mask = view.rgb, view.mask
        if self.exposure_stops != 0.0 or self.gains != (1.0, 1.0, 1.0):
            rgb = cv2.LUT(rgb, self._curve[None])
        if self.faults.photons is not None:
            noise = random.standard_normal(rgb.shape, np.float32) * self._spread[rgb]
            rgb = np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)
        if mask.any() and self.faults.mask_jitter_pixels > 0.0:
            mask = _wandering(mask, self.faults.mask_jitter_pixels, random)
        if mask.any() and self.faults.mask_blobs > 0.0:
            mask = _holed(mask, int(random.poisson(self.faults.mask_blobs)), random)
        digest = hashlib.sha256(rgb)
        digest.update(mask)
        return View(rgb, mask, digest.digest())


def misfitted(faults: Faults, seed: int, fps: float, fullpose: Array, transl: Array) -> tuple[Array, Array]:
    """The poses [F, 55, 3] radians and translations [F, 3] metres as a fit with errors finds them, smooth in time."""
    wrong = fullpose.copy()
    if faults.pose_degrees > 0.0:
        error = _drift(seed, 24, len(fullpose), fps, FITTED_JOINTS) * (faults.pose_degrees * am.PI / 180.0)
        turns = am.quaternion_product(am.quaternion(fullpose[:, :FITTED_JOINTS]), am.quaternion(error))
        wrong[:, :FITTED_JOINTS] = am.rotation_vector(turns)
    if faults.transl_cm > 0.0:
        transl = transl + _drift(seed, 26, len(transl), fps, 1)[:, 0] * (0.01 * faults.transl_cm)
    return wrong, transl


def _drift(seed: int, stream: int, frames: int, fps: float, count: int) -> Array:
    """`count` slowly changing vectors, [frames, count, 3], the root mean square over time of each's length 1."""
    constant = am.draws(seed, stream, count, 3) - 0.5
    size, period, phase = am.draws(seed, stream + 1, 3, 4, count, 3)
    period = _PERIODS[0] + (_PERIODS[1] - _PERIODS[0]) * period * period
    time = np.arange(frames)[:, None, None] / fps
    drift = np.broadcast_to(constant, (frames, count, 3)).copy()
    for k in range(len(size)):
        drift += (size[k] - 0.5) * am.sin(2.0 * am.PI * (time / period[k] + phase[k]))
    square = np.zeros(count)
    for frame in drift:
        square += am.dot(frame, frame)
    return drift / np.sqrt(square / frames)[:, None]


def _decoded(value: Array) -> Array:
    """sRGB's values in [0, 1] as light."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encoded(light: Array) -> Array:
    """Light as sRGB's values."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def _wandering(mask: Image, pixels: float, random: np.random.Generator) -> Image:
    """The mask with its boundary displaced by a smooth random field, `pixels` its standard deviation."""
    x, y, w, h = cv2.boundingRect(mask)
    room = int(np.ceil(4.0 * pixels)) + 2
    rows = slice(max(y - room, 0), y + h + room)
    columns = slice(max(x - room, 0), x + w + room)
    inside = np.ascontiguousarray(mask[rows, columns])
    inner = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    outer = cv2.distanceTransform(255 - inside, cv2.DIST_L2, 5) if (inside == 0).any() else np.zeros_like(inner)
    coarse = [int(np.ceil(n / _GRAIN)) + 2 for n in inside.shape]
    field = cv2.resize(
        random.standard_normal(coarse, np.float32), (inside.shape[1], inside.shape[0]), interpolation=cv2.INTER_CUBIC
    )
    field *= pixels / max(float(field.std()), 1e-6)
    out = mask.copy()
    # Distances count from pixel centres: the boundary lies half a pixel before the first pixel on either side.
    out[rows, columns] = np.where(np.where(inside > 0, inner - 0.5, 0.5 - outer) + field > 0.0, 255, 0)
    return out


def _holed(mask: Image, count: int, random: np.random.Generator) -> Image:
    """The mask without `count` ellipses somewhere on it."""
    height = cv2.boundingRect(mask)[3]
    ys, xs = np.nonzero(mask)
    out = mask.copy()
    for _ in range(count):
        k = int(random.integers(len(ys)))
        axes = np.maximum(np.rint(height * random.uniform(*_BLOB, 2)), 1).astype(int)
        centre, angle = (int(xs[k]), int(ys[k])), float(random.uniform(0.0, 180.0))
        cv2.ellipse(out, centre, (int(axes[0]), int(axes[1])), angle, 0.0, 360.0, 0, -1)
    return out
