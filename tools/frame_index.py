"""An index of recorded frames of many captures and people: make it, add to it, ask it.

python tools/frame_index.py append outputs/index outputs/demo outputs/cape     # run folders, or pose files (.npz)
python tools/frame_index.py build outputs/index                                # exact where it fits, else faiss IVF
python tools/frame_index.py query outputs/index outputs/demo --frames 60-62 -k 3
python tools/frame_index.py info outputs/index

A run brings the frames that its capture recorded. A pose file holds theta [F, J, 3] (and maybe `frames` [F], ids).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from r3avatar.captures.capture import parse_ids
from r3avatar.retrieval.frame_index import FrameIndex
from r3avatar.retrieval.parts import JOINTS, PARTS
from r3avatar.run import open_run


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("append", "build", "query", "info"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("sources", nargs="*", type=Path, help="run folders or pose files")
    parser.add_argument("--up", type=float, nargs=3, help="of the sources' world; told from the poses unless given")
    parser.add_argument("--method", choices=("auto", "exact", "ivf", "hnsw"), default="auto")
    parser.add_argument("--exact-gib", type=float, default=4.0, help="memory up to which auto takes the exact search")
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--frames", help="ids of the query, e.g. 60-79; all unless given")
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="search an ivf index with faiss-gpu")
    a = parser.parse_args()
    if a.action in ("append", "query") and not a.sources:
        parser.error(f"{a.action} needs run folders or pose files")
    if a.action == "append":
        for source in a.sources:
            theta, frames, recorded = poses(source)
            if not (a.folder / "index.json").exists():
                FrameIndex.create(a.folder, {J: kind for kind, J in JOINTS.items()}[theta.shape[1]])
            FrameIndex(a.folder).append(source.stem, theta[recorded], frames[recorded], a.up)
            print(f"{source}: {int(recorded.sum())} frames")
    index = FrameIndex(a.folder, a.gpu)
    if a.action == "build":
        index.build(a.method, a.exact_gib, a.probes)
    if a.action == "query":
        for source in a.sources:
            query(index, source, a.frames, a.k, a.up)
    else:
        print(f"{a.folder}: {len(index)} frames of {len(index.captures)} captures ({index.kind}), built: {index.built}")


def poses(source: Path) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Poses [F, J, 3], frame ids [F] and which frames are recorded [F] of a run or of a pose file."""
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as file:
            if "theta" not in file or file["theta"].ndim != 3 or file["theta"].shape[1] not in JOINTS.values():
                raise SystemExit(f"{source}: expected theta [F, 24 or 55, 3], found {sorted(file.files)}")
            theta = torch.from_numpy(file["theta"]).float()
            frames = file["frames"] if "frames" in file else np.arange(len(theta))
        return theta, frames, np.ones(len(theta), bool)
    capture = instantiate(open_run(str(source))[1].capture)
    frames = np.array(capture.frame_ids)
    first, length = capture.recorded
    return capture.poses.theta, frames, (frames >= first) & (frames < first + length)


def query(index: FrameIndex, source: Path, ids: str | None, k: int, up: list[float] | None) -> None:
    """Print the nearest recorded frames of every part, a row a frame and part."""
    theta, frames, _ = poses(source)
    wanted = frames if ids is None else np.array(parse_ids(ids))
    found = index.search(theta, k, up=up)
    print("| frame | part | " + " | ".join(f"{i + 1}. (distance)" for i in range(found.rows.shape[2])) + " |")
    print("|---|---|" + "---|" * found.rows.shape[2])
    for frame in wanted:
        (q,) = np.flatnonzero(frames == frame)
        for p, part in enumerate(PARTS):
            cells = [
                f"{index.captures[c]} {f} ({d:.3f})"
                for c, f, d in zip(found.captures[q, p], found.frames[q, p], found.distances[q, p])
                if c >= 0
            ]
            print(f"| {frame} | {part.replace('_', ' ')} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
