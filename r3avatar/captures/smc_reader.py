"""Reading the parts of a DNA-Rendering pair (layout: smc.py), each checked and refused by name."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from r3avatar.captures.capture import GENDERS, CaptureError
from r3avatar.captures.checked import check_intrinsics, check_rotation, in_range
from r3avatar.captures.smc import camera_group
from r3avatar.types import BodyPose

_log = logging.getLogger(__name__)
_DOWNLOAD = "download the file again"
# What is read of either file, for `walk_first`.
IMAGE_PARTS = {"attributes": ("gender",), "groups": ("Camera_5mp", "Camera_12mp")}
ANNOTATION_PARTS = {"attributes": (), "groups": ("Camera_Parameter", "Mask", "SMPLx")}
_SMALL = 1 << 20  # bytes that any dataset may have, whatever the file's size
_HAND_JOINTS = slice(25, 55)
# What h5py raises where a file's structure is damaged: a lookup may fail, or find something of another kind.
_DAMAGED = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)


def _refusing_damage(place: str) -> Callable:
    """Decorator of readers: what h5py raises is a CaptureError; `place` is formatted with the reader's arguments."""

    def decorate(read: Callable) -> Callable:
        @functools.wraps(read)
        def checked(file: h5py.File, *arguments):
            try:
                return read(file, *arguments)
            except CaptureError:
                raise
            except _DAMAGED as error:
                raise CaptureError(
                    file.filename, place.format(*arguments), expected="a readable part of an HDF5 file",
                    found=f"damaged data ({type(error).__name__}: {error})", fix=_DOWNLOAD,
                ) from error  # fmt: skip

        return checked

    return decorate


