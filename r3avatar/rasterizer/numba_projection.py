"""Projection of Gaussians to the image and its gradient (EWA splatting: Zwicker et al. 2001, eq. 26-31).

One pass a Gaussian and camera, in double precision (it is cheap here, and the determinants cancel): the twin of
projection.project_gaussians.
"""

from __future__ import annotations

import math

from numba import njit

from r3avatar.numba_threads import CHUNK, next_task

from .projection import ALPHA_MIN, FOV_MARGIN


@njit(error_model="numpy")
def _camera(w2c, K, width, height):
    """Rotation rows, translation, fx, fy, cx, cy, limits of x/z and y/z in the Jacobian, as one tuple of floats."""
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    margin_x, margin_y = FOV_MARGIN * 0.5 * width / fx, FOV_MARGIN * 0.5 * height / fy
    limits = (-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    rotation = (
        float(w2c[0, 0]), float(w2c[0, 1]), float(w2c[0, 2]),
        float(w2c[1, 0]), float(w2c[1, 1]), float(w2c[1, 2]),
        float(w2c[2, 0]), float(w2c[2, 1]), float(w2c[2, 2]),
    )  # fmt: skip
    return rotation, (float(w2c[0, 3]), float(w2c[1, 3]), float(w2c[2, 3])), (fx, fy, cx, cy), limits


@njit(error_model="numpy")
def _to_camera(mean, r, t):
    X, Y, Z = float(mean[0]), float(mean[1]), float(mean[2])
    return (
        r[0] * X + r[1] * Y + r[2] * Z + t[0],
        r[3] * X + r[4] * Y + r[5] * Z + t[1],
        r[6] * X + r[7] * Y + r[8] * Z + t[2],
    )


@njit(error_model="numpy")
def _ewa(x, y, z, r, intrinsics, limits, s):
    """Rows m0, m1 of Jacobian x rotation, their products u with the covariance s, and the clamped x/z, y/z."""
    fx, fy = intrinsics[0], intrinsics[1]
    tx = min(max(x / z, limits[0]), limits[1])
    ty = min(max(y / z, limits[2]), limits[3])
    gx, gy = fx / z, fy / z
    m0 = (gx * (r[0] - tx * r[6]), gx * (r[1] - tx * r[7]), gx * (r[2] - tx * r[8]))
    m1 = (gy * (r[3] - ty * r[6]), gy * (r[4] - ty * r[7]), gy * (r[5] - ty * r[8]))
    u0 = (
        s[0] * m0[0] + s[1] * m0[1] + s[2] * m0[2],
        s[1] * m0[0] + s[3] * m0[1] + s[4] * m0[2],
        s[2] * m0[0] + s[4] * m0[1] + s[5] * m0[2],
    )
    u1 = (
        s[0] * m1[0] + s[1] * m1[1] + s[2] * m1[2],
        s[1] * m1[0] + s[3] * m1[1] + s[4] * m1[2],
        s[2] * m1[0] + s[4] * m1[1] + s[5] * m1[2],
    )
    return m0, m1, u0, u1, tx, ty


@njit(error_model="numpy")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(error_model="numpy")
def _covariance(values):
    return (
        float(values[0]), float(values[1]), float(values[2]),
        float(values[3]), float(values[4]), float(values[5]),
    )  # fmt: skip


@njit(error_model="numpy")
def _project_one(mean, covariance, opacity, camera, width, height, eps2d, near, antialiased, mean2d, conic):
    """Fill mean2d and conic; returns the compensated opacity, the depth and the radius, or zeros where not visible."""
    rotation, translation, intrinsics, limits = camera
    x, y, z = _to_camera(mean, rotation, translation)
    mean2d[:] = 0.0
    conic[:] = 0.0
    if not z >= near:
        return 0.0, 0.0, 0.0
    u = intrinsics[0] * x / z + intrinsics[2]
    v = intrinsics[1] * y / z + intrinsics[3]
    m0, m1, u0, u1, _, _ = _ewa(x, y, z, rotation, intrinsics, limits, _covariance(covariance))
    xx, xy, yy = _dot(m0, u0), _dot(m0, u1), _dot(m1, u1)
    raw = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    determinant = xx * yy - xy * xy
    opacity = float(opacity)
    if antialiased:
        opacity *= math.sqrt(max(raw / determinant, 0.0)) if determinant > 0.0 else 0.0
    if not (0.0 < determinant < math.inf and opacity >= ALPHA_MIN):
        return 0.0, 0.0, 0.0
    extent = 2.0 * math.log(opacity / ALPHA_MIN)
    half_x, half_y = math.ceil(math.sqrt(extent * xx)), math.ceil(math.sqrt(extent * yy))
    if not (u + half_x > 0.0 and u - half_x < width and v + half_y > 0.0 and v - half_y < height):
        return 0.0, 0.0, 0.0
    mean2d[0], mean2d[1] = u, v
    conic[0], conic[1], conic[2] = yy / determinant, -xy / determinant, xx / determinant
    middle = 0.5 * (xx + yy)
    longest = middle + math.sqrt(max(middle * middle - determinant, 0.0))
    return opacity, z, 3.0 * math.sqrt(longest)


@njit(nogil=True, cache=True, error_model="numpy")
def project_forward(
    counter, tasks, means, covariances, opacities, w2c, K, width, height, eps2d, antialiased, near,
    means2d, conics, weights, depths, radii,
):  # fmt: skip
    """Fill means2d [F,V,N,2], conics [F,V,N,3] and weights (compensated opacities), depths, radii [F,V,N].

    A task is CHUNK Gaussians of an image; there are F V chunks(N).
    """
    F, V, N = depths.shape
    chunks = tasks // (F * V)
    task = next_task(counter)
    while task < tasks:
        f, v, begin = task // chunks // V, task // chunks % V, task % chunks * CHUNK
        camera = _camera(w2c[f, v], K[f, v], width, height)
        for n in range(begin, min(begin + CHUNK, N)):
            weights[f, v, n], depths[f, v, n], radii[f, v, n] = _project_one(
                means[f, n], covariances[f, n], opacities[f, n], camera, width, height, eps2d, near, antialiased,
                means2d[f, v, n], conics[f, v, n],
            )  # fmt: skip
        task = next_task(counter)


@njit(error_model="numpy")
def _project_one_backward(
    mean, covariance, opacity, camera, eps2d, antialiased, g_mean2d, g_conic, g_weight, d_mean, d_covariance
):
    """Add one camera's gradients to d_mean and d_covariance; returns the opacity's."""
    r, translation, intrinsics, limits = camera
    fx, fy = intrinsics[0], intrinsics[1]
    x, y, z = _to_camera(mean, r, translation)
    s = _covariance(covariance)
    m0, m1, u0, u1, tx, ty = _ewa(x, y, z, r, intrinsics, limits, s)
    xx, xy, yy = _dot(m0, u0), _dot(m0, u1), _dot(m1, u1)
    raw = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    determinant = xx * yy - xy * xy

    # G = dL/d(2D covariance), symmetric: -Q V Q with Q the conic and V its gradient, off-diagonal halved.
    a, b, c = yy / determinant, -xy / determinant, xx / determinant
    ga, gb, gc = float(g_conic[0]), 0.5 * float(g_conic[1]), float(g_conic[2])
    p, q, t, w = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
    gxx, gxy, gyy = -(p * a + q * b), -(p * b + q * c), -(t * b + w * c)
    g_opacity = float(g_weight)
    if antialiased:
        ratio = math.sqrt(max(raw / determinant, 0.0))
        # d ratio = d(raw / determinant) / (2 ratio); a visible Gaussian's ratio is at least 1/255.
        scale = float(g_weight) * float(opacity) * 0.5 / ratio / (determinant * determinant)
        gxx += scale * ((yy - eps2d) * determinant - raw * yy)
        gyy += scale * ((xx - eps2d) * determinant - raw * xx)
        gxy -= scale * xy * (determinant - raw)
        g_opacity *= ratio

    # Sigma2d = M Sigma M^T: to Sigma (off-diagonals stand for two entries), to M, to the Jacobian's entries.
    d_covariance[0] += gxx * m0[0] * m0[0] + 2.0 * gxy * m0[0] * m1[0] + gyy * m1[0] * m1[0]
    d_covariance[3] += gxx * m0[1] * m0[1] + 2.0 * gxy * m0[1] * m1[1] + gyy * m1[1] * m1[1]
    d_covariance[5] += gxx * m0[2] * m0[2] + 2.0 * gxy * m0[2] * m1[2] + gyy * m1[2] * m1[2]
    d_covariance[1] += 2.0 * (gxx * m0[0] * m0[1] + gxy * (m0[0] * m1[1] + m0[1] * m1[0]) + gyy * m1[0] * m1[1])
    d_covariance[2] += 2.0 * (gxx * m0[0] * m0[2] + gxy * (m0[0] * m1[2] + m0[2] * m1[0]) + gyy * m1[0] * m1[2])
    d_covariance[4] += 2.0 * (gxx * m0[1] * m0[2] + gxy * (m0[1] * m1[2] + m0[2] * m1[1]) + gyy * m1[1] * m1[2])
    g0 = (2.0 * (gxx * u0[0] + gxy * u1[0]), 2.0 * (gxx * u0[1] + gxy * u1[1]), 2.0 * (gxx * u0[2] + gxy * u1[2]))
    g1 = (2.0 * (gxy * u0[0] + gyy * u1[0]), 2.0 * (gxy * u0[1] + gyy * u1[1]), 2.0 * (gxy * u0[2] + gyy * u1[2]))
    j00, j02 = _dot(g0, (r[0], r[1], r[2])), _dot(g0, (r[6], r[7], r[8]))
    j11, j12 = _dot(g1, (r[3], r[4], r[5])), _dot(g1, (r[6], r[7], r[8]))

    # J = [[fx/z, 0, -fx tx/z], [0, fy/z, -fy ty/z]] with tx = clamp(x/z): dtx is zero where the clamp holds.
    inside_x, inside_y = limits[0] < x / z < limits[1], limits[2] < y / z < limits[3]
    zz = z * z
    g_x = fx / z * float(g_mean2d[0])
    g_y = fy / z * float(g_mean2d[1])
    g_z = -(g_x * x + g_y * y) / z
    g_z += (-fx * j00 - fy * j11 + fx * tx * j02 + fy * ty * j12) / zz
    if inside_x:
        g_x -= fx / zz * j02
        g_z += fx * tx / zz * j02
    if inside_y:
        g_y -= fy / zz * j12
        g_z += fy * ty / zz * j12
    d_mean[0] += r[0] * g_x + r[3] * g_y + r[6] * g_z
    d_mean[1] += r[1] * g_x + r[4] * g_y + r[7] * g_z
    d_mean[2] += r[2] * g_x + r[5] * g_y + r[8] * g_z
    return g_opacity


@njit(nogil=True, cache=True, error_model="numpy")
def project_backward(
    counter, tasks, means, covariances, opacities, w2c, K, width, height, eps2d, antialiased, radii,
    g_means2d, g_conics, g_weights, d_means, d_covariances, d_opacities,
):  # fmt: skip
    """Fill d_means [F,N,3], d_covariances [F,N,6], d_opacities [F,N]: sums over the views.

    A task is CHUNK Gaussians of a frame; there are F chunks(N).
    """
    F, V, N = radii.shape
    chunks = tasks // F
    task = next_task(counter)
    while task < tasks:
        f, begin = task // chunks, task % chunks * CHUNK
        end = min(begin + CHUNK, N)
        d_means[f, begin:end] = 0.0
        d_covariances[f, begin:end] = 0.0
        d_opacities[f, begin:end] = 0.0
        for v in range(V):
            camera = _camera(w2c[f, v], K[f, v], width, height)
            for n in range(begin, end):
                if radii[f, v, n] > 0.0:
                    d_opacities[f, n] += _project_one_backward(
                        means[f, n], covariances[f, n], opacities[f, n], camera, eps2d, antialiased,
                        g_means2d[f, v, n], g_conics[f, v, n], g_weights[f, v, n], d_means[f, n], d_covariances[f, n],
                    )  # fmt: skip
        task = next_task(counter)
