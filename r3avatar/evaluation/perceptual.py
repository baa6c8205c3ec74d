"""LPIPS, the learned perceptual distance, as loss and as metric; needs the `lpips` extra."""

from __future__ import annotations

from pathlib import Path

import torch
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

    def forward(self, image: Tensor, truth: Tensor, rescale: bool) -> Tensor:
        """Distances [B] of images [B, H, W, 3] in [0, 1].

        `rescale` maps [0, 1] to [-1, 1], which is what LPIPS is made for; False feeds [0, 1], as the published code.
        """
        image, truth = (x.movedim(-1, 1).float() for x in (image, truth))
        return self.network(image, truth, normalize=rescale).flatten(1).mean(dim=1)


def _load_vgg16(trunk: nn.Module, path: Path) -> None:
    """Fill lpips' five slices, whose layers keep their VGG-16 numbers, from a whole VGG-16 state dict."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    wanted = trunk.state_dict()  # sliceN.<layer>.weight and .bias
    source = {key: "features." + key.split(".", 1)[1] for key in wanted}
    wrong = [s for key, s in source.items() if s not in state or state[s].shape != wanted[key].shape]
    if wrong:
        raise ValueError(f"{path}: not VGG-16 as torchvision saves it; {wrong[0]} is missing or of another shape")
    trunk.load_state_dict({key: state[s] for key, s in source.items()})
