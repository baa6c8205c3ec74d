"""Render an avatar in motion, frame by frame, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from r3avatar.avatar import Avatar
from r3avatar.rasterizer import Rasterizer
from r3avatar.retrieval import Retrieved
from r3avatar.types import BodyPose, Cameras


@torch.no_grad()
def animate(
    avatar: Avatar, rasterizer: Rasterizer, pose: BodyPose, retrieved: Retrieved, cameras: Cameras, title: str
) -> Iterator[Tensor]:
    """Images [H, W, 3] of F poses never recorded: `retrieved` and `cameras` hold one entry a frame."""
    device = avatar.gaussians.positions.device
    for f in tqdm(range(len(pose)), desc=title, leave=False, dynamic_ncols=True):
        gaussians = avatar.animate(pose[f : f + 1].to(device), retrieved[[f]])
        yield rasterizer(gaussians, cameras[f : f + 1][:, None].to(device)).rgb[0, 0]


@torch.no_grad()
def replay(
    avatar: Avatar, rasterizer: Rasterizer, pose: BodyPose, times: Tensor, cameras: Cameras, title: str
) -> Iterator[Tensor]:
    """Images [H, W, 3] of recorded poses at their own times [F] (frames since the first recorded one)."""
    device = avatar.gaussians.positions.device
    for f in tqdm(range(len(pose)), desc=title, leave=False, dynamic_ncols=True):
        gaussians = avatar(pose[f : f + 1].to(device), times[f : f + 1].to(device))
        yield rasterizer(gaussians, cameras[f : f + 1][:, None].to(device)).rgb[0, 0]
