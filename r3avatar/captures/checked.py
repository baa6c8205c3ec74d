"""Values from a capture's small files (JSON, .npz), each checked and refused by name."""

from __future__ import annotations

import json
import stat
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from r3avatar.captures.capture import CaptureError

# What numpy and zipfile raise for archives that are cut off, altered, or hold objects.
_BROKEN_ARCHIVE = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError,
                   SyntaxError, TypeError, zipfile.BadZipFile, zlib.error)  # fmt: skip


def read_bytes(path: Path, *, what: str, fix: str, place: str = "the file") -> bytes:
    """A file's content; CaptureError if it is absent, cannot be read, or is no regular file (a pipe may never end)."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CaptureError(path, place, expected=what, found="no regular file", fix=fix)
        return path.read_bytes()
    except OSError as error:
        found = "none" if isinstance(error, FileNotFoundError) else f"an unreadable one ({error.strerror})"
        raise CaptureError(path, place, expected=what, found=found, fix=fix) from error


def read_json(path: Path, *, what: str, fix: str) -> object:
    """A JSON file's content; CaptureError if it is absent, cut off, something else, or names a key twice."""
    content = read_bytes(path, what=what, fix=fix)
    try:
        return json.loads(content, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        found = f"{len(content)} bytes that are not ({error})"
        raise CaptureError(path, "the file", expected=f"{what}, complete JSON", found=found, fix=fix) from error


def read_npz(path: Path, *, required: Collection[str], optional: Collection[str], fix: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, which may hold no others; nothing pickled is read.

    CaptureError if the file is absent, cut off or something else, for missing and unknown arrays, and for objects.
    """
    expected = "an .npz archive of plain arrays"
    if not path.is_file():
        raise CaptureError(path, "the file", expected=expected, found="none", fix=fix)
    name = "the file"
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            names = set(archive.files)
            for name in required:
                if name not in names:
                    raise CaptureError(path, name, expected="an array", found=f"only {sorted(names)}", fix=fix)
            unknown = sorted(names - {*required, *optional})
            if unknown:
                known = f"no arrays but {sorted({*required, *optional})}"
                raise CaptureError(path, unknown[0], expected=known, found=f"'{unknown[0]}'", fix=fix)
            arrays = {}
            for name in sorted(names):
                arrays[name] = archive[name]
            return arrays
    except CaptureError:
        raise
    except _BROKEN_ARCHIVE as error:
        found = f"{path.stat().st_size} bytes that are not ({type(error).__name__}: {error})"
        raise CaptureError(path, name, expected=expected, found=found, fix=fix) from error


def numbers(value: object, shapes: Sequence[tuple[int | None, ...]], *, file: Path, place: str, fix: str) -> np.ndarray:
    """`value` as a finite float64 array of one of the shapes (None: any length of at least 1); CaptureError if not."""
    expected = " or ".join(str(list(shape)).replace("None", "any") for shape in shapes)
    try:
        if isinstance(value, np.ndarray) and not any(_fits(value.shape, shape) for shape in shapes):
            value = np.broadcast_to(0.0, value.shape)  # nothing is converted: it may be more than memory holds
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise CaptureError(file, place, expected=f"numbers {expected}", found=_shown(value), fix=fix) from error
    if not any(_fits(array.shape, shape) for shape in shapes):
        raise CaptureError(file, place, expected=f"numbers {expected}", found=str(list(array.shape)), fix=fix)
    if not in_range(array).all():
        where = [int(i) for i in np.argwhere(~in_range(array))[0]]
        found = f"{array[tuple(where)]} at {where}" if where else str(array)
        raise CaptureError(file, place, expected="finite numbers", found=found, fix=fix)
    return array


def in_range(array: np.ndarray) -> np.ndarray:
    """Where an array's numbers are finite as float32, as which all of them are used."""
    return np.abs(array) <= np.finfo(np.float32).max  # false for nan as well


def check_intrinsics(K: np.ndarray, *, file: Path, place: str, fix: str) -> None:
    """CaptureError unless K [3, 3] is a regular calibration matrix."""
    if not (K[0, 0] > 0 and K[1, 1] > 0 and K[1, 0] == 0 and np.array_equal(K[2], [0, 0, 1])):
        expected = "a regular calibration matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
        raise CaptureError(file, place, expected=expected, found=str(K.tolist()), fix=fix)


def check_rotation(R: np.ndarray, *, file: Path, place: str, fix: str) -> None:
    """CaptureError unless R [..., 3, 3] are rotations, to 1e-3."""
    error = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max(axis=(-1, -2))
    wrong = np.atleast_1d((error > 1e-3) | (np.linalg.det(R) < 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        where = f"{place}, row {row}" if R.ndim == 3 else place
        found = str(R.reshape(-1, 3, 3)[row].tolist())
        raise CaptureError(file, where, expected="a rotation matrix", found=found, fix=fix)


def check_keys(
    value: object, *, required: Collection[str], optional: Collection[str], file: Path, place: str, fix: str
) -> dict:
    """`value` if it is a dictionary with the required keys and no unknown ones; else CaptureError."""
    if not isinstance(value, dict):
        raise CaptureError(file, place, expected="a dictionary", found=_shown(value), fix=fix)
    for key in required:
        if key not in value:
            raise CaptureError(file, f"{place}, {key}", expected="a value", found=f"only {sorted(value)}", fix=fix)
    unknown = sorted(set(value) - {*required, *optional})
    if unknown:
        expected = f"no keys but {sorted({*required, *optional})}"
        raise CaptureError(file, place, expected=expected, found=f"'{unknown[0]}'", fix=fix)
    return value


def check_file_name(name: str, what: str) -> str:
    """`name` if it is fit for one folder's or file's name, ValueError otherwise: names become paths here and there."""
    if not name or name in (".", "..") or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError(f"{what} is {name!r}; expected the name of one folder, without '/' or control characters")
    return name


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(f == s or (s is None and f >= 1) for f, s in zip(found, shape))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
    return made
