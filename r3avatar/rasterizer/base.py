"""The one interface of all rasterizers: posed Gaussians and cameras in, images out."""

from __future__ import annotations

import abc

from torch import Tensor

from ..types import Cameras, Gaussians, RenderOutput
from .spherical_harmonics import view_colours


class Rasterizer(abc.ABC):
    """Draws Gaussians by front-to-back alpha compositing (Kerbl et al. 2023, sec. 4; the semantics of gsplat 1.5.3).

    Per pixel, over the Gaussians by depth: alpha = min(0.999, o exp(-d^T C^-1 d / 2)), skipped below 1/255, with d the
    offset from the pixel's centre and C the projected covariance; the Gaussian that would take the transmittance to
    1e-4 or less ends the pixel. Gradients reach means, covariances, opacities and spherical harmonics.

    Args:
        eps2d: low-pass filter: added to both variances on the image, square pixels.
        near: Gaussians nearer than this depth are not drawn, metres.
        antialiased: dim each Gaussian by what the low-pass filter widened it (Mip-Splatting, Yu et al. 2024, eq. 9).
    """

    capturable = False
    """Whether a call can be recorded as a CUDA graph: it neither synchronises nor decides anything on the host."""
    generation = 0
    """Changes where a recorded call would no longer do: buffers of another size, say."""

    fullness: Tensor | None = None
    """[1], on the device: how full buffers of a fixed size have been lately; None: there are none."""

    def check_capacity(self, full: int | None = None) -> bool:
        """Whether buffers of a fixed size had to grow for what was rendered lately. Never by default.

        For loops of recorded calls, now and then: a call that is not recorded looks after itself.
        full: what `fullness` was in this `generation`, where the host knows it; None: look now, which synchronises.
        """
        return False

    def __init__(self, *, eps2d: float = 0.3, near: float = 0.01, antialiased: bool = False):
        if eps2d < 0 or near <= 0:
            raise ValueError(f"eps2d must be at least 0 and near above 0, not eps2d={eps2d}, near={near}")
        self.eps2d, self.near, self.antialiased = float(eps2d), float(near), bool(antialiased)

    def __call__(self, gaussians: Gaussians, cameras: Cameras, background: Tensor | None = None) -> RenderOutput:
        """Render F frames, each from V cameras of its own.

        Args:
            gaussians: [F, N]; opacities in [0, 1].
            cameras: [F, V], without skew (no rasterizer here models it).
            background: [3] colour behind the Gaussians, black if None; it gets no gradient.

        Returns:
            RenderOutput; `means2d` keeps its gradient (pixels) if anything that it depends on requires one.

        Raises:
            ValueError: the batch shapes do not fit each other, or a camera has skew (looked for on the CPU alone: on a
                GPU the answer would stall the stream).
        """
        F = gaussians.means.shape[0]
        lead = cameras.K.shape[:-2]
        if len(lead) != 2 or lead[0] != F or cameras.w2c.shape[:-2] != lead:
            raise ValueError(
                f"cameras must be [F, V] with F = {F} as the Gaussians; K is {tuple(cameras.K.shape)}, "
                f"w2c {tuple(cameras.w2c.shape)}"
            )
        if cameras.K.device.type == "cpu" and bool((cameras.K[..., 0, 1] != 0).any()):
            raise ValueError("a camera has skew (K[0, 1] is not 0), which no rasterizer models; rectify the images")
        if background is None:
            background = gaussians.means.new_zeros(3)
        if background.shape != (3,):
            raise ValueError(f"background must be [3], not {tuple(background.shape)}")
        output = self._render(gaussians, cameras, background.detach().to(gaussians.means))
        if output.means2d.requires_grad:
            output.means2d.retain_grad()
        return output

    def __repr__(self) -> str:
        return f"{type(self).__name__}(eps2d={self.eps2d}, near={self.near}, antialiased={self.antialiased})"

    @abc.abstractmethod
    def _render(self, gaussians: Gaussians, cameras: Cameras, background: Tensor) -> RenderOutput:
        """Colour, project and composite; the arguments fit each other, `background` is [3]."""


class TwoStepRasterizer(Rasterizer):
    """A rasterizer that draws given colours: those of every view are computed before."""

    def _render(self, gaussians: Gaussians, cameras: Cameras, background: Tensor) -> RenderOutput:
        colours = self._view_colours(gaussians.sh, gaussians.means, cameras.centres)  # [F, V, N, 3]
        return self._rasterize(
            gaussians.means, gaussians.covariances, gaussians.opacities, colours, cameras, background
        )

    def _view_colours(self, sh: Tensor, means: Tensor, centres: Tensor) -> Tensor:
        return view_colours(sh, means, centres)

    @abc.abstractmethod
    def _rasterize(
        self,
        means: Tensor,  # [F, N, 3]
        covariances: Tensor,  # [F, N, 6]
        opacities: Tensor,  # [F, N]
        colours: Tensor,  # [F, V, N, 3]
        cameras: Cameras,  # [F, V]
        background: Tensor,  # [3]
    ) -> RenderOutput:
        """Project and composite; `colours` are final."""
