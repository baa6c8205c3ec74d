"""The shipped configurations of ZJU-MoCap and HiFi4G: the method's splits, and keys that the readers take."""

from pathlib import Path

import pytest
import r3avatar.configs
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from r3avatar.captures import HiFi4G, Split, ZjuMocap
from r3avatar.cli import check

from .layouts_smpl import write_hifi4g, write_zju_mocap
from .plain_capture import plain_capture

CONFIGS = Path(r3avatar.configs.__file__).parent
ZJU_TRAIN = [0, 3, 6, 9, 12, 15, 18, 21]
HIFI4G_TRAIN = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 36]
HIFI4G_TEST = [2, 18, 20, 22, 24, 26, 28, 30, 32, 34, 35]
TINY = {
    f"splits.{split}.{key}": value
    for split, cameras, frames in (("train", "0-1", "0-2"), ("novel_view", "2", "0"), ("novel_pose", "2", "3"))
    for key, value in (("cameras", cameras), ("frames", frames))
}


def _config(name, **keys):
    overrides = [f"+capture={name}", "+body=demo", *(f"capture.{key}={value}" for key, value in keys.items())]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(overrides=overrides).capture


def _split(cameras, frames):
    return Split([str(camera) for camera in cameras], list(frames))


def test_zju_mocap():
    config = _config("zju_mocap")
    test = [camera for camera in range(23) if camera not in ZJU_TRAIN]
    assert len(test) == 15 and instantiate(config.splits) == {
        "train": _split(ZJU_TRAIN, range(0, 300, 5)),
        "novel_view": _split(test, range(0, 300, 50)),
        "novel_pose": _split(test, range(300, 500, 20)),
    }
    assert (config.recorded, config.scale, config.box_margin, config.fps) == ([0, 300], 0.5, 0.05, None)


def test_hifi4g():
    config = _config("hifi4g")
    assert instantiate(config.splits) == {
        "train": _split(HIFI4G_TRAIN, range(0, 140, 2)),
        "novel_view": _split(HIFI4G_TEST, range(0, 140, 20)),
        "novel_pose": _split(HIFI4G_TEST, range(150, 200, 10)),
    }
    assert (len(HIFI4G_TRAIN), len(HIFI4G_TEST)) == (17, 11)
    assert (config.recorded, config.scale, config.box_margin, config.fps) == ([0, 150], 0.25, 0.5, None)


@pytest.mark.parametrize(
    "name, reader, write, subject",
    [("zju_mocap", ZjuMocap, write_zju_mocap, 377), ("hifi4g", HiFi4G, write_hifi4g, "4K_Actor1_Greeting")],
)
def test_opens_a_capture(tmp_path, name, reader, write, subject):
    write(tmp_path / str(subject), plain_capture("smpl"))
    config = _config(name, root=tmp_path, subject=subject, **TINY)
    capture = instantiate(config)
    assert type(capture) is reader and capture.name == str(subject)
    assert capture.splits["train"] == Split(["0", "1"], [0, 1, 2])
    assert capture.cameras[0].width == 96 * config.scale


@pytest.mark.parametrize("name, images", [("zju_mocap", 10000), ("hifi4g", 60000)])
def test_experiments(name, images):
    config = check("train", [f"experiment={name}", "capture.root=DIR", "capture.subject=a", "body.path=DIR"])
    assert (config.name, config.body.kind, config.budget.images) == (f"{name}/a", "smpl", images)
    assert config.loss.mask > 0 and config.lpips is not None
