"""The page of an inspection's report: HTML with its pictures inside; nothing in it points outside of it."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources

import cv2
import numpy as np

from r3avatar.inspection.diagnosis import Trial
from r3avatar.inspection.inspect import Check, Inspection
from r3avatar.inspection.overlap import THRESHOLDS, VERDICTS, median
from r3avatar.inspection.pictures import COLOURS, before_and_after, layout_from_above, tile

_HOLES_SHOWN = 200
_STYLE = resources.files("r3avatar.inspection").joinpath("report.css")
_MARKS = dict(zip(VERDICTS, ("\u2713", "!", "\u2715")))



def html(inspection: Inspection) -> str:
    """The page of an inspection."""
    title = f"Capture {inspection.name}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(title)}: {inspection.verdict}</title><style>{_style()}</style></head><body><main>",
        f"<header><h1><small>Capture</small> {escape(inspection.name)}</h1>{_badge(inspection.verdict)}</header>",
        *(_mend(check) for check in inspection.checks if check.name == "known mistakes" and check.mend),
        _tiles(inspection),
        "<section><h2>Checks</h2>" + "".join(map(_check, inspection.checks)) + "</section>",
    ]
    if inspection.holes:
        parts.append(_holes(inspection))
    if inspection.diagnosis.mended:
        parts.append(_before_and_after(inspection))
    if inspection.samples:
        parts.append(_contact_sheet(inspection))
    if inspection.capture is not None:
        parts.append(_cameras_and_contents(inspection))
    if inspection.files:
        parts.append(_files(inspection))
    if inspection.diagnosis.trials:
        parts.append(_trials(inspection.diagnosis.trials))
    if inspection.overlaps:
        parts.append(_overlaps(inspection))
    return "\n".join([*parts, "</main></body></html>\n"])


def _style() -> str:
    colours = "".join(f"--{verdict}: rgb{COLOURS[verdict]}; " for verdict in VERDICTS)
    return f"{_STYLE.read_text(encoding='utf-8')}:root {{ {colours}}}"


def _mend(check: Check) -> str:
    found, _, rest = check.found.partition(": mended, ")
    if not rest:
        return ""
    advice = escape(check.mend.removeprefix("set "))
    return (
        f"<section class='mend'><h2>One known mistake: {escape(found)}</h2><p>It explains what is "
        f"wrong. Mended, {escape(rest)}.</p><div>Set <code>{advice}</code></div></section>"
    )


def _tiles(inspection: Inspection) -> str:
    counts, cells = inspection.counts, []
    if counts:
        cells += [("cameras", counts["cameras"]), ("frames", counts["frames"])]
        cells += [("pixels", ", ".join(list(counts["resolutions"])[:2])), ("body", counts["body_kind"])]
        cells += [("images read", inspection.read)]
    if inspection.overlaps:
        typical = median(inspection.overlaps)
        cells += [
            ("of the body in the mask", f"{typical.inside:.1%}"),
            ("of the mask covered", f"{typical.covered:.0%}"),
        ]
    if not cells:
        return ""
    return (
        f"<div class='tiles'>{''.join(f'<div><b>{escape(str(v))}</b><span>{k}</span></div>' for k, v in cells)}</div>"
    )


def _check(check: Check) -> str:
    mend = f"<br><em>{escape(check.mend)}</em>" if check.mend else ""
    if "capture." in check.mend:
        mend = f"<br><code>{escape(check.mend)}</code>"
    return (
        f"<div class='check {check.verdict}'><i>{_MARKS[check.verdict]}</i><b>{escape(check.name)}</b>"
        f"<div>{escape(check.found)}{mend}</div></div>"
    )


def _holes(inspection: Inspection) -> str:
    shown = inspection.holes[:_HOLES_SHOWN]
    rows = [["all" if v is None else escape(str(v)) for v in hole] for hole in shown]
    more = f", {len(shown)} shown" if len(shown) < len(inspection.holes) else ""
    table = _table(["camera", "frame", "what"], rows)
    return f"<section><h2>Holes ({len(inspection.holes)}{more})</h2>{table}</section>"


def _before_and_after(inspection: Inspection) -> str:
    diagnosis = inspection.diagnosis
    rows = before_and_after(inspection.samples, diagnosis.given, diagnosis.mended)
    sheets = []
    for name, verdict, tiles in (("As given", "poor", rows[0]), ("Mended", "good", rows[1])):
        figures = "".join(f"<figure class='{verdict}'>{_picture(t, name.lower())}</figure>" for t in tiles)
        sheets.append(f"<h3>{name}</h3><div class='sheet'>{figures}</div>")
    return f"<section><h2>What the mend changes</h2>{''.join(sheets)}</section>"


def _contact_sheet(inspection: Inspection) -> str:
    capture, by_camera = inspection.capture, {}
    judged = inspection.overlaps or [None] * len(inspection.samples)
    given = inspection.diagnosis.given or [np.zeros_like(s.mask) for s in inspection.samples]
    for sample, body, found in zip(inspection.samples, given, judged):
        verdict, share = (found.verdict, f"{found.inside:.1%}") if found else ("", "")
        picture = _picture(tile(sample, body), f"camera {capture.camera_ids[sample.camera]}")
        by_camera.setdefault(sample.camera, []).append(
            f"<figure class='{verdict}'>{picture}<figcaption><span>frame {capture.frame_ids[sample.frame]}</span>"
            f"<span>{share}</span></figcaption></figure>"
        )
    rows = "".join(
        f"<h3>Camera {escape(capture.camera_ids[camera])}</h3><div class='sheet'>{''.join(figures)}</div>"
        for camera, figures in by_camera.items()
    )
    key = (
        "<p class='key'><span style='background:#78ff8c'></span>outline of the posed body"
        "<span style='background:#eb3c32'></span>body outside the person's mask"
        "<span style='background:#4678eb'></span>mask without body: clothes, hair. "
        "Percentages: the share of the body inside the mask.</p>"
    )
    return f"<section><h2>The posed body over the images</h2>{key}{rows}</section>"


def _cameras_and_contents(inspection: Inspection) -> str:
    picture = _picture(
        layout_from_above(inspection.capture, inspection.samples, inspection.overlaps), "cameras from above"
    )
    rows = [[escape(k.replace("_", " ")), escape(_plain(v))] for k, v in inspection.counts.items()]
    return (
        f"<section class='beside'><div><h2>Cameras from above</h2>{picture}</div>"
        f"<div><h2>What it holds</h2>{_table([], rows)}</div></section>"
    )


def _files(inspection: Inspection) -> str:
    rows = [
        [escape(g.place), escape(g.kind), f"{g.count}", f"{g.size / 1e6:.2f}", "<br>".join(map(escape, g.broken[:20]))]
        for g in inspection.files
    ]
    table = _table(["folder", "kind", "files", "MB", "broken"], rows, numeric=(2, 3))
    return f"<section><h2>Files</h2><p>Some of each kind were opened.</p>{table}</section>"


def _trials(trials: list[Trial]) -> str:
    """Every known mistake and what mending it would change."""
    rows = [
        [
            escape(t.mistake.name), f"{t.gain:+.4f}", f"{t.share:.2f}", f"{t.errors:.1f}", f"{t.mended.inside:.3f}",
            f"{t.mended.covered:.3f}", "yes" if t.accepted else "no",
        ]
        for t in trials
    ]  # fmt: skip
    head = ["mistake", "gain", "for the better", "standard errors", "inside", "covered", "explains"]
    return (
        "<section><details><summary>Known mistakes, each tried alone</summary><p>Gain: what mending it changes, as a "
        "share of the mask's area; for the better: the share of the change that improves; inside and covered: as they "
        f"would be.</p>{_table(head, rows, numeric=(1, 2, 3, 4, 5))}</details></section>"
    )


def _overlaps(inspection: Inspection) -> str:
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
    return (
        "<section><details><summary>Overlap of body and mask, image by image</summary>"
        f"<p>At least, {escape(limits)}.</p>{_table(head, rows, numeric=(2, 3, 4))}</details></section>"
    )


def _badge(verdict: str) -> str:
    return f"<b class='badge {verdict}'>{verdict}</b>"


def _table(head: list[str], rows: list[list[str]], numeric: tuple[int, ...] = ()) -> str:
    """A table of cells that are HTML already; `numeric` columns are set flush right."""

    def cells(kind: str, values: list[str]) -> str:
        return "".join(f"<{kind}{' class=n' if i in numeric else ''}>{v}</{kind}>" for i, v in enumerate(values))

    top = f"<tr>{cells('th', [escape(cell) for cell in head])}</tr>" if head else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='wide'><table>{top}{body}</table></div>"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)


def _picture(image: np.ndarray, name: str) -> str:
    kind, options = (".png", []) if "above" in name else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 88])
    done, data = cv2.imencode(kind, image[..., ::-1], options)
    if not done:
        raise OSError(f"the picture '{name}' {image.shape} could not be encoded")
    mime = "png" if kind == ".png" else "jpeg"
    return f"<img alt='{escape(name)}' src='data:image/{mime};base64,{base64.b64encode(data.tobytes()).decode()}'>"
