"""Parametric bodies: SMPL, SMPL-X and the open demo body."""

from r3avatar.body.files import load_body
from r3avatar.body.model import BodyModel, rodrigues
from r3avatar.body.surface import BodySurface, demo_surface

__all__ = ["BodyModel", "BodySurface", "demo_surface", "load_body", "rodrigues"]
