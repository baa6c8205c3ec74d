"""Pictures and videos: strips, contact sheets, H.264."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

HEAD = 18
"""Pixels above the images of a strip that has labels."""


def to_uint8(image: Tensor | np.ndarray) -> np.ndarray:
    """[H, W, 3] or [H, W], float in [0, 1] or uint8, to RGB uint8 [H, W, 3]."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.dtype != np.uint8:
        array = (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(array[..., None], 3, -1) if array.ndim == 2 else array)


def write_image(path: Path, image: Tensor | np.ndarray) -> Path:
    """Write RGB [H, W, 3] or grey [H, W] as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", to_uint8(image)[..., ::-1])
    path.write_bytes(encoded)  # OpenCV itself would not say that a disk is full
    return path


def error_map(rgb: Tensor, truth: Tensor) -> np.ndarray:
    """Absolute error, mean over channels, in false colour (0 dark, 0.25 and above bright): [H, W, 3] uint8."""
    error = (rgb - truth).abs().mean(-1).detach().cpu().numpy()
    scaled = (np.clip(error / 0.25, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO)[..., ::-1])


def strip(images: list, labels: list[str] | None = None) -> np.ndarray:
    """Images of one height side by side, each with its label written above it: [H + HEAD, sum W, 3] uint8."""
    columns = [to_uint8(i) for i in images]
    if labels is not None:
        for k, label in enumerate(labels):
            head = np.zeros((HEAD, columns[k].shape[1], 3), np.uint8)
            cv2.putText(head, label, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
            columns[k] = np.concatenate([head, columns[k]])
    return np.concatenate(columns, 1)


def write_video(path: Path, frames: Iterable, fps: float) -> Path:
    """Write RGB frames [H, W, 3] (float or uint8) as H.264 in yuv420p; one frame in memory at a time.

    Odd sizes are padded by one pixel, as the codec needs even ones. The file appears under its name when complete.
    """
    import av  # which a training needs at its end

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with av.open(str(temporary), "w") as container:
            stream = None
            for image in frames:
                array = to_uint8(image)
                array = np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)))
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                    stream.height, stream.width, stream.pix_fmt = array.shape[0], array.shape[1], "yuv420p"
                    stream.options = {"crf": "17", "preset": "medium"}
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            if stream is None:
                raise ValueError(f"no frames for {path}")
            container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
