"""The kernels of triton_projection: a Gaussian's image under V cameras, its colours, and the gradients of both.

EWA splatting (Zwicker et al. 2001, eq. 26-31). A program takes a block of Gaussians of a frame; its tiles are
[Gaussians, views] with the views of a Gaussian in one thread, so that what they share is loaded once and their
gradients are added in registers: no atomics, the same sums every time. (The other way round, [views, Gaussians], Triton
spreads the views over the lanes and every sum goes through shared memory.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from .projection import ALPHA_MIN, FOV_MARGIN
from .triton_harmonics import colours_at, colours_backward

_ALPHA_MIN = tl.constexpr(ALPHA_MIN)
_INVERSE_ALPHA_MIN = tl.constexpr(1.0 / ALPHA_MIN)
_RATIO_MIN = tl.constexpr(ALPHA_MIN**2 / 4)  # of the determinants before and after: dimmer than this is not drawn
_MARGIN = tl.constexpr(0.5 * FOV_MARGIN)
# The box of pixels drawn is widened by this share and these pixels, against rounding: a pixel whose centre lies on its
# border has an alpha of 1/255 to within the precision of float32.
_SLACK = tl.constexpr(1.001)
_SLACK_PIXELS = tl.constexpr(0.02)


@triton.jit
def _camera(w2c, intrinsics, camera, is_camera):
    """Rows of the rotation, translation, fx, fy, cx, cy of cameras [1, views]; identities where there is none."""
    w2c += camera * 16
    intrinsics += camera * 9
    r00 = tl.load(w2c, mask=is_camera, other=1.0)
    r01 = tl.load(w2c + 1, mask=is_camera, other=0.0)
    r02 = tl.load(w2c + 2, mask=is_camera, other=0.0)
    tx = tl.load(w2c + 3, mask=is_camera, other=0.0)
    r10 = tl.load(w2c + 4, mask=is_camera, other=0.0)
    r11 = tl.load(w2c + 5, mask=is_camera, other=1.0)
    r12 = tl.load(w2c + 6, mask=is_camera, other=0.0)
    ty = tl.load(w2c + 7, mask=is_camera, other=0.0)
    r20 = tl.load(w2c + 8, mask=is_camera, other=0.0)
    r21 = tl.load(w2c + 9, mask=is_camera, other=0.0)
    r22 = tl.load(w2c + 10, mask=is_camera, other=1.0)
    tz = tl.load(w2c + 11, mask=is_camera, other=0.0)
    fx = tl.load(intrinsics, mask=is_camera, other=1.0)
    cx = tl.load(intrinsics + 2, mask=is_camera, other=0.0)
    fy = tl.load(intrinsics + 4, mask=is_camera, other=1.0)
    cy = tl.load(intrinsics + 5, mask=is_camera, other=0.0)
    return r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz, fx, fy, cx, cy


@triton.jit
def _load3(pointer, mask):
    """Three neighbouring floats, 0 where masked."""
    a = tl.load(pointer, mask=mask, other=0.0)
    b = tl.load(pointer + 1, mask=mask, other=0.0)
    c = tl.load(pointer + 2, mask=mask, other=0.0)
    return a, b, c


@triton.jit
def _store3(pointer, a, b, c, mask):
    tl.store(pointer, a, mask=mask)
    tl.store(pointer + 1, b, mask=mask)
    tl.store(pointer + 2, c, mask=mask)


@triton.jit
def _total(x, visible):
    """The sum over the views that see the Gaussian, [Gaussians, 1]."""
    return tl.sum(tl.where(visible, x, 0.0), 1, keep_dims=True)


@triton.jit
def _apply(s0, s1, s2, s3, s4, s5, x, y, z):
    """The symmetric matrix of an upper triangle times a vector."""
    return s0 * x + s1 * y + s2 * z, s1 * x + s3 * y + s4 * z, s2 * x + s4 * y + s5 * z


@triton.jit
def _slope(ratio, focal, centre, size):
    """x / z clamped to the image and a margin (y / z alike), and whether the clamp left it alone."""
    margin = _MARGIN * size / focal
    low, high = -centre / focal - margin, (size - centre) / focal + margin
    return tl.minimum(tl.maximum(ratio, low), high), (ratio > low) & (ratio < high)


@triton.jit
def _direction(mx, my, mz, r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz):
    """Unit vectors from the cameras' centres -R^T t to the means, and the inverse distances."""
    x = mx + (r00 * tx + r10 * ty + r20 * tz)
    y = my + (r01 * tx + r11 * ty + r21 * tz)
    z = mz + (r02 * tx + r12 * ty + r22 * tz)
    inverse = 1.0 / tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-12)
    return x * inverse, y * inverse, z * inverse, inverse


