"""One image made ready for training: cropped to what matters, with the person's mask and the bound mask."""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from r3avatar.captures.boxes import mask_rectangle, projected_box_mask
from r3avatar.captures.capture import Capture, CaptureError

PERSON, BOUND = 1, 2  # bits of a prepared mask


class PreparedFrame(NamedTuple):
    """A window of a full frame; outside of it the image is black and both masks are 0."""

    rgb: np.ndarray  # [h, w, 3] uint8, black behind the person
    mask: np.ndarray  # [h, w] uint8: bit 0 = the person, bit 1 = inside the projected body box (the bound mask)
    x: int  # the window's first column in the full frame
    y: int  # the window's first row
    bound: tuple[int, int, int, int]  # the bound mask's rectangle in the full frame: x, y, width, height

    def copy_window(self, x: int, y: int, rgb: np.ndarray, mask: np.ndarray) -> None:
        """Copy another window of the same full frame, from (x, y) on, into zeroed rgb [H, W, 3] and mask [H, W].

        The window may leave the frame; what lies outside stays zero.
        """
        height, width = mask.shape
        h, w = self.mask.shape
        left, top = max(x, self.x), max(y, self.y)
        right, bottom = min(x + width, self.x + w), min(y + height, self.y + h)
        if left < right and top < bottom:
            here = slice(top - y, bottom - y), slice(left - x, right - x)
            there = slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x)
            rgb[here], mask[here] = self.rgb[there], self.mask[there]


class FrameSource(Protocol):
    """Where prepared frames come from: the cache (`FrameStore`) or the capture itself (`DirectFrames`)."""

    def get(self, camera: int, frame: int) -> PreparedFrame:
        """The prepared frame of a camera and a frame, both as positions in the capture's lists."""


class DirectFrames:
    """Prepares each frame when it is asked for; bounds [F, 2, 3] are the posed body's boxes (`body_bounds`)."""

    def __init__(self, capture: Capture, bounds: np.ndarray):
        self.capture, self.bounds = capture, bounds

    def get(self, camera: int, frame: int) -> PreparedFrame:
        """The prepared frame (`FrameSource.get`)."""
        return prepare_frame(self.capture, self.bounds[frame], camera, frame)


def bound_mask(
    capture: Capture, bounds: np.ndarray, camera: int, frame: int
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The full-frame bound mask [H, W] uint8 0/1 of a body box [2, 3], and its rectangle x, y, width, height.

    CaptureError names the camera and the frame where the box has no volume or is out of sight.
    """
    try:
        inside = projected_box_mask(bounds, capture.cameras[camera])
        rectangle = mask_rectangle(inside)
        if not rectangle[2]:
            raise ValueError("the projected body box is outside the image")
    except ValueError as error:
        raise CaptureError(
            capture.name, f"camera {capture.camera_ids[camera]}, frame {capture.frame_ids[frame]}",
            expected="the posed body's box in the camera's sight", found=str(error),
            fix="mend the calibration or the body's pose (`r3avatar inspect` names known mistakes), or take the camera "
            "or the frame out of the splits",
        ) from error  # fmt: skip
    return inside, rectangle


def prepare_frame(capture: Capture, bounds: np.ndarray, camera: int, frame: int) -> PreparedFrame:
    """Read one frame, add the bound mask, crop to the rectangle that holds the bound mask and all of the person.

    bounds [2, 3]: the posed body's box with its margin. The person may reach out of it (loose clothes); evaluation
    needs all of the person, so the window holds both. CaptureError where the box is out of the camera's sight.
    """
    rgb, person = capture.read(camera, frame)
    inside, rectangle = bound_mask(capture, bounds, camera, frame)
    mask = person * np.uint8(PERSON) | inside * np.uint8(BOUND)
    # Scaling blends the person's edge into pixels that the scaled mask leaves out: keep every pixel that is not black.
    x, y, w, h = mask_rectangle(functools.reduce(cv2.max, cv2.split(rgb), mask))
    return PreparedFrame(rgb[y : y + h, x : x + w], mask[y : y + h, x : x + w], x, y, rectangle)
