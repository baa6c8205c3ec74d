"""Hand poses as few coefficients of a body model's principal components, as some data sets store them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r3avatar.body.files import find_body_file, read_arrays


@dataclass(frozen=True)
class HandPca:
    """mean + coefficients @ components, each hand its own (flat_hand_mean=False)."""

    mean: np.ndarray  # [30, 3] axis-angle, radians: left hand, right hand
    components: np.ndarray  # [2, n, 45]: left hand, right hand

    def __post_init__(self):
        if self.mean.shape != (30, 3) or self.components.shape != (2, self.components.shape[1], 45):
            raise ValueError(
                f"mean is {list(self.mean.shape)}, components are {list(self.components.shape)}; "
                "expected [30, 3] and [2, n, 45]"
            )

    def __call__(self, coefficients: np.ndarray) -> np.ndarray:
        """Joint rotations [F, 30, 3] of coefficients [F, 2 n] (left hand first)."""
        halves = np.split(coefficients, 2, 1)
        hands = np.concatenate([half @ components for half, components in zip(halves, self.components)], 1)
        return self.mean + hands.reshape(-1, 30, 3)


def read_hand_pca(kind: str, path: str | None, gender: str, num_components: int = 6) -> HandPca:
    """Mean and first components of both hands from an SMPL-X file; arguments as `load_body`'s.

    ValueError for another body (the demo body has no components), and for a file that lacks what is needed.
    """
    if kind != "smplx":
        raise ValueError(
            f"body kind is '{kind}'; hands stored as principal components need SMPL-X's: set body=smplx body.path=..., "
            "or leave the fingers straight with capture.hands=null"
        )
    file = find_body_file(kind, path, gender)
    arrays = read_arrays(file)
    found = {}
    for key, shape in {"hands_mean": (45,), "hands_components": (num_components, 45)}.items():
        for side in "lr":
            value = arrays.get(key + side)
            if value is None or value.shape[-1] != 45 or (key == "hands_components" and len(value) < num_components):
                shown = "none" if value is None else list(value.shape)
                raise ValueError(f"{file}: {key}{side}: expected at least {list(shape)}, found {shown}")
            found[key + side] = value.astype(np.float64)
    return HandPca(
        np.stack([found["hands_meanl"], found["hands_meanr"]]).reshape(30, 3),
        np.stack([found[f"hands_components{side}"][:num_components] for side in "lr"]),
    )
