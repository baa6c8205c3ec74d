"""Which single known mistake explains a poor overlap: every one is tried on the sampled images.

Pixels are weighed as the overlap is judged (overlap.py): body outside the person's mask costs 1, mask that the body
does not fill costs `_UNCOVERED`, as clothes may be there. A trial looks only at pixels that a hypothesis changes, so
that loose clothes, which no hypothesis changes, hide nothing: even hands of a few pixels and poses one frame off are
told. A hypothesis is accepted if
  `_SHARE` or more of what it changes, by weight, changes for the better (a right hypothesis reaches 0.7 to 0.95: the
  wrong body had filled some of the clothes by chance; on a right capture, wrong hypotheses stay below 0.4),
  its gain is `_ERRORS` times the standard error of its mean over the images and `_LEAST_GAIN` of the mask's area, and
  the mended overlap's median is not poor.
The winner is the accepted one with the greatest gain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from r3avatar.body import BodyModel
from r3avatar.inspection.mistakes import MISTAKES, Mistake, Rig
from r3avatar.inspection.overlap import POOR, Overlap, median, overlap
from r3avatar.inspection.samples import Sample
from r3avatar.inspection.silhouette import silhouette
from r3avatar.types import BodyPose

_UNCOVERED = 0.25  # cost of a mask's pixel without body; a pixel of body outside the mask costs 1
_SHARE = 0.6  # least weight of improved pixels among all changed ones
_ERRORS = 3.0  # least gain in standard errors
_LEAST_GAIN = 0.001  # least mean gain, as a share of the mask's area: a few pixels an image


@dataclass
class Trial:
    """What became of the images when one hypothesis was applied."""

    mistake: Mistake
    gain: float  # mean over images of (cost before - cost after) / mask area
    share: float  # weight of improved pixels among changed ones, 0.5 = as many better as worse; 0 if none changed
    errors: float  # the gain in standard errors of the mean; 0 for a single image, which proves nothing
    mended: Overlap  # median overlap with the hypothesis applied
    accepted: bool


@dataclass
class Diagnosis:
    """Every trial, best gain first, and the winner, if one beats the capture as given by a clear margin."""

    trials: list[Trial]
    winner: Trial | None
    given: list[np.ndarray]  # silhouettes [H, W] uint8 0/1 of the samples as given
    mended: list[np.ndarray]  # with the winner applied; empty without one


@torch.no_grad()
def pose_bodies(poses: BodyPose, body: BodyModel, samples: list[Sample]) -> dict[int, np.ndarray]:
    """The posed vertices [V, 3] float64, metres, world, of every frame that the samples show, by its position."""
    frames = sorted({sample.frame for sample in samples})
    return {frame: body.vertices(poses[frame : frame + 1])[0].double().numpy() for frame in frames}


def silhouettes(rig: Rig, posed: dict[int, np.ndarray], body: BodyModel, samples: list[Sample]) -> list[np.ndarray]:
    """The body's silhouette [H, W] uint8 in every sample; `rig` holds the capture's cameras at the samples' size."""
    faces = body.faces.numpy()
    return [silhouette(posed[sample.frame], faces, rig[sample.camera]) for sample in samples]


def _cost(body: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cost of every pixel [H, W] of a silhouette against a mask, both 0/1."""
    return np.where(mask > 0, _UNCOVERED * (body == 0), body > 0).astype(np.float64)


def trial(mistake: Mistake, given: list[np.ndarray], changed: list[np.ndarray], masks: list[np.ndarray]) -> Trial:
    """Judge a hypothesis by the silhouettes [S] as given and with it applied, against the person's masks [S]."""
    gains, better, worse = [], 0.0, 0.0
    for before, after, mask in zip(given, changed, masks):
        step = (_cost(before, mask) - _cost(after, mask)) / max(int((mask > 0).sum()), 1)
        gains.append(float(step.sum()))
        better += float(step[step > 0].sum())
        worse -= float(step[step < 0].sum())
    gain = float(np.mean(gains))
    spread = float(np.std(gains, ddof=1)) / len(gains) ** 0.5 if len(gains) > 1 else np.inf
    errors = gain / max(spread, 1e-9)
    share = better / (better + worse) if better + worse > 0 else 0.0
    mended = median([overlap(after, mask) for after, mask in zip(changed, masks)])
    clear = share >= _SHARE and errors >= _ERRORS and gain >= _LEAST_GAIN
    return Trial(mistake, gain, share, errors, mended, clear and mended.verdict != POOR)


def diagnose(rig: Rig, poses: BodyPose, body: BodyModel, samples: list[Sample]) -> Diagnosis:
    """Try every known mistake on the samples; `rig` holds the capture's cameras at the samples' size."""
    posed = pose_bodies(poses, body, samples)
    given, masks = silhouettes(rig, posed, body, samples), [sample.mask for sample in samples]
    trials, mended, winner = [], [], None
    for mistake in MISTAKES if samples else []:
        other_rig, other_poses = mistake.change(rig, poses, body)
        other = posed if other_poses is poses else pose_bodies(other_poses, body, samples)
        changed = silhouettes(other_rig, other, body, samples)
        found = trial(mistake, given, changed, masks)
        trials.append(found)
        if found.accepted and (winner is None or found.gain > winner.gain):
            winner, mended = found, changed
    return Diagnosis(sorted(trials, key=lambda t: -t.gain), winner, given, mended)
