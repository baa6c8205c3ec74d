"""Writing captures in this project's plain layout (docs/folder_layout.md), for converters."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from r3avatar.captures.capture import CaptureError, Split
from r3avatar.captures.checked import check_file_name
from r3avatar.captures.encoded_image import decode_image, decode_mask
from r3avatar.captures.folder import JOINTS, FolderCapture, read_about, read_camera, read_poses
from r3avatar.types import BodyPose

Picture = np.ndarray | bytes | str | Path
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def write_folder(
    root: str | Path,
    subject: str,
    *,
    cameras: Mapping[str, Mapping],
    frames: Sequence[int],
    poses: BodyPose,
    pictures: Callable[[str, int], tuple[Picture, Picture] | None],
    splits: Mapping[str, Split],
    recorded: Sequence[int],
    fps: float | None,
    gender: str | None,
    overwrite: bool = False,
) -> Path:
    """Write one capture as `<root>/<subject>/` and return that folder.

    cameras: name to {K [3, 3], w2c [4, 4] or R [3, 3] and T [3], width, height, dist (optional)}: OpenCV calibration,
        the first pixel's centre at (0, 0), world-to-camera, metres.
    frames: F consecutive frame numbers. poses: BodyPose [F], row i of frames[i], 24 (SMPL) or 55 (SMPL-X) joints.
    pictures: called once for every camera and frame with their names, so that no more than one image is in memory; its
        (image, mask), or None where there are none. An image is an RGB array [H, W, 3] uint8 (written as PNG), an
        encoded JPEG or PNG as bytes, or the path of one (both kept byte for byte); a mask is an array [H, W], nonzero =
        person, an encoded PNG or the path of one.
    splits, recorded, fps, gender: capture.json's.
    overwrite: replace an existing folder; otherwise FileExistsError.

    The capture appears as a whole or not at all: it is written beside its place, opened by `FolderCapture` as a check,
    and then renamed. ValueError names what is wrong (CaptureError is one).
    """
    target = Path(root).expanduser() / check_file_name(str(subject), "subject")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; pass overwrite=True to replace it")
    if target.exists() and not (target / "capture.json").is_file():
        raise FileExistsError(f"{target} exists and holds no capture.json: it is not replaced; move it away")
    kinds = [kind for kind, joints in JOINTS.items() if joints == poses.theta.shape[1]]
    if not kinds or len(poses) != len(frames):
        raise ValueError(
            f"theta is {list(poses.theta.shape)} for {len(frames)} frames; expected [F, 24, 3] (SMPL) or [F, 55, 3] "
            "(SMPL-X), a row a frame"
        )
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise CaptureError(
            target.parent, "the folder", expected="a folder to write in", found=f"none ({error.strerror})",
            fix="choose another root, or make it writable",
        ) from error  # fmt: skip
    try:
        _write_poses(partial / "poses.npz", kinds[0], frames, poses)
        sizes = _write_cameras(partial / "cameras.json", cameras)
        _write_about(partial / "capture.json", splits, recorded, fps, gender)
        read_about(partial / "capture.json")  # before the images, which take the time
        read_poses(partial / "poses.npz")
        for camera, size in sizes.items():
            for what in ("images", "masks"):
                (partial / what / camera).mkdir(parents=True)
            for frame in frames:
                pair = pictures(camera, frame)
                if pair is not None:
                    _write_pair(partial, camera, frame, pair, size)
        FolderCapture(partial.parent, partial.name)
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
    except CaptureError as error:  # of the check: the folder it names is about to go
        raise ValueError(str(error).replace(str(partial), str(target))) from error
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write_poses(path: Path, kind: str, frames: Sequence[int], poses: BodyPose) -> None:
    names = ("theta", "betas", "R", "Th", *(("expression",) if kind == "smplx" else ()))
    arrays = {name: getattr(poses, name).detach().cpu().numpy() for name in names}
    np.savez(path, kind=np.array(kind), frames=np.asarray(frames), **arrays)


def _write_cameras(path: Path, cameras: Mapping[str, Mapping]) -> dict[str, tuple[int, int]]:
    """Write them and return each one's (width, height)."""
    plain, sizes = {}, {}
    for camera, values in cameras.items():
        check_file_name(camera, "a camera")
        plain[camera] = {
            key: int(value) if key in ("width", "height") else np.asarray(value, np.float64).tolist()
            for key, value in values.items()
            if value is not None
        }
        sizes[camera] = read_camera(plain[camera], path, f"camera {camera}")[3]
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
    return sizes


def _write_about(
    path: Path, splits: Mapping[str, Split], recorded: Sequence[int], fps: float | None, gender: str | None
) -> None:
    about = {
        "fps": None if fps is None else float(fps),
        "gender": gender,
        "recorded": [int(value) for value in recorded],
        "splits": {
            name: {"cameras": list(split.cameras), "frames": [int(frame) for frame in split.frames]}
            for name, split in splits.items()
        },
    }
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def _write_pair(folder: Path, camera: str, frame: int, pair: tuple[Picture, Picture], size: tuple[int, int]) -> None:
    for what, picture in zip(("image", "mask"), pair):
        place = f"camera {camera}, frame {frame}, {what}"
        try:
            if isinstance(picture, np.ndarray):
                content = _encoded(picture, is_mask=what == "mask")
            else:
                content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
            suffix = "png" if content.startswith(_PNG) else "jpg" if content.startswith(_JPEG) else None
            if suffix is None or (what == "mask" and suffix == "jpg"):
                raise ValueError(f"expected an encoded {'PNG' if what == 'mask' else 'JPEG or PNG'}")
            data = np.frombuffer(content, np.uint8)
            decoded = decode_mask(data) if what == "mask" else decode_image(data, cv2.IMREAD_UNCHANGED)
            if decoded.shape[1::-1] != size:
                raise ValueError(f"{decoded.shape[1]}x{decoded.shape[0]} pixels; the camera has {size[0]}x{size[1]}")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        (folder / f"{what}s" / camera / f"{frame:06d}.{suffix}").write_bytes(content)


def _encoded(picture: np.ndarray, is_mask: bool) -> bytes:
    if is_mask:
        if picture.ndim != 2:
            raise ValueError(f"an array {list(picture.shape)}; expected a mask [H, W]")
        pixels = (picture != 0).astype(np.uint8) * 255
    else:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"an array {picture.dtype} {list(picture.shape)}; expected RGB [H, W, 3] uint8")
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels)[1].tobytes()
