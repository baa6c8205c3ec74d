"""Encoded images decoded and refused by name, for readers of files and of HDF5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from r3avatar.captures.capture import CaptureError
from r3avatar.captures.encoded_image import decode_image, image_size

_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # a calibration knows nothing of EXIF orientation


def decode_color(data: np.ndarray) -> np.ndarray:
    """An encoded image [bytes] as stored, [H, W, 3] uint8 BGR; ValueError says what is wrong."""
    return decode_image(data, _AS_STORED)


def checked_size(data: np.ndarray, *, file: str | Path, place: str, fix: str) -> tuple[int, int]:
    """Width and height of an encoded image [bytes]; CaptureError if it is none."""
    return _refusing(image_size, data, file, place, fix)


def decode_checked(
    data: np.ndarray,
    decode: Callable[[np.ndarray], np.ndarray],
    *,
    size: tuple[int, int],
    file: str | Path,
    place: str,
    fix: str,
) -> np.ndarray:
    """`decode(data)`, an image [H, W, ..] of `size` (width, height); CaptureError if it is damaged or of another size.

    The header is looked at first: a small file may claim to be an image that no memory holds.
    """
    found = checked_size(data, file=file, place=place, fix=fix)
    if found == size:
        image = _refusing(decode, data, file, place, fix)
        found = image.shape[1], image.shape[0]
    if found != size:
        raise CaptureError(
            file, place, expected=f"an image of {size[0]}x{size[1]}, the camera's size",
            found=f"{found[0]}x{found[1]}", fix=fix,
        )  # fmt: skip
    return image


def _refusing(read: Callable, data: np.ndarray, file: str | Path, place: str, fix: str):
    try:
        return read(data)
    except (ValueError, MemoryError, cv2.error) as error:
        raise CaptureError(file, place, expected="an encoded image", found=str(error), fix=fix) from error
