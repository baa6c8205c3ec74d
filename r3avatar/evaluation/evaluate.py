"""Evaluate an avatar on novel views and novel poses, by both protocols, with pictures and videos."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from r3avatar.avatar import Avatar, Playback
from r3avatar.captures import Capture
from r3avatar.evaluation.media import error_map, strip, write_image, write_video
from r3avatar.evaluation.oracle_times import OracleTimes
from r3avatar.evaluation.plots import retrieval_timeline
from r3avatar.evaluation.protocols import evaluate_image
from r3avatar.evaluation.steadiness import Steadiness
from r3avatar.rasterizer import Rasterizer
from r3avatar.retrieval import Mixture, Retrieved
from r3avatar.retrieval.parts import PARTS
from r3avatar.types import Batch, RenderOutput

log = logging.getLogger(__name__)
SPLITS = ("novel_view", "novel_pose")


def retrieve_for(capture: Capture, retriever, frames: Iterable[int]) -> tuple[Retrieved | Mixture, dict[int, int]]:
    """Retrieve times for every stretch of the capture that has some of `frames` (ids).

    A stretch is a run of consecutive frames on one side of the recording, or within it; each is one query, whole, with
    the two frames before it as its history. So neither the evaluation's stride nor its order, and no other frame that
    is evaluated or not, changes what a frame gets. Returns the result for Q frames and the row of every frame id.
    """
    first, length = capture.recorded
    ids, wanted = capture.frame_ids, set(frames)
    sides = [(id_ >= first) + (id_ >= first + length) for id_ in ids]
    breaks = [row for row in range(1, len(ids)) if ids[row] != ids[row - 1] + 1 or sides[row] != sides[row - 1]]
    found, rows = [], {}
    for start, end in zip([0, *breaks], [*breaks, len(ids)]):
        if wanted.isdisjoint(ids[start:end]):
            continue
        before = next((b for b in range(max(0, start - 2), start) if ids[start] - ids[b] == start - b), start)
        found.append(retriever.retrieve(capture.poses.theta[start:end], history=capture.poses.theta[before:start]))
        first_row = len(rows)
        rows.update({ids[row]: first_row + row - start for row in range(start, end)})
    return type(found[0]).joined(found), rows


def retrieval_rows(retrieved: Retrieved, rows: dict[int, int], first: int) -> list[dict]:
    """A row a frame and part; rows: of `retrieved` by frame id; first: the first recorded frame's id."""
    return [
        {
            "frame": frame,
            "part": part,
            "retrieved": float(retrieved.times[row, p]) + first,
            "distance": _number(float(retrieved.distances[row, p])),
            "jump": bool(retrieved.jump[row, p]),
        }
        for frame, row in rows.items()
        for p, part in enumerate(PARTS)
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no others


def fit_retriever(retriever, capture: Capture):
    """Fit on the training frames; a frame's change of pose is taken from the recording's own neighbouring frames."""
    start, length = capture.recorded
    rows = [row for row, frame in enumerate(capture.frame_ids) if start <= frame < start + length]
    trained = set(capture.splits["train"].frames)
    times = torch.tensor([capture.frame_ids[row] - start for row in rows], dtype=torch.float32)
    bank = torch.tensor([capture.frame_ids[row] in trained for row in rows])
    return retriever.fit(capture.poses.theta[rows], times, bank=bank)


def choose_times(
    playback: Playback, capture: Capture, retriever, batches: Iterable[Batch], frames: Iterable[int]
) -> tuple[Retrieved | Mixture, dict[int, int]]:
    """Fit the retriever and choose the times of `frames` (ids), as `retrieve_for`; the oracle by `batches`' images."""
    fit_retriever(retriever, capture)
    if isinstance(retriever, OracleTimes):
        return retriever.search(playback, batches, playback.avatar.gaussians.positions.device)
    return retrieve_for(capture, retriever, frames)


def renderer(
    playback: Playback, split: str, retrieved: Retrieved | Mixture | None, rows: dict[int, int]
) -> Callable[[Batch], RenderOutput]:
    """How a batch of a split is rendered: at recorded times for novel views, at retrieved ones for novel poses."""
    dressed = playback.avatar.dressed
    if split == "novel_view":
        return lambda batch: playback.recorded(dressed(batch.pose, batch.frame), batch.time, batch.cameras)
    assert retrieved is not None
    return lambda batch: playback.retrieved(
        dressed(batch.pose, batch.frame), retrieved[[rows[frame] for frame in batch.frame.tolist()]], batch.cameras
    )


@torch.no_grad()
def evaluate_split(
    split: str,
    batches: Iterable[Batch],
    show: Callable[[Batch], RenderOutput],
    media: Path | None,
    lpips: nn.Module | None,
    fps: float,
    device: torch.device,
    steadiness: Steadiness | None = None,
) -> tuple[dict, list[dict]]:
    """Means over all images of a split, {"paper": {...}, "standard": {...}}, and one row an image.

    steadiness: what it finds is a third section of the means, under that name.
    media: folder for <split>/<frame>_<view>.png (truth | render | error | alpha) and <split>.mp4; None writes nothing.
    """
    rows, strips = [], []
    for batch in tqdm(batches, desc=f"evaluating {split.replace('_', ' ')}", leave=False, dynamic_ncols=True):
        frame = int(batch.frame[0])
        render = show(batch)
        batch = batch.to(device)
        for view in range(batch.rgb.shape[1]):
            truth, rgb = batch.rgb[0, view].float() / 255, render.rgb[0, view].clamp(0, 1)
            alpha, mask = render.alpha[0, view], (batch.mask[0, view] & 1).bool()
            if steadiness is not None:
                # The views of one frame may come in several batches, one for each image size.
                steadiness.add((*rgb.shape[:2], view), frame, rgb, truth, mask)
            values = evaluate_image(rgb, alpha, truth, mask, lpips=lpips)
            rows.append(
                {"frame": frame, "view": view, **{f"{p}.{k}": v for p, m in values.items() for k, v in m.items()}}
            )
            if media is not None:
                picture = strip(
                    [truth, rgb, error_map(rgb, truth), alpha], [f"truth, frame {frame}", "render", "error", "alpha"]
                )
                write_image(media / split / f"{frame:06d}_{view}.png", picture)
                if view == 0:
                    strips.append(picture[:, : 2 * rgb.shape[1]])
    if not rows:
        raise ValueError(f"the split {split} has no images to evaluate; see capture.splits.{split}")
    if media is not None:
        write_video(media / f"{split}.mp4", strips, fps)
    summary: dict = {"paper": {}, "standard": {}}
    for key in rows[0]:
        protocol, _, name = key.partition(".")
        if name:
            values = [row[key] for row in rows]
            summary[protocol][name] = None if values[0] is None else float(np.mean(values))
    for protocol in summary.values():
        protocol["frames"] = len(rows)
    if steadiness is not None:
        summary["steadiness"] = steadiness.result()
    return summary, rows


def evaluate(
    avatar: Avatar,
    capture: Capture,
    rasterizer: Rasterizer,
    retriever,
    loader: Callable[[str], Iterable[Batch]],
    folder: Path,
    splits: Iterable[str] = SPLITS,
    lpips: nn.Module | None = None,
    media: bool = True,
) -> dict:
    """Evaluate the named splits; writes media/ and logs/<split>_frames.json under `folder`; returns metrics' sections.

    Of novel poses logs/retrieval_frames.json too: what every part retrieved in every evaluated frame.
    loader(split) yields full-frame batches of one frame and that split's views.
    """
    avatar.eval()
    device = avatar.gaussians.positions.device
    playback = Playback(avatar, rasterizer)
    pictures = folder / "media" if media else None
    result: dict = {"notes": {}}
    for split in splits:
        wanted = capture.splits[split]
        retrieved, rows = None, {}
        if split == "novel_pose":
            retrieved, rows = choose_times(playback, capture, retriever, loader(split), wanted.frames)
            chosen = retrieval_rows(retrieved, {f: rows[f] for f in wanted.frames if f in rows}, capture.recorded[0])
            (folder / "logs").mkdir(exist_ok=True, parents=True)
            (folder / "logs" / "retrieval_frames.json").write_text(json.dumps(chosen, indent=1))
            if pictures is not None:
                query = sorted(rows, key=rows.__getitem__)
                jumps, spread = retrieved.jump.numpy(), retrieved.spread.numpy()
                retrieval_timeline(
                    pictures / "retrieval_timeline.png", query, retrieved.mean.numpy(), jumps, capture.recorded[0],
                    spread=spread,
                )  # fmt: skip
        step = min((b - a for a, b in zip(wanted.frames, wanted.frames[1:])), default=1)
        fps = max(1.0, (capture.fps or 15.0) / max(step, 1))
        summary, table = evaluate_split(
            split,
            loader(split),
            renderer(playback, split, retrieved, rows),
            pictures,
            lpips,
            fps,
            device,
            Steadiness(max(step, 1)) if split == "novel_pose" else None,
        )
        (folder / "logs").mkdir(exist_ok=True, parents=True)
        (folder / "logs" / f"{split}_frames.json").write_text(json.dumps(table, indent=1))
        result[split] = summary
        if lpips is None:
            for protocol in ("paper", "standard"):
                result["notes"][f"{split}.{protocol}.lpips"] = (
                    "switched off by lpips=null; lpips=vgg computes it (pip install r3avatar[lpips])"
                )
    return result


def table(metrics: dict) -> str:
    """metrics.json as the table that ends an evaluation."""
    lines = [f"{'':12} {'protocol':10} {'PSNR':>7} {'SSIM':>7} {'LPIPS':>7} {'mask IoU':>9} {'images':>7}"]

    def cell(value, width: int, digits: int) -> str:
        return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"

    for split in SPLITS:
        for protocol in ("paper", "standard"):
            section = metrics.get(split)
            if section:
                m = section[protocol]
                lines.append(
                    f"{split.replace('_', ' '):12} {protocol:10} {cell(m['psnr'], 7, 2)} {cell(m['ssim'], 7, 4)} "
                    f"{cell(m['lpips'], 7, 4)} {cell(m.get('mask_iou'), 9, 4)} {m['frames']:7}"
                )
        steady = (metrics.get(split) or {}).get("steadiness")
        if steady and steady["error"] is not None:
            lines.append(
                f"{split.replace('_', ' '):12} steadiness {steady['error']:.3f} (frame-difference error: 0 = moves as "
                f"the truth, 1 = stands still; {steady['pairs']} pairs, {steady['stride']} frames apart)"
            )
    return "\n".join(lines)
