"""A film written piece by piece: constant memory for any length, and what a killed process had finished is kept."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from r3avatar.evaluation.video_formats import FORMATS, encode, join, write_png
from r3avatar.run import RunError, write_json

PIECE = 48
"""Frames of a piece: what is in memory, and the most that a kill loses."""


class Film:
    """F frames on their way to one video file, or to a folder of PNG files.

    Pieces of some frames lie in `.<name>.parts` beside the film, each complete; `finished` says how many frames they
    hold, which need not be made again. `complete` puts them together without coding anything again and removes them.
    The film appears under its name as a whole. A folder of parts belongs to one `identity` (whatever decides the
    pictures): parts of another are thrown away. One process at a time.
    """

    def __init__(self, path: Path, form: str, fps: float, frames: int, identity: object, piece: int = PIECE):
        """path: with or without the format's suffix. identity: JSON values.

        Raises RunError for an unknown format, or where another process writes the same film.
        """
        if form not in FORMATS:
            raise RunError(f"format={form} is unknown; expected {', '.join(FORMATS)}")
        if frames < 1:
            raise RunError(f"{path}: a film has at least one frame, not {frames}")
        self.form, self.fps, self.frames, self.piece = FORMATS[form], fps, frames, piece
        self.name = path.name.removesuffix(self.form.suffix)
        self.path = path.with_name(self.name + self.form.suffix)
        self.parts = path.with_name(f".{self.path.name}.parts")
        self.parts.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.parts / "lock", "w")  # noqa: SIM115 - held until the film is complete
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RunError(f"another process is writing {self.path}; wait for it, or choose another output=") from error
        about = json.dumps([form, fps, frames, piece, identity], sort_keys=True)
        self._claim(hashlib.sha256(about.encode()).hexdigest())
        self.finished = self._count()

    def kept(self, name: str) -> Path:
        """A place beside the pieces for something that has to outlive a kill, too."""
        return self.parts / name

    def write(self, pictures: Iterable[np.ndarray]) -> None:
        """Take the frames from number `finished` on: [H, W, 3], or 4 with alpha, uint8. Stops where `pictures` does."""
        waiting: list[np.ndarray] = []
        for picture in pictures:
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != (4 if self.form.alpha else 3):
                raise ValueError(f"a frame is {picture.dtype} {list(picture.shape)}; see Film.write")
            waiting.append(picture)
            if self.form.codec is None or len(waiting) == self.piece or self.finished + len(waiting) == self.frames:
                self._store(waiting)
                waiting = []

    def complete(self) -> Path:
        """Put the film together under its name and remove the parts; ValueError if frames are missing."""
        if self.finished != self.frames:
            raise ValueError(f"{self.path}: {self.finished} of {self.frames} frames are there")
        pieces = self._pieces()
        if self.form.codec is None:
            self._replace_folder(pieces)
        else:
            counts = [min(self.piece, self.frames - i * self.piece) for i in range(len(pieces))]
            whole = self.parts / f"whole{self.form.suffix}.partial"
            join(whole, pieces, counts, self.fps, self.form)
            os.replace(whole, self.path)
        shutil.rmtree(self.parts)
        self._lock.close()
        return self.path

    def _claim(self, identity: str) -> None:
        """Empty the folder of what belongs to another film, and of what was being written when a process died."""
        about = self.parts / "about.json"
        stored = about.read_text() if about.is_file() else ""
        for path in self.parts.iterdir():
            if path.name != "lock" and (identity not in stored or path.suffix == ".partial"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(about, {"identity": identity, "frames": self.frames})

    def _pieces(self) -> list[Path]:
        """The complete pieces from the first on, without a gap."""
        count = self.frames if self.form.codec is None else -(-self.frames // self.piece)
        suffix = self.form.suffix or ".png"
        pieces = (self.parts / f"{i:06d}{suffix}" for i in range(count))
        found = []
        for piece in pieces:
            if not piece.is_file():
                break
            found.append(piece)
        return found

    def _count(self) -> int:
        pieces = len(self._pieces())
        return min(self.frames, pieces * (1 if self.form.codec is None else self.piece))

    def _store(self, pictures: list[np.ndarray]) -> None:
        number = self.finished if self.form.codec is None else self.finished // self.piece
        place = self.parts / f"{number:06d}{self.form.suffix or '.png'}"
        partial = place.with_name(place.name + ".partial")
        if self.form.codec is None:
            write_png(partial, pictures[0])
        else:
            encode(partial, pictures, self.fps, self.form)
        os.replace(partial, place)
        self.finished += len(pictures)

    def _replace_folder(self, pieces: list[Path]) -> None:
        whole, old = self.parts / "whole", self.parts / "replaced"
        whole.mkdir()
        for piece in pieces:
            os.replace(piece, whole / piece.name)
        if self.path.exists():
            os.replace(self.path, old)
        os.replace(whole, self.path)
