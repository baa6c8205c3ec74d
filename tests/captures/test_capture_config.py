"""The shipped capture configurations open captures of their shape, and name the method's splits."""

from pathlib import Path

import numpy as np
import pytest
import r3avatar.configs
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from r3avatar.captures import DnaRendering, SmcWriter, Split

CONFIGS = Path(r3avatar.configs.__file__).parent


def _write(small, root, subject, cameras, frames):
    """A capture of many frames, all alike."""
    settings = {c: small.camera(64, 64, 0.1 * i) for i, c in enumerate(cameras)}
    jpeg, png, _, _ = small.picture(0, 64, 64)
    with SmcWriter(root, subject, cameras=settings, num_frames=frames) as writer:
        for c in cameras:
            for frame in range(frames):
                writer.add(c, frame, jpeg, png)
        writer.body(np.zeros((1, 10)), np.zeros((frames, 10)), np.zeros((frames, 55, 3)), np.zeros((frames, 3)))


def _open(name, **keys):
    overrides = [f"+capture={name}", "+body=demo", *(f"capture.{key}={value}" for key, value in keys.items())]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(overrides=overrides)
    return instantiate(config.capture)


def test_demo(tmp_path, small):
    _write(small, tmp_path, "demo", range(10), 80)
    capture = _open("demo", root=tmp_path)
    assert isinstance(capture, DnaRendering) and capture.recorded == (0, 60) and capture.scale == 0.25
    assert capture.splits == {
        "train": Split([str(c) for c in range(8)], list(range(60))),
        "novel_view": Split(["8", "9"], list(range(0, 60, 5))),
        "novel_pose": Split(["8", "9"], list(range(60, 80, 2))),
    }
    assert (capture.cameras[0].width, capture.cameras[0].height) == (16, 16)


def test_dna_rendering(tmp_path, small):
    cameras = [*range(0, 48, 2), *range(48, 60, 2)]
    _write(small, tmp_path, "0012_09", cameras, 150)
    capture = _open("dna_rendering", root=tmp_path, subject="0012_09")
    assert capture.recorded == (0, 100) and capture.box_margin == 0.05 and capture.fps == 15.0
    test = [str(c) for c in range(48, 60, 2)]
    assert capture.splits == {
        "train": Split([str(c) for c in range(0, 48, 2)], list(range(100))),
        "novel_view": Split(test, list(range(0, 100, 5))),
        "novel_pose": Split(test, list(range(110, 150, 5))),
    }
    assert len(capture.splits["train"].cameras) == 24 and len(test) == 6


def test_splits_can_be_overridden(tmp_path, small):
    _write(small, tmp_path, "demo", range(10), 80)
    capture = _open("demo", root=tmp_path, **{"splits.train.frames": "0-59/10", "splits.train.cameras": "[1,2]"})
    assert capture.splits["train"] == Split(["1", "2"], [0, 10, 20, 30, 40, 50])


def test_no_default_place_for_licensed_data():
    with pytest.raises(Exception, match=r"root|subject"):
        _open("dna_rendering")
    for name in ("demo", "dna_rendering"):
        assert OmegaConf.load(CONFIGS / "capture" / f"{name}.yaml")._target_ == "r3avatar.captures.DnaRendering"
