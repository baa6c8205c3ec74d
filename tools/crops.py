"""Crops of several runs beside the truth, enlarged: face, hands, loose cloth and its hem, with the PSNR of each.

python tools/crops.py outputs/skirt_r3 outputs/skirt_r3_plus --out outputs/crops
python tools/crops.py outputs/cape_r3 outputs/cape_r3_plus --hem calves --split novel_pose --frame 130 --errors

Rows are regions, columns the truth and each run; one DIR/<split>.png a split, all figures in DIR/crops.json. The runs
are of one capture, each with its own retrieval. Further key=value pairs go to `r3avatar evaluate` (checkpoint=best,
retrieval=mixture, +capture.root=DIR).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from r3avatar.avatar import Playback
from r3avatar.cli import check
from r3avatar.evaluation.crops import HEMS, crop_sheet, region_boxes
from r3avatar.evaluation.evaluate import SPLITS, choose_times, renderer
from r3avatar.evaluation.media import write_image
from r3avatar.run import write_json
from r3avatar.verbs.parts import Run, load_run
from r3avatar.verbs.train import build_data


def main() -> None:
    """Render, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, of one capture; and key=value")
    parser.add_argument("--split", choices=SPLITS, help="otherwise both")
    parser.add_argument("--frame", type=int, help="id; otherwise the middle one of those that all runs' splits have")
    parser.add_argument("--camera", help="id; otherwise the first one of those that all runs' splits have")
    parser.add_argument("--hem", choices=HEMS, default="knees", help="height of the garment's hem")
    parser.add_argument("--errors", action="store_true", help="error maps beside the renders")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("outputs/crops"))
    a = parser.parse_intermixed_args()
    folders, overrides = [r for r in a.runs if "=" not in r], [r for r in a.runs if "=" in r]
    names = [Path(folder).resolve().name for folder in folders]
    if not folders or len(set(names)) < len(names):
        parser.error(f"name run folders whose own names differ, not {', '.join(names) or 'none'}")
    runs = {
        name: load_run(check("evaluate", [f"run={folder}", f"device={a.device}", *overrides]))
        for name, folder in zip(names, folders)
    }
    figures = {}
    for split in [a.split] if a.split else SPLITS:
        frame = chosen(runs, split, "frames", a.frame)
        camera = chosen(runs, split, "cameras", a.camera)
        truth, boxes, renders = None, {}, {}
        for name, run in runs.items():
            batch, render = rendered(run, split, frame, camera)
            own = batch.rgb[0, 0].float() / 255
            if truth is None:
                truth, mask = own, batch.mask[0, 0] & 1
                boxes = region_boxes(run.body, batch.pose, batch.cameras[0, 0], mask, a.hem)
            elif own.shape != truth.shape or (own != truth).any():
                raise SystemExit(f"{name} shows another truth of frame {frame}, camera {camera}, than {names[0]}")
            renders[name] = render
        sheet, psnr = crop_sheet(truth, renders, boxes, a.errors)
        figures[split] = {"frame": frame, "camera": camera, "boxes": boxes, "psnr": psnr}
        path = write_image(a.out / f"{split}.png", sheet)
        print(f"\n| {split.replace('_', ' ')}, frame {frame}, camera {camera} | {' | '.join(renders)} |")
        print("|---" * (len(renders) + 1) + "|")
        for region, row in psnr.items():
            print(f"| {region} | {' | '.join(f'{value:.2f}' for value in row.values())} |")
        print(f"\npicture: {path}", flush=True)
    write_json(a.out / "crops.json", figures)
    print(f"figures: {a.out / 'crops.json'}")


def chosen(runs: dict[str, Run], split: str, what: str, wanted):
    """The frame or camera to show: the wanted one, otherwise one that all runs' splits have."""
    if wanted is not None:
        return wanted
    first, *others = (getattr(run.capture.split(split), what) for run in runs.values())
    common = [item for item in first if all(item in other for other in others)]
    if not common:
        raise SystemExit(f"the runs' splits {split} share no {what}; name one by --{what.removesuffix('s')}")
    return common[len(common) // 2] if what == "frames" else common[0]


@torch.no_grad()
def rendered(run: Run, split: str, frame: int, camera: str):
    """The whole-frame batch [1, 1] of a frame and camera, and the run's picture of it [H, W, 3], on the host."""
    wanted = run.capture.split(split)
    wanted.frames, wanted.cameras = [frame], [camera]
    try:
        run.capture.check_splits()
    except ValueError as error:
        raise SystemExit(str(error)) from error
    run.config.cache.folder = "off"  # of one image there is nothing to prepare
    batches = list(build_data(run.config, run.capture, run.body).eval_dataloader(split))
    playback = Playback(run.avatar, run.rasterizer)
    retrieved, rows = None, {}
    if split == "novel_pose":
        retrieved, rows = choose_times(playback, run.capture, run.retriever, batches, wanted.frames)
    picture = renderer(playback, split, retrieved, rows)(batches[0])
    return batches[0], picture.rgb[0, 0].cpu()


if __name__ == "__main__":
    main()
