"""The forms in which a film is kept: H.264, ProRes 4444, FFV1, PNG files."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


@dataclass(frozen=True)
class VideoFormat:
    """One codec in one container; `codec` None: a folder of PNG files."""

    suffix: str
    codec: str | None
    pixels: str  # FFmpeg's name of what is coded
    alpha: bool
    options: dict[str, str] = field(default_factory=dict)


FORMATS = {
    "h264": VideoFormat(".mp4", "libx264", "yuv420p", False, {"crf": "17", "preset": "medium"}),
    "prores": VideoFormat(".mov", "prores_ks", "yuva444p10le", True, {"profile": "4444", "alpha_bits": "16"}),
    "ffv1": VideoFormat(".mkv", "ffv1", "bgra", True, {"level": "3"}),
    "png": VideoFormat("", None, "rgba", True),
}
"""Alpha is straight: colours are not multiplied by it. FFV1 and PNG are lossless."""


def rate_of(fps: float) -> Fraction:
    """A frame rate as containers write it: 29.97 is 30000/1001."""
    return Fraction(fps).limit_denominator(1001)


def straight_rgba(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[H, W, 4] uint8 from colours [H, W, 3] over black and opacities [H, W], floats in [0, 1]."""
    rgb, alpha = np.clip(rgb, 0, 1), np.clip(alpha, 0, 1)[..., None]
    colours = np.divide(rgb, alpha, out=np.zeros_like(rgb), where=alpha > 0.5 / 255)
    return (np.clip(np.concatenate([colours, alpha], -1), 0, 1) * 255 + 0.5).astype(np.uint8)


def even(frame: np.ndarray) -> np.ndarray:
    """A frame padded by a pixel to the even sides that subsampled colours need."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)))


def encode(path: Path, frames: list[np.ndarray], fps: float, form: VideoFormat) -> None:
    """Write frames [H, W, 3 or, with alpha, 4] uint8 as a video of its own, to `path`."""
    with av.open(str(path), "w", format=_container(form)) as container:
        stream = container.add_stream(form.codec, rate=rate_of(fps))
        stream.options = dict(form.options)
        frames = [even(frame) for frame in frames] if form.pixels == "yuv420p" else frames
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], form.pixels
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba" if form.alpha else "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def join(path: Path, pieces: list[Path], counts: list[int], fps: float, form: VideoFormat) -> None:
    """Put videos of one codec and size, of `counts` frames each, one after another into `path`; nothing is coded again.

    Every piece begins with a picture of its own (an IDR frame): packets are copied as the encoder left them, their
    times moved on by the frames before.
    """
    with av.open(str(path), "w", format=_container(form)) as film:
        out, before = None, 0
        for piece, count in zip(pieces, counts):
            with av.open(str(piece)) as container:
                stream = container.streams.video[0]
                if out is None:
                    out = (
                        film.add_stream_from_template(stream)
                        if hasattr(film, "add_stream_from_template")
                        else film.add_stream(template=stream)
                    )
                    out.time_base = 1 / (rate_of(fps) * 1024)
                for packet in container.demux(stream):
                    if packet.dts is None:  # the end of the piece
                        continue
                    # In whole frames, as Matroska rounds times to milliseconds.
                    shown, decoded = (
                        round(t * packet.time_base * rate_of(fps)) + before for t in (packet.pts, packet.dts)
                    )
                    packet.stream = out
                    packet.time_base = 1 / (rate_of(fps) * 1024)
                    packet.pts, packet.dts, packet.duration = shown * 1024, decoded * 1024, 1024
                    film.mux(packet)
            before += count


def write_png(path: Path, frame: np.ndarray) -> None:
    """Write RGB or RGBA [H, W, 3 or 4] uint8 as PNG; OSError where that fails."""
    order = [2, 1, 0, 3][: frame.shape[-1]]
    done, content = cv2.imencode(".png", np.ascontiguousarray(frame[..., order]))
    if not done:
        raise OSError(f"{path} could not be encoded as PNG: its size is {list(frame.shape)}")
    path.write_bytes(content.tobytes())


def _container(form: VideoFormat) -> str:
    return {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[form.suffix]
