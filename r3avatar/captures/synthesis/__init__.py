"""Synthetic captures: a clothed person whose cloth has dynamics of its own, filmed by a ring of cameras."""

from r3avatar.captures.synthesis.faults import Faults
from r3avatar.captures.synthesis.synthesize import synthesize

__all__ = ["Faults", "synthesize"]
