"""The GPU rasterizer without a CUDA compiler: projection, tile lists and compositing as Triton kernels."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from ..triton_support import installed, interpreting
from ..types import Cameras, Gaussians, RenderOutput
from .base import Rasterizer

log = logging.getLogger(__name__)

_NEARLY = 800  # of 1000: from here on lists grow before they overflow
_SPARE = 1.5  # room that they get then, of the need


class TritonRasterizer(Rasterizer):
    """Rasterizer for CUDA devices, float32, on Triton: no CUDA compiler, no synchronisation, recordable as a graph.

    All frames and views of a call are drawn together. The kernels compile at the first call (seconds) and are kept on
    disk, in TRITON_CACHE_DIR. Gradients add up by atomic operations: they differ in the last bits from run to run.
    Cameras get no gradient.

    The tiles' lists share a buffer of a size set beforehand. A call without gradients, and the first one, look whether
    it sufficed (the one synchronisation) and draw again with a larger one if not. Other calls do not wait for the
    device: what does not fit is not drawn until `check_capacity` has been called.

    Args:
        capacity: entries of the tiles' lists there is room for at first, a Gaussian and image.
        eps2d, near, antialiased: see `Rasterizer`.

    Raises:
        RuntimeError: no CUDA device, or Triton is missing; the message names the fix.
    """

    capturable = True

    def __init__(self, *, capacity: float = 32.0, **options):
        super().__init__(**options)
        if capacity <= 0:
            raise ValueError(f"capacity must be above 0, not {capacity}")
        if not installed():
            raise RuntimeError("rasterizer=triton needs the package triton: `pip install triton`, or rasterizer=numba")
        if not torch.cuda.is_available() and not interpreting():
            raise RuntimeError("rasterizer=triton needs a CUDA device and torch built for it; use rasterizer=numba")
        self.capacity = float(capacity)
        self.generation = 0
        self.fullness: Tensor | None = None  # [1] int32: the fullest that unread calls have made the lists, of 1000

    def check_capacity(self, full: int | None = None) -> bool:
        """Whether the tiles' lists were (nearly) too short since the last look; they are longer from now on.

        Calls recorded before this returned True are to be recorded anew.
        """
        if self.fullness is None:
            return False
        if full is None:
            full = int(self.fullness)
        if full <= _NEARLY:
            return False
        self.fullness.zero_()
        if full > 1000:
            log.warning(
                "rasterizer: the tiles' lists had room for %.0f %% of their entries; what did not fit was not drawn. "
                "They grow now; rasterizer.capacity=%.0f makes room from the start",
                1e5 / full, self._grown(full),
            )  # fmt: skip
        self._grow(full)
        return True

    def _grown(self, full: int) -> float:
        return self.capacity * _SPARE * full / 1000

    def _grow(self, full: int) -> None:
        self.capacity = self._grown(full)
        self.generation += 1

    def _render(self, gaussians: Gaussians, cameras: Cameras, background: Tensor) -> RenderOutput:
        from .triton_binning import TILE
        from .triton_composite import Composite
        from .triton_projection import project

        means = gaussians.means
        if means.device.type != "cuda" and not interpreting():
            raise TypeError(f"rasterizer=triton takes CUDA tensors; means are on {means.device}. Use rasterizer=numba")
        recording = means.is_cuda and torch.cuda.is_current_stream_capturing()
        first = self.fullness is None or self.fullness.device != means.device
        if first:
            if recording:
                raise RuntimeError("a TritonRasterizer has to render once before it can be recorded as a CUDA graph")
            self.fullness = torch.zeros(1, dtype=torch.int32, device=means.device)
            _announce_compilation()
        means2d, conics, weights, colours, depths, radii, boxes = project(
            means, gaussians.covariances, gaussians.opacities, gaussians.sh, cameras.w2c, cameras.K,
            cameras.width, cameras.height, self.eps2d, self.near, self.antialiased, TILE,
        )  # fmt: skip
        projected = means2d, conics, weights, colours, depths, boxes
        F, V, N = radii.shape
        if radii.numel() == 0 or cameras.width * cameras.height == 0:
            rgb = background.expand(F, V, cameras.height, cameras.width, 3).clone()
            return RenderOutput(rgb, rgb.new_zeros(rgb.shape[:-1]), radii, means2d)

        look = (first or not means2d.requires_grad) and not recording
        while True:
            fill = torch.zeros_like(self.fullness) if look else self.fullness
            rgb, alpha = Composite.apply(
                *projected, background, cameras.width, cameras.height, self._room(F * V, N, cameras), fill
            )
            if not look:
                break
            full = int(fill)
            if full <= 1000:
                break
            self._grow(full)
        return RenderOutput(rgb, alpha, radii, means2d)

    def _room(self, images: int, gaussians: int, cameras: Cameras) -> int:
        """Entries of all lists: never more than every Gaussian in every tile."""
        from .triton_binning import tile_grid

        columns, rows = tile_grid(cameras.width, cameras.height)
        return min(int(self.capacity * images * gaussians) + 1, images * gaussians * columns * rows)


def _announce_compilation() -> None:
    """Say why the first steps on a machine are slow."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or "~/.triton/cache").expanduser()
    if not interpreting() and not (folder.is_dir() and any(folder.iterdir())):
        log.warning(
            "GPU kernels compile at their first use, once: some seconds each, about half a minute in all, and a few "
            "seconds more where the spherical harmonics' degree grows; they are kept in %s", folder,
        )  # fmt: skip
