"""The training loss: colour, silhouette, structure and perceptual distance within the body's box."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3avatar.avatar import TemporalCodebook
from r3avatar.evaluation.metrics import ssim_map
from r3avatar.evaluation.perceptual import Perceptual
from r3avatar.training.plane_regularizer import plane_terms
from r3avatar.triton_support import BACKENDS, use_triton
from r3avatar.types import Batch, RenderOutput

PERSON, BOUND = 1, 2
"""Bits of `Batch.mask`."""
PHOTOMETRIC = ("l1", "mask", "ssim")
"""The terms that compare pixels, without a network."""


class AvatarLoss(nn.Module):
    """l1 L1 + mask L2(alpha) + ssim (1 - SSIM) + perceptual LPIPS-VGG; the mean over images of each image's loss.

    L1 and the squared error of alpha are means over the bound mask (the projected box of the posed body); SSIM and
    LPIPS are of the bound mask's rectangle. A batch of one image is the published loss.

    Images of a batch lie in one padded crop, with rectangles of their own. Outside its rectangle an image and its truth
    are zeroed, so that SSIM, whose padding is zero too, is exactly that of the cut-out rectangle. LPIPS is averaged
    over the rectangle in every layer: the published value where the rectangle fills the crop, and about 1 % off
    elsewhere, since the network pads at the crop's border and not at the rectangle's.

    Source: R3-Avatar (arXiv 2503.12751), training losses.
    """

    def __init__(
        self,
        l1: float = 1.0,
        mask: float = 0.1,
        ssim: float = 0.01,
        perceptual: float = 0.01,
        general_squared: float = 0.0,
        offset_change: float = 0.0,
        plane_tv: float = 0.0,
        time_smoothness: float = 0.0,
        time_sparsity: float = 0.0,
        perceptual_weights: str | None = None,
        perceptual_rescale: bool = False,
        white_background: bool = False,
        alpha_over_background_published: bool = False,
        backend: str = "auto",
    ):
        """
        Args:
            l1, mask, ssim, perceptual: weights of the terms; a term of weight 0 is not computed.
            general_squared: of images at the codebook's general moment the term l1 is so many times the mean squared
                error instead. That moment stands for all times; where they differ (cloth that hangs elsewhere), L1 asks
                for the colour that is right most often, the square for their mean, the best guess of a new pose. 0: L1.
            offset_change: weight of how far the decoder moves Gaussians between a step's frames, metres (see
                `offset_change`); published: none. A step of one frame has none.
            plane_tv, time_smoothness, time_sparsity: weights of what is asked of the codebook's planes alone (see
                `plane_terms`); published: none.
            perceptual_weights: path of VGG-16's weights (see `Perceptual`).
            perceptual_rescale: feed LPIPS [-1, 1], for which it is made; the published code feeds [0, 1].
            white_background: the truth is put on white; the render must be over white as well.
            alpha_over_background_published: the published defect: alpha is rendered over the background like a colour,
                which is 1 everywhere on white and voids the mask loss (on black it changes nothing).
            backend: 'triton' fuses every term but LPIPS (float32 renders), 'numba' does so on the CPU, 'torch' is
                their readable twin, 'auto' takes Triton on CUDA and numba on the CPU. The published defect, where it
                changes anything, is torch's alone.
        """
        super().__init__()
        self.weights = {"l1": l1, "mask": mask, "ssim": ssim, "perceptual": perceptual}
        planes = {"plane_tv": plane_tv, "time_smoothness": time_smoothness, "time_sparsity": time_sparsity}
        every = {**self.weights, "general_squared": general_squared, "offset_change": offset_change, **planes}
        negative = [name for name, weight in every.items() if weight < 0]
        if negative:
            raise ValueError(f"loss weights must not be negative: {', '.join(negative)}")
        self.general_squared, self.offset_change = general_squared, offset_change
        self.plane_weights = {name: weight for name, weight in planes.items() if weight > 0}
        self.perceptual_rescale = perceptual_rescale
        self.white_background = white_background
        self.alpha_over_background_published = alpha_over_background_published
        if backend not in (*BACKENDS, "numba"):
            raise ValueError(f"backend '{backend}' is none of {', '.join((*BACKENDS, 'numba'))}")
        self.backend = backend
        # Outside the module tree: its weights are no part of an avatar's checkpoint. `_apply` moves it along.
        self._networks = [Perceptual(perceptual_weights)] if perceptual > 0 else []

    def _apply(self, fn, recurse=True):
        for network in self._networks:
            network._apply(fn)
        return super()._apply(fn, recurse)

    def forward(
        self,
        render: RenderOutput,
        batch: Batch,
        offset: Tensor | None = None,
        codebook: TemporalCodebook | None = None,
        alive: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Scalar tensors: each term unweighted under its weight's name (`l1`, `mask`, ...), and `total`.

        `render` and `batch` share F, V, H, W; offset [F, N, 3]: the decoder's; codebook: of which the terms of planes
        are, ValueError where it is missing; alive [N]: see `offset_change`. Nothing here waits for the GPU.
        """
        if render.rgb.shape != batch.rgb.shape:
            shapes = f"{tuple(render.rgb.shape)} and {tuple(batch.rgb.shape)}"
            raise ValueError(f"render and batch must be of one shape [F, V, H, W, 3], not {shapes}")
        if not (any(self.weights[name] > 0 for name in PHOTOMETRIC) or self._networks):
            raise ValueError("every loss weight is 0: nothing to train on")
        image, alpha = render.rgb.flatten(0, 1), render.alpha.flatten(0, 1)  # [B, H, W, 3], [B, H, W]
        truth, mask, rect = batch.rgb.flatten(0, 1), batch.mask.flatten(0, 1), batch.rect.flatten(0, 1)
        defect = self.white_background and self.alpha_over_background_published
        squared = self._squared(batch, codebook)
        if defect or not self._fused(image.device):
            terms = self._torch_terms(image, alpha, truth, mask, rect, squared)
        else:
            terms = self._fused_terms(image, alpha, truth, mask, rect, squared)
        total = terms.pop("total")
        for network in self._networks:
            inside = rectangle_mask(rect, *image.shape[1:3]).to(image)[..., None]  # [B, H, W, 1]
            pair = image * inside, self._on_background(truth, mask, image) * inside
            terms["perceptual"] = network(*pair, self.perceptual_rescale, inside[..., 0]).mean()
            total = total + self.weights["perceptual"] * terms["perceptual"]
        if self.offset_change > 0 and offset is not None and len(offset) > 1:
            terms["offset_change"] = offset_change(offset, alive)
            total = total + self.offset_change * terms["offset_change"]
        if self.plane_weights:
            if codebook is None:
                raise ValueError(f"the loss needs the avatar's codebook for {', '.join(self.plane_weights)}")
            terms.update(plane_terms(codebook, tuple(self.plane_weights)))
            total = total + sum(weight * terms[name] for name, weight in self.plane_weights.items())
        return {**terms, "total": total}

    def _squared(self, batch: Batch, codebook: TemporalCodebook | None) -> Tensor | None:
        """The images' weights [B] of the squared error that takes L1's place, 0 where L1 stays; None: for all."""
        if not self.general_squared or codebook is None or codebook.general_time is None:
            return None
        general = (batch.time == codebook.general_time).to(torch.float32) * self.general_squared
        return general.repeat_interleave(batch.rgb.shape[1])

    def _fused(self, device: torch.device) -> bool:
        """Whether kernels compute the terms: Triton's, or numba's on the CPU."""
        if self.backend == "numba" and device.type != "cpu":
            raise ValueError(f"loss.backend=numba computes on the CPU, not on {device}; take auto, triton or torch")
        if device.type == "cpu" and self.backend in ("auto", "numba"):
            return True
        return use_triton(self.backend, device)

    def _fused_terms(
        self, image: Tensor, alpha: Tensor, truth: Tensor, mask: Tensor, rect: Tensor, squared: Tensor | None = None
    ) -> dict[str, Tensor]:
        if image.device.type == "cpu" and self.backend != "triton":
            from r3avatar.training.numba_loss import photometric_terms
        else:
            from r3avatar.training.triton_loss import photometric_terms

        weights = [self.weights[name] for name in PHOTOMETRIC]
        if not any(weights):
            return {"total": image.new_zeros(())}
        *terms, total = photometric_terms(image, alpha, truth, mask, rect, *weights, self.white_background, squared)
        named = zip(PHOTOMETRIC, terms, weights)
        return {**{name: value for name, value, weight in named if weight > 0}, "total": total}

    def _torch_terms(
        self, image: Tensor, alpha: Tensor, truth: Tensor, mask: Tensor, rect: Tensor, squared: Tensor | None = None
    ) -> dict[str, Tensor]:
        truth = self._on_background(truth, mask, image)
        person, bound = (mask & PERSON).ne(0).to(image), (mask & BOUND).ne(0).to(image)  # [B, H, W]
        if self.white_background and self.alpha_over_background_published:
            alpha = alpha + (1 - alpha)
        terms = {}
        pixels = bound.sum(dim=(1, 2)).clamp_min(1)
        if self.weights["l1"] > 0:
            error = (image - truth).abs()
            if squared is not None:
                weight = squared.to(image)[:, None, None, None]
                error = torch.where(weight > 0, weight * error.square(), error)
            error = (error * bound[..., None]).sum(dim=(1, 2, 3))
            terms["l1"] = (error / (3 * pixels)).mean()
        if self.weights["mask"] > 0:
            terms["mask"] = (((alpha - person).square() * bound).sum(dim=(1, 2)) / pixels).mean()
        if self.weights["ssim"] > 0:
            inside = rectangle_mask(rect, *image.shape[1:3]).to(image)[..., None]  # [B, H, W, 1]
            area = (rect[:, 2] * rect[:, 3]).clamp_min(1)
            similarity = (ssim_map(image * inside, truth * inside) * inside).sum(dim=(1, 2, 3)) / (3 * area)
            terms["ssim"] = (1 - similarity).mean()
        total = sum((self.weights[name] * value for name, value in terms.items()), start=image.new_zeros(()))
        return {**terms, "total": total}

    def _on_background(self, truth: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """The truth in [0, 1] and the render's type, on white where that is asked for."""
        truth = truth.to(image) / 255
        return truth + (mask & PERSON).eq(0).to(image)[..., None] if self.white_background else truth


def offset_change(offset: Tensor, alive: Tensor | None = None) -> Tensor:
    """How far the decoder moves a Gaussian from its mean place over the F frames of [F, N, 3], metres, on average.

    What skinning can explain then is left to skinning, and holds in poses that were never recorded.
    alive [N]: 1 for what is a Gaussian, 0 for what is none; None: all are.
    """
    moved = ((offset - offset.mean(0)).square().sum(-1) + 1e-8).sqrt()
    return moved.mean() if alive is None else (moved.mean(0) * alive).sum() / alive.sum()


def rectangle_mask(rect: Tensor, height: int, width: int) -> Tensor:
    """Bool [B, H, W], true inside each rectangle (x, y, width, height) of `rect` [B, 4]."""
    x, y = torch.arange(width, device=rect.device), torch.arange(height, device=rect.device)
    left, top, w, h = rect[:, :, None].unbind(dim=1)  # [B, 1] each
    columns, rows = (x >= left) & (x < left + w), (y >= top) & (y < top + h)
    return rows[:, :, None] & columns[:, None, :]
