"""Undistortion against a pattern that is known everywhere."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3avatar.captures.undistortion import Undistortion

WIDTH, HEIGHT = 240, 200
K = np.array([[250.0, 0, 118.7], [0, 255.0, 101.2], [0, 0, 1]])
D = np.array([-0.25, 0.08, 2e-3, -1e-3, -0.01])


def _pattern(x, y):
    return 127 + 60 * np.sin(x / 9) * np.cos(y / 11) + 40 * np.sin((x + y) / 17)


def _bend(x, y):
    """Brown's lens model on normalised coordinates."""
    k1, k2, p1, p2, k3 = D
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def _seen_through_the_lens():
    """The pattern as the lens shows it: each distorted pixel has the value at its undistorted place."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    (fx, cx), (fy, cy) = K[0, [0, 2]], K[1, [1, 2]]
    target = (u - cx) / fx, (v - cy) / fy
    x, y = target
    for _ in range(60):  # the inverse by fixed-point iteration
        bent = _bend(x, y)
        x, y = x + target[0] - bent[0], y + target[1] - bent[1]
    assert np.abs(np.array(_bend(x, y)) - target).max() < 1e-9
    return _pattern(x * fx + cx, y * fy + cy)


def test_the_pattern_comes_back():
    distorted = cv2.merge([_seen_through_the_lens().round().astype(np.uint8)] * 3)
    rgb, mask = Undistortion(K, D, (WIDTH, HEIGHT), (WIDTH, HEIGHT))(distorted, np.ones((HEIGHT, WIDTH), np.uint8))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[12:-12, 12:-12] = True
    error = np.abs(rgb[..., 0] - _pattern(x, y))[inside & (mask == 1)]
    assert error.max() < 2.5 and error.mean() < 0.6
    assert np.abs(distorted[..., 0] - _pattern(x, y))[inside].max() > 20, "the lens must bend the pattern"


def test_mask_stays_binary_and_follows_the_image():
    disc = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(disc, (200, 160), 20, 1, -1)
    rgb, mask = Undistortion(K, D, (WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2))(cv2.merge([disc * 200] * 3), disc)
    assert set(np.unique(mask)) == {0, 1}
    centres = [np.array(np.nonzero(plane)).mean(1) for plane in (mask, rgb[..., 0] > 100)]
    np.testing.assert_allclose(*centres, atol=0.3)  # halving by nearest pixel cannot be centred


def test_without_distortion_the_image_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = (np.random.default_rng(1).random((HEIGHT, WIDTH)) > 0.5).astype(np.uint8)
    for D_ in (None, np.zeros(5)):
        rgb, same = Undistortion(K, D_, (WIDTH, HEIGHT), (WIDTH, HEIGHT))(image, mask)
        np.testing.assert_array_equal(rgb, image[..., ::-1] * mask[..., None])
        np.testing.assert_array_equal(same, mask)


def test_an_empty_mask_gives_a_black_image():
    image, mask = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    assert not any(plane.any() for plane in Undistortion(K, D, (WIDTH, HEIGHT), (WIDTH, HEIGHT))(image, mask))


def test_released_maps_are_computed_again():
    undistortion = Undistortion(K, D, (WIDTH, HEIGHT), (WIDTH, HEIGHT))
    image, mask = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    before = undistortion(image, mask)
    undistortion.release()
    for ours, expected in zip(undistortion(image, mask), before):
        np.testing.assert_array_equal(ours, expected)


def test_only_the_person_is_computed_and_the_result_is_that_of_the_whole():
    """For scales that divide the image and ones that do not, wherever the person is."""
    random = np.random.default_rng(0)
    for scaled_size in ((WIDTH, HEIGHT), (WIDTH // 4, HEIGHT // 4), (WIDTH // 3, HEIGHT // 4), (101, 77)):
        undistortion = Undistortion(K, D, (WIDTH, HEIGHT), scaled_size)
        for centre in ((120, 100), (3, 190), (239, 60)):
            image = random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            cv2.ellipse(mask, centre, (14, 37), 0, 0, 360, 1, -1)
            rgb, scaled_mask = undistortion(image, mask)
            maps = cv2.initUndistortRectifyMap(K, D, None, K, (WIDTH, HEIGHT), cv2.CV_16SC2)
            whole = cv2.remap(image, *maps, cv2.INTER_LINEAR)
            whole_mask = cv2.remap(mask, *maps, cv2.INTER_NEAREST)
            whole = cv2.resize(whole * whole_mask[..., None], scaled_size, interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(rgb, whole[..., ::-1])
            expected = cv2.resize(whole_mask, scaled_size, interpolation=cv2.INTER_NEAREST_EXACT)
            np.testing.assert_array_equal(scaled_mask, expected)


def _of_the_whole(image, mask, K, D, scaled_size):
    """All of the image undistorted, blackened and scaled at once."""
    if D is not None:
        maps = cv2.initUndistortRectifyMap(K, D, None, K, mask.shape[::-1], cv2.CV_16SC2)
        image, mask = cv2.remap(image, *maps, cv2.INTER_LINEAR), cv2.remap(mask, *maps, cv2.INTER_NEAREST)
    image = image * mask[..., None]
    if scaled_size != mask.shape[::-1]:
        image = cv2.resize(image, scaled_size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, scaled_size, interpolation=cv2.INTER_NEAREST_EXACT)
    return image[..., ::-1], mask


_RECTANGLES = st.lists(st.tuples(*[st.integers(0, 320)] * 2, *[st.integers(1, 200)] * 2), max_size=4)
_LENS = st.tuples(*[st.floats(-limit, limit) for limit in (0.4, 0.3, 0.02, 0.02, 0.1)])


@pytest.mark.parametrize("block", [1, 2, 4, 3, None])
@settings(max_examples=60, deadline=None)
@given(columns=st.integers(3, 80), rows=st.integers(3, 80), rectangles=_RECTANGLES, lens=_LENS | st.none(),
       seed=st.integers(0, 99))  # fmt: skip
def test_bands_of_windows_are_the_whole_image_to_the_bit(block, columns, rows, rectangles, lens, seed):
    """Any lens, any size, any number of persons and specks anywhere; block None: a scale that does not divide."""
    random = np.random.default_rng(seed)
    width, height = (block or 4) * columns, (block or 4) * rows
    scaled_size = (columns, rows) if block else (max(1, int(width / 2.7)), max(1, int(height / 3.3)))
    lens_K = np.array([[1.1 * width, 0, 0.47 * width], [0, 1.15 * width, 0.53 * height], [0, 0, 1]])
    D = np.array(lens) if lens and any(lens) else None  # a lens of zeros counts as none
    image, mask = random.integers(0, 256, (height, width, 3), dtype=np.uint8), np.zeros((height, width), np.uint8)
    for x, y, w, h in rectangles:
        mask[y % height :, x % width :][:h, :w] = 1
    found = Undistortion(lens_K, D, (width, height), scaled_size)(image, mask)
    for ours, expected in zip(found, _of_the_whole(image, mask, lens_K, D, scaled_size)):
        np.testing.assert_array_equal(ours, expected)
