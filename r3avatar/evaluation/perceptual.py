"""LPIPS, the learned perceptual distance, as loss and as metric; needs the `lpips` extra."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Perceptual(nn.Module):
    """LPIPS (Zhang et al. 2018) on frozen VGG-16 features; differentiable in the images.

    The package carries the linear heads; VGG-16's own weights (vgg16-397923af.pth, torchvision, about 530 MB) are
    downloaded by torchvision at first use, or read from `weights` on machines without a network.
    """

    def __init__(self, weights: str | Path | None = None, off: str = "loss=no_perceptual"):
        """
        Args:
            weights: path of torchvision's VGG-16 state dict; None = torchvision's cache or download.
            off: the override that does without LPIPS, named in the error when the extra is missing.

        Raises:
            ModuleNotFoundError: lpips or torchvision is not installed.
            FileNotFoundError, ValueError: `weights` is missing, or not VGG-16.
        """
        super().__init__()
        try:
            import lpips
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"LPIPS needs the module {error.name!r}: pip install 'r3avatar[lpips]', or do without it: {off}",
                name=error.name,
            ) from error
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(f"VGG-16 weights {str(weights)!r} are not a file; expected vgg16-397923af.pth")
        self.network = lpips.LPIPS(net="vgg", pnet_rand=weights is not None, verbose=False)
        if weights is not None:
            _load_vgg16(self.network.net, Path(weights))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation mode: a metric has no training behaviour (its heads hold dropout)."""
        return super().train(False)

    def forward(self, image: Tensor, truth: Tensor, rescale: bool, inside: Tensor | None = None) -> Tensor:
        """Distances [B] of images [B, H, W, 3] in [0, 1]; gradients flow into `image` only.

        Args:
            rescale: map [0, 1] to [-1, 1], for which LPIPS is made; False feeds [0, 1], as the published code.
            inside: [B, H, W] in [0, 1]: the distance is averaged over this region, in every layer. Of an image that is
                zero outside a rectangle it is the cut-out rectangle's distance but for the layers' padding (about 1 %).
        """
        features = self._features(image, rescale)
        with torch.no_grad():
            truth_features = self._features(truth, rescale)
        total = image.new_zeros(len(image), dtype=torch.float32)
        for head, a, b in zip(self.network.lins, features, truth_features):
            distance = head.model((_unit(a) - _unit(b)).square())  # [B, 1, h, w]
            if inside is None:
                total = total + distance.mean(dim=(1, 2, 3))
            else:
                share = F.interpolate(inside[:, None].float(), size=distance.shape[-2:], mode="area")
                weight = share.sum(dim=(1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
                total = total + (distance * share).sum(dim=(1, 2, 3)) / weight
        return total

    def _features(self, image: Tensor, rescale: bool) -> tuple[Tensor, ...]:
        x = image.movedim(-1, 1).float()
        return self.network.net(self.network.scaling_layer(2 * x - 1 if rescale else x))


def _unit(features: Tensor) -> Tensor:
    """Channels [B, C, h, w] divided by their norm + 1e-10; where all are zero so is the gradient, and not NaN."""
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(norm > 0, norm + 1e-10, torch.inf)


def _load_vgg16(trunk: nn.Module, path: Path) -> None:
    """Fill lpips' five slices, whose layers keep their VGG-16 numbers, from a whole VGG-16 state dict."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    wanted = trunk.state_dict()  # sliceN.<layer>.weight and .bias
    source = {key: "features." + key.split(".", 1)[1] for key in wanted}
    wrong = [s for key, s in source.items() if s not in state or state[s].shape != wanted[key].shape]
    if wrong:
        raise ValueError(f"{path}: not VGG-16 as torchvision saves it; {wrong[0]} is missing or of another shape")
    trunk.load_state_dict({key: state[s] for key, s in source.items()})
