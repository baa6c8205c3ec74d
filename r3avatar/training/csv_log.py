"""Logged values as a CSV file that goes on when its run does."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from r3avatar.dashboards.run_log import RunLog


class CsvLog(RunLog):
    """<save_dir>/<name>/metrics.csv: a line for every call of `log_metrics`; pictures are left out.

    Each line is in the file when the call returns. A run that goes on keeps the lines before its first one and replaces
    those that came after its checkpoint. A new key rewrites the file with a wider header.
    """

    def __init__(self, save_dir: str, name: str = "csv"):
        super().__init__()
        self.path = Path(save_dir) / name / "metrics.csv"
        self._name, self._keys, self._begun = name, [], False

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parents[1])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {**{key: float(value) for key, value in metrics.items()}, "step": step}
        if not self._begun or not set(row) <= set(self._keys):
            rows = self._rows()
            if not self._begun and step is not None:
                rows = [old for old in rows if old["step"] and int(old["step"]) < step]
            self._keys = sorted({*row, *(key for old in rows for key in old)})
            self._rewrite([*rows, row])
            self._begun = True
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._keys).writerow(row)

    def _rows(self) -> list[dict]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]  # a kill may tear the last line

    def _rewrite(self, rows: list[dict]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name("metrics.csv.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._keys)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(part, self.path)
