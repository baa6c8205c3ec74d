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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from r3avatar.body import BodyModel
from r3avatar.captures import Mend
from r3avatar.inspection.mistakes import Mistake, known_mistakes
from r3avatar.inspection.overlap import POOR, Overlap, median, overlap
from r3avatar.inspection.samples import Sample
from r3avatar.inspection.silhouette import silhouette
from r3avatar.types import BodyPose, Cameras

_FRAMES_AT_ONCE = 16  # posed bodies computed together
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


class Scene:
    """The sampled images with the body that is posed in them."""

    def __init__(
        self, rig: Sequence[Cameras], frame_ids: list[int], poses: BodyPose, body: BodyModel, samples: list[Sample]
    ):
        self.rig, self.frame_ids, self.poses, self.body, self.samples = rig, frame_ids, poses, body, samples
        self._faces = np.ascontiguousarray(body.faces.numpy())
        self._bodies: dict[bytes, np.ndarray] = {}  # by the pose's own parameters: vertices before R and Th
        self.given = self._silhouettes(rig, poses, [sample.frame for sample in samples])

    def mended(self, mend: Mend) -> list[np.ndarray]:
        """The silhouettes [S] of [H, W] uint8 with a mend applied; as given for frames that lose their pose by it."""
        rig = [self._mended_camera(camera, mend) for camera in self.rig]
        frame_ids, poses, _ = mend.fits(self.frame_ids, self.poses)
        row_of = {frame: row for row, frame in enumerate(frame_ids)}
        rows = [row_of.get(self.frame_ids[sample.frame]) for sample in self.samples]
        found = self._silhouettes(rig, poses, rows)
        return [given if row is None else one for given, row, one in zip(self.given, rows, found)]

    def _silhouettes(self, rig: Sequence[Cameras], poses: BodyPose, rows: list[int | None]) -> list[np.ndarray | None]:
        """The body in the pose of each sample's row; None where it has none."""
        posed = self._posed(poses, sorted({row for row in rows if row is not None}))
        return [
            None if row is None else silhouette(posed[row], self._faces, rig[sample.camera])
            for sample, row in zip(self.samples, rows)
        ]

    @torch.no_grad()
    def _posed(self, poses: BodyPose, rows: list[int]) -> dict[int, np.ndarray]:
        """The posed vertices [V, 3] float64, metres, world, by row."""
        keys = {row: self._key(poses, row) for row in rows}
        new = {key: row for row, key in keys.items() if key not in self._bodies}
        for keys_at_once in _batches(list(new), _FRAMES_AT_ONCE):
            some = poses[[new[key] for key in keys_at_once]]
            still = replace(some, R=torch.eye(3).expand(len(some), 3, 3), Th=torch.zeros(len(some), 3))
            self._bodies.update(zip(keys_at_once, self.body.vertices(still).double().numpy()))
        R, Th = poses.R.double().numpy(), poses.Th.double().numpy()
        return {row: self._bodies[key] @ R[row].T + Th[row] for row, key in keys.items()}

    @staticmethod
    def _key(poses: BodyPose, row: int) -> bytes:
        return b"".join(value[row].numpy().tobytes() for value in (poses.theta, poses.betas, poses.expression))

    def _mended_camera(self, camera: Cameras, mend: Mend) -> Cameras:
        K, w2c = mend.camera(camera.K.double().numpy(), camera.w2c.double().numpy())
        return Cameras(torch.from_numpy(K), torch.from_numpy(w2c), camera.width, camera.height)


def _batches(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


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


def diagnose(scene: Scene, progress: bool = False) -> Diagnosis:
    """Try every known mistake on the samples."""
    masks = [sample.mask for sample in scene.samples]
    trials, mended, winner = [], [], None
    mistakes = known_mistakes(scene.rig, scene.body, len(scene.frame_ids)) if scene.samples else []
    for mistake in tqdm(mistakes, "known mistakes", leave=False, disable=None if progress else True):
        changed = scene.mended(mistake.mend)
        found = trial(mistake, scene.given, changed, masks)
        trials.append(found)
        if found.accepted and (winner is None or found.gain > winner.gain):
            winner, mended = found, changed
    return Diagnosis(sorted(trials, key=lambda t: -t.gain), winner, scene.given, mended)
