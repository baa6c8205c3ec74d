"""Where prepared frames, and what is known of files, are kept between commands."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """$R3AVATAR_CACHE, or ~/.cache/r3avatar."""
    return Path(os.environ.get("R3AVATAR_CACHE") or "~/.cache/r3avatar").expanduser()
