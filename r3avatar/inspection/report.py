"""The report of an inspection: one HTML file that needs no other, and the same numbers as JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r3avatar.inspection.inspect import Inspection
from r3avatar.inspection.overlap import THRESHOLDS, median
from r3avatar.inspection.page import html
from r3avatar.run import write_json


def write_report(inspection: Inspection, folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.json into a folder (made if absent, replaced if there); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "report.html", folder / "report.json"
    write_json(data, numbers(inspection))
    page.write_text(html(inspection), encoding="utf-8")
    return page, data


def numbers(inspection: Inspection) -> dict[str, object]:
    """Everything the report says, as JSON values."""
    return {
        "verdict": inspection.verdict,
        "name": inspection.name,
        "refusal": inspection.refusal,
        "capture": inspection.counts,
        "images_read": inspection.read,
        "checks": [check._asdict() for check in inspection.checks],
        "holes": [hole._asdict() for hole in inspection.holes],
        "files": [group._asdict() for group in inspection.files],
        "cameras": _cameras(inspection),
        "overlap": {
            "median": median(inspection.overlaps)._asdict() if inspection.overlaps else None,
            "thresholds": {k: {"inside": v[0], "covered": v[1]} for k, v in THRESHOLDS.items()},
            "images": _images(inspection),
        },
        "mistakes": {
            "winner": inspection.mistake,
            "tried": [
                {
                    "mistake": t.mistake.name, "mend": t.mistake.mend.settings, "gain": t.gain, "share": t.share,
                    "errors": t.errors, "median": t.mended._asdict(), "accepted": t.accepted,
                }
                for t in inspection.diagnosis.trials
            ],
        },
    }  # fmt: skip


def _images(inspection: Inspection) -> list[dict[str, object]]:
    capture = inspection.capture
    return [
        {
            "camera": capture.camera_ids[s.camera], "frame": capture.frame_ids[s.frame],
            **{name: round(value, 5) for name, value in o._asdict().items()}, "verdict": o.verdict,
        }
        for s, o in zip(inspection.samples, inspection.overlaps)
    ]  # fmt: skip


def _cameras(inspection: Inspection) -> list[dict[str, object]]:
    capture, cameras = inspection.capture, []
    if capture is None:
        return []
    for index, (name, camera) in enumerate(zip(capture.camera_ids, capture.cameras)):
        own = [o for s, o in zip(inspection.samples, inspection.overlaps) if s.camera == index]
        cameras.append(
            {
                "camera": name, "width": camera.width, "height": camera.height,
                "focal": [round(float(camera.K[i, i]), 3) for i in (0, 1)],
                "centre": _finite(camera.centres.tolist()),
                "splits": [k for k, split in capture.splits.items() if name in split.cameras],
                "overlap": median(own)._asdict() if own else None,
                "verdict": median(own).verdict if own else None,
            }
        )  # fmt: skip
    return cameras


def _finite(values: list[float]) -> list[float | None]:
    return [round(v, 5) if np.isfinite(v) else None for v in values]