@triton.jit
def _tiles(centre, half, size, TILE: tl.constexpr):
    """First tile and the one after the last of the pixels whose centres lie within `half` of `centre`, and if any."""
    half = half * _SLACK + _SLACK_PIXELS
    limit = size.to(tl.float32)
    # Clamped as floats: what is far outside would not fit an int.
    first = tl.minimum(tl.maximum(tl.ceil(centre - half - 0.5), 0.0), limit).to(tl.int32)
    end = tl.minimum(tl.maximum(tl.floor(centre + half + 0.5), 0.0), limit).to(tl.int32)
    return first // TILE, (end + (TILE - 1)) // TILE, first < end


@triton.jit(do_not_specialize=["V", "N", "width", "height"])
def project_forward(
    means, covariances, opacities, sh, w2c, intrinsics,
    means2d, conics, weights, colours, depths, radii, boxes,
    V, N, width, height, eps2d, near,
    ANTIALIASED: tl.constexpr, HARMONICS: tl.constexpr, SHARED: tl.constexpr,
    TILE: tl.constexpr, VIEWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    f = tl.program_id(2).to(tl.int64)
    gaussian = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = gaussian[:, None]  # [Gaussians, 1]
    v = tl.program_id(1) * VIEWS + tl.arange(0, VIEWS)[None, :]  # [1, views]
    exists = n < N
    W, H = width.to(tl.float32), height.to(tl.float32)

    r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz, fx, fy, cx, cy = _camera(w2c, intrinsics, f * V + v, v < V)
    mx, my, mz = _load3(means + f * N * 3 + n * 3, exists)
    s0, s1, s2 = _load3(covariances + f * N * 6 + n * 6, exists)
    s3, s4, s5 = _load3(covariances + f * N * 6 + n * 6 + 3, exists)
    opacity = tl.load(opacities + f * N + n, mask=exists, other=0.0)

    x = r00 * mx + r01 * my + r02 * mz + tx
    y = r10 * mx + r11 * my + r12 * mz + ty
    depth = r20 * mx + r21 * my + r22 * mz + tz
    in_front = depth >= near
    z = tl.where(in_front, depth, 1.0)
    x, y = x / z, y / z
    px, py = fx * x + cx, fy * y + cy
    jx, jy = fx / z, fy / z
    ax, _ = _slope(x, fx, cx, W)
    ay, _ = _slope(y, fy, cy, H)
    m00, m01, m02 = jx * (r00 - ax * r20), jx * (r01 - ax * r21), jx * (r02 - ax * r22)
    m10, m11, m12 = jy * (r10 - ay * r20), jy * (r11 - ay * r21), jy * (r12 - ay * r22)
    u0, u1, u2 = _apply(s0, s1, s2, s3, s4, s5, m00, m01, m02)
    xx, xy = m00 * u0 + m01 * u1 + m02 * u2, m10 * u0 + m11 * u1 + m12 * u2
    u0, u1, u2 = _apply(s0, s1, s2, s3, s4, s5, m10, m11, m12)
    yy = m10 * u0 + m11 * u1 + m12 * u2
    before = xx * yy - xy * xy
    xx += eps2d
    yy += eps2d
    determinant = xx * yy - xy * xy
    sound = exists & (v < V) & in_front & (determinant > 0.0) & (determinant < float("inf"))
    determinant = tl.where(sound, determinant, 1.0)
    weight = tl.zeros_like(z) + opacity
    if ANTIALIASED:
        weight *= tl.sqrt(tl.maximum(before / determinant, _RATIO_MIN))
    sound = sound & (weight >= _ALPHA_MIN)
    extent = 2.0 * tl.log(tl.maximum(weight * _INVERSE_ALPHA_MIN, 1.0))
    half_x, half_y = tl.sqrt(tl.maximum(extent * xx, 0.0)), tl.sqrt(tl.maximum(extent * yy, 0.0))
    wide, high = tl.ceil(half_x), tl.ceil(half_y)
    visible = sound & (px + wide > 0.0) & (px - wide < W) & (py + high > 0.0) & (py - high < H)

    stored = exists & (v < V)
    row = v * N + n
    means2d += f * V * N * 2
    tl.store(means2d + row * 2, tl.where(visible, px, 0.0), mask=stored)
    tl.store(means2d + row * 2 + 1, tl.where(visible, py, 0.0), mask=stored)
    inverse = tl.where(visible, 1.0 / determinant, 0.0)
    a, b, c = tl.where(visible, yy, 0.0), tl.where(visible, -xy, 0.0), tl.where(visible, xx, 0.0)
    _store3(conics + f * V * N * 3 + row * 3, a * inverse, b * inverse, c * inverse, stored)
    tl.store(weights + f * V * N + row, tl.where(visible, weight, 0.0), mask=stored)
    tl.store(depths + f * V * N + row, tl.where(visible, depth, 0.0), mask=stored)
    # The larger eigenvalue, under the root as a sum of squares: the twin's difference would cancel for round Gaussians.
    apart = 0.5 * (xx - yy)
    longest = 0.5 * (xx + yy) + tl.sqrt(apart * apart + xy * xy)
    tl.store(radii + f * V * N + row, tl.where(visible, 3.0 * tl.sqrt(longest), 0.0), mask=stored)

    x0, x1, any_x = _tiles(tl.where(visible, px, 0.0), tl.where(visible, half_x, 0.0), width, TILE)
    y0, y1, any_y = _tiles(tl.where(visible, py, 0.0), tl.where(visible, half_y, 0.0), height, TILE)
    drawn = visible & any_x & any_y
    boxes += f * V * N * 4 + row * 4
    tl.store(boxes, tl.where(drawn, x0, 0), mask=stored)
    tl.store(boxes + 1, tl.where(drawn, y0, 0), mask=stored)
    tl.store(boxes + 2, tl.where(drawn, x1, 0), mask=stored)
    tl.store(boxes + 3, tl.where(drawn, y1, 0), mask=stored)

    x, y, z, _ = _direction(mx, my, mz, r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz)
    owner = f * N
    if SHARED:
        owner = owner * 0
    red, green, blue = colours_at(sh, owner, gaussian, N, HARMONICS, x, y, z)
    red = tl.where(visible, tl.maximum(red, 0.0), 0.0)
    green = tl.where(visible, tl.maximum(green, 0.0), 0.0)
    blue = tl.where(visible, tl.maximum(blue, 0.0), 0.0)
    _store3(colours + f * V * N * 3 + row * 3, red, green, blue, stored)


@triton.jit(do_not_specialize=["F", "V", "N", "width", "height"])
def project_backward(
    means, covariances, opacities, sh, w2c, intrinsics,
    colours, radii, g_means2d, g_conics, g_weights, g_colours,
    d_means, d_covariances, d_opacities, d_sh,
    F, V, N, width, height, eps2d,
    ANTIALIASED: tl.constexpr, HARMONICS: tl.constexpr, SHARED: tl.constexpr,
    GROUP: tl.constexpr, VIEWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Coefficients that the frames share get the sum over them: one program then takes all frames.
    frame = tl.program_id(1)
    end = frame + 1
    if SHARED:
        end = F
    gaussian = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = gaussian[:, None]
    exists = n < N
    W, H = width.to(tl.float32), height.to(tl.float32)
    # while, not range: with NumPy 2.4 Triton's interpreter has no range over what is known at run time alone.
    while frame < end:
        f = frame.to(tl.int64)
        at, image = f * N + n, f * V * N
        mx, my, mz = _load3(means + at * 3, exists)
        s0, s1, s2 = _load3(covariances + at * 6, exists)
        s3, s4, s5 = _load3(covariances + at * 6 + 3, exists)
        opacity = tl.load(opacities + at, mask=exists, other=0.0)

        zero = tl.zeros([BLOCK, 1], tl.float32)
        d_x, d_y, d_z, d_opacity = zero, zero, zero, zero
        d0, d1, d2, d3, d4, d5 = zero, zero, zero, zero, zero, zero
        group = 0
        while group < V:
            v = group + tl.arange(0, GROUP)[None, :]
            row = v * N + n
            r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz, fx, fy, cx, cy = _camera(
                w2c, intrinsics, f * V + v, v < V
            )
            radius = tl.load(radii + image + row, mask=exists & (v < V), other=0.0)
            visible = radius > 0.0

            # Projection again, now of what is visible alone: the rest lies at depth 1 and has the determinant 1.
            x = tl.where(visible, r00 * mx + r01 * my + r02 * mz + tx, 0.0)
            y = tl.where(visible, r10 * mx + r11 * my + r12 * mz + ty, 0.0)
            z = tl.where(visible, r20 * mx + r21 * my + r22 * mz + tz, 1.0)
            x, y = x / z, y / z
            jx, jy = fx / z, fy / z
            ax, free_x = _slope(x, fx, cx, W)
            ay, free_y = _slope(y, fy, cy, H)
            m00, m01, m02 = jx * (r00 - ax * r20), jx * (r01 - ax * r21), jx * (r02 - ax * r22)
            m10, m11, m12 = jy * (r10 - ay * r20), jy * (r11 - ay * r21), jy * (r12 - ay * r22)
            u00, u01, u02 = _apply(s0, s1, s2, s3, s4, s5, m00, m01, m02)
            u10, u11, u12 = _apply(s0, s1, s2, s3, s4, s5, m10, m11, m12)
            xx, xy = m00 * u00 + m01 * u01 + m02 * u02, m10 * u00 + m11 * u01 + m12 * u02
            yy = m10 * u10 + m11 * u11 + m12 * u12
            determinant = tl.where(visible, (xx + eps2d) * (yy + eps2d) - xy * xy, 1.0)
            inverse = 1.0 / determinant

            # G: gradient of the covariance on the image, symmetric: -Q S Q, with Q the conic and S its gradient, whose
            # entry off the diagonal is halved.
            a, b, c = (yy + eps2d) * inverse, -xy * inverse, (xx + eps2d) * inverse
            ga, gb, gc = _load3(g_conics + image * 3 + row * 3, visible)
            gb *= 0.5
            p, q, t, w = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
            gxx, gxy, gyy = -(p * a + q * b), -(p * b + q * c), -(t * b + w * c)
            g_opacity = tl.load(g_weights + image + row, mask=visible, other=0.0)
            if ANTIALIASED:
                # The ratio r = sqrt(before / after) has in xx the derivative eps2d (yy^2 + eps2d yy + xy^2)
                # / (2 r after^2): sums of squares, where the quotient rule's terms would cancel. Where visible, r is
                # at least 1/255.
                ratio = tl.sqrt(tl.maximum((xx * yy - xy * xy) * inverse, _RATIO_MIN))
                scale = g_opacity * opacity * 0.5 / ratio * inverse * inverse * eps2d
                gxx += scale * (yy * (yy + eps2d) + xy * xy)
                gyy += scale * (xx * (xx + eps2d) + xy * xy)
                gxy -= scale * xy * (xx + yy + eps2d)
                g_opacity *= ratio
            d_opacity += _total(g_opacity, visible)

            # The covariance on the image is M S M^T: to S, whose entries off the diagonal stand for two each, and to M.
            d0 += _total(gxx * m00 * m00 + 2.0 * gxy * m00 * m10 + gyy * m10 * m10, visible)
            d1 += _total(2.0 * (gxx * m00 * m01 + gxy * (m00 * m11 + m01 * m10) + gyy * m10 * m11), visible)
            d2 += _total(2.0 * (gxx * m00 * m02 + gxy * (m00 * m12 + m02 * m10) + gyy * m10 * m12), visible)
            d3 += _total(gxx * m01 * m01 + 2.0 * gxy * m01 * m11 + gyy * m11 * m11, visible)
            d4 += _total(2.0 * (gxx * m01 * m02 + gxy * (m01 * m12 + m02 * m11) + gyy * m11 * m12), visible)
            d5 += _total(gxx * m02 * m02 + 2.0 * gxy * m02 * m12 + gyy * m12 * m12, visible)
            g0, g1, g2 = gxx * u00 + gxy * u10, gxx * u01 + gxy * u11, gxx * u02 + gxy * u12
            j00, j02 = 2.0 * (g0 * r00 + g1 * r01 + g2 * r02), 2.0 * (g0 * r20 + g1 * r21 + g2 * r22)
            g0, g1, g2 = gxy * u00 + gyy * u10, gxy * u01 + gyy * u11, gxy * u02 + gyy * u12
            j11, j12 = 2.0 * (g0 * r10 + g1 * r11 + g2 * r12), 2.0 * (g0 * r20 + g1 * r21 + g2 * r22)

            # J = [[fx/z, 0, -fx ax/z], [0, fy/z, -fy ay/z]] with ax = clamp(x/z): constant where the clamp holds.
            g_x = jx * tl.load(g_means2d + image * 2 + row * 2, mask=visible, other=0.0)
            g_y = jy * tl.load(g_means2d + image * 2 + row * 2 + 1, mask=visible, other=0.0)
            g_x -= tl.where(free_x, jx / z * j02, 0.0)
            g_y -= tl.where(free_y, jy / z * j12, 0.0)
            g_z = -(g_x * x + g_y * y) + (jx * (ax * j02 - j00) + jy * (ay * j12 - j11)) / z
            d_x += _total(r00 * g_x + r10 * g_y + r20 * g_z, visible)
            d_y += _total(r01 * g_x + r11 * g_y + r21 * g_z, visible)
            d_z += _total(r02 * g_x + r12 * g_y + r22 * g_z, visible)
            group += GROUP
        tl.store(d_opacities + at, d_opacity, mask=exists)
        _store3(d_covariances + at * 6, d0, d1, d2, exists)
        _store3(d_covariances + at * 6 + 3, d3, d4, d5, exists)

        # Colours, all views at once: a coefficient's gradient is then a sum within the tile and need not be carried
        # from view to view. The clamp at 0 stops the gradient; what is not visible has the colour 0.
        v = tl.arange(0, VIEWS)[None, :]
        row = v * N + n
        red, green, blue = _load3(colours + image * 3 + row * 3, exists & (v < V))
        g_red = tl.load(g_colours + image * 3 + row * 3, mask=red > 0.0, other=0.0)
        g_green = tl.load(g_colours + image * 3 + row * 3 + 1, mask=green > 0.0, other=0.0)
        g_blue = tl.load(g_colours + image * 3 + row * 3 + 2, mask=blue > 0.0, other=0.0)
        lit = (red > 0.0) | (green > 0.0) | (blue > 0.0)
        r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz, fx, fy, cx, cy = _camera(
            w2c, intrinsics, f * V + v, v < V
        )
        x, y, z, inverse = _direction(mx, my, mz, r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz)
        x, y, z = tl.where(lit, x, 0.0), tl.where(lit, y, 0.0), tl.where(lit, z, 0.0)
        owner, share = f * N, 1.0
        if SHARED:
            owner, share = owner * 0, 1.0 / F
        g0, g1, g2 = colours_backward(
            sh, d_sh, owner, gaussian, N, HARMONICS, x, y, z, g_red, g_green, g_blue, share, SHARED, frame
        )
        if HARMONICS > 1:
            # Through the normalisation: only what is across the direction turns it.
            along = g0 * x + g1 * y + g2 * z
            d_x += _total((g0 - along * x) * inverse, lit)
            d_y += _total((g1 - along * y) * inverse, lit)
            d_z += _total((g2 - along * z) * inverse, lit)
        _store3(d_means + at * 3, d_x, d_y, d_z, exists)
        if SHARED:
            tl.debug_barrier()  # the next frame reads d_sh
        frame += 1
