"""A run's evaluation in its log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from pytorch_lightning.loggers.logger import Logger

from r3avatar.dashboards.run_log import RunLog


def log_evaluation(log: Logger, folder: Path, sections: dict, step: int, media: bool) -> None:
    """Log what `evaluate` found and wrote to the run folder: metrics, tables by frame, the timeline, the videos.

    sections: `evaluate`'s result; step: images seen; media: whether it wrote pictures.
    """
    splits = [split for split in ("novel_view", "novel_pose") if split in sections]
    values = {
        f"{split}/{protocol}_{name}": float(value)
        for split in splits
        for protocol in ("paper", "standard")
        for name, value in sections[split][protocol].items()
        if value is not None and name != "frames"
    }
    steady = sections.get("novel_pose", {}).get("steadiness", {}).get("error")
    if steady is not None:
        values["novel_pose/steadiness"] = float(steady)
    retrieved = _rows(folder / "logs" / "retrieval_frames.json") if "novel_pose" in splits else []
    log.log_metrics({**values, **_retrieval(retrieved)}, step)
    if not isinstance(log, RunLog):
        return
    for split in splits:
        _table(log, f"{split}/frames", _rows(folder / "logs" / f"{split}_frames.json"), step)
    _table(log, "retrieval/frames", retrieved, step)
    if not media:
        return
    if retrieved:
        picture = cv2.imread(str(folder / "media" / "retrieval_timeline.png"))
        log.log_pictures("retrieval/timeline", [picture[..., ::-1]], ["retrieved frames"], step)
    for split in splits:
        log.log_video(f"media/{split}", folder / "media" / f"{split}.mp4", step)


def _rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def _retrieval(rows: list[dict]) -> dict[str, float]:
    """Means over novel poses, of all parts and of each."""
    values = {}
    for part in ("", *dict.fromkeys(row["part"] for row in rows)):
        own = [row for row in rows if part in ("", row["part"])]
        end = f"_{part}" if part else ""
        values |= {f"retrieval/distance{end}": _mean(row["distance"] for row in own)}
        values |= {f"retrieval/jumps{end}": _mean(float(row["jump"]) for row in own)}
    return {key: value for key, value in values.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _table(log: RunLog, key: str, rows: list[dict], step: int) -> None:
    if rows:
        columns = list(rows[0])
        log.log_table(key, columns, [[row[column] for column in columns] for row in rows], step)
