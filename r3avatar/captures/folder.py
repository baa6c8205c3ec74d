"""This project's own plain layout, which other data is converted to: docs/folder_layout.md says all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from r3avatar.captures.capture import GENDERS, SPLIT_NAMES, CaptureError, Split, parse_recorded
from r3avatar.captures.checked import (
    check_file_name,
    check_intrinsics,
    check_keys,
    check_rotation,
    numbers,
    read_json,
    read_npz,
)
from r3avatar.captures.image_files import ImageFileCapture, View, numbered_files
from r3avatar.captures.mend import Mend
from r3avatar.types import BodyPose

JOINTS = {"smpl": 24, "smplx": 55}
_MEND = "mend the file as docs/folder_layout.md says"
_IMAGE, _MASK = re.compile(r"([0-9]+)\.(?:jpg|jpeg|png)"), re.compile(r"([0-9]+)\.png")


class FolderCapture(ImageFileCapture):
    """One capture in the plain layout, `<root>/<subject>/` with capture.json, cameras.json, poses.npz, images, masks.

    splits: train, novel_view, novel_pose to a Split or {cameras, frames} as `Split.parse` reads them, or to None: that
        split of capture.json, if it has one. None: all of capture.json.
    recorded: (first frame, length T) of the time axis that the avatar records; None: capture.json's.
    scale: image size relative to the files'. undistort: remove lens distortion by cameras.json's dist.
    fps: frames a second; None: capture.json's. box_margin: metres around the posed body for the bound mask.
    mend: what to change in the conventions of cameras and poses as they are read; None: nothing (`Mend`).

    The capture's cameras are those that some split names, its frames those of poses.npz. Threads may read at once.
    Instances pickle as their arguments.
    Raises CaptureError at construction for what the splits need and the files lack; images are decoded by `read` only.
    """

    def __init__(
        self,
        root: str | Path,
        subject: str,
        *,
        splits: Mapping[str, Split | Mapping | None] | None = None,
        recorded: Sequence[int] | None = None,
        scale: float = 1.0,
        undistort: bool = True,
        fps: float | None = None,
        box_margin: float = 0.05,
        mend: Mend | None = None,
    ):
        folder = Path(root).expanduser() / check_file_name(str(subject), "subject")
        about = read_about(folder / "capture.json")
        given = {name: split for name, split in (splits or {}).items() if split is not None}
        chosen = {**about["splits"], **{name: _parsed(split) for name, split in given.items()}}
        self.recorded = about["recorded"] if recorded is None else parse_recorded(recorded)
        self.fps = about["fps"] if fps is None else fps
        self.gender, self.box_margin, self.undistort = about["gender"], box_margin, undistort
        self._begin(
            root, subject, chosen, scale, mend, recorded=self.recorded, undistort=undistort, fps=fps,
            box_margin=box_margin,
        )  # fmt: skip
        self.body_kind, self.frame_ids, self.poses = read_poses(folder / "poses.npz")
        path = folder / "cameras.json"
        self._calibration = read_json(path, what="the cameras", fix=_MEND)
        if not isinstance(self._calibration, dict):
            found = type(self._calibration).__name__
            raise CaptureError(path, "the file", expected="a dictionary by camera", found=found, fix=_MEND)
        self._open(self._view, undistort)

    def _view(self, camera: str) -> View:
        path = self.folder / "cameras.json"
        if camera not in self._calibration:
            raise CaptureError(
                path, f"camera {camera}", expected="its calibration", found=f"only {sorted(self._calibration)}",
                fix=f"add it, or take camera {camera} out of the splits",
            )  # fmt: skip
        K, w2c, dist, size = read_camera(self._calibration[camera], path, f"camera {camera}")
        K[:2, 2] += 0.5  # OpenCV's first pixel centre is (0, 0), ours (0.5, 0.5)
        folders = self.folder / "images" / camera, self.folder / "masks" / camera
        fix = f"add the files, or take camera {camera} out of the splits"
        images = numbered_files(folders[0], _IMAGE, what="images <frame>.jpg or <frame>.png", fix=fix)
        masks = numbered_files(folders[1], _MASK, what="masks <frame>.png", fix=fix)
        image_of, mask_of = (
            lambda frame, folder=folder: folder / f"{frame:06d}.png" for folder in folders  # images may be JPEGs
        )
        return View(camera, K, w2c, dist, images, masks, image_of, mask_of, size)


def read_camera(
    entry: object, path: Path, place: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[int, int]]:
    """K [3, 3] (OpenCV), w2c [4, 4], distortion or None, (width, height) of one camera of cameras.json."""
    at = {"file": path, "fix": _MEND}
    entry = check_keys(
        entry, required=("K", "width", "height"), optional=("w2c", "R", "T", "dist"), place=place, **at
    )  # fmt: skip
    K = numbers(entry["K"], [(3, 3)], place=f"{place}, K", **at)
    check_intrinsics(K, place=f"{place}, K", **at)
    extrinsics = sorted(set(entry) & {"w2c", "R", "T"})
    if extrinsics == ["w2c"]:
        w2c = numbers(entry["w2c"], [(4, 4)], place=f"{place}, w2c", **at)
        if not np.array_equal(w2c[3], [0, 0, 0, 1]):
            raise CaptureError(
                path, f"{place}, w2c", expected="a last row 0 0 0 1", found=str(w2c[3].tolist()), fix=_MEND
            )
    elif extrinsics == ["R", "T"]:
        w2c = np.eye(4)
        w2c[:3, :3] = numbers(entry["R"], [(3, 3)], place=f"{place}, R", **at)
        w2c[:3, 3] = numbers(entry["T"], [(3,), (3, 1)], place=f"{place}, T", **at).ravel()
    else:
        raise CaptureError(path, place, expected="w2c, or R and T", found=f"{extrinsics}", fix=_MEND)
    check_rotation(w2c[:3, :3], place=f"{place}, {extrinsics[0]}", **at)
    dist = None
    if entry.get("dist") is not None:
        dist = numbers(entry["dist"], [(4,), (5,), (8,)], place=f"{place}, dist", **at)
    size = entry["width"], entry["height"]
    if not all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in size):
        expected = "whole numbers of pixels above 0"
        raise CaptureError(path, f"{place}, width and height", expected=expected, found=str(size), fix=_MEND)
    return K, w2c, dist, size


def read_poses(path: Path) -> tuple[str, list[int], BodyPose]:
    """Kind, frames and poses [F] of a poses.npz; CaptureError for what is missing or wrong."""
    arrays = read_npz(
        path, required=("kind", "frames", "theta", "betas", "Th"), optional=("expression", "R"), fix=_MEND
    )  # fmt: skip
    kind = str(arrays["kind"]) if arrays["kind"].ndim == 0 else f"an array {list(arrays['kind'].shape)}"
    if kind not in JOINTS:
        raise CaptureError(path, "kind", expected="'smpl' or 'smplx'", found=f"'{kind}'", fix=_MEND)
    frames = arrays["frames"]
    if frames.ndim != 1 or not len(frames) or frames.dtype.kind not in "iu":
        found = f"{frames.dtype} {list(frames.shape)}"
        raise CaptureError(path, "frames", expected="whole numbers [F]", found=found, fix=_MEND)
    F, first = len(frames), int(frames[0])
    if first < 0 or not np.array_equal(frames.astype(np.int64), first + np.arange(F)):
        raise CaptureError(
            path, "frames", expected="consecutive numbers from 0 or above (motion is the step from the frames before)",
            found=f"{frames[:5].tolist()} .. {int(frames[-1])}, {F} in all", fix="give every frame between a pose",
        )  # fmt: skip
    at = {"file": path, "fix": _MEND}
    theta = numbers(arrays["theta"], [(F, JOINTS[kind], 3)], place="theta", **at)
    betas = numbers(arrays["betas"], [(F, None), (1, None)], place="betas", **at)
    if ("expression" in arrays) != (kind == "smplx"):
        expected = "an array [F, E] or [1, E]" if kind == "smplx" else "none: SMPL has no expression"
        found = "an array" if "expression" in arrays else "none"
        raise CaptureError(path, "expression", expected=expected, found=found, fix=_MEND)
    expression = np.zeros((F, 0))
    if kind == "smplx" and arrays["expression"].shape[-1:] != (0,):  # E = 0: a body without expression
        expression = numbers(arrays["expression"], [(F, None), (1, None)], place="expression", **at)
    R = np.eye(3)[None].repeat(F, 0)
    if "R" in arrays:
        R = numbers(arrays["R"], [(F, 3, 3)], place="R", **at)
        check_rotation(R, place="R", **at)
    values = {
        "theta": theta,
        "betas": np.broadcast_to(betas, (F, betas.shape[1])).copy(),
        "expression": np.broadcast_to(expression, (F, expression.shape[1])).copy(),
        "R": R,
        "Th": numbers(arrays["Th"], [(F, 3)], place="Th", **at),
    }
    poses = BodyPose(**{name: torch.from_numpy(value).float() for name, value in values.items()})
    return kind, frames.astype(int).tolist(), poses


def read_about(path: Path) -> dict:
    """fps, gender, recorded and splits of a capture.json."""
    content = read_json(path, what="the capture's description", fix=_MEND)
    required = ("fps", "gender", "recorded", "splits")
    about = check_keys(content, required=required, optional=(), file=path, place="the file", fix=_MEND)
    if about["fps"] is not None:
        fps = numbers(about["fps"], [()], file=path, place="fps", fix=_MEND).item()
        if fps <= 0:
            raise CaptureError(path, "fps", expected="a number above 0, or null", found=str(fps), fix=_MEND)
        about["fps"] = fps
    if about["gender"] is not None and about["gender"] not in GENDERS:
        expected = f"one of {', '.join(GENDERS)}, or null"
        raise CaptureError(path, "gender", expected=expected, found=repr(about["gender"]), fix=_MEND)
    recorded = numbers(about["recorded"], [(2,)], file=path, place="recorded", fix=_MEND)
    if (recorded != recorded.round()).any() or recorded[1] < 1:
        expected = "[first frame, length], the length at least 1"
        raise CaptureError(path, "recorded", expected=expected, found=str(about["recorded"]), fix=_MEND)
    about["recorded"] = int(recorded[0]), int(recorded[1])
    place = "splits"
    try:
        splits = check_keys(
            about["splits"], required=("train",), optional=SPLIT_NAMES[1:], file=path, place=place, fix=_MEND
        )
        about["splits"] = {}
        for name, split in splits.items():
            place = f"splits, {name}"
            check_keys(split, required=("cameras", "frames"), optional=(), file=path, place=place, fix=_MEND)
            about["splits"][name] = _parsed(split)
    except CaptureError:
        raise
    except (ValueError, TypeError) as error:
        expected = "cameras and frames, as lists or as '0-99/5'"
        raise CaptureError(path, place, expected=expected, found=str(error), fix=_MEND) from error
    return about


def _parsed(split: Split | Mapping) -> Split:
    if isinstance(split, Split):
        return split
    if set(split) != {"cameras", "frames"}:
        raise ValueError(f"a split has the keys {sorted(split)}; expected cameras and frames")
    return Split.parse(split["cameras"], split["frames"])
