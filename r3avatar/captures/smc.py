"""Writing captures in DNA-Rendering's layout: a pair of HDF5 files, images and annotations.

The layout (DNA-Rendering, Cheng et al. 2023, arXiv 2307.10173, and its public reader's interface):

`<root>/<subject>/<subject>.smc`
    attributes actor_id, performance_id, age, gender, height, weight, ethnicity
    Camera_5mp  (cameras 0-47), Camera_12mp (48 and up): attributes num_device, num_frame, resolution
    Camera_*/<camera>/color/<frame>               [bytes] uint8, an encoded image (JPEG)
`<root>/<subject>/<subject>_annots.smc`
    Camera_Parameter/<camera, 2 digits>/K         [3, 3] pixels, OpenCV: the first pixel's centre is (0, 0)
                                       /D         [5] k1, k2, p1, p2, k3
                                       /RT        [4, 4] CAMERA-TO-WORLD
                                       /Color_Calibration [3, 3] one row a BGR channel: y = a x^2 + b x + c
    Mask/<camera>/mask/<frame>                    [bytes] uint8, an encoded image; nonzero = person
    SMPLx/betas [F, 10], expression [F, 10], fullpose [F, 55, 3], transl [F, 3], scale []
    Keypoints_2D/<camera, 2 digits>               [F, P, 3] x, y, confidence
    Keypoints_3D/keypoints3d                      [F, P, 4] x, y, z, confidence
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from r3avatar.captures.capture import GENDERS

FIRST_12MP = 48  # cameras below are in Camera_5mp, the others in Camera_12mp
NO_COLOR_CALIBRATION = np.array([[0.0, 1.0, 0.0]] * 3)  # y = x in every channel


def camera_group(camera: int) -> str:
    """The group that holds a camera's images, 'Camera_5mp' or 'Camera_12mp'."""
    return "Camera_5mp" if camera < FIRST_12MP else "Camera_12mp"


def smc_paths(root: str | Path, subject: str) -> tuple[Path, Path]:
    """Paths of a subject's images and annotations, `<root>/<subject>/<subject>{,_annots}.smc`."""
    folder = Path(root).expanduser() / subject
    return folder / f"{subject}.smc", folder / f"{subject}_annots.smc"


