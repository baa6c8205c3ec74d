"""What `animate` and `render` share: pictures in, a film and some stills out, resumed where a process died."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from r3avatar.cuda_graphs import tensors_of
from r3avatar.evaluation.film import Film
from r3avatar.evaluation.media import strip, to_uint8, write_image
from r3avatar.evaluation.video_formats import straight_rgba, write_png
from r3avatar.types import BodyPose, Cameras
from r3avatar.verbs.parts import Run

STILLS = 6  # of the contact sheet


def identity(run: Run, pose: BodyPose, cameras: Cameras, tensors: list[Tensor], *more: object) -> dict:
    """Whatever decides the pictures of a film, as JSON values: parts of any other film are of no use."""
    digest = hashlib.sha256()
    for tensor in (*tensors_of(pose), cameras.K, cameras.w2c, *tensors):
        value = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.data)
    checkpoint = run.checkpoint.stat()
    return {
        "tensors": digest.hexdigest(), "size": [cameras.width, cameras.height], "rasterizer": repr(run.rasterizer),
        "checkpoint": [str(run.checkpoint.resolve()), checkpoint.st_size, checkpoint.st_mtime_ns],
        "device": run.device.type, "more": [repr(value) for value in more],
    }  # fmt: skip


def shoot(
    film: Film,
    frames: Callable[[int], Iterator[tuple[int, Tensor, Tensor]]],
    stills: int,
    beside: Callable[[int], np.ndarray] | None = None,
) -> tuple[Path, Path]:
    """Write a film and its contact sheet; returns their paths.

    frames(start): number, colours over black and opacities of every frame from `start` on. beside: the panel
    [H, w, 3] uint8 that is put to the right of a frame. stills: how many frames the contact sheet has.
    """
    wanted = np.linspace(0, film.frames - 1, min(stills, film.frames)).round().astype(int).tolist()
    done = film.finished
    if done:
        print(f"going on after {done} of {film.frames} frames")

    def pictures() -> Iterator[np.ndarray]:
        for f, rgb, alpha in frames(done):
            opaque = to_uint8(rgb)
            if f in wanted:
                write_png(film.kept(f"still_{f:06d}"), opaque)
            picture = straight_rgba(rgb.cpu().numpy(), alpha.cpu().numpy()) if film.form.alpha else opaque
            if beside is not None:
                panel = beside(f)
                if film.form.alpha:
                    panel = np.concatenate([panel, np.full_like(panel[..., :1], 255)], -1)
                picture = np.concatenate([picture, panel], 1)
            yield picture

    film.write(pictures())
    sheet = strip([_read(film.kept(f"still_{f:06d}")) for f in wanted])
    picture = write_image(film.path.with_name(f"{film.name}.png"), sheet)
    return film.complete(), picture


def size_of(path: Path) -> str:
    """How much a file or a folder of files takes, for people."""
    files = path.iterdir() if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def on_host(x: Tensor) -> Tensor:
    """A tensor as numbers that compare: NaN, where nothing was retrieved, is -1."""
    return torch.nan_to_num(x.detach().float().cpu(), nan=-1.0)


def _read(path: Path) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture[..., ::-1])
