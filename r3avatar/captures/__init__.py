"""Captures: one reader a data set, the frame cache, splits, the data module."""

from r3avatar.captures.smc import SmcWriter

__all__ = ["SmcWriter"]
