"""The run folder: the unit of exchange between verbs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

PACKAGES = (
    "r3avatar", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy", "numba", "h5py",
    "opencv-python-headless", "gsplat", "faiss-cpu", "faiss-gpu", "lpips", "wandb",
)  # fmt: skip


RECORDING = "recording.npz"
"""What a run keeps of its capture (`captures.recording`)."""

CHOICES = "choices.json"
"""The member of every configuration group that the run was made of."""


class RunError(Exception):
    """A run folder that cannot be used, with the fix in its message."""


def versions() -> dict[str, str | None]:
    """Versions of Python, the platform and every package that numbers may depend on; None where not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, str | bool | None]:
    """Commit of the source tree and whether it has uncommitted changes; None outside a repository."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", source, *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if status is None else bool(status)}


def write_json(path: Path, value) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def check_run_folder(folder: Path, reuse: bool) -> None:
    """Raise RunError if the folder holds a run already and `reuse` is False: nothing is overwritten silently."""
    if (folder / "config.yaml").exists() and not reuse:
        raise RunError(
            f"{folder} holds a run already; choose another with name=NAME, go on with it with resume=true, "
            "or replace it with overwrite=true"
        )


def changed_keys(folder: Path, config: DictConfig) -> list[str]:
    """'key: before -> now' of every key that differs from the run's stored configuration."""

    def flat(value, prefix: str = "") -> dict[str, object]:
        if not isinstance(value, dict):
            return {prefix: value}
        inner = [flat(item, f"{prefix}.{key}" if prefix else key) for key, item in value.items()]
        return {key: item for part in inner for key, item in part.items()}

    before = flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
    now = flat(OmegaConf.to_container(config, resolve=True))
    place = ("folder", "launcher", "search", "resume", "overwrite")  # where and how, not what
    keys = [key for key in {**before, **now} if key.split(".")[0] not in place]
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def create_run_folder(
    folder: Path, config: DictConfig, overrides: list[str], choices: dict[str, str] | None = None
) -> None:
    """Make `folder` with config.yaml (resolved), overrides, versions and git state; <outputs>/latest points to it.

    choices: the member chosen of every configuration group, which the resolved configuration does not tell.
    """
    for sub in ("checkpoints", "media", "logs"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (folder / "overrides.txt").write_text("\n".join(overrides) + "\n")
    write_json(folder / CHOICES, choices or {})
    write_json(folder / "versions.json", {"command": sys.argv, "versions": versions(), "git": git_state()})
    outputs = Path(config.outputs)
    latest = outputs / "latest"
    if latest.is_symlink() or not latest.exists():
        temporary = outputs / f".latest-{os.getpid()}"
        temporary.symlink_to(os.path.relpath(folder, outputs))
        os.replace(temporary, latest)


def open_run(run: str) -> tuple[Path, DictConfig]:
    """The folder of a run and its configuration; raises RunError naming what is missing."""
    folder = Path(os.path.relpath(Path(run).resolve()))  # `latest` by its own name, printed as it is typed
    if not (folder / "config.yaml").is_file():
        found = (p.parent for p in folder.parent.glob("*/config.yaml") if not p.parent.is_symlink())
        near = sorted(p.name for p in found) if folder.parent.is_dir() else []
        hint = f"; runs there: {', '.join(near)}" if near else "; make one with: r3avatar train experiment=demo"
        raise RunError(f"{run} is not a run folder (it has no config.yaml){hint}")
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    return folder, config


def checkpoint_of(folder: Path, which: str) -> Path:
    """The file of the checkpoint `which` ('last' or 'best')."""
    path = folder / "checkpoints" / f"{which}.ckpt"
    if not path.is_file():
        raise RunError(f"{path} does not exist; the run has not been trained yet, or was stopped before its first save")
    return path


def update_metrics(folder: Path, **sections) -> dict:
    """Merge sections into the run's metrics.json and return the whole."""
    path = folder / "metrics.json"
    current = json.loads(path.read_text()) if path.is_file() else {}
    notes = {**current.get("notes", {}), **sections.pop("notes", {})}
    for name, value in sections.items():
        current[name] = {**current[name], **value} if isinstance(current.get(name), dict) and value else value
    filled = {k for k, v in current.items() if v is not None}
    current["notes"] = {k: v for k, v in notes.items() if k not in filled}
    write_json(path, current)
    return current
