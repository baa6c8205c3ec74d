"""`r3avatar synthesize`: write a synthetic capture."""

from hydra.utils import instantiate
from omegaconf import DictConfig


def run(config: DictConfig) -> None:
    """Write the capture that `config.synthesis` describes."""
    instantiate(config.synthesis, root=config.root, subject=config.subject, overwrite=config.overwrite)
