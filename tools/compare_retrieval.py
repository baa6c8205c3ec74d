"""What is retrieval worth? Novel poses of several runs with none, whole_body, r3, viterbi, mixture and the oracle.

python tools/compare_retrieval.py outputs/a outputs/b outputs/c --frames 110-149 --out outputs/compare
python tools/compare_retrieval.py outputs/demo --retrievals r3 viterbi oracle --set oracle.every=2 oracle.per_part=4

Prints one Markdown table (each capture, and mean ± standard deviation); writes it to DIR/comparison.md, all figures of
both protocols to DIR/comparison.json, and a timeline of retrieved times a run and retrieval. Where the capture is
synthetic the plots show which recorded moments its poses were put together from. Further key=value pairs go to
`r3avatar evaluate` (rasterizer=numba, checkpoint=best, +capture.root=DIR).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

from r3avatar.captures.capture import parse_ids
from r3avatar.captures.synthesis.moments import recorded_moments
from r3avatar.cli import check
from r3avatar.evaluation.comparison import compare_retrievals, flattened, markdown
from r3avatar.evaluation.perceptual import Perceptual
from r3avatar.run import open_run, write_json
from r3avatar.verbs.parts import load_run
from r3avatar.verbs.train import build_data

RETRIEVALS = ("none", "whole_body", "r3", "viterbi", "mixture", "oracle")


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, of one budget; and key=value")
    parser.add_argument("--retrievals", nargs="+", default=RETRIEVALS)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME.KEY=VALUE", help="e.g. oracle.every=2")
    parser.add_argument("--frames", help="ids instead of the split's, e.g. 110-149/5")
    parser.add_argument("--cameras", help="ids instead of the split's, e.g. 48,50")
    parser.add_argument("--protocol", choices=("paper", "standard"), default="paper")
    parser.add_argument("--against", default="r3", help="the retrieval that gains are relative to")
    parser.add_argument("--lpips", choices=("auto", "none", "vgg"), default="auto")
    parser.add_argument("--lpips-weights", help="vgg16-397923af.pth, where torchvision cannot download it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("outputs/compare_retrieval"))
    a = parser.parse_args()
    folders, overrides = [r for r in a.runs if "=" not in r], [r for r in a.runs if "=" in r]
    if not folders:
        parser.error("name at least one run folder")
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        parser.error(f"runs need different names, not {', '.join(names)}")
    a.out.mkdir(parents=True, exist_ok=True)
    lpips, note = perceptual(a.lpips, a.lpips_weights)
    sections, budgets = {}, {}
    for name, folder in zip(names, folders):
        start = time.perf_counter()
        trained = json.loads((open_run(folder)[0] / "metrics.json").read_text())["train"]
        run = load_run(check("evaluate", [f"run={folder}", f"device={a.device}", *overrides]))
        split, config = run.capture.split("novel_pose"), run.config
        split.frames = parse_ids(a.frames) if a.frames else split.frames
        split.cameras = [str(c) for c in parse_ids(a.cameras)] if a.cameras else split.cameras
        run.capture.check_splits()
        batches = list(build_data(config, run.capture, run.body).eval_dataloader("novel_pose"))
        moments = None
        if "root" in config.capture and "subject" in config.capture:
            moments = recorded_moments(Path(config.capture.root) / config.capture.subject, run.capture.frame_ids)
        retrievers = {r: retriever(r, a.set, run.body.kind) for r in a.retrievals}
        sections[name] = compare_retrievals(
            run.avatar, run.capture, run.rasterizer, retrievers, batches, a.out / name,
            None if lpips is None else lpips.to(run.device), moments,
        )  # fmt: skip
        budgets[name] = trained["images"]
        size = f"{len(split.frames)} frames x {len(split.cameras)} views"
        print(f"{name}: {size}, {time.perf_counter() - start:.1f} s on {run.device}", flush=True)
    if len(set(budgets.values())) > 1:
        note += f"\nThe runs' budgets differ (images seen: {budgets}): their means say little."
    rows = {name: flattened(found, a.protocol, a.against) for name, found in sections.items()}
    text = f"{markdown(rows, a.against)}\n\nProtocol `{a.protocol}`, novel poses.{note}\n"
    (a.out / "comparison.md").write_text(text)
    options = {"retrievals": list(a.retrievals), "set": a.set, "frames": a.frames, "cameras": a.cameras}
    write_json(a.out / "comparison.json", {"runs": sections, "images": budgets, "options": options})
    print(f"\n{text}\nfigures: {a.out / 'comparison.json'}\nplots: {a.out}")


def retriever(name: str, options: list[str], kind: str):
    """The retriever of configs/retrieval/<name>.yaml with NAME.KEY=VALUE over it."""
    config = check("train", [f"retrieval={name}"]).retrieval
    own = [option.split(".", 1)[1] for option in options if option.startswith(f"{name}.")]
    changes = OmegaConf.from_dotlist(own)
    unknown = set(changes) - set(config)
    if unknown:
        raise SystemExit(f"retrieval={name} has no {', '.join(sorted(unknown))}; it has {', '.join(config)}")
    return instantiate(OmegaConf.merge(config, changes), kind=kind)


def perceptual(choice: str, weights: str | None) -> tuple[Perceptual | None, str]:
    """LPIPS, and what to say where there is none; auto: where its packages and weights are to be had."""
    if choice == "none":
        return None, " No LPIPS: --lpips none."
    try:
        return Perceptual(weights, off="--lpips none").eval(), ""
    except (ModuleNotFoundError, OSError) as error:
        if choice == "vgg":
            raise
        return None, f" No LPIPS: {str(error).splitlines()[0]}"


if __name__ == "__main__":
    main()
