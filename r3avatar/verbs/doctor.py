"""`r3avatar doctor`: what works here, and the one command that mends what does not."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from pathlib import Path


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _importable(module: str) -> str | None:
    """None if `module` imports, else why not."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary raises anything; the report is the point of this verb
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def rows() -> list[tuple[str, str, str, str]]:
    """(what, state, found, fix): state is 'ok', 'missing' (needed) or 'optional' (absent, needed by some things)."""
    result = []

    def add(what: str, works: bool, found: str, fix: str = "", needed: bool = False) -> None:
        result.append((what, "ok" if works else "missing" if needed else "optional", found, "" if works else fix))

    add("python", sys.version_info >= (3, 10), sys.version.split()[0], "install Python 3.10 or newer", needed=True)
    for package, module in {
        "torch": "torch", "pytorch-lightning": "pytorch_lightning", "hydra-core": "hydra", "h5py": "h5py",
        "numba": "numba", "opencv-python-headless": "cv2", "av": "av",
    }.items():  # fmt: skip
        broken = _importable(module)
        add(package, broken is None, broken or _version(package) or "present", "pip install -e .", needed=True)
    if _importable("torch") is None:
        import torch

        cuda = torch.cuda.is_available()
        found = (
            f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
            if cuda
            else "no CUDA device: training runs on the CPU"
        )
        add("CUDA", cuda, found, "install a CUDA build of torch (https://pytorch.org/get-started)")
        broken = _importable("triton")
        add("triton (kernels on CUDA)", broken is None, _version("triton") or str(broken), "pip install triton")
        add("gsplat (rasterizer on CUDA)", *_gsplat(cuda))
        for package, module, use in (
            ("diff-gaussian-rasterization", "diff_gaussian_rasterization", "rasterizer=inria"),
            ("simple-knn", "simple_knn._C", "first sizes on CUDA"),
        ):
            broken = _importable(module)
            fix = f"only if you want it: its licence allows non-commercial use alone ({use}; others do the same)"
            add(package, broken is None, _version(package.replace("-", "_")) or broken or "present", fix)
    broken = _importable("faiss")
    faiss = _version("faiss-gpu") or _version("faiss-cpu")
    add(
        "faiss (pose retrieval)",
        broken is None,
        faiss or "absent: the torch search gives the same answers",
        "pip install -e '.[faiss]'",
    )
    if _importable("av") is None:
        import av

        encodes = "libx264" in av.codecs_available
        add(
            "H.264 videos (ffmpeg in av)",
            encodes,
            "libx264" if encodes else "no libx264",
            "pip install --force-reinstall av",
            True,
        )
    broken = _importable("lpips")
    add("lpips (perceptual loss, metric)", broken is None, _version("lpips") or "absent", "pip install -e '.[lpips]'")
    broken = _importable("wandb")
    mode = os.environ.get("WANDB_MODE", "offline unless logger.offline=false")
    add(
        "wandb (dashboards)",
        broken is None,
        f"{_version('wandb')}, {mode}" if broken is None else broken,
        "pip install wandb",
    )
    from r3avatar.body import load_body

    body = load_body("demo")
    add("body=demo", True, f"{body.num_vertices} vertices, {body.num_joints} joints, shipped", needed=True)
    for kind in ("smplx", "smpl"):
        folder = os.environ.get("R3AVATAR_BODIES")
        found = Path(folder, kind).is_dir() if folder else False
        site = "smpl-x.is.tue.mpg.de" if kind == "smplx" else "smpl.is.tue.mpg.de"
        fix = f"register at https://{site}, then pass body={kind} body.path=DIR (R3AVATAR_BODIES=DIR checks it here)"
        add(f"body={kind}", found, f"{folder}/{kind}" if found else "no files named by R3AVATAR_BODIES", fix)
    return result


def _gsplat(cuda: bool) -> tuple[bool, str, str]:
    """Whether rasterizer=gsplat works, what was found, and the fix: its kernels may be built, or buildable, or not."""
    broken = _importable("gsplat")
    if broken is not None:
        return False, broken, "pip install -e '.[gpu]'"
    from r3avatar.rasterizer.gsplat_build import built, missing_tools

    version, where = _version("gsplat"), built()
    if where is not None:
        return cuda, f"{version}, kernels built: {where}", "needs a CUDA device"
    stops, doubts = missing_tools()
    if stops:
        return False, f"{version}, kernels not built, and they cannot be", "; ".join(stops + doubts)
    found = "; ".join([f"{version}, builds its kernels at the first call (minutes)", *doubts])
    return cuda, found, "needs a CUDA device"


def main() -> int:
    """Print the table; 1 if something that everything needs is missing."""
    table = rows()
    for what, state, found, fix in table:
        print(f"[{state:8}] {what:32} {found}" + (f"\n{'':11}mend: {fix}" if fix else ""))
    missing = [what for what, state, _, _ in table if state == "missing"]
    print("\neverything needed is here" if not missing else f"\nmissing: {', '.join(missing)}")
    return 1 if missing else 0