def open_smc(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; CaptureError if it is absent, truncated or something else."""
    if not path.is_file():
        raise CaptureError(
            path, "the file", expected="an HDF5 file", found="none", fix="check the capture's root and subject"
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        found = f"{path.stat().st_size} bytes ({error})"
        raise CaptureError(path, "the file", expected="a complete HDF5 file", found=found, fix=_DOWNLOAD) from error


def find_member(group: h5py.Group, number: int) -> str | None:
    """A numbered member's name in a group, plain ('7') or padded to 2 digits ('07'); None if absent."""
    return next((name for name in (str(number), f"{number:02d}") if name in group), None)


@_refusing_damage("attribute gender")
def read_gender(images: h5py.File) -> str | None:
    """The actor's gender as the file says it, in lower case; None if it does not; CaptureError if it is none."""
    stored = images.attrs.get("gender")
    if stored is None:
        return None
    gender = (stored.decode() if isinstance(stored, bytes) else str(stored)).lower()
    if gender not in GENDERS:
        expected = f"one of {', '.join(GENDERS)}"
        raise CaptureError(images.filename, "attribute gender", expected=expected, found=repr(stored), fix=_DOWNLOAD)
    return gender


@_refusing_damage("the images of camera {0}")
def image_group(images: h5py.File, camera: int) -> str:
    """Path of the group of a camera's encoded images; CaptureError if absent."""
    cameras = _require_group(images, camera_group(camera), camera)
    member = find_member(cameras, camera)
    if member is None or "color" not in cameras[member]:
        raise _absent(images, f"{camera_group(camera)}/{camera}/color", "the camera's images", camera)
    return f"{camera_group(camera)}/{member}/color"


@_refusing_damage("the masks of camera {0}")
def mask_group(annotations: h5py.File, camera: int) -> str:
    """Path of the group of a camera's encoded masks; CaptureError if absent."""
    masks = _require_group(annotations, "Mask", camera)
    member = find_member(masks, camera)
    if member is None or "mask" not in masks[member]:
        raise _absent(annotations, f"Mask/{camera}/mask", "the camera's masks", camera)
    return f"Mask/{member}/mask"


@_refusing_damage("{0}")
def require_frames(file: h5py.File, group: str, frames: list[int]) -> None:
    """CaptureError names the first of the given frames that a group of encoded images lacks."""
    present = set(file[group])
    for frame in frames:
        if str(frame) not in present and f"{frame:02d}" not in present:
            raise _absent_frame(file, group, frame)


@_refusing_damage("{0}, frame {1}")
def read_frame(file: h5py.File, group: str, frame: int) -> tuple[np.ndarray, str]:
    """The encoded image [bytes] uint8 of one frame and its path in the file; CaptureError if absent or unreadable."""
    member = find_member(file[group], frame)
    if member is None:
        raise _absent_frame(file, group, frame)
    name = f"{group}/{member}"
    return _read_encoded(file, name), name


def _read_encoded(file: h5py.File, name: str) -> np.ndarray:
    """An encoded image [bytes] uint8; CaptureError if it is unreadable or something else."""
    dataset = _plain_dataset(file, name, "an encoded image as a 1-D uint8 array", _DOWNLOAD)
    if dataset.ndim != 1 or dataset.dtype != np.uint8:
        found = f"{dataset.dtype} {dataset.shape}"
        expected = "an encoded image as a 1-D uint8 array"
        raise CaptureError(file.filename, name, expected=expected, found=found, fix=_DOWNLOAD)
    return dataset[()]


def _plain_dataset(file: h5py.File, name: str, expected: str, fix: str) -> h5py.Dataset:
    """A dataset of numbers that lie in the file, none of which is read yet; CaptureError if it is anything else."""
    value = file[name]
    if not isinstance(value, h5py.Dataset) or value.shape is None:
        found = "a group" if isinstance(value, h5py.Group) else "an empty dataset"
    elif value.dtype.kind not in "biuf":
        found = f"values of type {value.dtype}"
    elif value.is_virtual or value.external:
        found = "values that lie in another file"
    elif value.nbytes > max(os.path.getsize(file.filename), _SMALL):  # damage may claim any size
        found = f"{value.dtype} {value.shape}, more than the whole file"
    else:
        return value
    raise CaptureError(file.filename, name, expected=expected, found=found, fix=fix)


@_refusing_damage("Camera_Parameter, camera {0}")
def read_camera(annotations: h5py.File, camera: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K [3, 3] (OpenCV, native pixels), D [5] and w2c [4, 4] of a camera, float64; the file's RT is camera-to-world."""
    parameters = _require_group(annotations, "Camera_Parameter", camera)
    member = find_member(parameters, camera)
    if member is None:
        raise _absent(annotations, f"Camera_Parameter/{camera:02d}", "the camera's calibration", camera)
    place = f"Camera_Parameter/{member}"
    fix = f"repair the calibration, or take camera {camera} out of the splits"
    values = {}
    for name, shape in {"K": (3, 3), "D": (5,), "RT": (4, 4)}.items():
        values[name] = _read_array(annotations, f"{place}/{name}", [shape], fix)
    K, RT = values["K"], values["RT"]
    check_intrinsics(K, file=annotations.filename, place=f"{place}/K", fix=fix)
    check_rotation(RT[:3, :3], file=annotations.filename, place=f"{place}/RT, camera-to-world", fix=fix)
    if not np.array_equal(RT[3], [0, 0, 0, 1]):
        raise CaptureError(
            annotations.filename, f"{place}/RT", expected="a last row 0 0 0 1", found=str(RT[3].tolist()), fix=fix
        )
    return K, values["D"], np.linalg.inv(RT)


@_refusing_damage("SMPLx")
def read_poses(annotations: h5py.File, hand_mean: np.ndarray, missing_expression: str = "refuse") -> BodyPose:
    """The SMPL-X fits of every frame, float32: theta [F, 55, 3], betas [F, 10], expression [F, 10], R = I, Th [F, 3].

    fullpose's hand joints (25-54) are offsets from the body model's mean hand pose (flat_hand_mean=False, no PCA);
    hand_mean [30, 3] is added to them, so that theta holds every joint's rotation as it is. Betas or expression of one
    row are repeated. CaptureError for other row counts and for values that are not finite; missing_expression='zero'
    takes zeros, with a warning, where the file has no expression or has it for other frames.
    """
    _require_group(annotations, "SMPLx", None)
    fix = "use another capture, or refit its body: its frames cannot be matched to these parameters"
    fullpose = _read_array(annotations, "SMPLx/fullpose", [(None, 55, 3)], fix)
    F = len(fullpose)
    transl = _read_array(annotations, "SMPLx/transl", [(F, 3)], fix)
    betas = _read_array(annotations, "SMPLx/betas", [(F, 10), (1, 10)], fix)
    rest = "; or take a face at rest by capture.missing_expression=zero"
    try:
        expression = _read_array(annotations, "SMPLx/expression", [(F, 10), (1, 10)], fix + rest)
    except CaptureError as error:
        if missing_expression != "zero":
            raise
        _log.warning("%s; zeros are taken (missing_expression=zero)", str(error).split(" Fix: ")[0])
        expression = np.zeros((1, 10))
    theta = fullpose.copy()
    theta[:, _HAND_JOINTS] += hand_mean
    return BodyPose(
        theta=torch.from_numpy(theta).float(),
        betas=torch.from_numpy(np.broadcast_to(betas, (F, 10)).copy()).float(),
        expression=torch.from_numpy(np.broadcast_to(expression, (F, 10)).copy()).float(),
        R=torch.eye(3).repeat(F, 1, 1),
        Th=torch.from_numpy(transl).float(),
    )


def _read_array(file: h5py.File, name: str, shapes: list[tuple], fix: str) -> np.ndarray:
    """A finite float64 array of one of the given shapes (None: any length of at least 1)."""
    if name not in file:
        raise CaptureError(file.filename, name, expected=f"an array {shapes[0]}", found="none", fix=fix)
    dataset = _plain_dataset(file, name, f"an array {shapes[0]}".replace("None", "F"), fix)
    if not any(_fits(dataset.shape, shape) for shape in shapes):
        expected = " or ".join(str(shape).replace("None", "F") for shape in shapes)
        raise CaptureError(file.filename, name, expected=f"shape {expected}", found=str(dataset.shape), fix=fix)
    try:
        value = np.asarray(dataset[()], np.float64)
    except _DAMAGED as error:
        found = f"unreadable data ({error})"
        raise CaptureError(file.filename, name, expected=f"an array {shapes[0]}", found=found, fix=fix) from error
    finite = in_range(value).reshape(len(value), -1).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise CaptureError(
            file.filename, f"{name}, row {row}" if "SMPLx" not in name else f"{name}, frame {row}",
            expected="finite numbers", found=str(value[row].ravel()[:6].tolist()), fix=fix,
        )  # fmt: skip
    return value


def _fits(found: tuple, shape: tuple) -> bool:
    return len(found) == len(shape) and all(f == s or (s is None and f >= 1) for f, s in zip(found, shape))


def _require_group(file: h5py.File, name: str, camera: int | None) -> h5py.Group:
    if name not in file:
        raise _absent(file, name, "the group", camera)
    return file[name]


def _absent(file: h5py.File, place: str, expected: str, camera: int | None) -> CaptureError:
    fix = _DOWNLOAD if camera is None else f"take camera {camera} out of the splits, or {_DOWNLOAD}"
    return CaptureError(file.filename, place, expected=expected, found="none", fix=fix)


def _absent_frame(file: h5py.File, group: str, frame: int) -> CaptureError:
    return CaptureError(
        file.filename, f"{group}, frame {frame}", expected="an encoded image",
        found=f"none (frames there: {len(file[group])})",
        fix=f"take the frame or the camera out of the splits, or {_DOWNLOAD}",
    )  # fmt: skip
