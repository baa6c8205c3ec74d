"""Where a run's values go: one small interface for W&B, TensorBoard and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers.logger import Logger


class RunLog(Logger):
    """A Lightning logger that takes pictures, histograms, videos and tables besides `log_metrics`' scalars.

    `step` is images seen, everywhere. What a log cannot hold it leaves out: the run folder has it. Only the first of
    several processes has a log.
    """

    run_id: str | None = None
    """Under which a checkpoint remembers the run, where the log has such names; set before `begin` it is continued."""

    def begin(self) -> None:
        """Open the log; the first logged value does so too."""

    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """The configuration, versions and git state; before `begin` or after it."""

    def log_pictures(self, key: str, pictures: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        """RGB [H, W, 3] uint8 each."""

    def log_histogram(self, key: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """counts [B] of the bins between edges [B + 1]."""

    def log_video(self, key: str, path: Path, step: int) -> None:
        """An .mp4."""

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Rows of numbers, texts and None."""

    def close(self, failed: bool = False) -> None:
        """Write what is left and end; nothing can be logged afterwards."""
