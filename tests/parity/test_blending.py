"""Body-part-wise blending of decoder outputs against the authors' implementation."""

import numpy as np
import pytest
import torch

from r3avatar.retrieval.blending import blend, fade, part_weights
from r3avatar.retrieval.parts import BLENDING_JOINTS

QUANTITIES = ("offset", "opacity_logit", "scale", "rotation")


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_blending(oracle, parity, kind):
    z = oracle("blending")
    for part, expected in zip(BLENDING_JOINTS[kind], z[f"{kind}_part_joints"]):
        assert sorted(part) == sorted(j for j in expected if j >= 0)
    weights = part_weights(torch.from_numpy(z[f"{kind}_lbs_weights"])[None], kind)
    parity("blending", f"{kind} part weights", np.abs(weights[0].numpy() - z[f"{kind}_part_weights"]).max(), 2e-6)
    current = {q: torch.from_numpy(z[f"{kind}_current_{q}"])[None] for q in QUANTITIES}
    previous = {q: torch.from_numpy(z[f"{kind}_previous_{q}"])[None] for q in QUANTITIES}
    jump = torch.from_numpy(z[f"{kind}_jump"])[None]
    blended = blend(current, previous, jump, weights)
    for q in QUANTITIES:
        parity("blending", f"{kind} {q}", np.abs(blended[q][0].numpy() - z[f"{kind}_blended_{q}"]).max(), 2e-6)


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_weight_query_points(oracle, parity, kind):
    """The published lookup position: the canonical points moved by the last part's offsets after its jump rule."""
    z = oracle("blending")
    now, then, jump = (torch.from_numpy(z[f"{kind}_{x}"])[None] for x in ("current_offset", "previous_offset", "jump"))
    found = z[f"{kind}_canonical_points"] + fade(now, then, jump)[0, -1].numpy()
    parity("blending", f"{kind} weight query points", np.abs(found - z[f"{kind}_weight_query_points"]).max(), 2e-6)
