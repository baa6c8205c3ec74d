"""A small capture of every data set, to be written below a folder and opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from r3avatar.captures import DnaRendering, FolderCapture, HiFi4G, MvHumanNet, Split, ZjuMocap
from r3avatar.captures.capture import Capture

from .conftest import SPLITS as PAIR_SPLITS
from .conftest import open_pair, write_pair
from .layouts_smpl import write_hifi4g, write_zju_mocap
from .layouts_smplx import SPLITS as MVHUMANNET_SPLITS
from .layouts_smplx import six_components, write_mvhumannet, write_plain_folder
from .plain_capture import plain_capture

SUBJECT = "ann"
SPLITS = {"train": Split(["0", "2"], [0, 1, 2]), "novel_view": Split(["1"], [0, 2]), "novel_pose": Split(["1"], [3])}
ARGUMENTS = {"splits": SPLITS, "recorded": (0, 3), "scale": 1.0}
SIZE = 48, 40


@dataclass(frozen=True)
class Layout:
    """How a small capture of a data set is written below a root and opened."""

    write: Callable[[Path], object]
    open: Callable[[Path], Capture]


def _dna_rendering(root: Path) -> DnaRendering:
    return open_pair(root, splits=PAIR_SPLITS)


def _zju_mocap(root: Path) -> ZjuMocap:
    return ZjuMocap(root, SUBJECT, **ARGUMENTS)


def _hifi4g(root: Path) -> HiFi4G:
    return HiFi4G(root, SUBJECT, mask_from_white=0.02, **ARGUMENTS)


def _mvhumannet(root: Path) -> MvHumanNet:
    return MvHumanNet(root, SUBJECT, splits=MVHUMANNET_SPLITS, recorded=(0, 2), hands=six_components(), scale=1.0)


def _folder_capture(root: Path) -> FolderCapture:
    return FolderCapture(root, SUBJECT)


LAYOUTS = {
    "DnaRendering": Layout(write_pair, _dna_rendering),
    "ZjuMocap": Layout(lambda root: write_zju_mocap(root / SUBJECT, plain_capture("smpl", size=SIZE)), _zju_mocap),
    "HiFi4G": Layout(lambda root: write_hifi4g(root / SUBJECT, plain_capture("smpl", size=SIZE)), _hifi4g),
    "MvHumanNet": Layout(
        lambda root: write_mvhumannet(root / SUBJECT, plain_capture("smplx", size=SIZE), six_components()), _mvhumannet
    ),
    "FolderCapture": Layout(
        lambda root: write_plain_folder(root, SUBJECT, plain_capture("smplx", size=SIZE)), _folder_capture
    ),
}
