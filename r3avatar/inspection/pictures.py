"""The report's pictures: silhouettes over the images, and the cameras seen from above."""

from __future__ import annotations

import cv2
import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from r3avatar.captures import Capture
from r3avatar.captures.boxes import mask_rectangle
from r3avatar.inspection.overlap import FAIR, GOOD, POOR, Overlap, worst
from r3avatar.inspection.samples import Sample

COLOURS = {GOOD: (70, 160, 90), FAIR: (225, 165, 40), POOR: (215, 60, 55)}  # RGB
_OUTSIDE, _UNCOVERED, _OUTLINE = (235, 60, 50), (70, 120, 235), (120, 255, 140)  # body off the mask; mask without body
_TILE = 224  # pixels


def tile(sample: Sample, body: np.ndarray) -> np.ndarray:
    """The image around person and body, [_TILE, _TILE, 3] uint8: the body's outline, red where it leaves the mask,
    blue where the mask has no body."""
    picture = sample.image.astype(np.float32) * 0.85
    person, inside = sample.mask > 0, body > 0
    for where, colour, strength in ((inside & ~person, _OUTSIDE, 0.8), (person & ~inside, _UNCOVERED, 0.35)):
        picture[where] = picture[where] * (1 - strength) + np.float32(colour) * strength
    x, y, w, h = mask_rectangle((person | inside).astype(np.uint8))
    side = max(w, h) * 1.08 + 2  # a square around both
    scale = _TILE / side
    move = np.array(
        [[scale, 0, _TILE / 2 - scale * (x + w / 2)], [0, scale, _TILE / 2 - scale * (y + h / 2)]], np.float64
    )
    move[:, 2] += (scale - 1) / 2  # OpenCV counts from pixel centres
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.warpAffine(picture.clip(0, 255).astype(np.uint8), move, (_TILE, _TILE), flags=how)
    outline = cv2.warpAffine(body * np.uint8(255), move, (_TILE, _TILE), flags=cv2.INTER_LINEAR)
    contours, _ = cv2.findContours((outline > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, _OUTLINE, 1, cv2.LINE_AA)
    return picture


def before_and_after(
    samples: list[Sample], given: list[np.ndarray], mended: list[np.ndarray], most: int = 6
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tiles of the `most` samples that change most, as given and with the mistake mended."""
    changes = [float((a != b).mean()) for a, b in zip(given, mended)]
    picked = np.sort(np.argsort(changes, kind="stable")[::-1][:most])
    return tuple([tile(samples[i], bodies[i]) for i in picked] for bodies in (given, mended))


def layout_from_above(capture: Capture, samples: list[Sample], overlaps: list[Overlap]) -> np.ndarray:
    """Cameras, where they look, and the body's path seen from above, [H, W, 3] uint8; metres.

    Up is the cameras' mean up, so that the picture holds in any world; the axes are two of the world's made level.
    """
    w2c = np.stack([camera.w2c.double().numpy() for camera in capture.cameras])
    centres = -np.einsum("cba,cb->ca", w2c[:, :3, :3], w2c[:, :3, 3])
    up = -w2c[:, 1, :3].mean(0)
    if np.linalg.norm(up) < 1e-3:  # cameras rolled all ways have no common up: take y
        up = np.array([0.0, 1.0, 0.0])
    up /= np.linalg.norm(up)
    right = np.eye(3)[0 if abs(up[0]) < 0.9 else 1]
    right = right - up * (right @ up)
    right /= np.linalg.norm(right)
    down = np.stack([right, np.cross(up, right)])  # [2, 3]
    at, look = centres @ down.T, w2c[:, 2, :3] @ down.T
    path = capture.poses.Th.double().numpy() @ down.T
    reach = max(float(np.linalg.norm(at - path.mean(0), axis=1).max()), 1e-6)
    train = set(capture.splits["train"].cameras) if "train" in capture.splits else set()
    figure, axes = plt.subplots(figsize=(6, 6.2), dpi=150, layout="constrained")
    for c, name in enumerate(capture.camera_ids):
        verdicts = [o.verdict for s, o in zip(samples, overlaps) if s.camera == c]
        colour = tuple(v / 255 for v in COLOURS[worst(verdicts)]) if verdicts else (0.55, 0.55, 0.55)
        tip = at[c] + look[c] * reach * 0.18
        axes.plot(*np.stack([at[c], tip]).T, color=colour, lw=1.5)
        axes.plot(*at[c], "o" if name in train else "s", color=colour, ms=7)
        axes.annotate(name[-8:], at[c], textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.plot(*path.T, "-", color="0.3", lw=1)
    axes.plot(*path[0], "^", color="0.1", ms=8, label="body (first frame), its path")
    axes.plot([], [], "o", color="0.5", label="training camera, its view")
    axes.plot([], [], "s", color="0.5", label="other camera")
    axes.set(aspect="equal", xlabel="metres", ylabel="metres", title="colour: the camera's worst overlap; grey: unread")
    axes.title.set_size(9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.12)
    figure.legend(fontsize=7.5, loc="outside lower center", ncols=3, frameon=False)
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return image
