"""Which garment a person wears, and how it is cut: the one whose simulation explains the masks best."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from r3avatar.cloth.motion import Surface, Wearer, follow_body
from r3avatar.cloth.particles import Fabric
from r3avatar.cloth.tailor import KINDS, MOST_FLARE, Cut, Garment, longest, size_of, tailor

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

COARSE_STEPS = 6  # of a garment that is tried on, a sample of the body's motion
FAR = 0.15  # metres; what is farther away is no worse
LENGTHS = (0.35, 0.55, 0.75, 0.95)  # of the longest
FLARES = {"skirt": 2.5, "trousers": 0.5, "cape": 1.0}  # metres a metre, of the first ones tried
OUTSIDE = 0.5  # how much a particle outside of the hull counts beside a loose point without one: hulls lack pieces
GAIN = 0.4  # share of the loose cloth's misfit that a garment must explain to be worn
LOOSE = 0.04  # share of the hulls' surface that must be off the body for any to be tried on


@dataclass
class Sight:
    """What the masks of one moment show, the world y up."""

    moment: int  # row of the surface
    loose: Array  # [M, 3] points of the visual hull's surface away from the body, metres
    hull: cKDTree  # of the whole surface
    inside: Callable[[Array], NDArray[np.bool_]]  # points [P, 3] inside the hull


def fit_garment(
    wearer: Wearer, surface: Surface, seconds: Sequence[float], sights: Sequence[Sight],
    kinds: Sequence[str] = KINDS, or_none: bool = True,
) -> tuple[Cut | None, float]:
    """The cut of the garment that explains `sights` best, and its misfit (metres).

    surface, seconds: F moments of the body, the first near its rest pose. A garment's misfit: the mean distance of the
    loose points from its particles, plus OUTSIDE times that of its particles from the hull where they are outside.
    or_none: no cut where there is little off the body, or where none of the garments explains it.
    ValueError, unless `or_none`, for a body that the garment cannot be cut for.
    """
    if not sights:
        return None, 0.0
    loose, whole = (sum(x) for x in zip(*((len(s.loose), s.hull.n) for s in sights)))
    if or_none and loose < LOOSE * whole:
        return None, 0.0
    needed = max(s.moment for s in sights) + 1
    surface = Surface(surface.points[:needed], surface.normals[:needed], surface.maps[:needed])
    tried: dict[Cut, float] = {}

    def misfit(cut: Cut) -> float:
        try:
            garment = tailor(cut, wearer.rest_vertices, wearer.rest_joints, wearer.weights, *size_of(cut.kind, True))
        except ValueError as error:
            if not or_none:
                raise
            log.warning("a %s is not tried on: %s", cut.kind, error)
            return 2 * FAR
        places = follow_body(garment, wearer.meet(surface, garment), seconds, Fabric(), COARSE_STEPS)
        if not np.isfinite(places).all():
            return 2 * FAR
        return float(np.mean([_misfit(_refined(garment, places[s.moment]), s) for s in sights]))

    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(
        desc="trying garments on", unit="cut", leave=False, dynamic_ncols=True
    ) as bar:

        def attempt(cuts: Sequence[Cut]) -> Cut:
            new = [cut for cut in dict.fromkeys(cuts) if cut not in tried]
            for cut, value in zip(new, pool.map(misfit, new)):
                tried[cut] = value
                bar.update()
            return min(tried, key=lambda cut: tried[cut])

        best = attempt(
            [Cut(kind, share * longest(kind, wearer.rest_joints), FLARES[kind]) for kind in kinds for share in LENGTHS]
        )
        for step, ratio in ((0.1, 2.0), (0.05, 1.4), (0.025, 1.2)):
            reach = step * longest(best.kind, wearer.rest_joints)
            lengths = [replace(best, length=best.length + sign * reach) for sign in (-1, 1)]
            flares = [replace(best, flare=min(best.flare * r, MOST_FLARE)) for r in (1 / ratio, ratio)]
            best = attempt([*lengths, *flares])
    return (None if or_none and tried[best] > (1 - GAIN) * FAR else best), tried[best]


def _misfit(particles: Array, sight: Sight) -> float:
    far = np.minimum(cKDTree(particles).query(sight.loose)[0], FAR).mean() if len(sight.loose) else 0.0
    outside = np.where(sight.inside(particles), 0.0, np.minimum(sight.hull.query(particles)[0], FAR)).mean()
    return float(far + OUTSIDE * outside)


def _refined(garment: Garment, places: Array) -> Array:
    """Particles [P, 3] and the middles of the threads between them."""
    pairs = garment.grid.pairs([(0, 1), (1, 0), (1, 1)])
    return np.concatenate([places, places[pairs].mean(1)])
