"""Covariances, cameras and the projection of Gaussians to the image, in plain PyTorch.

The formulas every rasterizer here shares: Sigma = L R S S^T R^T L^T (Kerbl et al. 2023, eq. 6), its image under a
pinhole camera by the local affine approximation (EWA splatting: Zwicker et al. 2001, eq. 26-31), and the matrices of
the rasterizers that want clip space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Cameras

ALPHA_MAX = 0.999  # a Gaussian never hides more of what is behind it
ALPHA_MIN = 1.0 / 255.0  # below, it is not drawn
T_MIN = 1e-4  # the Gaussian that would take the transmittance to this or less ends the pixel, undrawn
FOV_MARGIN = 0.3  # the Jacobian's point is clamped to the image and this share of half its width (height) more


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotation matrices of quaternions.

    Args:
        quaternions: [..., 4] (w, x, y, z) of any length but zero.

    Returns:
        [..., 3, 3], acting on column vectors.
    """
    return torch.stack([entry for row in _rotation_rows(quaternions) for entry in row], -1).unflatten(-1, (3, 3))


def _rotation_rows(quaternions: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    xy, xz, yz, wx, wy, wz = x * y, x * z, y * z, w * x, w * y, w * z
    return (
        (1 - 2 * (yy + zz), 2 * (xy - wz), 2 * (xz + wy)),
        (2 * (xy + wz), 1 - 2 * (xx + zz), 2 * (yz - wx)),
        (2 * (xz - wy), 2 * (yz + wx), 1 - 2 * (xx + yy)),
    )


def covariance_from_scale_rotation(scales: Tensor, quaternions: Tensor, linear: Tensor | None = None) -> Tensor:
    """Covariances L R S S^T R^T L^T (Kerbl et al. 2023, eq. 6, under the linear map L).

    Args:
        scales: [..., 3] standard deviations along the Gaussian's own axes, metres.
        quaternions: [..., 4] (w, x, y, z), not necessarily of unit length.
        linear: [..., 3, 3] map from the Gaussian's space to the world (skinning), or None for the identity.

    Returns:
        [..., 6] upper triangles (xx, xy, xz, yy, yz, zz), square metres.
    """
    # Entry by entry: on the CPU twice as fast as products of many 3 x 3 matrices.
    M = _rotation_rows(quaternions)
    if linear is not None:
        L = [row.unbind(-1) for row in linear.unbind(-2)]
        M = [[sum(L[i][j] * M[j][k] for j in range(3)) for k in range(3)] for i in range(3)]
    s = scales.unbind(-1)
    M = [[row[k] * s[k] for k in range(3)] for row in M]
    return torch.stack([sum(M[i][k] * M[j][k] for k in range(3)) for i in range(3) for j in range(i, 3)], -1)


def symmetric_matrix(triangles: Tensor) -> Tensor:
    """Upper triangles [..., 6] (xx, xy, xz, yy, yz, zz) as symmetric matrices [..., 3, 3]."""
    return triangles[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))


