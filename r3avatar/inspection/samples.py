"""Some images of a capture, and the holes that show up where images should be."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from r3avatar.captures import Capture, CaptureError, frames_of_splits
from r3avatar.types import Cameras

LONGEST_SIDE = 512  # pixels; larger images are shrunk: a silhouette needs no more


class Sample(NamedTuple):
    """One image, shrunk."""

    camera: int  # position in the capture's cameras
    frame: int  # position in the capture's frames
    image: np.ndarray  # [h, w, 3] uint8 RGB
    mask: np.ndarray  # [h, w] uint8 0/1


class Hole(NamedTuple):
    """Something that the splits ask for and the capture lacks."""

    camera: str | None  # the capture's own id; None: every camera
    frame: int | None  # the capture's own id; None: every frame
    what: str


def spread(items: list, count: int) -> list:
    """`count` items evenly from first to last; all of them if there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def choose_pairs(capture: Capture, views: int, frames: int) -> list[tuple[int, int]]:
    """(camera, frame) positions: `views` cameras evenly, of each `frames` of the frames that the splits use it in."""
    by_camera: dict[int, list[int]] = {}
    for camera, frame in frames_of_splits(capture, capture.splits):
        by_camera.setdefault(camera, []).append(frame)
    cameras = spread(sorted(by_camera), views)
    return [(camera, frame) for camera in cameras for frame in spread(by_camera[camera], frames)]


def shrunk_camera(camera: Cameras) -> Cameras:
    """The camera of an image whose longest side is at most LONGEST_SIDE."""
    scale = LONGEST_SIDE / max(camera.width, camera.height)
    return camera.scaled(scale) if scale < 1 else camera


def read_samples(
    capture: Capture, pairs: list[tuple[int, int]], keep: set[tuple[int, int]], progress: bool = False
) -> tuple[list[Sample], list[Hole]]:
    """Read pairs of (camera, frame) positions: the samples of those to `keep`, and the holes among all of them."""

    def read(pair: tuple[int, int]) -> Sample | Hole | None:
        return _read_sample(capture, *pair, pair in keep)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        bar = tqdm(pool.map(read, pairs), "images", len(pairs), leave=False, disable=None if progress else True)
        found = list(bar)
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Hole)]


def _read_sample(capture: Capture, camera: int, frame: int, keep: bool) -> Sample | Hole | None:
    ids, expected = (capture.camera_ids[camera], capture.frame_ids[frame]), capture.cameras[camera]
    try:
        image, mask = capture.read(camera, frame)
    except CaptureError as error:
        return Hole(*ids, str(error))
    if image.shape[:2] != (expected.height, expected.width) or mask.shape != image.shape[:2]:
        sizes = f"image {image.shape[1]}x{image.shape[0]}, mask {mask.shape[1]}x{mask.shape[0]}"
        return Hole(*ids, f"{sizes}; the camera says {expected.width}x{expected.height}")
    if not mask.any():
        return Hole(*ids, "the mask is empty: no pixel belongs to the person")
    if not keep:
        return None
    small = shrunk_camera(expected)
    size = small.width, small.height
    if size != (expected.width, expected.height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    return Sample(camera, frame, image, mask)
