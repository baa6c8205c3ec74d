"""Inspect a capture: what it holds, what it lacks, and whether cameras, poses and masks agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from r3avatar.body import BodyModel
from r3avatar.captures import Capture, frames_of_splits
from r3avatar.inspection.diagnosis import Diagnosis, diagnose
from r3avatar.inspection.overlap import FAIR, GOOD, POOR, Overlap, median, overlap, worst
from r3avatar.inspection.samples import Hole, Sample, choose_pairs, read_samples, shrunk_camera
from r3avatar.inspection.summary import body_height, camera_holes, counts, pose_holes

_HEIGHTS = (0.5, 2.5)  # metres: bodies beyond have wrong shape coefficients or units
_DISTANCES = (0.3, 50.0)  # metres from a camera to the body


class Check(NamedTuple):
    """One verdict, what it rests on, and what to do about it ('' if nothing)."""

    name: str
    verdict: str
    found: str
    mend: str


@dataclass
class Inspection:
    """Everything a report shows; lists of images run along `samples`."""

    capture: Capture
    counts: dict[str, object]
    read: int  # images read
    holes: list[Hole]
    samples: list[Sample]
    overlaps: list[Overlap]
    diagnosis: Diagnosis
    checks: list[Check]

    @property
    def verdict(self) -> str:
        """The worst verdict."""
        return worst([check.verdict for check in self.checks])


def inspect_capture(
    capture: Capture,
    body: BodyModel,
    *,
    views: int = 8,
    frames: int = 6,
    every_image: bool = False,
    keys: Iterable[str] = (),
) -> Inspection:
    """Read some images of a capture and check it against its body poses.

    views, frames: cameras, and frames a camera, whose silhouettes are compared with the masks, evenly spread.
    every_image: read all images and masks of the splits, for holes; otherwise the compared ones only.
    keys: the reader's own keys, so that a mend can name the one to set.
    ValueError if the body is of another kind than the capture's poses, or fewer than 1 view or frame are asked for.
    """
    if views < 1 or frames < 1:
        raise ValueError(f"views={views} frames={frames}: compare at least 1 view and 1 frame")
    if body.kind != capture.body_kind:
        raise ValueError(f"the capture's poses are {capture.body_kind}'s, the body is {body.kind}; choose body=...")
    shown = choose_pairs(capture, views, frames)
    pairs = frames_of_splits(capture, capture.splits) if every_image else shown
    samples, unreadable = read_samples(capture, pairs, set(shown))
    bad_poses, bad_cameras = pose_holes(capture), camera_holes(capture)
    holes = [*bad_cameras, *bad_poses, *unreadable]
    unusable = {hole.camera for hole in bad_cameras}, {hole.frame for hole in bad_poses}
    samples = [
        s for s in samples
        if capture.camera_ids[s.camera] not in unusable[0] and capture.frame_ids[s.frame] not in unusable[1]
    ]  # fmt: skip
    rig = [shrunk_camera(camera) for camera in capture.cameras]
    diagnosis = diagnose(rig, capture.poses, body, samples)
    overlaps = [overlap(given, sample.mask) for given, sample in zip(diagnosis.given, samples)]
    checks = [
        _check_holes(holes, len(pairs)),
        _check_overlap(overlaps),
        _check_cameras(capture, samples, overlaps),
        _check_diagnosis(diagnosis, overlaps, list(keys)),
        _check_distances(capture, samples),
        _check_height(body_height(capture, body)),
    ]
    return Inspection(
        capture, counts(capture), len(pairs), holes, samples, overlaps, diagnosis, checks
    )  # fmt: skip


def _check_holes(holes: list[Hole], read: int) -> Check:
    found = f"{len(holes)} holes" if holes else f"none in {read} images read"
    mend = "take what is missing out of the splits, or get the files again" if holes else ""
    return Check("holes", POOR if holes else GOOD, found, mend)


def _check_overlap(overlaps: list[Overlap]) -> Check:
    if not overlaps:
        return Check("overlap", POOR, "no image with a mask to compare", "mend the holes first")
    typical = median(overlaps)
    poor = sum(o.verdict == POOR for o in overlaps)
    found = (
        f"{typical.inside:.1%} of the body inside the mask, which it covers to {typical.covered:.0%} (medians); "
        f"{poor} of {len(overlaps)} images poor"
    )
    verdict = typical.verdict
    if verdict == GOOD and poor:
        verdict = FAIR
    return Check("overlap", verdict, found, "" if verdict == GOOD else "see the contact sheet")


def _check_cameras(capture: Capture, samples: list[Sample], overlaps: list[Overlap]) -> Check:
    """Single cameras that are poor while the capture is not: their calibration is off, or they see too little."""
    if not overlaps or median(overlaps).verdict == POOR:
        return Check("single cameras", GOOD, "not judged: the whole capture is poor", "")
    poor = [
        capture.camera_ids[camera]
        for camera in sorted({s.camera for s in samples})
        if median([o for s, o in zip(samples, overlaps) if s.camera == camera]).verdict == POOR
    ]
    if not poor:
        return Check("single cameras", GOOD, "none stands out", "")
    return Check("single cameras", POOR, f"poor: {', '.join(poor)}", "calibrate them again, or leave them out")


def _check_diagnosis(diagnosis: Diagnosis, overlaps: list[Overlap], keys: list[str]) -> Check:
    winner = diagnosis.winner
    if winner is not None:
        found = (
            f"{winner.mistake.name}: mended, {winner.mended.inside:.1%} of the body is inside the mask, "
            f"not {median(overlaps).inside:.1%}, and covers {winner.mended.covered:.0%}"
        )
        return Check("known mistakes", POOR, found, winner.mistake.fix(keys))
    tried = f"none of {len(diagnosis.trials)} explains the images better"
    if overlaps and median(overlaps).verdict == POOR:
        mend = "more than one mistake, or another one: compare the contact sheet and the layout"
        return Check("known mistakes", POOR, tried, mend)
    return Check("known mistakes", GOOD, tried if diagnosis.trials else "not tried: no image to compare", "")


def _check_distances(capture: Capture, samples: list[Sample]) -> Check:
    """Whether cameras are as far from the body as cameras are."""
    place = capture.poses.Th[[s.frame for s in samples] or [0]].double().mean(0)
    distances = torch.stack([torch.linalg.vector_norm(c.centres.double() - place) for c in capture.cameras])
    near, far = float(distances.min()), float(distances.max())
    verdict = GOOD if _DISTANCES[0] <= near and far <= _DISTANCES[1] else POOR
    mend = "" if verdict == GOOD else "lengths are metres: check the units of cameras and body"
    return Check("camera distances", verdict, f"{near:.3g} to {far:.3g} m from the body", mend)


def _check_height(height: float) -> Check:
    verdict = GOOD if _HEIGHTS[0] <= height <= _HEIGHTS[1] else POOR
    mend = "" if verdict == GOOD else "check betas and the body model (body=..., gender)"
    return Check("body height", verdict, f"{height:.2f} m in the rest pose", mend)
