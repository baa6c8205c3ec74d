"""Every key that a run logs: what the dashboards are made of, in this one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r3avatar.retrieval.parts import PARTS
from r3avatar.training.optimizer import GROUPS, LIGHT, RESIDUAL

Kind = Literal["scalar", "histogram", "pictures", "video", "table"]
When = Literal["step", "validation", "end"]

SECTIONS = ("novel_view", "media", "loss", "train", "novel_pose", "gaussians", "codebook", "retrieval", "perf")
"""In the order of a board, most looked at first."""
STEP = "train/images"
"""What all curves are drawn against."""


@dataclass(frozen=True)
class Key:
    """One logged value.

    when: at every log line (`trainer_log_every` steps), at every validation, or once at the end of a run.
    needs: what a run must have for it, in the words of the configuration; "" = every run logs it.
    """

    name: str
    kind: Kind
    when: When
    what: str
    needs: str = ""

    @property
    def section(self) -> str:
        return self.name.split("/")[0]


def _keys() -> tuple[Key, ...]:
    found: list[Key] = []

    def add(name: str, kind: Kind, when: When, what: str, needs: str = "") -> None:
        found.append(Key(name, kind, when, what, needs))

    add("loss/total", "scalar", "step", "the loss of the latest step: the weighted sum of its terms")
    for term, what in {
        "l1": "absolute error of the colours",
        "mask": "squared error of alpha against the person's mask",
        "ssim": "1 - SSIM",
        "perceptual": "distance of VGG features",
    }.items():
        add(f"loss/{term}", "scalar", "step", f"{what}, unweighted", f"loss.{term} > 0")
    moved = "metres that offsets change between a step's frames, unweighted"
    add("loss/offset_change", "scalar", "step", moved, "loss.offset_change > 0, batch.frames > 1")
    for term, what in {
        "plane_tv": "squared difference of the space planes' neighbouring texels",
        "time_smoothness": "squared second difference in time of the time planes' texels",
        "time_sparsity": "distance of the time planes' texels from 1",
    }.items():
        add(f"loss/{term}", "scalar", "step", f"{what}, mean over a plane and summed over planes", f"loss.{term} > 0")

    add("train/images", "scalar", "step", "images seen: the x axis of all curves")
    add("train/progress", "scalar", "step", "share of the budget that is spent")
    add("train/psnr", "scalar", "step", "PSNR of the latest step's images in their crops, dB")
    absent = {name: f"a `{name}` other than none" for name in ("skinning", "pose_refinement")}
    absent |= {name: "`avatar.static_residual=true`" for name in RESIDUAL}
    absent |= {name: "`avatar.shading=true`" for name in LIGHT}
    for group in GROUPS:
        add(f"train/lr_{group}", "scalar", "step", f"learning rate of the group `{group}`", absent.get(group, ""))

    add("novel_view/psnr", "scalar", "validation", "PSNR of the validation's frames, dB (the curve that is pruned by)")
    add("novel_view/ssim", "scalar", "validation", "SSIM of the same")
    for split in ("novel_view", "novel_pose"):
        words = split.replace("_", " ")
        for protocol in ("paper", "standard"):
            for metric in ("psnr", "ssim", "lpips", *(["mask_iou"] if protocol == "standard" else [])):
                needs = "evaluate=true" + (", lpips=vgg" if metric == "lpips" else "")
                what = f"{metric.replace('_', ' ').upper()} of all {words}s by the protocol `{protocol}`"
                add(f"{split}/{protocol}_{metric}", "scalar", "end", what, needs)
        add(f"{split}/frames", "table", "end", f"all metrics of every {words} image by frame and view", "evaluate=true")
    add("novel_pose/steadiness", "scalar", "end", "frame-difference error (0 moves as the truth)", "evaluate=true")

    add("gaussians/number", "scalar", "step", "Gaussians")
    add("gaussians/opacity", "histogram", "validation", "opacities, 0 to 1, at the first validated time")
    add("gaussians/opacity_median", "scalar", "validation", "their median")
    add("gaussians/log10_scale", "histogram", "validation", "log10 of the standard deviations in metres, three each")
    add("gaussians/scale_median", "scalar", "validation", "median standard deviation, metres")

    add("codebook/planes", "pictures", "validation", "norm of every texel of the six planes, a picture a scale")
    add("codebook/space_change", "scalar", "validation", "RMS distance of the space planes from 1, their start")
    time = "a `codebook` other than none"
    add("codebook/time_change", "scalar", "validation", "the same of the time planes", time)

    for name, what in {"distance": "pose distance of the retrieved times", "jumps": "share of jumps"}.items():
        add(f"retrieval/{name}", "scalar", "end", f"{what}, mean over novel poses and parts", "evaluate=true")
        for part in PARTS:
            add(f"retrieval/{name}_{part}", "scalar", "end", f"of the {part.replace('_', ' ')}", "evaluate=true")
    add("retrieval/frames", "table", "end", "retrieved frame, distance, jump by novel pose and part", "evaluate=true")
    timeline = "retrieved frame of every part over the query"
    add("retrieval/timeline", "pictures", "end", timeline, "evaluate=true, media=true")

    add("perf/images_per_second", "scalar", "step", "images seen a second of training, over the last ten log lines")
    add("perf/step_ms", "scalar", "step", "milliseconds a step, over the same")
    add("perf/memory_gib", "scalar", "step", "peak memory of the CUDA device, or of the process, GiB")

    strips = "truth, render, error and alpha side by side, at the same frames and views every time"
    add("media/strips", "pictures", "validation", strips, "media=true")
    for split in ("novel_view", "novel_pose"):
        video = f"the {split.replace('_', ' ')}s: truth and render"
        add(f"media/{split}", "video", "end", video, "evaluate=true, media=true")
    return tuple(found)


KEYS = _keys()


def markdown() -> str:
    """The keys as tables, a section each: what docs/dashboards.md shows."""
    lines = []
    for section in SECTIONS:
        lines += [f"### {section}/", "", "| key | | when | what | needs |", "|---|---|---|---|---|"]
        for key in KEYS:
            if key.section == section:
                lines.append(f"| `{key.name}` | {key.kind} | {key.when} | {key.what} | {key.needs} |")
        lines.append("")
    return "\n".join(lines)
