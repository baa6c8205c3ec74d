"""Encoded images: sizes from headers, masks by any colour, damage noticed."""

import cv2
import numpy as np
import pytest

from r3avatar.captures.encoded_image import decode_image, decode_mask, image_size

IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8), (75, 90))


@pytest.mark.parametrize(
    "suffix, flags", [(".jpg", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), (".png", []), (".bmp", [])]
)
def test_size(suffix, flags):
    assert image_size(cv2.imencode(suffix, IMAGE, flags)[1].ravel()) == (75, 90)


def test_size_skips_a_thumbnail():
    """An embedded JPEG (as cameras put into Exif segments) has a frame header of its own."""
    jpeg, thumbnail = (cv2.imencode(".jpg", image)[1].tobytes() for image in (IMAGE, IMAGE[:8, :16]))
    segment = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    assert image_size(np.frombuffer(jpeg[:2] + segment + jpeg[2:], np.uint8)) == (75, 90)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mask_is_any_colour(channels):
    mask = np.zeros((6, 7, channels), np.uint8)
    if channels == 4:
        mask[..., 3] = 255  # opaque everywhere: says nothing
    mask[2, 3, 0], mask[4, 5, min(2, channels - 1)] = 1, 255
    expected = np.zeros((6, 7), np.uint8)
    expected[2, 3] = expected[4, 5] = 1
    decoded = decode_mask(cv2.imencode(".png", mask)[1].ravel())
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.98])
def test_cut_images_are_refused(suffix, kept):
    data = cv2.imencode(suffix, IMAGE)[1].ravel()
    with pytest.raises(ValueError, match=r"cut off|not a decodable"):
        decode_image(data[: int(len(data) * kept)], cv2.IMREAD_COLOR)


def test_a_header_without_pixels_has_no_size():
    png = cv2.imencode(".png", IMAGE)[1].ravel()
    png[16:20] = 0
    with pytest.raises(ValueError, match="header says 0x90 pixels"):
        image_size(png)
