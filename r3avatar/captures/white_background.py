"""The person's mask of an image on a white background."""

from __future__ import annotations

import math

import cv2
import numpy as np


def mask_from_white_background(image: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The image [H, W, 3] uint8 with its background black, and the mask [H, W] uint8, 1 = person.

    A pixel is the person's where some channel lies more than `threshold` (of 1) below white. Edge pixels that the
    white was blended into belong to the person as they are.
    """
    highest = math.ceil(255 * (1 - threshold)) - 1  # of a darkest channel that is the person's
    darkest = cv2.min(cv2.min(image[..., 0], image[..., 1]), image[..., 2])
    mask = (darkest <= highest).view(np.uint8)
    return cv2.bitwise_and(image, image, mask=mask), mask
