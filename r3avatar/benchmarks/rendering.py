"""How fast one picture after the other is rendered, the avatar's deformation included."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from r3avatar.avatar import Avatar
from r3avatar.avatar.playback import Playback
from r3avatar.benchmarks.clock import latencies
from r3avatar.rasterizer import Rasterizer
from r3avatar.retrieval import Retrieved
from r3avatar.types import BodyPose, Cameras


@torch.no_grad()
def rendering(
    avatar: Avatar,
    rasterizer: Rasterizer,
    recorded: tuple[BodyPose, Tensor],
    unseen: BodyPose,
    retrieve: Callable[[Tensor], Retrieved],
    camera: Cameras,
    seconds: float,
) -> dict[str, dict]:
    """Frames a second, one view at a time, the device waited for after each.

    Args:
        recorded: poses [F] and their times [F], on the host, as motion comes.
        unseen: poses [Q] of consecutive frames; `retrieve(theta)` finds their times, the whole sequence at once, as
            the verbs do. Its share of a frame is part of that frame's time.
        camera: one, of a whole frame.

    Returns:
        By name: 'novel_view' and 'novel_pose', launched kernel by kernel and through `Playback` ('.._playback').
    """
    device = avatar.gaussians.positions.device
    one = Cameras(camera.K[None, None], camera.w2c[None, None], camera.width, camera.height)
    pose, times = recorded
    retrieve(unseen.theta)  # loads libraries
    start = time.perf_counter()
    found = retrieve(unseen.theta)
    share = 1e3 * (time.perf_counter() - start) / len(unseen)
    playback = Playback(avatar, rasterizer)

    def view(i: int) -> Tensor:
        f = i % len(pose)
        return rasterizer(avatar(pose[f : f + 1].to(device), times[f : f + 1].to(device)), one.to(device)).rgb

    def view_playback(i: int) -> Tensor:
        f = i % len(pose)
        return playback.recorded(pose[f : f + 1], times[f : f + 1], one).rgb

    def new_pose(i: int) -> Tensor:
        f = i % len(unseen)
        return rasterizer(avatar.animate(unseen[f : f + 1].to(device), found[[f]]), one.to(device)).rgb

    def new_pose_playback(i: int) -> Tensor:
        f = i % len(unseen)
        return playback.retrieved(unseen[f : f + 1], found[[f]], one).rgb

    # The warm-up covers every frame twice: each kind of picture (with and without parts that jump) is recorded in it.
    few, all_twice = 5, 2 * min(len(unseen), 60)
    result = {
        "novel_view": _row(latencies(view, device, seconds, few), 0.0, camera),
        "novel_view_playback": _row(latencies(view_playback, device, seconds, few), 0.0, camera),
        "novel_pose": _row(latencies(new_pose, device, seconds, all_twice), share, camera),
        "novel_pose_playback": _row(latencies(new_pose_playback, device, seconds, all_twice), share, camera),
    }
    for name in ("novel_pose", "novel_pose_playback"):
        result[name] |= {"retrieval_ms": share, "frames_with_jumps": float(found.jump.any(-1).float().mean())}
    return result


def _row(times: list[float], share: float, camera: Cameras) -> dict:
    ms = statistics.median(times) + share
    slow = sorted(times)[math.ceil(0.95 * (len(times) - 1))] + share
    return {"frames_per_second": 1e3 / ms, "ms": ms, "ms_95": slow, "size": f"{camera.width}x{camera.height}"}
