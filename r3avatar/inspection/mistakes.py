"""The known mistakes of calibrations and body fits, each with the `Mend` that undoes it.

A `Mistake` is a single hypothesis: had that one mistake not been made, cameras and poses would be what its mend makes
of them. Where a mistake can be made in two directions, each direction is one hypothesis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from r3avatar.body import BodyModel
from r3avatar.body.model import HANDS
from r3avatar.captures import Mend
from r3avatar.types import Cameras

ALWAYS = (0.5, 0.25, 2.0, 4.0)  # factors of the intrinsics that are tried on every capture
# Factors of which those are tried that bring the principal points next to the images' middle.
USUAL = (1 / 6, 1 / 5, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 0.8, 1.25, 4 / 3, 1.5, 5 / 3, 2.0, 2.5, 3.0, 4.0)
_NEARLY = math.log(1.05)  # principal points lie within a few percent of the images' middle


@dataclass(frozen=True)
class Mistake:
    """One hypothesis: its name, and what undoes it."""

    name: str
    mend: Mend

    def advice(self, current: Mend) -> str:
        """The override to give for a capture that is read with `current`."""
        both = current.then(self.mend)
        if both is None:
            return "set capture.mend back to nothing and inspect again: this belongs before what is mended now"
        changed = [
            f"'capture.mend.{field.name}={_yaml(getattr(both, field.name))}'"
            for field in fields(Mend)
            if field.name != "hand_mean" and getattr(both, field.name) != getattr(current, field.name)
        ]
        return " ".join(changed)


def known_mistakes(rig: Sequence[Cameras], body: BodyModel, frames: int) -> list[Mistake]:
    """Every mistake that is tried on a capture with these cameras, this body, and poses of so many frames."""
    times = _of_time() if frames > 1 else ()
    return [*_of_places(), *_of_turns(), *_of_hands(body), *times, *(of_intrinsics(f) for f in factors(rig))]


def _of_places() -> Iterator[Mistake]:
    yield Mistake("cameras in millimetres, not metres", Mend(camera_unit=0.001))
    yield Mistake("cameras divided by 1000 though in metres", Mend(camera_unit=1000.0))
    yield Mistake("body translation in millimetres, not metres", Mend(body_unit=0.001))
    yield Mistake("body translation divided by 1000 though in metres", Mend(body_unit=1000.0))


def _of_turns() -> Iterator[Mistake]:
    yield Mistake("camera-to-world taken for world-to-camera, or the reverse", Mend(invert_extrinsics=True))
    yield Mistake("OpenGL camera axes (y up, looking along -z), not OpenCV's", Mend(camera_axes="opengl"))
    yield Mistake("global_orient and transl read as Rh and Th", Mend(root="pelvis"))
    yield Mistake("Rh and Th read as global_orient and transl", Mend(root="origin"))
    yield Mistake("the body's world is y-down, the cameras' y-up, or the reverse", Mend(turn_world=180))
    yield Mistake("the cameras' world is z-up, the body's y-up", Mend(turn_world=90))
    yield Mistake("the cameras' world is y-up, the body's z-up", Mend(turn_world=-90))


def _of_hands(body: BodyModel) -> Iterator[Mistake]:
    if body.kind not in HANDS or not (body.left_hand_mean.any() or body.right_hand_mean.any()):
        return  # without fingers, or with flat mean hands, neither mistake changes anything
    mean = torch.cat([body.left_hand_mean, body.right_hand_mean]).view(30, 3).double().numpy()
    made = functools.partial(np.array, mean)
    relative, full = (Mend(hands=hands, hand_mean=made) for hands in ("relative", "full"))
    yield Mistake("hand poses relative to the mean taken for full ones (flat_hand_mean)", relative)
    yield Mistake("full hand poses taken for relative to the mean (flat_hand_mean)", full)


def _of_time() -> Iterator[Mistake]:
    yield Mistake("poses one frame too late: images show the next row", Mend(frame_offset=1))
    yield Mistake("poses one frame too early: images show the row before", Mend(frame_offset=-1))


def of_intrinsics(factor: float) -> Mistake:
    """The mistake that `Mend(intrinsics_scale=factor)` undoes."""
    return Mistake(f"intrinsics at {1 / factor:.3g} times the images' size", Mend(intrinsics_scale=factor))


def factors(rig: Sequence[Cameras]) -> list[float]:
    """Factors of the intrinsics to try: halves and doubles, and what would bring principal points to the middle."""
    tried, guess = list(ALWAYS), guessed_factor(rig)
    if abs(math.log(guess)) > _NEARLY:
        near = usual_factors(guess)[:2]
        tried += near
        if abs(math.log(near[0] / guess)) > _NEARLY:  # none of the usual ones: the guess itself, for what it is worth
            tried.append(float(f"{guess:.3g}"))
    return list(dict.fromkeys(tried))


def guessed_factor(rig: Sequence[Cameras]) -> float:
    """What would bring the principal points to the images' middle, by the median; 1 if no camera has a usable one."""
    middle = np.array([(c.width / 2 / float(c.K[0, 2]), c.height / 2 / float(c.K[1, 2])) for c in rig if _regular(c)])
    return float(np.median(middle)) if middle.size else 1.0


def usual_factors(guess: float) -> list[float]:
    """The usual factors, those next to a guess first."""
    near = sorted(USUAL, key=lambda factor: abs(math.log(factor / guess)))
    return [float(f"{factor:.9g}") for factor in near]


def _regular(camera: Cameras) -> bool:
    return bool(torch.isfinite(camera.K).all()) and float(camera.K[0, 2]) > 0 and float(camera.K[1, 2]) > 0


def _yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)
