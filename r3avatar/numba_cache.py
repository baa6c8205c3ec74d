"""Keep numba's compiled kernels on disk honest: drop those that are older than a source file they came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def follow(kernel: Callable, *modules: ModuleType) -> None:
    """Forget a module's kernels, of which this is one, where what they take from other modules has changed since.

    Called below the kernels of a module, with the modules whose functions or constants they are compiled with.
    """
    own = Path(kernel.py_func.__code__.co_filename)
    forget_stale(Path(kernel.stats.cache_path), [own, *(Path(module.__file__) for module in modules)])


def forget_stale(folder: Path, sources: list[Path]) -> int:
    """Delete the kernels that were compiled before the newest source was written; returns how many.

    numba itself compares a kernel with the one file that defines it, not with the modules whose functions it inlines:
    after an update it would go on running the old ones.

    Args:
        folder: where numba keeps the kernels (`kernel.stats.cache_path`).
        sources: every file that a kernel may be made of.
    """
    newest = max(source.stat().st_mtime for source in sources)
    stems = {source.stem for source in sources}
    stale = [
        index
        for index in folder.glob("*.nbi")
        if index.name.split(".")[0] in stems and index.stat().st_mtime < newest
    ]
    for index in stale:
        index.unlink(missing_ok=True)  # another process may have been faster
    return len(stale)
