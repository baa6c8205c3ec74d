"""Writers of the data sets with SMPL fits: a plain capture in exactly their layouts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from .plain_capture import PlainCapture


def write_zju_mocap(folder: Path, plain: PlainCapture, suffix: str = ".jpg", cameras: str = "images/{:02d}") -> None:
    """ZJU-MoCap (refined). suffix: of the images (.png keeps them exactly); cameras: the folders that `ims` names.

    The first release names `Camera_B<c>`; the images lie in images/ all the same.
    """
    C, F = len(plain.cameras), len(plain.poses)
    for c in range(C):
        for f in range(F):
            # What stands behind the person is not black in the files.
            image = np.where(plain.masks[c][f][..., None] == 1, plain.images[c][f], 77)
            _write(folder / f"images/{c:02d}/{f:06d}{suffix}", image, plain.jpegs and plain.jpegs[c][f])
            _write(folder / f"mask/{c:02d}/{f:06d}.png", plain.masks[c][f] * 255)
    cams = {key: [] for key in "KDRT"}
    for camera in plain.cameras:
        cams["K"].append(camera["K"])
        cams["D"].append(camera["D"][:, None])
        cams["R"].append(camera["w2c"][:3, :3])
        cams["T"].append(camera["w2c"][:3, 3:] * 1000)
    ims = [{"ims": [f"{cameras.format(c)}/{f:06d}{suffix}" for c in range(C)]} for f in range(F)]
    write_dict(folder / "annots.npy", {"cams": cams, "ims": ims})
    for f in range(F):
        write_dict(folder / f"smpl_params/{f}.npy", fit(plain, f))


def write_hifi4g(folder: Path, plain: PlainCapture) -> None:
    """HiFi4G as prepared for avatars."""
    for c in range(len(plain.cameras)):
        for f in range(len(plain.poses)):
            _write(folder / f"images/{c}/{f:06d}.png", on_white(plain, c, f))
    entries = [
        {"camera_id": c, "K": camera["K"].ravel().tolist(), "dist": camera["D"].tolist(),
         "R": camera["w2c"][:3, :3].ravel().tolist(), "T": camera["w2c"][:3, 3].tolist()}
        for c, camera in enumerate(plain.cameras)
    ]  # fmt: skip
    write_json(folder / "camera.json", entries)
    write_json_fits(folder / "smpl/smpl", plain)


def write_hifi4g_public(folder: Path, plain: PlainCapture, metres: float = 1.0) -> None:
    """HiFi4G as downloaded (no fits); metres: length of a unit of its calibration."""
    for c in range(len(plain.cameras)):
        for f in range(len(plain.poses)):
            _write(folder / f"image_white/{f}/{c}.png", on_white(plain, c, f))
    frames = []
    for c, camera in enumerate(plain.cameras):
        c2w = np.linalg.inv(camera["w2c"])
        c2w[:3, 3] /= metres
        c2w = c2w @ np.diag([1.0, -1, -1, 1])  # y up, looking along -z
        K, (k1, k2, p1, p2, _) = camera["K"], camera["D"]
        frames.append({
            "file_path": f"images/{c}.png", "transform_matrix": c2w.tolist(), "fl_x": K[0, 0], "fl_y": K[1, 1],
            "cx": K[0, 2] + 0.5, "cy": K[1, 2] + 0.5, "w": camera["width"], "h": camera["height"],
            "k1": k1, "k2": k2, "p1": p1, "p2": p2,
        })  # fmt: skip
    write_json(folder / "image_white/transforms.json", {"aabb_scale": 4, "frames": frames})


def write_json_fits(folder: Path, plain: PlainCapture) -> None:
    """EasyMocap's JSON file of every frame."""
    for f in range(len(plain.poses)):
        write_json(folder / f"{f:06d}.json", [{key: value.tolist() for key, value in fit(plain, f).items()}])


def fit(plain: PlainCapture, frame: int) -> dict[str, np.ndarray]:
    """EasyMocap's record of a frame's fit."""
    pose = plain.poses[frame : frame + 1]
    return {
        "poses": pose.theta.reshape(1, 72).double().numpy(),
        "shapes": pose.betas.double().numpy(),
        "Rh": plain.axis_angle(frame)[None],
        "Th": pose.Th.double().numpy(),
    }


def on_white(plain: PlainCapture, camera: int, frame: int) -> np.ndarray:
    """The image with a white background."""
    return np.where(plain.masks[camera][frame][..., None] == 1, plain.images[camera][frame], 255)


def write_dict(path: Path, value: object) -> None:
    """As `numpy.save` writes a dict: pickled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, value, allow_pickle=True)


def write_json(path: Path, value: object) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _write(path: Path, image: np.ndarray, jpeg: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if jpeg is not None and path.suffix == ".jpg":
        path.write_bytes(jpeg)
        return
    image = image.astype(np.uint8)
    image = image[..., ::-1] if image.ndim == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
