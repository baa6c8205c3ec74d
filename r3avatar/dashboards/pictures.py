"""What a dashboard shows of an avatar in training: strips, the codebook's planes, histograms."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from r3avatar.avatar import Attributes
from r3avatar.avatar.codebook import PAIRS, TemporalCodebook
from r3avatar.evaluation.media import error_map, strip, to_uint8

STRIP_HEIGHT = 512  # pixels, at most
_TILE = 192  # pixels of a plane's picture
_AXES = "xyzt"
_OPACITY_EDGES = np.linspace(0, 1, 65)
_SCALE_EDGES = np.linspace(-5, 0, 65)  # of log10 metres; what lies outside counts in the last bins


def validation_strip(truth: Tensor, rgb: Tensor, alpha: Tensor, labels: list[str]) -> np.ndarray:
    """truth | render | error | alpha, small enough to be kept at every validation.

    truth, rgb: [H, W, 3] in [0, 1]; alpha: [H, W]; four labels.
    """
    panels = [to_uint8(panel) for panel in (truth, rgb, error_map(rgb, truth), alpha)]
    ratio = STRIP_HEIGHT / panels[0].shape[0]
    if ratio < 1:
        panels = [cv2.resize(panel, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA) for panel in panels]
    return strip(panels, labels)


def plane_pictures(codebook: TemporalCodebook) -> tuple[list[np.ndarray], list[str]]:
    """The norms of the planes' texels, a picture [H, W, 3] of six planes and a caption for every scale.

    A norm is the root mean square over channels; planes start at 1, which is white; red is more, blue less. The range
    is a scale's own and part of its caption. The first axis of a plane's name runs to the right, the second up.
    """
    import matplotlib  # here: a training begins without it

    norms = codebook.planes.detach().square().mean(-1).sqrt().cpu().numpy()
    colours = (matplotlib.colormaps["RdBu_r"](np.arange(256))[:, :3] * 255 + 0.5).astype(np.uint8)
    pictures, captions = [], []
    for scale, layout in enumerate(codebook.layout.tolist()):
        planes = {
            _AXES[a] + _AXES[b]: norms[offset : offset + height * width].reshape(height, width)
            for (a, b), (offset, height, width) in zip(PAIRS, layout)
            if height
        }
        # Texels that no Gaussian touches stay at 1: the range is that of those that moved.
        change = np.concatenate([np.abs(plane - 1).ravel() for plane in planes.values()])
        moved = change[change > 1e-6]
        reach = max(1e-6, float(np.quantile(moved, 0.99))) if len(moved) else 1e-6
        tiles, labels = [], []
        for name, plane in planes.items():
            index = np.clip((plane - 1) / reach * 127.5 + 127.5, 0, 255).astype(np.uint8)
            shrinks = min(plane.shape) > _TILE
            how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
            tiles.append(cv2.resize(colours[index[::-1]], (_TILE, _TILE), interpolation=how))
            labels.append(f"{name}: {plane.min():.2f} to {plane.max():.2f}")
        pictures.append(strip(tiles, labels))
        span = f"white 1, colours from {1 - reach:.3f} to {1 + reach:.3f}"
        captions.append(f"scale {scale}, {layout[0][2]} texels, {span}")
    return pictures, captions


def plane_changes(codebook: TemporalCodebook) -> dict[str, float]:
    """codebook/space_change and codebook/time_change: root mean square of the planes' values less 1, their start."""
    squares = (codebook.planes.detach() - 1).square().mean(-1)
    parts: dict[str, list[Tensor]] = {"space": [], "time": []}
    for layout in codebook.layout.tolist():
        for (_, b), (offset, height, width) in zip(PAIRS, layout):
            if height:
                parts["time" if b == 3 else "space"].append(squares[offset : offset + height * width])
    return {f"codebook/{name}_change": float(torch.cat(x).mean().sqrt()) for name, x in parts.items() if x}


def gaussian_histograms(attributes: Attributes) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, float]]:
    """Of the first time of `attributes`: {key: (counts [B], edges [B + 1])}, and {key: median}."""
    opacity = attributes.opacity_logit[0].detach().float().sigmoid().cpu().numpy().ravel()
    scale = attributes.scale[0].detach().float().cpu().numpy().ravel()
    log_scale = np.log10(np.maximum(scale, 1e-12)).clip(_SCALE_EDGES[0], _SCALE_EDGES[-1])
    histograms = {
        "gaussians/opacity": np.histogram(opacity, _OPACITY_EDGES),
        "gaussians/log10_scale": np.histogram(log_scale, _SCALE_EDGES),
    }
    medians = {"gaussians/opacity_median": float(np.median(opacity)), "gaussians/scale_median": float(np.median(scale))}
    return histograms, medians
