"""View-dependent colour from real spherical harmonics, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

C0 = 0.28209479177387814  # sqrt(1 / (4 pi)), the constant function
C1 = 0.4886025119029199  # sqrt(3 / (4 pi))
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)  # sqrt(15/(4 pi)), sqrt(5/(16 pi)), sqrt(15/(16 pi))
C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """The constant coefficient that gives a colour: (rgb - 0.5) / C0, any shape."""
    return (rgb - 0.5) / C0


def sh_basis(directions: Tensor, K: int) -> Tensor:
    """The first K real spherical harmonics, in 3D Gaussian splatting's order and signs (l = 1: -y, z, -x).

    Args:
        directions: [..., 3] unit vectors.
        K: 1, 4, 9 or 16.

    Returns:
        [..., K].
    """
    assert K in (1, 4, 9, 16), f"the number of spherical harmonics must be 1, 4, 9 or 16, not {K}"
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, C0)]
    if K >= 4:
        basis += [-C1 * y, C1 * z, -C1 * x]
    if K >= 9:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        basis += [C2[0] * xy, -C2[0] * yz, C2[1] * (2 * zz - xx - yy), -C2[0] * xz, C2[2] * (xx - yy)]
    if K >= 16:
        basis += [
            -C3[0] * y * (3 * xx - yy),
            C3[1] * xy * z,
            -C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -C3[2] * x * (4 * zz - xx - yy),
            C3[4] * z * (xx - yy),
            -C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, -1)


def evaluate_sh(sh: Tensor, directions: Tensor) -> Tensor:
    """The value of an expansion in spherical harmonics: the sum over k of sh[k] basis[k](direction).

    Args:
        sh: [..., K, 3] coefficients, K in {1, 4, 9, 16}.
        directions: [..., 3] unit vectors (ignored where K = 1).

    Returns:
        [..., 3]; colours are this + 0.5, see `view_colours`.
    """
    if sh.shape[-2] == 1:
        return C0 * sh[..., 0, :]
    return (sh_basis(directions, sh.shape[-2])[..., None, :] @ sh)[..., 0, :]


def view_colours(sh: Tensor, means: Tensor, centres: Tensor) -> Tensor:
    """Colours of Gaussians as V cameras see them: max(0, evaluate_sh(sh, mean - centre) + 0.5).

    Args:
        sh: [F, N, K, 3]; its F axis may be an expanded view.
        means: [F, N, 3] metres, world.
        centres: [F, V, 3] camera centres, metres, world.

    Returns:
        [F, V, N, 3]; the V axis is an expanded view where K = 1.
    """
    if sh.shape[2] == 1:
        return (evaluate_sh(sh, means) + 0.5).clamp(min=0)[:, None].expand(-1, centres.shape[1], -1, -1)
    directions = torch.nn.functional.normalize(means[:, :, None] - centres[:, None], dim=-1)  # [F, N, V, 3]
    # [F, N, V, K] @ [F, N, K, 3]: the coefficients are not copied for each view.
    return ((sh_basis(directions, sh.shape[2]) @ sh + 0.5).clamp(min=0)).transpose(1, 2)
