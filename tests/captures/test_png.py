"""PNGs by FFmpeg: OpenCV's pixels for every way of writing them; whatever is unusual or damaged goes to OpenCV."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from r3avatar.captures.encoded_image import decode_mask
from r3avatar.captures.png import SIGNATURE, decode_png

WIDTH, HEIGHT = 37, 23
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


def _pixels(channels, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    image[5:15, 4:20] = 0  # flat parts, as masks have
    return image


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(image, kind):
    """The rows as PNG's filter stores them: none, left, up, average, Paeth."""
    values = image.reshape(HEIGHT, -1).astype(int)
    step = image.shape[2]
    left, up, corner = np.zeros_like(values), np.zeros_like(values), np.zeros_like(values)
    left[:, step:], up[1:], corner[1:, step:] = values[:, :-step], values[:-1], values[:-1, :-step]
    estimate = left + up - corner
    distances = [abs(estimate - near) for near in (left, up, corner)]
    paeth = np.choose(np.argmin(distances, 0), (left, up, corner))
    guess = (0, left, up, (left + up) // 2, paeth)[kind]
    return b"".join(bytes([kind]) + row.tobytes() for row in ((values - guess) % 256).astype(np.uint8))


def _png(image, kind=0, parts=1, depth=8, colour=None, interlaced=0, extra=b"", data=None):
    data = zlib.compress(_filtered(image, kind)) if data is None else data
    colour = COLOUR_TYPES[image.shape[2]] if colour is None else colour
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    size = -(-len(data) // parts)
    stored = b"".join(_chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size))
    return SIGNATURE + _chunk(b"IHDR", header) + extra + stored + _chunk(b"IEND", b"")


def _opencv(content):
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., None] if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", range(5))
def test_every_filter_gives_opencvs_pixels(channels, kind):
    image = _pixels(channels, seed=kind)
    content = _png(image, kind, parts=1 + kind, extra=_chunk(b"tEXt", b"Comment\0none"))
    np.testing.assert_array_equal(decode_png(content), image)
    np.testing.assert_array_equal(decode_png(content), _opencv(content))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 65), (640, 481)])
def test_what_opencv_wrote_comes_back(channels, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    content = cv2.imencode(".png", image)[1].tobytes()
    np.testing.assert_array_equal(decode_png(content), _opencv(content))


def test_unusual_files_are_left_to_opencv():
    image = _pixels(1)
    palette = _chunk(b"PLTE", bytes(range(30)) * 25 + bytes(18))
    unusual = {
        "palette": _png(image, colour=3, extra=palette),
        "16 bits": cv2.imencode(".png", image.astype(np.uint16) * 256)[1].tobytes(),
        "a transparent grey": _png(image, extra=_chunk(b"tRNS", b"\0\0")),
        "animated": _png(image, extra=_chunk(b"acTL", struct.pack(">II", 1, 0))),
        "a JPEG": cv2.imencode(".jpg", image)[1].tobytes(),
        "nothing": b"",
    }
    for name, content in unusual.items():
        assert decode_png(content) is None, name
    deep = np.zeros((HEIGHT, WIDTH), np.uint16)
    deep[3, 4] = 1
    np.testing.assert_array_equal(decode_mask(cv2.imencode(".png", deep)[1].ravel()), deep)


def test_damage_is_left_to_opencv():
    """Any byte changed or missing, and image data whose own checksum is wrong."""
    content = _png(_pixels(3), 1)
    for at in range(0, len(content), 7):
        assert decode_png(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]) is None, at
        assert decode_png(content[:at]) is None, at
    data = zlib.compress(_filtered(_pixels(3), 0))
    assert decode_png(_png(_pixels(3), data=data[:-4] + b"abcd")) is None
