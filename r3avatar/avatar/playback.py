"""Fast rendering of a trained avatar: on CUDA a picture is one replayed graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from torch import Tensor

from r3avatar.avatar.attribute_table import AttributeTable, KeptTables
from r3avatar.avatar.avatar import Avatar, Constants
from r3avatar.cuda_graphs import GraphMemory, Inbox, RecordedFunction, tensors_of
from r3avatar.rasterizer.base import Rasterizer
from r3avatar.retrieval.retrieved import Mixture, Retrieved
from r3avatar.types import BodyPose, Cameras, RenderOutput


class Playback:
    """Renders an avatar that no longer changes: recorded times, or retrieved ones for new poses.

    On CUDA, with a rasterizer that can be recorded, the whole way from pose to picture is a CUDA graph for each
    combination of frames, views, image size and number of times that occurs; elsewhere it runs plainly. A call waits
    for the device once, to be sure that the picture is complete. Poses, times, cameras and retrieved times may be on
    any device; what comes from the host is one small copy.

    Of a `Mixture` the attributes at all its times are decoded once, by the first picture, and kept. One that asks for
    several pictures is drawn so many times, and their mean is what is returned.

    Pictures (rgb, alpha) are the caller's own. `radii` and `means2d` are valid until the next call.
    """

    def __init__(self, avatar: Avatar, rasterizer: Rasterizer):
        self.avatar, self.rasterizer = avatar, rasterizer
        self._constants: Constants | None = None
        self._tables = KeptTables(avatar)
        self._memory: GraphMemory | None = None
        self._recorded: dict[Hashable, tuple[Inbox, RecordedFunction]] = {}

    @torch.no_grad()
    def recorded(self, pose: BodyPose, times: Tensor, cameras: Cameras) -> RenderOutput:
        """The F frames of `pose` with the appearance of `times` [F] (frames), from `cameras` [F, V]."""
        return self._render(self._at_times, (pose, times.float(), cameras))

    @torch.no_grad()
    def retrieved(self, pose: BodyPose, retrieved: Retrieved | Mixture, cameras: Cameras) -> RenderOutput:
        """The F frames of a pose never recorded with the appearance of retrieved times, from `cameras` [F, V]."""
        if isinstance(retrieved, Mixture):
            return self._mixed(pose, retrieved, cameras)
        function = self._blended_aligned if retrieved.align else self._blended
        return self._render(function, (pose, *self.avatar.distinct_times(retrieved), cameras))

    def _at_times(self, pose: BodyPose, times: Tensor, cameras: Cameras) -> RenderOutput:
        gaussians = self.avatar.reconstruct(self.avatar.record(times), pose, self._constants)
        return self.rasterizer(gaussians, cameras)

    def _blended(
        self,
        pose: BodyPose,
        times: Tensor,
        current: Tensor,
        previous: Tensor,
        share: Tensor,
        cameras: Cameras,
        align: bool = False,
    ) -> RenderOutput:
        attributes = self.avatar.blend_times(times, current, previous, share, self._constants, align)
        return self.rasterizer(self.avatar.reconstruct(attributes, pose, self._constants), cameras)

    def _blended_aligned(self, *arguments) -> RenderOutput:
        return self._blended(*arguments, align=True)

    def _mixed(self, pose: BodyPose, mixture: Mixture, cameras: Cameras) -> RenderOutput:
        number, table = self._tables(mixture, self._known())
        if mixture.pictures > 1:
            return self._averaged(pose, mixture, cameras, number, table)

        def mixed(pose: BodyPose, weights: Tensor, cameras: Cameras) -> RenderOutput:
            gaussians = self.avatar.reconstruct(table.mix(weights), pose, self._constants)
            return self.rasterizer(gaussians, cameras)

        return self._render(mixed, (pose, mixture.shares, cameras), number)

    def _averaged(
        self, pose: BodyPose, mixture: Mixture, cameras: Cameras, number: int, table: AttributeTable
    ) -> RenderOutput:
        """The mean of the pictures of a mixture's pieces; `radii` and `means2d` are the last piece's."""

        positions = self.avatar.gaussians.positions

        def averaged(pose: BodyPose, pieces: Tensor, counts: Tensor, cameras: Cameras) -> RenderOutput:
            F, K = counts.shape
            attributes = table.mix(pieces.flatten(0, 1))  # at once: the table is read once
            rgb, alpha, output = 0, 0, None
            # The body's vertices are looked for once, where the Gaussians are on average: a third of the time on a CPU.
            mean = (attributes.offset.unflatten(0, (F, K)) * counts[..., None, None]).sum(1)
            vertex = self.avatar.skinning.vertex(positions, positions + mean)
            carried = self.avatar.carried(pose, self._constants)
            for k in range(K):  # one after the other: the memory of one
                gaussians = self.avatar.reconstruct(attributes[k::K], pose, self._constants, vertex, carried)
                output = self.rasterizer(gaussians, cameras)
                count = counts[:, k, None, None, None]
                rgb, alpha = rgb + count[..., None] * output.rgb, alpha + count * output.alpha
            return replace(output, rgb=rgb, alpha=alpha)

        return self._render(averaged, (pose, *mixture.pieces(), cameras), number)

    def _known(self) -> Constants:
        if self._constants is None:
            self._constants = self.avatar.constants()
        return self._constants

    def _render(self, function: Callable[..., RenderOutput], arguments: tuple, kind: Hashable = None) -> RenderOutput:
        """kind: what else than names and shapes tells recordings apart."""
        device = self.avatar.gaussians.positions.device
        self._known()
        if device.type != "cuda" or not self.rasterizer.capturable:
            return function(*(x.to(device) for x in arguments))
        given, cameras = tensors_of(arguments), arguments[-1]
        key = (function.__name__, kind, cameras.width, cameras.height, *(x.shape for x in given))
        if key not in self._recorded:
            if self._memory is None:
                self._memory = GraphMemory()
            self._recorded[key] = Inbox(arguments, device), RecordedFunction(self._memory, in_place=True)
        inbox, recording = self._recorded[key]
        inbox.put(given)
        while True:
            output = recording(function, inbox.arguments, addresses=self.rasterizer.generation)
            picture = replace(output, rgb=output.rgb.clone(), alpha=output.alpha.clone())
            # The one wait for the device. Where lists may have been cut short they are longer now, and all is drawn
            # again.
            if not self.rasterizer.check_capacity():
                return picture
