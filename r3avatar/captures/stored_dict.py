"""Dicts that captures store, pickled in .npy files or elsewhere."""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r3avatar.body.pickles import load_pickle_stream
from r3avatar.captures.capture import CaptureError


def keyed(value: object, keys: Sequence[str], file: Path, place: str, fix: str) -> dict:
    """`value` if it is a dict that has all the keys, and maybe others; else CaptureError."""
    if not isinstance(value, dict):
        expected = f"a dict with {', '.join(keys)}"
        raise CaptureError(file, place, expected=expected, found=type(value).__name__, fix=fix)
    missing = [key for key in keys if key not in value]
    if missing:
        found = f"no {', '.join(missing)} among {sorted(map(str, value))[:12]}"
        raise CaptureError(file, place, expected=f"a dict with {', '.join(keys)}", found=found, fix=fix)
    return value


def read_pickled_dict(path: Path, fix: str) -> dict:
    """The dict that `np.save(path, dict)` pickled into an .npy file; nothing in the file is run (body/pickles.py)."""
    if not path.is_file():
        raise CaptureError(path, "the file", expected="a pickled dict in an .npy file", found="none", fix=fix)
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"format version {version[0]}.{version[1]} of .npy is not read")
            shape, _, dtype = _HEADERS[version](file)
            if shape != () or dtype != np.dtype(object):
                raise ValueError(f"an array of {dtype} {shape}")
            value = load_pickle_stream(file, str(path))
            value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
            if not isinstance(value, dict):
                raise ValueError(f"a pickled {type(value).__name__}")
        except _BROKEN as error:
            raise CaptureError(
                path, "the file", expected="a pickled dict in an .npy file", found=f"{_size(path)} ({error})", fix=fix
            ) from error
    return value


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


# What numpy and the unpickler raise for files that are cut off, altered, or hold what is not admitted.
_BROKEN = (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError, tokenize.TokenError)


def _size(path: Path) -> str:
    return f"{path.stat().st_size} bytes"
