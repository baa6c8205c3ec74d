"""Cameras from a file: one that stands still, or several that are the stations of a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from r3avatar.captures import CaptureError
from r3avatar.captures.checked import numbers, read_json
from r3avatar.captures.folder import read_camera
from r3avatar.types import Cameras

_MEND = "write it as the section on cameras.json of docs/folder_layout.md says"


def read_camera_path(path: Path, frames: int, fps: float) -> Cameras:
    """Cameras [F] from a file in the layout of cameras.json (docs/folder_layout.md): name to K, w2c or R and T, size.

    One camera stands still. Several, in the order of the file, are stations of a smooth path (cubic splines through
    places, turns and lenses); `time` (seconds, rising) of each camera says when it is reached, and without any the
    stations are spread evenly over the F frames at `fps` a second. Before the first and after the last it stands still.
    Pictures are rendered without distortion: `dist` is not used.

    Raises CaptureError naming the file, the camera, what was expected and what was found.
    """
    content = read_json(path, what="cameras by name", fix=_MEND)
    if not isinstance(content, dict) or not content:
        found = "none" if isinstance(content, dict) else type(content).__name__
        raise CaptureError(path, "the file", expected="a dictionary of cameras by name", found=found, fix=_MEND)
    lenses, turns, places, sizes, times = [], [], [], [], []
    for name, entry in content.items():
        place = f"camera {name}"
        if isinstance(entry, dict) and "time" in entry:
            entry = dict(entry)
            times.append(numbers(entry.pop("time"), [()], file=path, place=f"{place}, time", fix=_MEND).item())
        K, w2c, _, size = read_camera(entry, path, place)
        if K[0, 1] != 0:
            raise CaptureError(path, f"{place}, K", expected="no skew (K[0][1] = 0)", found=str(K[0, 1]), fix=_MEND)
        K[:2, 2] += 0.5  # OpenCV's first pixel centre is (0, 0), ours (0.5, 0.5)
        lenses.append(K)
        turns.append(w2c[:3, :3])
        places.append(-w2c[:3, :3].T @ w2c[:3, 3])
        sizes.append(size)
    if len(set(sizes)) > 1:
        fix = "give all cameras of a path one image size"
        raise CaptureError(path, "width and height", expected="one image size", found=f"{sorted(set(sizes))}", fix=fix)
    stations = _stations(path, list(content), times, frames, fps)
    K, R, centres = (np.stack(x) for x in (lenses, turns, places))
    at = np.clip(np.arange(frames) / fps, stations[0], stations[-1])
    if len(stations) == 1:
        K, R, centres = (np.repeat(x, frames, 0) for x in (K, R, centres))
    else:
        K, centres = _spline(stations, K)(at), _spline(stations, centres)(at)
        R = RotationSpline(stations, Rotation.from_matrix(R))(at).as_matrix()
    w2c = np.tile(np.eye(4), (frames, 1, 1))
    w2c[:, :3, :3], w2c[:, :3, 3] = R, -(R @ centres[..., None])[..., 0]
    return Cameras(torch.from_numpy(K).float(), torch.from_numpy(w2c).float(), *sizes[0])


def _spline(stations: np.ndarray, values: np.ndarray) -> CubicSpline:
    """Through all stations, straight before the first and after the last: two give a line at constant speed."""
    return CubicSpline(stations, values, bc_type="natural")


def _stations(path: Path, names: list[str], times: list[float], frames: int, fps: float) -> np.ndarray:
    """When each camera is reached, seconds, rising."""
    if not times:
        return np.linspace(0, max(frames - 1, 1) / fps, len(names)) if len(names) > 1 else np.zeros(1)
    if len(times) != len(names):
        found = f"{len(times)} of {len(names)} with a time"
        raise CaptureError(path, "time", expected="a time of every camera, or of none", found=found, fix=_MEND)
    for name, before, after in zip(names[1:], times, times[1:]):
        if not after > before:
            expected, found = f"seconds above {before:g}, the camera's before", f"{after:g}"
            raise CaptureError(path, f"camera {name}, time", expected=expected, found=found, fix=_MEND)
    return np.array(times)
