"""The five body parts that retrieve independently, for SMPL and SMPL-X joint numbers.

Joint numbers are the standard ones: SMPL 0-23 (22, 23 hands), SMPL-X 0-54 (22 jaw, 23 and 24 eyes, 25-39 left hand,
40-54 right hand). Hands take part in blending (every joint belongs to one part) and not in retrieval: their poses are
noisy and say little about cloth.
"""

from __future__ import annotations

from typing import Literal

BodyKind = Literal["smpl", "smplx"]

PARTS = ("left_leg", "right_leg", "centre", "left_arm", "right_arm")

RETRIEVAL_JOINTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "smpl": (
        (1, 4, 7, 10),
        (2, 5, 8, 11),
        (0, 3, 6, 9, 12, 15),
        (13, 16, 18, 20, 22),
        (14, 17, 19, 21, 23),
    ),
    "smplx": (
        (1, 4, 7, 10),
        (2, 5, 8, 11),
        (0, 3, 6, 9, 12, 15, 22, 23, 24),
        (13, 16, 18, 20),
        (14, 17, 19, 21),
    ),
}

BLENDING_JOINTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "smpl": RETRIEVAL_JOINTS["smpl"],
    "smplx": (
        *RETRIEVAL_JOINTS["smplx"][:3],
        (*RETRIEVAL_JOINTS["smplx"][3], *range(25, 40)),
        (*RETRIEVAL_JOINTS["smplx"][4], *range(40, 55)),
    ),
}

JOINTS = {"smpl": 24, "smplx": 55}
"""Joints J of each body."""

EMBEDDED_JOINTS = {"smpl": 24, "smplx": 25}
"""Joints that enter a pose embedding: the first J' of the body's."""


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` names a body whose parts are known."""
    if kind not in JOINTS:
        raise ValueError(f"body kind {kind!r} has no parts; expected one of {sorted(JOINTS)}")
