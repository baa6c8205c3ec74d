"""The temporal codebook: appearance recorded against time in multi-scale space-time planes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r3avatar.triton_support import use_triton

# The six planes of (x, y, z, tau). The first axis of a pair runs along the plane's width, the second along its height.
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


class TemporalCodebook(nn.Module):
    """Features of canonical points at recorded times: the product over six planes, concatenated over scales.

    Source: HexPlane (Cao and Johnson 2023), K-Planes (Fridovich-Keil et al. 2023); R3-Avatar.
    All planes live in one parameter, [texels, channels], so that the optimizer, the CPU kernels and a checkpoint see
    one tensor; `plane()` gives views.
    """

    def __init__(
        self,
        aabb: Tensor,
        recorded_length: float,
        spatial_resolutions: tuple[int, ...] = (64, 128, 256),
        time_resolution: int = 50,
        channels: int = 32,
        temporal: bool = True,
        general: bool = False,
        backend: str = "auto",
    ):
        """
        aabb: [2, 3] metres, minimum and maximum corner of the canonical space that the planes span.
        recorded_length: T, frames; time t maps to tau = 2 t / T - 1.
        temporal: False leaves out the three time planes (the ablation `codebook=none`): features no longer change.
        general: one moment more, `general_time`, which is none of the recorded ones: trained with images of all of
            them, it holds the appearance that fits them best together. Its texels lie beyond the recorded ones.
        backend: 'numba' (CPU kernels), 'triton' (GPU kernels), 'torch', or 'auto': numba on the CPU, triton on CUDA
            where it is installed, torch elsewhere.
        """
        super().__init__()
        if backend not in ("auto", "numba", "torch", "triton"):
            raise ValueError(f"codebook backend '{backend}' is none of auto, numba, torch, triton")
        if recorded_length <= 0:
            raise ValueError(f"recorded_length must be positive frames, not {recorded_length}")
        self.backend, self.channels, self.temporal = backend, channels, temporal
        self.recorded_texels = time_resolution  # along time: the first ones of every time plane's height
        if general and (not temporal or time_resolution < 2):
            raise ValueError("a general moment needs time planes (temporal=true, time_resolution of 2 or more)")
        # Texels 0 to R - 1 of time are the recording's, however many follow; the one after them keeps both apart.
        self.recorded_length = float(recorded_length)
        self._length = self.recorded_length
        if general:
            self._length *= (time_resolution + 1) / (time_resolution - 1)
            time_resolution += 2
        self.general_time = self._length if general else None  # frames
        self.scales = len(spatial_resolutions)
        layout, offset = [], 0
        for resolution in spatial_resolutions:
            sizes = (resolution, resolution, resolution, time_resolution)
            for a, b in PAIRS:
                height, width = sizes[b], sizes[a]
                if not temporal and b == 3:
                    height = width = 0
                layout.append((offset, height, width))
                offset += height * width
        self.register_buffer("layout", torch.tensor(layout).reshape(self.scales, 6, 3), persistent=False)
        self.register_buffer("aabb", torch.as_tensor(aabb, dtype=torch.float32).clone())
        self._shapes = [(height, width) for _, height, width in layout]
        self.planes = nn.Parameter(torch.ones(offset, channels))

    @property
    def features(self) -> int:
        """Channels of the result: channels x scales."""
        return self.channels * self.scales

    def plane(self, scale: int, pair: int) -> Tensor:
        """A view of one plane, [height, width, channels]."""
        offset, height, width = self.layout[scale, pair].tolist()
        return self.planes[offset : offset + height * width].view(height, width, self.channels)

    def views(self, texels: Tensor) -> list[Tensor]:
        """All planes, scale by scale in the order of PAIRS, as views [height, width, channels] of `planes` or of
        something else of its shape (a gradient). Absent planes are empty."""
        parts = texels.split([height * width for height, width in self._shapes])
        return [part.view(*shape, self.channels) for part, shape in zip(parts, self._shapes)]

    def normalise_points(self, points: Tensor) -> Tensor:
        """Metres to [-1, 1] over the box; not clamped."""
        low, high = self.aabb[0], self.aabb[1]
        return 2 * (points - low) / (high - low) - 1

    def normalise_times(self, times: Tensor) -> Tensor:
        """Frames since the first recorded one (fractions allowed) to tau in [-1, 1]."""
        return 2 * times / self._length - 1

    def forward(self, points: Tensor, times: Tensor) -> Tensor:
        """Features [F, N, scales * channels] of canonical `points` [N, 3] (metres) at all of `times` [F] (frames)."""
        if self._uses_triton(points):
            return self._sample_triton(points, times, self.aabb, self._length)  # normalises on the way
        return self.sample(self.normalise_points(points), self.normalise_times(times))

    def sample(self, points: Tensor, taus: Tensor) -> Tensor:
        """The same for normalised coordinates; values outside [-1, 1] take the border's features."""
        if self._uses_triton(points):
            return self._sample_triton(points, taus, None, None)
        if self.backend == "numba" or (self.backend == "auto" and points.device.type == "cpu"):
            from r3avatar.avatar.codebook_numba import sample_planes

            return sample_planes(self.planes, self.layout, points, taus, self.temporal)
        return self.sample_torch(points, taus)

    def _uses_triton(self, points: Tensor) -> bool:
        return self.backend != "numba" and use_triton(self.backend, points.device)

    def _sample_triton(self, points: Tensor, times: Tensor, box: Tensor | None, length: float | None) -> Tensor:
        from r3avatar.avatar.triton_codebook import sample_planes

        widest = max(self._shapes[s * 6 + p][1] for s in range(self.scales) for p, (_, b) in enumerate(PAIRS) if b == 3)
        return sample_planes(self.planes, self.layout, points, times, self.temporal, widest, box, length)

    def sample_torch(self, points: Tensor, taus: Tensor) -> Tensor:
        """The plain twin of the kernels: `grid_sample`, plane by plane."""
        N, T = points.shape[0], taus.shape[0]
        planes = self.planes.split([h * w for h, w in self._shapes])  # one split: its backward is one concatenation
        result = []
        for scale in range(self.scales):
            product = None
            for pair, (a, b) in enumerate(PAIRS):
                height, width = self._shapes[scale * 6 + pair]
                if height == 0:
                    continue
                plane = planes[scale * 6 + pair].view(1, height, width, self.channels).permute(0, 3, 1, 2)
                if b == 3:
                    grid = torch.stack([points[:, a].expand(T, N), taus[:, None].expand(T, N)], -1)  # [F, N, 2]
                else:
                    grid = points[None, :, [a, b]]  # [1, N, 2]
                value = F.grid_sample(plane, grid[None], "bilinear", "border", align_corners=True)[0]  # [C, F|1, N]
                product = value if product is None else product * value
            result.append(product.expand(self.channels, T, N))
        return torch.cat(result).permute(1, 2, 0)

    def extra_repr(self) -> str:
        return f"{self.scales} scales, {self.channels} channels, T={self.recorded_length:g}, temporal={self.temporal}"


def box_around(points: Tensor, margin: float = 0.1) -> Tensor:
    """The codebook's box [2, 3]: the bounds of canonical points [N, 3] grown by `margin` metres on every side."""
    return torch.stack([points.amin(0) - margin, points.amax(0) + margin])
