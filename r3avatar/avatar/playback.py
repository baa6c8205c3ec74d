"""Fast rendering of a trained avatar: on CUDA a picture is one replayed graph."""

from __future__ import annotations

import torch
from torch import Tensor

from r3avatar.avatar.avatar import Avatar
from r3avatar.cuda_graphs import RecordedFunction
from r3avatar.rasterizer.base import Rasterizer
from r3avatar.retrieval.retrieved import Retrieved
from r3avatar.types import BodyPose, Cameras, RenderOutput


class Playback:
    """Renders an avatar that no longer changes: recorded times, or retrieved ones for new poses.

    On CUDA, with a rasterizer that can be recorded, the whole way from pose to picture is a CUDA graph for each
    combination of frames, views, image size and blending that occurs; elsewhere it runs plainly. The pictures are the
    caller's own. Poses, times, cameras and retrieved times may be on any device.
    """

    def __init__(self, avatar: Avatar, rasterizer: Rasterizer):
        self.avatar, self.rasterizer = avatar, rasterizer
        self._recorded: dict[tuple, RecordedFunction] = {}

    @torch.no_grad()
    def recorded(self, pose: BodyPose, times: Tensor, cameras: Cameras) -> RenderOutput:
        """The F frames of `pose` with the appearance of `times` [F] (frames), from `cameras` [F, V]."""
        return self._render(self._at_times, "recorded", (pose, times.float(), cameras))

    @torch.no_grad()
    def retrieved(self, pose: BodyPose, retrieved: Retrieved, cameras: Cameras) -> RenderOutput:
        """The F frames of a pose never recorded with the appearance of retrieved times, from `cameras` [F, V]."""
        times, current, previous, fades = self.avatar.distinct_times(retrieved)
        if not fades:
            return self._render(self._blended, "retrieved", (pose, times, current, cameras))
        return self._render(self._faded, "faded", (pose, times, current, previous, cameras))

    def _at_times(self, pose: BodyPose, times: Tensor, cameras: Cameras) -> RenderOutput:
        return self.rasterizer(self.avatar(pose, times), cameras)

    def _blended(self, pose: BodyPose, times: Tensor, current: Tensor, cameras: Cameras) -> RenderOutput:
        attributes = self.avatar.blend_times(times, current)
        return self.rasterizer(self.avatar.reconstruct(attributes, pose), cameras)

    def _faded(
        self, pose: BodyPose, times: Tensor, current: Tensor, previous: Tensor, cameras: Cameras
    ) -> RenderOutput:
        attributes = self.avatar.blend_times(times, current, previous)
        return self.rasterizer(self.avatar.reconstruct(attributes, pose), cameras)

    def _render(self, function, name: str, arguments: tuple) -> RenderOutput:
        device = self.avatar.gaussians.positions.device
        arguments = tuple(x.to(device, non_blocking=True) for x in arguments)
        cameras = arguments[-1]
        if device.type != "cuda" or not self.rasterizer.capturable:
            return function(*arguments)
        # One recording a kind of picture; the shapes of all arguments follow from these.
        key = (name, *cameras.K.shape[:2], cameras.width, cameras.height, arguments[1].shape[0])
        if key not in self._recorded:
            self._recorded[key] = RecordedFunction()
        output = self._recorded[key](function, arguments, addresses=self.rasterizer.generation)
        while self.rasterizer.check_capacity():  # some of the lists may have been cut short
            output = self._recorded[key](function, arguments, addresses=self.rasterizer.generation)
        return output._map(torch.clone)