def field_of_view(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical angles of view [...] in radians, of the image size alone (principal point ignored)."""
    fx, fy = cameras.K[..., 0, 0], cameras.K[..., 1, 1]
    return 2 * torch.atan(cameras.width / (2 * fx)), 2 * torch.atan(cameras.height / (2 * fy))


def clip_matrix(cameras: Cameras, near: float, far: float) -> Tensor:
    """Camera space to clip space, y down, z forward, depth in [-1, 1].

    Args:
        cameras: [...] cameras; a skew and an off-centre principal point are kept.
        near, far: the depth range, metres.

    Returns:
        [..., 4, 4] acting on column vectors; rasterizers with the row-vector convention want its transpose.
    """
    K, W, H = cameras.K, cameras.width, cameras.height
    P = K.new_zeros(*K.shape[:-2], 4, 4)
    P[..., 0, :3] = 2 / W * K[..., 0, :]
    P[..., 1, :3] = 2 / H * K[..., 1, :]
    P[..., :2, 2] -= 1
    P[..., 2, 2] = (far + near) / (far - near)
    P[..., 2, 3] = -2 * far * near / (far - near)
    P[..., 3, 2] = 1
    return P


def scene_extent(centres: Tensor) -> float:
    """1.1 times the largest distance [metres] of a camera centre [C, 3] to their mean: the method's unit of length."""
    assert centres.ndim == 2 and centres.shape[1] == 3, f"centres must be [C, 3], not {tuple(centres.shape)}"
    return 1.1 * (centres - centres.mean(0)).norm(dim=1).max().item()


def project_points(points: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Pixels and depths of world points.

    Args:
        points: [..., P, 3] metres.
        cameras: [...] cameras; a skew is ignored, as by every rasterizer here.

    Returns:
        pixels [..., P, 2] (continuous: the first pixel's centre is (0.5, 0.5)), depths [..., P] metres.
    """
    X, Y, Z = (points @ cameras.w2c[..., :3, :3].mT + cameras.w2c[..., None, :3, 3]).unbind(-1)
    K = cameras.K[..., None, :, :]
    return torch.stack([K[..., 0, 0] * X / Z + K[..., 0, 2], K[..., 1, 1] * Y / Z + K[..., 1, 2]], -1), Z


def project_gaussians(
    means: Tensor,
    covariances: Tensor,
    opacities: Tensor,
    cameras: Cameras,
    eps2d: float,
    near: float,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gaussians as the images see them (Zwicker et al. 2001, eq. 26-31).

    A Gaussian is visible if it lies at `near` or beyond, its (compensated) opacity is at least 1/255 and the box around
    {alpha >= 1/255} meets the image. What is not visible gets zeros and no gradient.

    Args:
        means: [F, N, 3] metres.
        covariances: [F, N, 6] square metres.
        opacities: [F, N].
        cameras: [F, V].
        eps2d: added to both variances on the image, square pixels.
        near: nearest depth drawn, metres.
        antialiased: dim by sqrt(det before / det after adding eps2d) (Mip-Splatting, Yu et al. 2024, eq. 9).

    Returns:
        means2d [F, V, N, 2] pixels; conics [F, V, N, 3]: xx, xy, yy of the inverse covariance; opacities [F, V, N]
        after compensation; depths [F, V, N]; radii [F, V, N]: 3 standard deviations along the long axis, 0 where not
        visible.
    """
    W, H = cameras.width, cameras.height
    R, t = cameras.w2c[..., :3, :3], cameras.w2c[..., None, :3, 3]  # [F, V, 3, 3], [F, V, 1, 3]
    X, Y, depths = (means[:, None] @ R.mT + t).unbind(-1)  # [F, V, N]
    in_front = depths >= near
    # Whatever is behind the camera is moved to depth 1 before the divisions, so that no NaN reaches a gradient.
    Z = torch.where(in_front, depths, torch.ones_like(depths))
    fx, fy, cx, cy = (cameras.K[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))  # [F, V, 1]
    means2d = torch.stack([fx * X / Z + cx, fy * Y / Z + cy], -1)

    margin_x, margin_y = FOV_MARGIN * 0.5 * W / fx, FOV_MARGIN * 0.5 * H / fy
    tx = torch.clamp(X / Z, -cx / fx - margin_x, (W - cx) / fx + margin_x)
    ty = torch.clamp(Y / Z, -cy / fy - margin_y, (H - cy) / fy + margin_y)
    zero = torch.zeros_like(Z)
    J = torch.stack([fx / Z, zero, -fx * tx / Z, zero, fy / Z, -fy * ty / Z], -1).unflatten(-1, (2, 3))
    M = J @ R[:, :, None]  # [F, V, N, 2, 3]
    covariance = M @ symmetric_matrix(covariances)[:, None] @ M.mT
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    before = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    determinant = xx * yy - xy * xy
    sound = in_front & (determinant > 0) & torch.isfinite(determinant)
    determinant = torch.where(sound, determinant, torch.ones_like(determinant))
    conics = torch.stack([yy, -xy, xx], -1) / determinant[..., None]

    weights = opacities[:, None].expand_as(depths)
    if antialiased:
        weights = weights * (before / determinant).clamp(min=ALPHA_MIN**2 / 4).sqrt()
    sound = sound & (weights >= ALPHA_MIN)
    with torch.no_grad():
        extent = 2 * torch.log(weights.clamp(min=ALPHA_MIN) / ALPHA_MIN)
        half = torch.stack([xx, yy], -1).mul(extent[..., None]).clamp(min=0).sqrt().ceil()
        size = half.new_tensor([W, H])
        visible = sound & ((means2d + half > 0) & (means2d - half < size)).all(-1)
        middle = 0.5 * (xx + yy)
        longest = middle + (middle * middle - determinant).clamp(min=0).sqrt()
        radii = torch.where(visible, 3 * longest.sqrt(), 0.0)
    means2d, conics = (torch.where(visible[..., None], x, 0.0) for x in (means2d, conics))
    weights, depths = (torch.where(visible, x, 0.0) for x in (weights, depths))
    return means2d, conics, weights, depths, radii
