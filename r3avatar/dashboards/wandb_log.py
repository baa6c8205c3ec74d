"""A run in Weights & Biases, offline unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r3avatar.dashboards.keys import STEP
from r3avatar.dashboards.run_log import RunLog


class WandbLog(RunLog):
    """A W&B run, in <save_dir>/wandb.

    It begins with the first value, so that what ends before training leaves no run behind, and so that the id of a
    checkpoint's run is known by then. W&B's own step is images seen, as far as that grows: a run that goes on from
    before its last line has one line for what it repeats.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "r3avatar",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = True,
    ):
        """
        Args:
            entity: team or user that the run belongs to; None: the account's own.
            group: under which W&B puts runs together.
            offline: write files alone; `wandb sync` uploads them.
        """
        super().__init__()
        self._directory, self._offline, self._config, self._run = Path(save_dir), offline, {}, None
        self._names = {"project": project, "name": name, "entity": entity, "group": group, "tags": list(tags)}

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str | None:
        return self.run_id

    @property
    def save_dir(self) -> str:
        return str(self._directory)

    def begin(self) -> None:
        if self._run is not None:
            return
        import wandb

        self._directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            **self._names,
            dir=str(self._directory),
            id=self.run_id,
            resume=None if self.run_id is None else "allow",
            mode="offline" if self._offline else "online",
            config=self._config,
            reinit="create_new",  # never another run's that this process has open
        )
        self.run_id = self._run.id
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self._config.update(params)
        if self._run is not None:
            self._run.config.update(params, allow_val_change=True)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._log(dict(metrics), step)

    def log_pictures(self, key: str, pictures: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        import wandb

        self._log({key: [wandb.Image(picture, caption=text) for picture, text in zip(pictures, captions)]}, step)

    def log_histogram(self, key: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        import wandb

        self._log({key: wandb.Histogram(np_histogram=(counts, edges))}, step)

    def log_video(self, key: str, path: Path, step: int) -> None:
        import wandb

        self._log({key: wandb.Video(str(path))}, step)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        import wandb

        self._log({key: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def _log(self, values: dict[str, Any], step: int | None) -> None:
        self.begin()
        assert self._run is not None
        if step is None:
            self._run.log(values)
        else:
            self._run.log({**values, STEP: step}, step=max(step, self._run.step))  # W&B drops what lies before

    def close(self, failed: bool = False) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None
