"""Projection through the lens and the triangle z-buffer, against OpenCV and by hand."""

import cv2
import numpy as np

from r3avatar.captures.synthesis.raster import project, rasterize, window
from r3avatar.captures.synthesis.rig import ring


def _drawn(points, triangles, two_sided, size, samples=2):
    shape = size * samples, size * samples
    index, nearness = np.empty(shape, np.int32), np.empty(shape, np.float32)
    rasterize(
        np.array(points, np.float64), np.array(triangles, np.int32), np.array(two_sided), 0, 0, samples, index, nearness
    )
    return index


def test_projection_is_opencvs(tiny):
    points = tiny.performance.vertices[0]
    rig = ring(points[None], [0, 1, 2], [3], width=640, height=512, distortion=(-0.2, 0.1, 1e-3, -2e-3, 0.05), seed=3)
    for camera in rig.values():
        out = np.empty_like(points)
        bounds = project(points, camera.w2c, camera.K, camera.D, out)
        rotation, _ = cv2.Rodrigues(camera.w2c[:3, :3])
        expected, _ = cv2.projectPoints(points, rotation, camera.w2c[:3, 3], camera.K, camera.D)
        np.testing.assert_allclose(out[:, :2], expected[:, 0], atol=1e-8)
        np.testing.assert_allclose(1.0 / out[:, 2], (points @ camera.w2c[:3, :3].T + camera.w2c[:3, 3])[:, 2])
        x0, y0, x1, y1 = window(bounds, camera.width, camera.height)
        assert (out[:, 0] > x0 - 0.5).all() and (out[:, 0] < x1 - 0.5).all()
        assert (out[:, 1] > y0 - 0.5).all() and (out[:, 1] < y1 - 0.5).all()
        assert x0 > 0 and y0 > 0 and x1 < camera.width and y1 < camera.height  # nobody is cut


def test_coverage_is_the_area():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, c = rng.uniform(5, 95, (3, 2))
        area = 0.5 * abs((b - a)[0] * (c - a)[1] - (c - a)[0] * (b - a)[1])
        edge = sum(np.linalg.norm(p - q) for p, q in ((a, b), (b, c), (c, a)))
        index = _drawn([(*a, 1.0), (*b, 1.0), (*c, 1.0)], [(0, 1, 2)], [True], 100)
        assert abs((index == 0).sum() / 4 - area) < 0.25 * edge


def test_nearest_wins_and_backs_are_culled():
    square = [(10, 10, 0.5), (40, 10, 0.5), (40, 40, 0.5), (10, 40, 0.5)]
    near = [(20, 20, 2.0), (20, 60, 2.0), (60, 20, 2.0)]
    clockwise = [(0, 3, 1), (1, 3, 2)]
    index = _drawn(square + near, [*clockwise, (4, 5, 6)], [False] * 3, 50)
    assert index[60, 60] == 2 and index[30, 30] == 0 and index[10, 10] == -1
    turned = [(a, c, b) for a, b, c in clockwise]
    assert (_drawn(square, turned, [False, False], 50) == -1).all()
    assert (_drawn(square, turned, [True, True], 50) >= 0).sum() == (
        _drawn(square, clockwise, [False] * 2, 50) >= 0
    ).sum()


def test_shared_edges_leave_no_holes():
    rng = np.random.default_rng(1)
    n = 12
    grid = np.stack(np.meshgrid(np.linspace(5, 60, n), np.linspace(5, 60, n)), -1)
    grid[1:-1, 1:-1] += rng.uniform(-1.5, 1.5, (n - 2, n - 2, 2))
    points = np.concatenate([grid.reshape(-1, 2), np.ones((n * n, 1))], 1)
    cells = [i * n + j for i in range(n - 1) for j in range(n - 1)]
    triangles = [t for k in cells for t in ((k, k + 1, k + n), (k + 1, k + n + 1, k + n))]
    index = _drawn(points, triangles, [True] * len(triangles), 66)
    assert (index[12:120, 12:120] >= 0).all()