class SmcWriter:
    """Writes one capture in DNA-Rendering's layout; a context manager.

    Both files are written under temporary names and renamed when the block ends, so a reader never sees half a
    capture; after an exception the temporary files are removed. Leaving the block without every image, every mask
    and the body is a ValueError.

    cameras: id to {K [3, 3], D [5], w2c [4, 4], width, height}: OpenCV calibration, world-to-camera, native pixels;
        cameras of one group (0-47, 48 and up) share one size. num_frames: frames are 0 .. num_frames - 1.
    color_calibration: camera id to [3, 3]; without it, none (y = x).
    overwrite: replace an existing pair; otherwise FileExistsError.
    """

    def __init__(
        self,
        root: str | Path,
        subject: str,
        *,
        cameras: Mapping[int, Mapping],
        num_frames: int,
        actor_id: str | None = None,
        performance_id: str = "00",
        age: int = 0,
        gender: str = "neutral",
        height: float = 0.0,
        weight: float = 0.0,
        ethnicity: str = "unknown",
        color_calibration: Mapping[int, np.ndarray] | None = None,
        overwrite: bool = False,
    ):
        if gender not in GENDERS:
            raise ValueError(f"gender is '{gender}'; expected 'male', 'female' or 'neutral'")
        if num_frames < 1 or not cameras:
            raise ValueError(f"a capture needs cameras and frames: {len(cameras)} cameras, {num_frames} frames given")
        self.num_frames = num_frames
        self._cameras = {int(camera): dict(value) for camera, value in cameras.items()}
        self._calibration = dict(color_calibration or {})
        self._check_cameras()
        self._targets = smc_paths(root, subject)
        for path in self._targets:
            if path.exists() and not overwrite:
                raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
        self._attributes = {
            "actor_id": subject if actor_id is None else actor_id,
            "performance_id": performance_id,
            "age": age,
            "gender": gender,
            "height": height,
            "weight": weight,
            "ethnicity": ethnicity,
        }
        self._temporaries = tuple(path.with_name(f".{path.name}.{os.getpid()}.partial") for path in self._targets)
        self._files: tuple[h5py.File, ...] | None = None
        self._added: set[tuple[int, int]] = set()

    def __enter__(self) -> SmcWriter:
        self._targets[0].parent.mkdir(parents=True, exist_ok=True)
        self._files = ()
        try:
            for path in self._temporaries:
                self._files += (h5py.File(path, "w"),)
            self._write_header()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, exception_type, *_) -> None:
        try:
            if exception_type is None:
                self._check_complete()
            for file in self._files:
                file.close()
            if exception_type is None:
                for temporary, target in zip(self._temporaries, self._targets):
                    os.replace(temporary, target)
        finally:
            self._discard()

    def add(self, camera: int, frame: int, jpeg: bytes, mask_png: bytes) -> None:
        """Store one encoded image and its encoded mask (nonzero = person), byte for byte."""
        if camera not in self._cameras or not 0 <= frame < self.num_frames:
            raise ValueError(
                f"camera {camera}, frame {frame}: expected a camera of {sorted(self._cameras)} "
                f"and a frame of 0 .. {self.num_frames - 1}"
            )
        if (camera, frame) in self._added:
            raise ValueError(f"camera {camera}, frame {frame} was added before")
        if not jpeg.startswith(b"\xff\xd8"):
            raise ValueError(f"camera {camera}, frame {frame}: the image is not an encoded JPEG")
        if not mask_png.startswith(b"\x89PNG"):
            raise ValueError(f"camera {camera}, frame {frame}: the mask is not an encoded PNG")
        images, annotations = self._open_files()
        name = f"{camera_group(camera)}/{camera}/color/{frame}"
        images.create_dataset(name, data=np.frombuffer(jpeg, np.uint8))
        annotations.create_dataset(f"Mask/{camera}/mask/{frame}", data=np.frombuffer(mask_png, np.uint8))
        self._added.add((camera, frame))

    def body(
        self, betas: np.ndarray, expression: np.ndarray, fullpose: np.ndarray, transl: np.ndarray, scale: float = 1.0
    ) -> None:
        """Store the SMPL-X fits: betas [F or 1, 10], expression [F, 10], fullpose [F, 55, 3] rad, transl [F, 3] m.

        fullpose's order: root, 21 body joints, jaw, left eye, right eye, 15 left-hand and 15 right-hand joints; the
        hand joints are offsets from the body model's mean hand pose (flat_hand_mean=False).
        """
        F = self.num_frames
        shapes = {"betas": (F, 10), "expression": (F, 10), "fullpose": (F, 55, 3), "transl": (F, 3)}
        values = {"betas": betas, "expression": expression, "fullpose": fullpose, "transl": transl}
        arrays = {name: np.asarray(value, np.float32) for name, value in values.items()}
        for name, value in arrays.items():
            single_row = name == "betas" and value.shape == (1, 10)
            if value.shape != shapes[name] and not single_row:
                raise ValueError(f"SMPLx/{name} is {value.shape}; expected {shapes[name]}")
            if not np.isfinite(value).all():
                raise ValueError(f"SMPLx/{name} holds values that are not finite")
        group = self._open_files()[1].create_group("SMPLx")
        for name, value in arrays.items():
            group[name] = value
        group["scale"] = np.float32(scale)

    def keypoints(self, keypoints_3d: np.ndarray, keypoints_2d: Mapping[int, np.ndarray]) -> None:
        """Store optional keypoints: 3-D [F, P, 4] (m, confidence) and, by camera, 2-D [F, P, 3] (px, confidence)."""
        annotations = self._open_files()[1]
        F = self.num_frames
        keypoints_3d = np.asarray(keypoints_3d, np.float32)
        if keypoints_3d.ndim != 3 or keypoints_3d.shape[0] != F or keypoints_3d.shape[2] != 4:
            raise ValueError(f"Keypoints_3D/keypoints3d is {keypoints_3d.shape}; expected ({F}, P, 4)")
        for camera, value in keypoints_2d.items():
            value = np.asarray(value, np.float32)
            if value.shape != (*keypoints_3d.shape[:2], 3):
                raise ValueError(f"Keypoints_2D/{camera:02d} is {value.shape}; expected {(*keypoints_3d.shape[:2], 3)}")
            annotations[f"Keypoints_2D/{camera:02d}"] = value
        annotations["Keypoints_3D/keypoints3d"] = keypoints_3d

    def _discard(self) -> None:
        for file in self._files:
            file.close()
        for temporary in self._temporaries:
            temporary.unlink(missing_ok=True)
        self._files = None

    def _open_files(self) -> tuple[h5py.File, ...]:
        if self._files is None:
            raise RuntimeError("SmcWriter writes inside its `with` block only")
        return self._files

    def _check_cameras(self) -> None:
        sizes: dict[str, tuple[int, int]] = {}
        for camera, values in self._cameras.items():
            size = int(values["width"]), int(values["height"])
            group = camera_group(camera)
            if sizes.setdefault(group, size) != size:
                raise ValueError(f"{group}: camera {camera} is {size}, others {sizes[group]}; a group has one size")
            for name, shape in {"K": (3, 3), "D": (5,), "w2c": (4, 4)}.items():
                found = np.asarray(values[name], np.float64)
                if found.shape != shape or not np.isfinite(found).all():
                    raise ValueError(f"camera {camera}: {name} must be {shape} and finite, not {found.shape}: {found}")

    def _write_header(self) -> None:
        images, annotations = self._files
        for name, value in self._attributes.items():
            images.attrs[name] = value
        for group_name in ("Camera_5mp", "Camera_12mp"):
            cameras = [c for c in self._cameras if camera_group(c) == group_name]
            group = images.create_group(group_name)
            group.attrs["num_device"] = len(cameras)
            group.attrs["num_frame"] = self.num_frames if cameras else 0
            first = self._cameras[cameras[0]] if cameras else {"width": 0, "height": 0}
            group.attrs["resolution"] = np.array([first["width"], first["height"]], np.int64)
        for camera, values in self._cameras.items():
            group = annotations.create_group(f"Camera_Parameter/{camera:02d}")
            group["K"] = np.asarray(values["K"], np.float64)
            group["D"] = np.asarray(values["D"], np.float64)
            group["RT"] = np.linalg.inv(np.asarray(values["w2c"], np.float64))
            group["Color_Calibration"] = np.asarray(self._calibration.get(camera, NO_COLOR_CALIBRATION), np.float64)

    def _check_complete(self) -> None:
        for camera in self._cameras:
            for frame in range(self.num_frames):
                if (camera, frame) not in self._added:
                    raise ValueError(f"the capture is incomplete: camera {camera}, frame {frame} was never added")
        if "SMPLx" not in self._files[1]:
            raise ValueError("the capture is incomplete: body() was never called")
