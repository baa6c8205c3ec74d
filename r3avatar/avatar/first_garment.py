"""The garment that an avatar begins with: the one that explains the training masks, moved through the recording."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from r3avatar.avatar.cloth_bone import ShownFrame
from r3avatar.avatar.worn_garment import WornGarment
from r3avatar.body import BodyModel
from r3avatar.body.model import rodrigues
from r3avatar.types import BodyPose

AUTO = "auto"
LONGEST = 300  # frames of a recording that garments are tried on in
log = logging.getLogger(__name__)


class RecordedMotion(Protocol):
    """What of a capture a garment follows."""

    poses: BodyPose  # [F]
    frame_ids: list[int]
    fps: float | None  # None: unknown


@torch.no_grad()
def put_on_garment(
    worn: WornGarment, kind: str, body: BodyModel, capture: RecordedMotion, frames: Sequence[ShownFrame]
) -> None:
    """Fit a garment to what `frames` show, and let it follow the body through all of the capture's frames.

    kind: one of `cloth.tailor.KINDS`, or 'auto': whichever explains the masks best, or none. Nothing is put on where
    none does. ValueError for another word.
    """
    from r3avatar.cloth.fit import Sight, fit_garment
    from r3avatar.cloth.motion import Wearer, after_dressing, dress, stretches
    from r3avatar.cloth.tailor import KINDS, size_of, tailor

    if kind not in (AUTO, *KINDS):
        raise ValueError(f"garment '{kind}' is none of {', '.join((AUTO, *KINDS))}")
    begun, ids = time.monotonic(), capture.frame_ids
    wearer = Wearer(body, capture.poses, body_up(capture.poses))

    def seen(stretch: tuple[int, int]) -> int:
        return sum(frame.number in ids[slice(*stretch)] for frame in frames)

    cut_short = [(start, min(end, start + LONGEST)) for start, end in stretches(ids, capture.fps)]
    start, end = max(cut_short, key=seen)
    shown = [frame for frame in frames if frame.number in ids[start:end]]
    poses, seconds, ahead = after_dressing(wearer, capture.poses[start:end], ids[start:end], capture.fps)
    turn = torch.from_numpy(wearer.turn).float()

    def sight(frame: ShownFrame) -> Sight:
        assert frame.inside is not None
        inside = frame.inside
        return Sight(
            ahead + ids.index(frame.number) - start,
            (frame.off_body @ turn.T).double().numpy(),
            cKDTree((frame.hull @ turn.T).double().numpy()),
            lambda places: inside(torch.from_numpy(places).float() @ turn).numpy(),
        )

    kinds = KINDS if kind == AUTO else (kind,)
    sights = [sight(f) for f in shown]
    cut, misfit = fit_garment(wearer, wearer.surface(poses), seconds, sights, kinds, kind == AUTO)
    if cut is None:
        log.info("no garment explains the masks better than none does (%.1f s)", time.monotonic() - begun)
        return
    garment = tailor(cut, wearer.rest_vertices, wearer.rest_joints, wearer.weights, *size_of(cut.kind, False))
    places = dress(wearer, garment, capture.poses, ids, capture.fps)
    if not np.isfinite(places).all():
        said = f"the simulation of the {cut.kind} ended in no numbers"
        if kind != AUTO:
            raise ValueError(f"{said}; train with avatar.garment=null")
        log.warning("%s: no garment is worn", said)
        return
    worn.put_on(garment, wearer, ids, places)
    log.info(
        "wears a %s, %.2f m long, %.2f m a metre wider below; the masks miss it by %.1f cm (%.1f s)", cut.kind,
        cut.length, cut.flare, 100 * misfit, time.monotonic() - begun,
    )  # fmt: skip


def body_up(poses: BodyPose) -> Tensor:
    """[3] the direction in the world that poses [F] have up on average; an axis of the world where it is near one."""
    up = (poses.R @ rodrigues(poses.theta[:, 0], "torch"))[..., 1].mean(0)
    up = up / up.norm()
    axis = torch.zeros(3)
    axis[up.abs().argmax()] = up[up.abs().argmax()].sign()
    return axis if float(axis @ up) > 0.8 else up
