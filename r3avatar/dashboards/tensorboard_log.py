"""A run for TensorBoard."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml

from r3avatar.dashboards.run_log import RunLog

_FILM_HEIGHT = 256  # pixels of a film, which TensorBoard shows as a GIF


class TensorBoardLog(RunLog):
    """<save_dir>/tensorboard, for `tensorboard --logdir outputs`; goes on where the run does.

    Pictures of one key become <key>/<number>, films GIFs, tables Markdown.
    """

    def __init__(self, save_dir: str):
        """ModuleNotFoundError where tensorboard is not installed."""
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError("logger=tensorboard needs: pip install 'r3avatar[tensorboard]'")
        self.path, self._writer, self._config = Path(save_dir) / "tensorboard", None, {}

    @property
    def name(self) -> str:
        return "tensorboard"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self._config.update(params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        writer = self._open(step)
        for key, value in metrics.items():
            writer.add_scalar(key, float(value), step)

    def log_pictures(self, key: str, pictures: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        for number, picture in enumerate(pictures):
            tag = key if len(pictures) == 1 else f"{key}/{number}"
            self._open(step).add_image(tag, picture, step, dataformats="HWC")

    def log_histogram(self, key: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        centres = (edges[1:] + edges[:-1]) / 2
        total, squares = float(counts @ centres), float(counts @ centres**2)
        self._open(step).add_histogram_raw(
            key, float(edges[0]), float(edges[-1]), int(counts.sum()), total, squares,
            edges[1:].tolist(), counts.tolist(), step,
        )  # fmt: skip

    def log_video(self, key: str, path: Path, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        picture = Summary.Image(encoded_image_string=as_gif(path, _FILM_HEIGHT))
        self._open(step)._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=key, image=picture)]), step)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join("-" if cell is None else str(cell) for cell in row) + " |" for row in rows]
        self._open(step).add_text(key, "\n".join(lines), step)

    def close(self, failed: bool = False) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, step: int | None):
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier start wrote of this step and later ones is not shown any more.
            earlier = any(self.path.glob("events.out.tfevents.*"))
            self._writer = SummaryWriter(str(self.path), purge_step=step if earlier else None)
            if self._config:
                text = yaml.safe_dump(self._config, sort_keys=False)
                self._writer.add_text("config", f"```\n{text}```", step)
        return self._writer


def as_gif(path: Path, height: int) -> bytes:
    """A video as an animated GIF of at most so many pixels in height."""
    from PIL import Image

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 10)
        frames = [frame.to_image() for frame in container.decode(stream)]
    ratio = min(1.0, height / frames[0].height)
    size = round(frames[0].width * ratio), round(frames[0].height * ratio)
    first, *rest = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
    return file.getvalue()
