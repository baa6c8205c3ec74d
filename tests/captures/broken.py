"""Every layout with the same things wrong: what to do to a small capture's files, for each reader alike."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np

from .layouts_smpl import write_dict
from .layouts_smplx import NAMES
from .small_captures import SUBJECT
from .spoiling import edit_json, put

Spoil = Callable[[Path], object]  # of the folder that holds the capture's files


def folder_of(layout: str, root: Path) -> Path:
    """The folder of a small capture's files."""
    return root / ("0012_09" if layout == "DnaRendering" else SUBJECT)


def _smc(annotations: bool, change: Callable[[h5py.File], object]) -> Spoil:
    def spoil(folder):
        with h5py.File(folder / f"{folder.name}{'_annots' * annotations}.smc", "r+") as file:
            change(file)

    return spoil


def _gone(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def _set(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file):
        del file[name]
        file[name] = value

    return change


def _assign(name: str, index: object, value: float) -> Callable[[h5py.File], None]:
    return lambda file: file[name].__setitem__(index, value)


def _dict(name: str, change: Callable[[dict], object]) -> Spoil:
    def spoil(folder):
        content = np.load(folder / name, allow_pickle=True).item()  # this test's own file
        change(content)
        write_dict(folder / name, content)

    return spoil


def _npz(**changes: object) -> Spoil:
    """Arrays of poses.npz: None leaves one out, a function alters it."""

    def spoil(folder):
        with np.load(folder / "poses.npz") as archive:
            arrays = dict(archive)
        for name, change in changes.items():
            arrays[name] = change(arrays[name].copy()) if callable(change) else change
        np.savez(folder / "poses.npz", **{name: value for name, value in arrays.items() if value is not None})

    return spoil


def _put(*names: str, content: bytes | None) -> Spoil:
    """The files hold these bytes; None: they are gone."""

    def spoil(folder):
        for name in names:
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return spoil


def _nan(array: np.ndarray) -> np.ndarray:
    array[1, 3] = np.nan
    return array


def encoded(height: int, width: int, value: int) -> bytes:
    """A PNG of one value."""
    return cv2.imencode(".png", np.full((height, width), value, np.uint8))[1].tobytes()


EMPTY = encoded(40, 48, 0)  # of SIZE
_EMPTY_SMC = np.frombuffer(encoded(80, 96, 0), np.uint8)
_FIT = "smplx/smpl/000001.json"
_HIFI4G_FIT = "smpl/smpl/000001.json"
_KEY = f"1_{NAMES[0]}.png"
_ZEROS = np.zeros((3, 3))
_HALF = {  # width and height in the header of a PNG, without the pixels
    "size": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\2\0\0\0",
}

# What is wrong to layout to (what is done, words of the message). Image 1 of the first camera, frame 1's pose.
BROKEN: dict[str, dict[str, tuple[Spoil, list[str]]]] = {
    "no image": {
        "DnaRendering": (_smc(False, _gone("Camera_5mp/0/color/1")), ["0012_09.smc", "Camera_5mp/0", "frame 1"]),
        "ZjuMocap": (_put("images/00/000001.jpg", content=None), ["images/00/000001.jpg", "camera 0, frame 1"]),
        "HiFi4G": (_put("images/0/000001.png", content=None), ["images/0/000001.png", "camera 0, frame 1"]),
        "MvHumanNet": (
            _put(f"images_lr/{NAMES[0]}/0010_img.jpg", content=None), ["0010_img.jpg", f"camera {NAMES[0]}, frame 1"],
        ),
        "FolderCapture": (_put("images/0/000001.png", content=None), ["images/0/000001.png", "camera 0, frame 1"]),
    },
    "no mask": {
        "DnaRendering": (_smc(True, _gone("Mask/0/mask/1")), ["annots.smc", "Mask/0", "frame 1"]),
        "ZjuMocap": (_put("mask/00/000001.png", content=None), ["mask/00/000001.png", "camera 0, frame 1", "a mask"]),
        "MvHumanNet": (
            _put(f"fmask_lr/{NAMES[0]}/0010_img_fmask.png", content=None),
            ["0010_img_fmask.png", f"camera {NAMES[0]}, frame 1", "a mask"],
        ),
        "FolderCapture": (
            _put("masks/0/000001.png", content=None), ["masks/0/000001.png", "camera 0, frame 1", "a mask"],
        ),
    },
    "empty mask": {
        "DnaRendering": (
            _smc(True, _set("Mask/0/mask/1", _EMPTY_SMC)), ["annots.smc: Mask/0/mask/1", "a mask of the person"],
        ),
        "ZjuMocap": (_put("mask/00/000001.png", content=EMPTY), ["000001.png: camera 0, frame 1", "the person"]),
        "HiFi4G": (
            _put("images/0/000001.png", content=encoded(40, 48, 255)),
            ["images/0/000001.png: camera 0, frame 1", "a mask of the person"],
        ),
        "MvHumanNet": (
            _put(f"fmask_lr/{NAMES[0]}/0010_img_fmask.png", content=EMPTY),
            [f"0010_img_fmask.png: camera {NAMES[0]}, frame 1", "the person"],
        ),
        "FolderCapture": (
            _put("masks/0/000001.png", content=EMPTY), ["masks/0/000001.png: camera 0, frame 1", "the person"],
        ),
    },
    "another size": {
        "DnaRendering": (
            _smc(True, _set("Mask/0/mask/1", np.frombuffer(EMPTY, np.uint8))), ["Mask/0/mask/1", "96x80", "48x40"],
        ),
        "ZjuMocap": (_put("mask/00/000001.png", content=encoded(8, 9, 1)), ["camera 0, frame 1", "48x40", "9x8"]),
        "HiFi4G": (_put("images/0/000001.png", content=encoded(8, 9, 1)), ["camera 0, frame 1", "48x40", "9x8"]),
        "MvHumanNet": (
            _put(f"fmask_lr/{NAMES[0]}/0010_img_fmask.png", content=encoded(8, 9, 1)), ["frame 1", "48x40", "9x8"],
        ),
        "FolderCapture": (_put("images/0/000001.png", content=encoded(8, 9, 1)), ["camera 0, frame 1", "48x40", "9x8"]),
    },
    "a size that no memory holds": {
        "DnaRendering": (
            _smc(True, _set("Mask/0/mask/1", np.frombuffer(_HALF["size"], np.uint8))), ["Mask/0/mask/1", "65535x65535"],
        ),
        "ZjuMocap": (_put("mask/00/000001.png", content=_HALF["size"]), ["camera 0, frame 1", "65535x65535"]),
        "HiFi4G": (_put("images/0/000001.png", content=_HALF["size"]), ["camera 0, frame 1", "65535x65535"]),
        "MvHumanNet": (
            _put(f"fmask_lr/{NAMES[0]}/0010_img_fmask.png", content=_HALF["size"]), ["frame 1", "65535x65535"],
        ),
        "FolderCapture": (_put("images/0/000001.png", content=_HALF["size"]), ["camera 0, frame 1", "65535x65535"]),
    },
    "no camera": {
        "DnaRendering": (_smc(True, _gone("Camera_Parameter/00")), ["annots.smc: Camera_Parameter/00", "camera 0"]),
        "ZjuMocap": (
            _dict("annots.npy", lambda a: [a["cams"].__setitem__(k, a["cams"][k][:2]) for k in "KDRT"]),
            ["annots.npy", "camera 2", "its calibration"],
        ),
        "HiFi4G": (edit_json("camera.json", lambda c: c[1:]), ["camera.json", "camera 0", "its calibration"]),
        "MvHumanNet": (
            edit_json("camera_extrinsics.json", lambda c: c.pop(_KEY) and c), ["camera_extrinsics.json", NAMES[0]],
        ),
        "FolderCapture": (
            edit_json("cameras.json", lambda c: c.pop("0") and c), ["cameras.json", "camera 0", "its calibration"],
        ),
    },
    "singular intrinsics": {
        "DnaRendering": (_smc(True, _assign("Camera_Parameter/00/K", 0, 0.0)), ["annots.smc: Camera_Parameter/00/K"]),
        "ZjuMocap": (
            _dict("annots.npy", lambda a: a["cams"]["K"].__setitem__(0, _ZEROS)), ["annots.npy", "camera 0, K"],
        ),
        "HiFi4G": (edit_json("camera.json", put([0] * 9, 0, "K")), ["camera.json", "camera 0, K"]),
        "MvHumanNet": (edit_json("camera_intrinsics.json", put(0, "intrinsics", 1, 1)), ["camera_intrinsics.json"]),
        "FolderCapture": (edit_json("cameras.json", put(_ZEROS.tolist(), "0", "K")), ["cameras.json", "camera 0, K"]),
    },
    "no pose": {
        "DnaRendering": (_smc(True, _gone("SMPLx/fullpose")), ["annots.smc: SMPLx/fullpose"]),
        "ZjuMocap": (_put("smpl_params/1.npy", content=None), ["smpl_params/1.npy", "frame 1"]),
        "HiFi4G": (_put(_HIFI4G_FIT, content=None), ["smpl/smpl/000001.json", "frame 1"]),
        "MvHumanNet": (_put(_FIT, content=None), ["smplx/smpl/000001.json", "frame 1"]),
        "FolderCapture": (_npz(theta=None), ["poses.npz: theta"]),
    },
    "NaN pose": {
        "DnaRendering": (_smc(True, _assign("SMPLx/fullpose", (1, 3), np.nan)), ["SMPLx/fullpose, frame 1"]),
        "ZjuMocap": (
            _dict("smpl_params/1.npy", lambda f: f["poses"].__setitem__((0, 7), np.nan)), ["1.npy: poses", "nan at"],
        ),
        "HiFi4G": (edit_json(_HIFI4G_FIT, put(float("nan"), 0, "poses", 0, 7)), ["000001.json: poses", "nan at"]),
        "MvHumanNet": (edit_json(_FIT, put(float("nan"), 0, "poses", 0, 7)), ["000001.json: poses", "nan at [0, 7]"]),
        "FolderCapture": (_npz(theta=_nan), ["poses.npz: theta", "nan at [1, 3, 0]"]),
    },
    "poses of another shape": {
        "DnaRendering": (_smc(True, _set("SMPLx/fullpose", np.zeros((5, 24, 3)))), ["SMPLx/fullpose", "(5, 24, 3)"]),
        "ZjuMocap": (
            _dict("smpl_params/1.npy", lambda f: f.update(poses=np.zeros((1, 165)))), ["1.npy: poses", "[1, 165]"],
        ),
        "HiFi4G": (edit_json(_HIFI4G_FIT, put([[0] * 87], 0, "poses")), ["000001.json: poses", "[1, 87]"]),
        "MvHumanNet": (edit_json(_FIT, put([0] * 72, 0, "poses")), ["000001.json: poses", "[72]"]),
        "FolderCapture": (_npz(theta=np.zeros((4, 24, 3))), ["poses.npz: theta", "[4, 24, 3]"]),
    },
    "no expression": {
        "DnaRendering": (_smc(True, _gone("SMPLx/expression")), ["annots.smc: SMPLx/expression", "found none"]),
        "MvHumanNet": (edit_json(_FIT, lambda f: f[0].pop("expression") and f), ["000001.json: expression"]),
        "FolderCapture": (_npz(expression=None), ["poses.npz: expression", "found none"]),
    },
    "expressions of fewer frames": {
        "DnaRendering": (_smc(True, _set("SMPLx/expression", np.zeros((2, 10)))), ["SMPLx/expression", "(2, 10)"]),
        "FolderCapture": (_npz(expression=np.zeros((2, 10))), ["poses.npz: expression", "[2, 10]"]),
    },
}  # fmt: skip


class Mark:
    """A pickle that leaves a file behind where it is run."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def hostile(mark: Path) -> dict[str, bytes]:
    """Files that leave `mark` behind if anything in them is run."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Mark(mark)], object), allow_pickle=True)
    names = ("kind", "frames", "theta", "betas", "expression", "Th", "R")
    np.savez(archive, **{name: np.array([Mark(mark)], object) for name in names})
    scalar = io.BytesIO()
    np.save(scalar, np.array({"cams": Mark(mark), "ims": [], "poses": Mark(mark)}, object), allow_pickle=True)
    return {
        **{f"pickle, protocol {p}": pickle.dumps({"poses": Mark(mark)}, protocol=p) for p in (0, 2, 5)},
        "array of objects": array.getvalue(),
        "dict of objects": scalar.getvalue(),
        "archive of objects": archive.getvalue(),
    }
