"""What lies in a folder: files by place and kind, empty ones, and ones that are not what their names say.

For captures that no reader opens; nothing here knows a data set's layout.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import h5py
import numpy as np

from r3avatar.captures.encoded_image import decode_image
from r3avatar.inspection.samples import spread

_MOST = 200_000  # files looked at
_OPENED = 12  # of each kind, evenly spread, empty ones aside
_IMAGES = (".jpg", ".jpeg", ".png")


class FileGroup(NamedTuple):
    """Files of one kind in one place."""

    place: str  # folders below the given one; '*' stands for their names below the first
    kind: str  # suffix
    count: int
    size: int  # bytes of all
    broken: list[str]  # 'name: what is wrong', of those that were opened


def survey(folder: Path) -> list[FileGroup]:
    """The folder's files, some of each group opened; OSError is a group of its own, with the message."""
    groups: dict[tuple[str, str], list[tuple[Path, int]]] = {}
    count = 0
    try:
        for root, _, names in os.walk(folder, onerror=_raised):
            parts = Path(root).relative_to(folder).parts
            place = "/".join([*parts[:1], *("*" for _ in parts[1:])]) or "."
            for name in sorted(names):
                path = Path(root, name)
                size = path.lstat().st_size
                groups.setdefault((place, path.suffix.lower() or name), []).append((path, size))
                count += 1
            if count > _MOST:
                break
    except OSError as error:
        return [FileGroup(".", "", 0, 0, [f"{error.filename}: {error.strerror}"])]
    return [
        FileGroup(place, kind, len(files), sum(size for _, size in files), _broken(folder, kind, files))
        for (place, kind), files in sorted(groups.items())
    ]


def _raised(error: OSError) -> None:
    raise error


def _broken(folder: Path, kind: str, files: list[tuple[Path, int]]) -> list[str]:
    found = [(path, "empty") for path, size in files if size == 0]
    for path in spread([path for path, size in files if size > 0], _OPENED):
        try:
            _open(path, kind)
        except (OSError, ValueError, EOFError, KeyError, RecursionError, zipfile.BadZipFile, cv2.error) as error:
            found.append((path, str(error).splitlines()[0] if str(error) else type(error).__name__))
    return [f"{path.relative_to(folder)}: {why}" for path, why in found]


def _open(path: Path, kind: str) -> None:
    """Raises for what is plainly not of its kind; kinds that are not known here pass."""
    if kind in _IMAGES:
        decode_image(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    elif kind == ".json":
        json.loads(path.read_bytes())
    elif kind == ".npz":
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} in it is damaged")
    elif kind in (".smc", ".h5", ".hdf5") and not h5py.is_hdf5(path):
        raise ValueError("no HDF5 file")
