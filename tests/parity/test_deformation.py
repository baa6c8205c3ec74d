"""skinning.npz: canonical to posed points and their linear maps."""

import numpy as np
import pytest
import torch
from torch import nn

from r3avatar.avatar.skinning import Skinning
from r3avatar.body import BodyModel
from r3avatar.types import BodyPose


class Fixed(nn.Module):
    """Given logits, whatever the points."""

    floor, follow = 1e-9, "moved"

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, points):
        return self.logits


def _skinning(z, kind, logits):
    body = BodyModel(
        kind=kind, faces=np.array([[0, 1, 2]]),
        v_template=z[f"{kind}_v_template"], shapedirs=z[f"{kind}_shapedirs"], posedirs=z[f"{kind}_posedirs"],
        J_regressor=z[f"{kind}_J_regressor"], weights=z[f"{kind}_weights"], parents=z[f"{kind}_parents"],
    )  # fmt: skip
    body.big_pose = lambda: torch.from_numpy(z[f"{kind}_big_pose"])  # the oracle's hands carry small random rotations
    return Skinning(body, logits)


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
@pytest.mark.parametrize("variant", ["plain", "offsets", "offsets_corr"])
def test_deformation(oracle, parity, kind, variant):
    z = oracle("skinning")
    logits = None if variant == "plain" else Fixed(torch.from_numpy(z[f"{kind}_lbs_logit_offsets"]))
    skinning = _skinning(z, kind, logits)
    take = lambda name: torch.from_numpy(z[f"{kind}_{name}"])[None]  # noqa: E731
    pose = BodyPose(take("pose"), take("betas"), torch.zeros(1, 0), take("R"), take("Th"))
    points = take("points")
    frame = skinning.pose(pose, take("correction_rotations") if variant == "offsets_corr" else None)
    world, linear = skinning(points, frame, skinning.logits(points[0]))
    vertex = skinning.nearest(points)[0]
    weights = skinning.weights(vertex, skinning.logits(points[0]))
    assert np.array_equal(vertex.numpy(), z[f"{kind}_nearest_vertex"])
    error = lambda found, name: np.abs(found.detach().numpy() - z[f"{kind}_{name}"]).max()  # noqa: E731
    parity("skinning", f"{kind} big pose vertices", error(skinning.big_vertices, "big_vertices"), 1e-5)
    parity("skinning", f"{kind} {variant} weights", error(weights, f"{variant}_blend_weights"), 1e-5)
    parity("skinning", f"{kind} {variant} points", error(world[0], f"{variant}_points_world"), 1e-5)
    parity("skinning", f"{kind} {variant} linear", error(linear[0], f"{variant}_linear"), 1e-5)


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    from r3avatar.body import load_body

    body = load_body("demo").double()
    logits = torch.randn(4, 55, generator=generator, dtype=torch.float64, requires_grad=True)
    skinning = Skinning(body, Fixed(logits)).double()
    pick = torch.tensor([10, 900, 4000, 7000])
    points = (skinning.big_vertices[pick] + 0.01).clone().requires_grad_()
    theta = (torch.randn(2, 55, 3, generator=generator, dtype=torch.float64) * 0.2).requires_grad_()
    B, E = body.shapedirs.shape[-1], body.expressiondirs.shape[-1]
    eye, zeros = torch.eye(3, dtype=torch.float64).expand(2, 3, 3), torch.zeros(2, 3, dtype=torch.float64)

    def run(points, theta, logits):
        pose = BodyPose(theta, torch.zeros(2, B).double(), torch.zeros(2, E).double(), eye, zeros)
        return skinning(points.expand(2, -1, -1), skinning.pose(pose), logits)

    assert torch.autograd.gradcheck(run, (points, theta, logits), fast_mode=True)
