"""Inspect a capture: what it holds, what it lacks, and whether cameras, poses and masks agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from r3avatar.body import BodyModel
from r3avatar.captures import Capture, Mend, frames_of_splits
from r3avatar.inspection.diagnosis import Diagnosis, Scene, diagnose
from r3avatar.inspection.files import FileGroup, survey
from r3avatar.inspection.opening import Opened
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

    name: str
    capture: Capture | None  # None: no part of it opens
    checks: list[Check]
    refusal: str | None = None  # of the reader; None: it opened the capture as it was asked for
    counts: dict[str, object] = field(default_factory=dict)
    read: int = 0  # images read
    holes: list[Hole] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis([], None, [], []))
    mistake: str | None = None  # the name of the one known mistake that explains what is wrong
    files: list[FileGroup] = field(default_factory=list)  # of a capture whose reader refuses it

    @property
    def verdict(self) -> str:
        """The worst verdict."""
        return worst([check.verdict for check in self.checks])


def inspect_capture(
    capture: Capture | Opened,
    body: BodyModel | str,
    *,
    name: str | None = None,
    folder: Path | None = None,
    views: int = 8,
    frames: int = 6,
    every_image: bool = False,
    progress: bool = False,
) -> Inspection:
    """Read some images of a capture and check it against its body poses.

    capture: or what came of opening it (`open_capture`), where its reader may refuse it. body: or why there is none.
    name: of the report; None: the capture's. folder: of the capture, looked through if its reader refuses it.
    views, frames: cameras, and frames a camera, whose silhouettes are compared with the masks, evenly spread.
    every_image: read all images and masks of the splits, for holes; otherwise the compared ones only.
    progress: show bars where there is a terminal.
    ValueError if the body is of another kind than the capture's poses, or fewer than 1 view or frame are asked for.
    """
    if views < 1 or frames < 1:
        raise ValueError(f"views={views} frames={frames}: compare at least 1 view and 1 frame")
    opened = capture if isinstance(capture, Opened) else Opened(capture)
    capture = opened.capture
    checks = _check_opening(opened, body)
    files = survey(folder) if opened.refusal is not None and folder is not None else []
    checks += [_check_files(files)] if files else []
    if capture is None:
        return Inspection(name or "capture", None, checks, opened.refusal, files=files)
    if isinstance(body, BodyModel) and body.kind != capture.body_kind:
        raise ValueError(f"the capture's poses are {capture.body_kind}'s, the body is {body.kind}; choose body=...")
    shown = choose_pairs(capture, views, frames)
    pairs = frames_of_splits(capture, capture.splits) if every_image else shown
    samples, unreadable = read_samples(capture, pairs, set(shown), progress)
    bad_poses, bad_cameras = pose_holes(capture), camera_holes(capture)
    holes = [*opened.without, *bad_cameras, *bad_poses, *unreadable]
    unusable = {hole.camera for hole in bad_cameras}, {hole.frame for hole in bad_poses}
    samples = [
        s for s in samples
        if capture.camera_ids[s.camera] not in unusable[0] and capture.frame_ids[s.frame] not in unusable[1]
    ]  # fmt: skip
    checks.append(_check_holes(holes, len(pairs)))
    diagnosis, overlaps = Diagnosis([], None, [], []), []
    if isinstance(body, BodyModel):
        rig = [shrunk_camera(camera) for camera in capture.cameras]
        diagnosis = diagnose(Scene(rig, capture.frame_ids, capture.poses, body, samples), progress)
        overlaps = [overlap(given, sample.mask) for given, sample in zip(diagnosis.given, samples)]
        checks += [_check_overlap(overlaps), _check_cameras(capture, samples, overlaps)]
        checks += [_check_mistakes(diagnosis, overlaps, capture.mend, opened)]
        checks += [_check_height(body_height(capture, body))]
    checks.append(_check_distances(capture, samples))
    explained = opened.mistake or (diagnosis.winner.mistake if diagnosis.winner else None)
    return Inspection(
        name or capture.name, capture, checks, opened.refusal, counts(capture), len(pairs), holes, samples, overlaps,
        diagnosis, explained.name if explained else None, files,
    )  # fmt: skip


def _check_opening(opened: Opened, body: BodyModel | str) -> list[Check]:
    """Whether reader and body are there at all."""
    checks = []
    if opened.refusal is not None:
        found, _, mend = opened.refusal.rpartition(" Fix: ")
        if opened.capture is None:
            rest = "nothing of it opens"
        elif opened.mistake is not None:
            rest = "it opens with a known mistake mended"
        else:
            rest = "the rest opens; the holes say what was left out for that"
        checks.append(Check("reader", POOR, f"refuses the capture: {found or mend} ({rest})", mend if found else ""))
    if isinstance(body, str):
        found, _, mend = body.rpartition(" Fix: ")
        mend = mend if found else "register for the body and set body.path: r3avatar doctor says what is looked for"
        checks.append(Check("body", POOR, f"none, so that no overlap is judged: {found or body}", mend))
    return checks


def _check_files(files: list[FileGroup]) -> Check:
    broken = [one for group in files for one in group.broken]
    found = f"{sum(group.count for group in files)} files in {len({group.place for group in files})} places"
    if not broken:
        return Check("files", GOOD, f"{found}; none empty, and those opened are what their names say", "")
    return Check("files", POOR, f"{found}; {len(broken)} broken: {broken[0]}", "get them again; all are listed below")


def _check_holes(holes: list[Hole], read: int) -> Check:
    found = f"{len(holes)} found" if holes else f"none in {read} images read"
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


def _check_mistakes(diagnosis: Diagnosis, overlaps: list[Overlap], current: Mend, opened: Opened) -> Check:
    winner = diagnosis.winner
    if winner is not None:
        found = (
            f"{winner.mistake.name}: mended, {winner.mended.inside:.1%} of the body is inside the mask, "
            f"not {median(overlaps).inside:.1%}, and covers {winner.mended.covered:.0%}"
        )
        return Check("known mistakes", POOR, found, f"set {winner.mistake.advice(current)}")
    tried = f"none of {len(diagnosis.trials)} explains the images better"
    if overlaps and median(overlaps).verdict == POOR:
        mend = "more than one mistake, or another one: compare the contact sheet and the layout"
        return Check("known mistakes", POOR, tried, mend)
    if opened.mistake is not None:
        found = f"{opened.mistake.name}: mended, the capture opens"
        return Check("known mistakes", POOR, found, f"set {opened.mistake.advice(Mend())}")
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
