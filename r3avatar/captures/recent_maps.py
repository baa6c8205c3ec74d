"""Which cameras' undistortion maps stay in memory."""

from __future__ import annotations

import threading

from r3avatar.captures.undistortion import Undistortion

KEPT = 4  # cameras; 6 bytes a native pixel each: 30 MB for 5, 74 MB for 12 megapixels


class RecentMaps:
    """Keeps the maps of the cameras that were used last and releases the others'; threads may share it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._recent: list[Undistortion] = []

    def use(self, undistortion: Undistortion) -> None:
        """Say that a camera's maps are about to be used."""
        if undistortion.D is None:
            return
        with self._lock:
            self._recent = [*(u for u in self._recent if u is not undistortion), undistortion]
            if len(self._recent) > KEPT:
                self._recent.pop(0).release()
