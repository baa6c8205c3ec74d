"""Render an avatar in motion, frame by frame, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from r3avatar.avatar import Playback
from r3avatar.retrieval import Mixture, Retrieved
from r3avatar.types import BodyPose, Cameras, RenderOutput


def animate(
    playback: Playback, pose: BodyPose, retrieved: Retrieved | Mixture, cameras: Cameras, title: str, start: int = 0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number, colours [H, W, 3] over black and opacities [H, W] of F poses never recorded, from number `start` on.

    `retrieved` and `cameras` hold one entry a frame.
    """
    return _frames(
        lambda f: playback.retrieved(pose[f : f + 1], retrieved[[f]], cameras[f : f + 1][:, None]),
        len(pose), title, start,
    )  # fmt: skip


def replay(
    playback: Playback, pose: BodyPose, times: Tensor, cameras: Cameras, title: str, start: int = 0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """As `animate`, of recorded poses at their own times [F] (frames since the first recorded one)."""
    return _frames(
        lambda f: playback.recorded(pose[f : f + 1], times[f : f + 1], cameras[f : f + 1][:, None]),
        len(pose), title, start,
    )  # fmt: skip


@torch.no_grad()
def _frames(
    show: Callable[[int], RenderOutput], count: int, title: str, start: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    numbers = range(start, count)
    for f in tqdm(numbers, desc=title, initial=start, total=count, unit="frame", dynamic_ncols=True):
        output = show(f)
        yield f, output.rgb[0, 0], output.alpha[0, 0]
