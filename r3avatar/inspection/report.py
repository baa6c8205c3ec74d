"""The report of an inspection: one HTML file that needs no other, and the same numbers as JSON."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np

from r3avatar.inspection.inspect import Inspection
from r3avatar.inspection.overlap import THRESHOLDS, median
from r3avatar.inspection.pictures import COLOURS, before_and_after, contact_sheet, layout_from_above
from r3avatar.run import write_json

_HOLES_SHOWN = 200

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .6em 0; } td, th { padding: .25em .7em; text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top; } img { max-width: 100%; } code { background: #f2f2f2; }
b.verdict { color: white; border-radius: 3px; padding: .05em .5em; font-weight: 600; } .wide { overflow-x: auto; }
"""


def numbers(inspection: Inspection) -> dict[str, object]:
    """Everything the report says, as JSON values."""
    capture = inspection.capture
    rows = [
        {
            "camera": capture.camera_ids[s.camera], "frame": capture.frame_ids[s.frame],
            **{name: round(value, 5) for name, value in o._asdict().items()}, "verdict": o.verdict,
        }
        for s, o in zip(inspection.samples, inspection.overlaps)
    ]  # fmt: skip
    cameras = []
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
    winner = inspection.diagnosis.winner
    return {
        "verdict": inspection.verdict,
        "capture": inspection.counts,
        "images_read": inspection.read,
        "checks": [check._asdict() for check in inspection.checks],
        "holes": [hole._asdict() for hole in inspection.holes],
        "cameras": cameras,
        "overlap": {
            "median": median(inspection.overlaps)._asdict() if inspection.overlaps else None,
            "thresholds": {k: {"inside": v[0], "covered": v[1]} for k, v in THRESHOLDS.items()},
            "images": rows,
        },
        "mistakes": {
            "winner": winner.mistake.name if winner else None,
            "tried": [
                {
                    "mistake": t.mistake.name, "mend": t.mistake.mend, "gain": t.gain, "share": t.share,
                    "errors": t.errors, "median": t.mended._asdict(), "accepted": t.accepted,
                }
                for t in inspection.diagnosis.trials
            ],
        },
    }  # fmt: skip


def _finite(values: list[float]) -> list[float | None]:
    return [round(v, 5) if np.isfinite(v) else None for v in values]


def write_report(inspection: Inspection, folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.json into a folder (made if absent, replaced if there); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "report.html", folder / "report.json"
    write_json(data, numbers(inspection))
    page.write_text(html(inspection), encoding="utf-8")
    return page, data


def html(inspection: Inspection) -> str:
    """The page: verdicts, what the capture holds, pictures, every number; nothing in it points outside of it."""
    capture, winner, given = inspection.capture, inspection.diagnosis.winner, inspection.diagnosis.given
    title = f"capture {capture.name}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)} {_badge(inspection.verdict)}</h1>",
        _table(
            ["check", "verdict", "found", "mend"],
            [
                [escape(c.name), _badge(c.verdict), escape(c.found), f"<code>{escape(c.mend)}</code>" if c.mend else ""]
                for c in inspection.checks
            ],
        ),
        "<h2>What it holds</h2>",
        _table([], [[escape(k.replace("_", " ")), escape(_plain(v))] for k, v in inspection.counts.items()]),
    ]
    if inspection.holes:
        shown = inspection.holes[:_HOLES_SHOWN]
        parts.append(f"<h2>Holes ({len(inspection.holes)}, {len(shown)} shown)</h2>")
        rows = [["all" if v is None else escape(str(v)) for v in hole] for hole in shown]
        parts.append(_table(["camera", "frame", "what"], rows))
    if inspection.samples:
        if winner is not None:
            parts.append(f"<h2>As given, and with one mistake mended: {escape(winner.mistake.name)}</h2>")
            picture = before_and_after(inspection.samples, given, inspection.diagnosis.mended)
            parts.append(_picture(picture, "before and after"))
        parts.append("<h2>The posed body over the images</h2>")
        parts.append(
            "<p>Green outline: the body. Red: body outside the person's mask. Blue: mask without body (clothes, hair). "
            "Numbers: the share of the body inside the mask.</p>"
        )
        sheet = contact_sheet(capture, inspection.samples, given, inspection.overlaps)
        parts.append(_picture(sheet, "contact sheet"))
    parts.append("<h2>Cameras</h2>")
    parts.append(_picture(layout_from_above(capture, inspection.samples, inspection.overlaps), "layout from above"))
    parts += [_overlap_table(inspection), _trial_table(inspection), "</body></html>\n"]
    return "\n".join(parts)


def _overlap_table(inspection: Inspection) -> str:
    """Inside, covered and IoU of every image."""
    capture = inspection.capture
    rows = [
        [
            escape(capture.camera_ids[s.camera]), str(capture.frame_ids[s.frame]), f"{o.inside:.3f}",
            f"{o.covered:.3f}", f"{o.iou:.3f}", _badge(o.verdict),
        ]
        for s, o in zip(inspection.samples, inspection.overlaps)
    ]  # fmt: skip
    limits = "; ".join(f"{v}: inside {a:.2f}, covered {b:.2f}" for v, (a, b) in THRESHOLDS.items())
    head = ["camera", "frame", "inside", "covered", "IoU", "verdict"]
    return f"<h2>Overlap of body and mask</h2><p>At least, {escape(limits)}.</p>{_table(head, rows)}"


def _trial_table(inspection: Inspection) -> str:
    """Every known mistake and what mending it would change."""
    rows = [
        [
            escape(t.mistake.name), f"{t.gain:+.4f}", f"{t.share:.2f}", f"{t.errors:.1f}", f"{t.mended.inside:.3f}",
            f"{t.mended.covered:.3f}", "yes" if t.accepted else "no",
        ]
        for t in inspection.diagnosis.trials
    ]  # fmt: skip
    head = ["mistake", "gain", "share for the better", "standard errors", "inside", "covered", "explains"]
    return f"<h2>Known mistakes, each tried alone</h2>{_table(head, rows)}"


def _badge(verdict: str) -> str:
    return f"<b class='verdict' style='background: rgb{COLOURS[verdict]}'>{verdict}</b>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table>{top}{body}</table></div>"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)


def _picture(image: np.ndarray, name: str) -> str:
    done, data = cv2.imencode(".png", image[..., ::-1])
    if not done:
        raise OSError(f"the picture '{name}' {image.shape} could not be encoded")
    return f"<img alt='{escape(name)}' src='data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}'>"
