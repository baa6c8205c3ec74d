"""`r3avatar preprocess`: fill the frame cache."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from r3avatar.captures import prepare
from r3avatar.run import RunError


def run(config: DictConfig) -> None:
    """Undistort, scale and crop every frame that some split of the capture needs."""
    if config.cache.folder in ("off", False):  # YAML reads a bare `off` as False
        raise RunError("preprocess fills the frame cache, which cache.folder=off turns off: name a folder, or none")
    capture, body = instantiate(config.capture), instantiate(config.body)
    store = prepare(capture, body, config.cache.folder, workers=config.workers or None)
    print(f"prepared frames: {store.folder} ({len(store)} frames, {store.bytes_on_disk / 1e6:.3g} MB)")
