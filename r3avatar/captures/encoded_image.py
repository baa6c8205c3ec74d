"""Decoding images that a capture stores encoded (JPEG, PNG), refusing damaged ones."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from r3avatar.captures.png import SIGNATURE as _PNG
from r3avatar.captures.png import decode_png

_JPEG = b"\xff\xd8"
# Start-of-frame markers: all of C0-CF but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode_image(data: np.ndarray, flags: int) -> np.ndarray:
    """Decode an encoded image [bytes] uint8 with cv2.imdecode's flags; ValueError says what is wrong.

    A JPEG that stops early decodes with its missing part in grey, without an error: hence the look at the end marker.
    """
    content = data.tobytes()
    if content.startswith(_JPEG) and b"\xff\xd9" not in content[-4096:]:
        raise ValueError(f"a JPEG of {len(content)} bytes that is cut off (no end marker)")
    if content.startswith(_PNG) and b"IEND" not in content[-4096:]:
        raise ValueError(f"a PNG of {len(content)} bytes that is cut off (no IEND chunk)")
    image = cv2.imdecode(data, flags) if len(content) else None
    if image is None:
        raise ValueError(f"{len(content)} bytes starting {content[:4].hex()!r}, not a decodable image")
    return image


def decode_mask(data: np.ndarray) -> np.ndarray:
    """Decode a mask [bytes] to [H, W] uint8: 1 where any colour channel is nonzero; ValueError says what is wrong."""
    image = decode_png(data.tobytes())
    if image is None:
        image = decode_image(data, cv2.IMREAD_UNCHANGED)
    if image.ndim == 2 or image.shape[2] == 1:
        return (image.reshape(image.shape[:2]) != 0).view(np.uint8)
    # Channels side by side are one wide image, whose nonzero part is found much faster than the channels are split.
    height, width, channels = image.shape
    x, y, w, h = cv2.boundingRect(image.reshape(height, width * channels))
    here = slice(y, y + h), slice(x // channels, -(-(x + w) // channels))
    mask = np.zeros((height, width), np.uint8)
    if w:  # alpha, the fourth channel, is opacity and not the person
        mask[here] = cv2.inRange(image[here], (0, 0, 0, 0), (0, 0, 0, 255)) == 0
    return mask


def image_size(data: np.ndarray) -> tuple[int, int]:
    """Width and height of an encoded image [bytes], from its header if a JPEG or PNG; ValueError for no pixels."""
    width, height = _stated_size(data)
    if not (width and height):
        raise ValueError(f"{len(data)} bytes whose header says {width}x{height} pixels")
    return width, height


def _stated_size(data: np.ndarray) -> tuple[int, int]:
    content = data.tobytes()
    if content.startswith(_PNG) and len(content) >= 24:
        return struct.unpack(">II", content[16:24])
    if content.startswith(_JPEG):
        at = 2
        while at + 9 <= len(content) and content[at] == 0xFF:
            marker = content[at + 1]
            if marker in _START_OF_FRAME:
                height, width = struct.unpack(">HH", content[at + 5 : at + 9])
                return width, height
            # A fill byte stands alone; every other segment before the frame header carries its length.
            at += 1 if marker == 0xFF else 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    height, width = decode_image(data, cv2.IMREAD_COLOR).shape[:2]
    return width, height
