"""The upper bound of retrieval: the recorded times whose appearance is closest to the true images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from tqdm import tqdm

from r3avatar.avatar import Playback
from r3avatar.retrieval.parts import PARTS, check_kind
from r3avatar.retrieval.retrieved import RetrievalError, Retrieved
from r3avatar.types import Batch, BodyPose, Cameras, RenderOutput

_IMAGES = 64  # rendered at a time, frames x views


class OracleTimes:
    """`retrieval=oracle`: for every evaluated frame the recorded times that give the best images of it.

    First one time for the whole body, out of all; then part after part, each among the `per_part` times that were best
    for the whole body, the other parts keeping theirs; that greedy round is made `rounds` times. The best is the least
    squared error over all pixels of the frame's views, clamped to [0, 1]. What it reaches bounds what better retrieval
    of recorded frames can gain, up to times between frames and to what the greedy rounds miss. It reads the images it
    is measured on: a bound, never a result.
    """

    def __init__(self, kind: str, every: int = 1, per_part: int = 8, rounds: int = 1):
        """
        Args:
            kind: 'smpl' or 'smplx'.
            every: try each n-th recorded frame for the whole body.
            per_part: times tried for a part; 0 or 1 = one time for the whole body.
            rounds: greedy rounds over the parts.
        """
        check_kind(kind)
        if every < 1 or per_part < 0 or rounds < 0:
            raise ValueError(
                f"every = {every} must be 1 or more, per_part = {per_part} and rounds = {rounds} 0 or more"
            )
        self.every, self.per_part, self.rounds = every, per_part, rounds
        self.times: Tensor | None = None

    def fit(self, theta: Tensor, times: Tensor, bank: Tensor | None = None):
        """Take the recorded times, as `Retriever.fit`; poses do not count."""
        times = torch.as_tensor(times).float()
        self.times = (times if bank is None else times[torch.as_tensor(bank, dtype=torch.bool)])[:: self.every].cpu()
        if len(self.times) == 0:
            raise ValueError("no recorded frames to retrieve from: `times` is empty, or `bank` is all false")
        return self

    def retrieve(self, theta: Tensor, history: Tensor | None = None) -> Retrieved:
        """Refused: poses alone have no best image."""
        raise RetrievalError(
            "retrieval=oracle needs the true images of the poses, which only an evaluation has: "
            "r3avatar evaluate run=DIR retrieval=oracle; choose retrieval=viterbi to animate"
        )

    @torch.no_grad()
    def search(
        self, playback: Playback, batches: Iterable[Batch], device: torch.device
    ) -> tuple[Retrieved, dict[int, int]]:
        """Times [Q, 5] for the Q frames of the batches, and each frame's row.

        batches: of one frame each, a frame's in a row.
        `Retrieved.distances` holds the root mean squared error of the images.
        """
        if self.times is None:
            raise RuntimeError("the oracle has no recorded times: call fit(theta, times) first")
        found, errors, rows = [], [], {}
        by_frame = groupby(batches, key=lambda batch: int(batch.frame[0]))
        for frame, group in tqdm(by_frame, desc="best recorded times", leave=False, dynamic_ncols=True):
            views = [_dressed(playback, batch.to(device)) for batch in group]
            times, error = self._best(playback, views)
            rows[frame] = len(found)
            found.append(times)
            errors.append(error)
        times = torch.stack(found) if found else torch.zeros(0, len(PARTS))
        return _as_retrieved(times, torch.tensor(errors)), rows

    def _best(self, playback: Playback, views: list[Batch]) -> tuple[Tensor, float]:
        """The times [5] of one frame, and the root mean squared error they leave."""
        whole = _errors(lambda pose, times, cameras: playback.recorded(pose, times[:, 0], cameras), views,
                        self.times[:, None].expand(-1, len(PARTS)))  # fmt: skip

        def blended(pose: BodyPose, times: Tensor, cameras: Cameras) -> RenderOutput:
            return playback.retrieved(pose, _as_retrieved(times, torch.zeros(len(times))), cameras)

        order = whole.argsort(stable=True)  # the earlier time at equal errors
        best, error = self.times[order[0]].repeat(len(PARTS)), float(whole[order[0]])
        for _ in range(self.rounds if self.per_part > 1 else 0):
            before = error
            for part in range(len(PARTS)):
                tried = best.repeat(min(self.per_part, len(order)), 1)
                tried[:, part] = self.times[order[: self.per_part]]
                found = _errors(blended, views, tried)
                if float(found.min()) < error:
                    best, error = tried[found.argmin()], float(found.min())
            if error == before:
                break
        return best, error


def _dressed(playback: Playback, batch: Batch) -> Batch:
    """The batch with the garment as it hung in its frames, if one is worn."""
    pose = playback.avatar.dressed(batch.pose, batch.frame)
    return batch if pose is batch.pose else replace(batch, pose=pose)


def _errors(render: Callable[[BodyPose, Tensor, Cameras], RenderOutput], views: list[Batch], times: Tensor) -> Tensor:
    """The root mean squared errors [B] of one frame's images with the parts at times [B, 5], several at a time.

    Every call of `render` has as many candidates as the others, the last ones repeated: one kind of call, which CUDA
    plays back as one graph.
    """
    squares, pixels = torch.zeros(len(times), dtype=torch.float64), 0
    for batch in views:
        V, H, W = batch.rgb.shape[1:4]
        truth = batch.rgb.float() / 255
        size = min(len(times), max(1, _IMAGES // V))
        pose = batch.pose[[0] * size]
        cameras = Cameras(batch.cameras.K.expand(size, -1, -1, -1), batch.cameras.w2c.expand(size, -1, -1, -1), W, H)
        found = []
        for some in times.split(size):
            asked = torch.cat([some, some[-1:].expand(size - len(some), -1)])
            rgb = render(pose, asked, cameras).rgb.clamp(0, 1)
            found.append((rgb - truth).square().mean((2, 3, 4)).double().sum(1)[: len(some)])
        squares += torch.cat(found).cpu() * (H * W)
        pixels += V * H * W
    return (squares / pixels).sqrt()


def _as_retrieved(times: Tensor, errors: Tensor) -> Retrieved:
    """Times [Q, 5] without cross-fades."""
    none, neighbours = torch.full_like(times, torch.nan), torch.full(times.shape, -1)
    return Retrieved(times, none, errors[:, None].expand(times.shape).clone(), neighbours)
