"""SMPL fits as EasyMocap writes them: one record {poses [1, 72], shapes [1, 10], Rh [1, 3], Th [1, 3]} a frame.

Vertices are Rodrigues(Rh) SMPL(poses, shapes) + Th, with poses[:3] = 0: Rh turns about the origin, not about the
pelvis. Source: EasyMocap's documentation of its output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from r3avatar.captures.capture import CaptureError
from r3avatar.captures.checked import numbers, read_json
from r3avatar.captures.stored_dict import keyed
from r3avatar.types import BodyPose

_SHAPES = {"poses": [(72,), (1, 72)], "shapes": [(10,), (1, 10)], "Rh": [(3,), (1, 3)], "Th": [(3,), (1, 3)]}
_FIX = "fit the body to this frame again, or download the file again"


def read_json_fit(path: Path) -> dict[str, np.ndarray]:
    """The record of a JSON file, a list of one person: poses [72], shapes [10], Rh [3], Th [3], float64."""
    people = read_json(path, what="an SMPL fit", fix=_FIX)
    if not isinstance(people, list) or len(people) != 1:
        found = f"a list of {len(people)}" if isinstance(people, list) else type(people).__name__
        raise CaptureError(path, "the file", expected="a list of one person's fit", found=found, fix=_FIX)
    return checked_fit(people[0], path)


def checked_fit(record: object, path: Path) -> dict[str, np.ndarray]:
    """A record's arrays, poses [72], shapes [10], Rh [3], Th [3], float64; CaptureError names the file and the key."""
    record = keyed(record, list(_SHAPES), path, "the fit", _FIX)
    fit = {key: numbers(record[key], shapes, file=path, place=key, fix=_FIX).ravel() for key, shapes in _SHAPES.items()}
    if np.abs(fit["poses"][:3]).max() > 1e-6:
        raise CaptureError(
            path, "poses", expected="zeros for the root joint (the global rotation is Rh)",
            found=str(fit["poses"][:3].tolist()), fix="fit with the global rotation in Rh alone, as EasyMocap does",
        )  # fmt: skip
    return fit


def body_poses(fits: list[Mapping[str, np.ndarray]]) -> BodyPose:
    """The fits of F frames, float32: theta [F, 24, 3] with a zero root, betas [F, 10], R = Rodrigues(Rh), Th."""

    def stacked(key):
        return torch.from_numpy(np.stack([fit[key] for fit in fits])).float()

    theta = stacked("poses").reshape(-1, 24, 3)
    theta[:, 0] = 0
    R = np.stack([cv2.Rodrigues(fit["Rh"])[0] for fit in fits])
    return BodyPose(
        theta=theta,
        betas=stacked("shapes"),
        expression=torch.zeros(len(fits), 0),
        R=torch.from_numpy(R).float(),
        Th=stacked("Th"),
    )


def require_fits(folder: Path, fits: Mapping[int, Path], frames: Collection[int], name: str) -> None:
    """CaptureError unless the fits' frames have no gap and hold all the given ones; `name` is a file's, '{}.json'."""
    if not fits:
        fix = "check the capture's root and subject"
        raise CaptureError(folder, "the folder", expected=f"fits {name.format(0)}, ..", found="none", fix=fix)
    first, last = min(fits), max(fits)
    missing = sorted((set(range(first, last + 1)) | set(frames)) - set(fits))
    if missing:
        raise CaptureError(
            folder / name.format(missing[0]), "the file", expected=f"the body's fit to frame {missing[0]}",
            found=f"none; {len(fits)} fits of frames {first} .. {last} and {len(missing)} missing",
            fix="fit the body to the frame, or take it out of the splits and the later fits out of the folder",
        )  # fmt: skip
