"""One image of every row side by side, the truth first, from the pictures that the evaluation left in the runs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from r3avatar.comparison.rows import Group, Row
from r3avatar.evaluation.media import HEAD, strip
from r3avatar.run import RunError

PANELS = 4  # of an evaluation's picture: truth, render, error, alpha
WIDTH = 260  # pixels of a panel at least: room for its label
LINE = 6  # renders in a line, after the truth; more runs take more lines
MARGIN = 0.1  # of the person's longer side, around it


def pictures_of(folder: Path, split: str) -> dict[tuple[int, int], Path]:
    """The pictures `media/<split>/<frame>_<view>.png` of a run by frame id and view."""
    found = {}
    for path in (folder / "media" / split).glob("*_*.png"):
        frame, _, view = path.stem.rpartition("_")
        if frame.isdigit() and view.isdigit():
            found[int(frame), int(view)] = path
    return dict(sorted(found.items()))


def panels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Truth and render, RGB uint8 [H, W, 3], of an evaluation's picture."""
    bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None or bgr.shape[1] % PANELS or bgr.shape[0] <= HEAD:
        raise RunError(f"{path} is not a picture of an evaluation; run r3avatar evaluate run={path.parents[2]} again")
    image, width = bgr[HEAD:, :, ::-1], bgr.shape[1] // PANELS
    return image[:, :width], image[:, width : 2 * width]


def side_by_side(group: Group, split: str, frame: int | None, view: int) -> tuple[np.ndarray | None, list[str]]:
    """The strip of a split, RGB uint8 (None: no run has pictures), and a line on each thing that is missing.

    frame: an id; None: the middle one of those that all rows with pictures have. Each row shows its first run that has
    pictures. The strip is cut to the person's box and enlarged until the labels fit.
    """
    shown: list[tuple[Row, dict[tuple[int, int], Path]]] = []
    missing = []
    for row in group.rows:
        found = next((p for run in row.runs if (p := pictures_of(run.folder, split))), None)
        if found is None:
            where = ", ".join(str(run.folder) for run in row.runs)
            missing.append(f"{row.name}: no pictures of {split} in {where} (media=false?)")
        else:
            shown.append((row, found))
    if not shown:
        return None, missing
    common = [key for key in shown[0][1] if all(key in found for _, found in shown) and key[1] == view]
    frames = [f for f, _ in common]
    if not frames or frame not in (None, *frames):
        have = f"; the runs share frames {', '.join(map(str, frames))} of view {view}" if frames else ""
        return None, [*missing, f"{split}: not all runs have a picture of frame {frame}, view {view}{have}"]
    key = (frames[len(frames) // 2] if frame is None else frame, view)
    truth, images, labels = None, [], []
    for row, found in shown:
        own, render = panels(found[key])
        if truth is None:
            truth = own
        elif own.shape != truth.shape or (own != truth).any():
            missing.append(f"{row.name}: {found[key]} shows another truth than {shown[0][1][key]}: left out")
            continue
        images.append(render)
        labels.append(row.name)
    assert truth is not None
    box = _person(truth)
    factor = -(-WIDTH // (box[1].stop - box[1].start))
    first, *large = (cv2.resize(i[box], None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
                     for i in (truth, *images))  # fmt: skip
    lines = -(-len(large) // LINE)
    length = -(-len(large) // lines)  # as even as can be; what the last one lacks is black
    large += [np.zeros_like(first)] * (lines * length - len(large))
    labels += [""] * (len(large) - len(labels))
    parts = [slice(start, start + length) for start in range(0, len(large), length)]
    name = f"truth, frame {key[0]} view {view}"
    return np.concatenate([strip([first, *large[part]], [name, *labels[part]]) for part in parts]), missing


def _person(truth: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the person (what is not black), with a margin."""
    seen = truth.max(-1) > 8
    if not seen.any():
        return slice(0, truth.shape[0]), slice(0, truth.shape[1])
    ends = [np.flatnonzero(seen.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    grow = int(MARGIN * max(int(b - a) for a, b in ends))
    rows, columns = (slice(max(0, int(a) - grow), min(n, int(b) + 1 + grow)) for (a, b), n in zip(ends, truth.shape))
    return rows, columns
