"""Render an avatar in motion, frame by frame, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from r3avatar.avatar import Avatar, Playback
from r3avatar.rasterizer import Rasterizer
from r3avatar.retrieval import Retrieved
from r3avatar.types import BodyPose, Cameras


@torch.no_grad()
def animate(
    avatar: Avatar, rasterizer: Rasterizer, pose: BodyPose, retrieved: Retrieved, cameras: Cameras, title: str
) -> Iterator[Tensor]:
    """Images [H, W, 3] of F poses never recorded: `retrieved` and `cameras` hold one entry a frame."""
    playback = Playback(avatar, rasterizer)
    for f in tqdm(range(len(pose)), desc=title, leave=False, dynamic_ncols=True):
        yield playback.retrieved(pose[f : f + 1], retrieved[[f]], cameras[f : f + 1][:, None]).rgb[0, 0]


@torch.no_grad()
def replay(
    avatar: Avatar, rasterizer: Rasterizer, pose: BodyPose, times: Tensor, cameras: Cameras, title: str
) -> Iterator[Tensor]:
    """Images [H, W, 3] of recorded poses at their own times [F] (frames since the first recorded one)."""
    playback = Playback(avatar, rasterizer)
    for f in tqdm(range(len(pose)), desc=title, leave=False, dynamic_ncols=True):
        yield playback.recorded(pose[f : f + 1], times[f : f + 1], cameras[f : f + 1][:, None]).rgb[0, 0]
