"""A tiny synthetic capture and runs on it, made once a session through the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels run on the CPU, in its interpreter

TINY_CAPTURE = [
    "capture.subject=tiny",
    "capture.splits.train.cameras=0-3",
    "capture.splits.train.frames=0-7",
    "capture.splits.novel_view.cameras=4",
    "capture.splits.novel_view.frames=0-7/4",
    "capture.splits.novel_pose.cameras=4",
    "capture.splits.novel_pose.frames=8-11/2",
    "capture.recorded=[0,8]",
]


class Workplace:
    """A folder in which the command is run as a user would."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "R3AVATAR_CACHE": str(folder / "cache"), "MPLBACKEND": "Agg"}

    def __call__(self, *arguments: str, code: int = 0, timeout: float = 300) -> str:
        """Run `r3avatar ...`, check its exit code, return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "r3avatar.cli", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        text = done.stdout + done.stderr
        assert done.returncode == code, f"r3avatar {' '.join(arguments)} ended with {done.returncode}:\n{text[-4000:]}"
        return text


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    """A workplace with a tiny capture in outputs/captures/tiny."""
    place = Workplace(tmp_path_factory.mktemp("work place"))  # a space: paths must survive it
    place("synthesize", "synthesis=tiny", "subject=tiny")
    return place


@pytest.fixture(scope="session")
def tiny_capture() -> list[str]:
    """Overrides that turn the demo's capture into the tiny one."""
    return TINY_CAPTURE


@pytest.fixture(scope="session")
def tiny_run(workplace) -> Path:
    """A run of a few steps, with its evaluation, in outputs/tiny."""
    steps = ["batch.views=2", "budget.images=16", "density.start=4", "density.every=4", "validation.every_images=8"]
    workplace("train", "experiment=demo", "name=tiny", *TINY_CAPTURE, *steps, "validation.frames=1")
    return workplace.folder / "outputs" / "tiny"
