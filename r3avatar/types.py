"""The values that travel between the parts; their fields are the shape document.

Axis letters, everywhere: F frames, V views, N Gaussians, J joints, H W pixels, T recorded length, C cameras.
Conventions, everywhere:
  lengths in metres, angles in radians, quaternions (w, x, y, z), matrices act on column vectors;
  cameras are OpenCV world-to-camera (x right, y down, z forward);
  pixel coordinates are continuous: the image spans [0, W] x [0, H] and the first pixel's centre is (0.5, 0.5)
  (an OpenCV calibration, whose first pixel's centre is (0, 0), has 0.5 added to its principal point by the reader);
  images are [H, W, 3] RGB, float in [0, 1] or uint8; frame ids are the capture's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


class _Tensors:
    """Indexing and device moves for a dataclass of tensors that share their leading axes."""

    def to(self, *args, **kwargs):
        """The same value with every tensor moved or cast (`Tensor.to`'s arguments)."""
        return self._map(lambda x: x.to(*args, **kwargs))

    def __getitem__(self, index):
        """Index the shared leading axes of every tensor field."""
        return self._map(lambda x: x[index])

    def _map(self, function):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {k: function(v) for k, v in values.items() if isinstance(v, (Tensor, _Tensors))}
        return replace(self, **changed)


@dataclass
class Cameras(_Tensors):
    """Pinhole cameras of one image size; `...` is nothing for one camera, [C] for a rig, [F, V] in a batch."""

    K: Tensor  # [..., 3, 3] pixels
    w2c: Tensor  # [..., 4, 4] world-to-camera, metres
    width: int
    height: int

    def __post_init__(self):
        assert self.K.shape[-2:] == (3, 3), f"K must be [..., 3, 3], not {tuple(self.K.shape)}"
        assert self.w2c.shape[-2:] == (4, 4), f"w2c must be [..., 4, 4], not {tuple(self.w2c.shape)}"

    @property
    def centres(self) -> Tensor:
        """Camera centres in the world, [..., 3] metres."""
        return -(self.w2c[..., :3, :3].mT @ self.w2c[..., :3, 3:])[..., 0]

    def scaled(self, scale: float) -> Cameras:
        """The cameras of images resized by `scale`; sizes round to the nearest pixel."""
        width, height = round(self.width * scale), round(self.height * scale)
        ratio = self.K.new_tensor([[width / self.width], [height / self.height], [1.0]])
        return Cameras(self.K * ratio, self.w2c, width, height)

    def cropped(self, x: int, y: int, width: int, height: int) -> Cameras:
        """The cameras of the window at (x, y): only the principal point moves."""
        K = self.K.clone()
        K[..., 0, 2] -= x
        K[..., 1, 2] -= y
        return Cameras(K, self.w2c, width, height)

    @staticmethod
    def stack(cameras: list[Cameras]) -> Cameras:
        """One batch [C, ...] of cameras that share one image size."""
        sizes = {(c.width, c.height) for c in cameras}
        assert len(sizes) == 1, f"cameras of different image sizes cannot be stacked: {sorted(sizes)}"
        width, height = sizes.pop()
        return Cameras(torch.stack([c.K for c in cameras]), torch.stack([c.w2c for c in cameras]), width, height)


@dataclass
class BodyPose(_Tensors):
    """Parameters of a parametric body in F frames (SMPL: J=24, SMPL-X: J=55)."""

    theta: Tensor  # [F, J, 3] axis-angle of every joint, the root first
    betas: Tensor  # [F, B] shape coefficients
    expression: Tensor  # [F, E] expression coefficients; E = 0 where the body has none
    R: Tensor  # [F, 3, 3] global rotation about the origin (identity where theta[:, 0] is all of the root's rotation)
    Th: Tensor  # [F, 3] global translation, metres
    garment: Tensor | None = None  # [F, P, 3, 4] where a worn garment's particles are (`avatar.WornGarment`), if any

    def __post_init__(self):
        F = self.theta.shape[:-2]
        assert self.theta.shape[-1] == 3, f"theta must be [F, J, 3], not {tuple(self.theta.shape)}"
        for name, shape in {"betas": F, "expression": F, "R": (*F, 3, 3), "Th": (*F, 3)}.items():
            value = getattr(self, name)
            found = value.shape[:-1] if name in ("betas", "expression") else value.shape
            assert found == shape, f"{name} is {tuple(value.shape)}; theta is {tuple(self.theta.shape)}"

    def __len__(self) -> int:
        return self.theta.shape[0]

    @staticmethod
    def joined(poses: list[BodyPose]) -> BodyPose:
        """Poses [F1], [F2], ... one after the other; without their garments."""
        names = ("theta", "betas", "expression", "R", "Th")
        return BodyPose(*(torch.cat([getattr(pose, name) for pose in poses]) for name in names))


@dataclass
class Gaussians(_Tensors):
    """Posed Gaussians in the world, for F frames."""

    means: Tensor  # [F, N, 3] metres
    covariances: Tensor  # [F, N, 6] upper triangle xx, xy, xz, yy, yz, zz, square metres
    opacities: Tensor  # [F, N] in [0, 1]
    sh: Tensor  # [F, N, K, 3] spherical harmonics, K = (degree + 1)^2; the F axis may be an expanded view

    def __post_init__(self):
        F, N = self.means.shape[:2]
        assert self.means.shape == (F, N, 3), tuple(self.means.shape)
        assert self.covariances.shape == (F, N, 6), tuple(self.covariances.shape)
        assert self.opacities.shape == (F, N), tuple(self.opacities.shape)
        assert self.sh.shape[:2] == (F, N) and self.sh.shape[3] == 3, tuple(self.sh.shape)


@dataclass
class RenderOutput(_Tensors):
    """What a rasterizer returns for F frames seen by V cameras each."""

    rgb: Tensor  # [F, V, H, W, 3] over the background (black unless given)
    alpha: Tensor  # [F, V, H, W] accumulated opacity in [0, 1]
    radii: Tensor  # [F, V, N] float, pixels: 3 standard deviations along the long axis; 0 where not visible
    means2d: Tensor  # [F, V, N, 2] pixels; after backward() its .grad is dL/d(pixel position)


@dataclass
class Batch(_Tensors):
    """F frames x V views of a capture, cropped to the person and padded to one size."""

    frame: Tensor  # [F] int64, the capture's frame ids
    time: Tensor  # [F] float32, recorded time in frames since the first recorded frame
    pose: BodyPose  # [F]
    cameras: Cameras  # [F, V], principal points moved to the crop
    rgb: Tensor  # [F, V, H, W, 3] uint8, black outside the person
    mask: Tensor  # [F, V, H, W] uint8: bit 0 = the person, bit 1 = inside the projected body box (the bound mask)
    rect: Tensor  # [F, V, 4] int64: x, y, width, height of the bound mask's rectangle inside the padded crop
