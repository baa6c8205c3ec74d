"""`r3avatar preprocess`: fill the frame cache."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from r3avatar.captures import CaptureDataModule


def run(config: DictConfig) -> None:
    """Undistort, scale and crop every frame that some split of the capture needs."""
    capture, body = instantiate(config.capture), instantiate(config.body)
    data = CaptureDataModule(capture, body, cache=config.cache.folder, workers=config.workers)
    data.prepare_data()
    print(f"prepared frames: {data.store_folder}")
