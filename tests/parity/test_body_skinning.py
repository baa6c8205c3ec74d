"""Body kinematics, pose correctives and skinning against the oracle (skinning.npz)."""

import numpy as np
import pytest
import torch

from r3avatar.body import BodyModel
from r3avatar.types import BodyPose

TOLERANCE = 2e-6


@pytest.fixture(params=["smpl", "smplx"])
def case(request, oracle):
    """The kind, its oracle arrays without their prefix, and the body made of them."""
    kind, file = request.param, oracle("skinning")
    z = {name.removeprefix(f"{kind}_"): file[name] for name in file.files if name.startswith(f"{kind}_")}
    expression = {"expressiondirs": z["shapedirs"][..., 10:]} if kind == "smplx" else {}
    body = BodyModel(
        kind=kind,
        v_template=z["v_template"],
        shapedirs=z["shapedirs"][..., :10],
        posedirs=z["posedirs"],
        J_regressor=z["J_regressor"],
        weights=z["weights"],
        parents=z["parents"].tolist(),
        faces=np.zeros((0, 3), np.int64),
        **expression,
    )
    tensors = {name: torch.as_tensor(value) for name, value in z.items()}
    return kind, tensors, body


def big_body_pose(z, body):
    return BodyPose(
        theta=z["big_pose"][None],
        betas=torch.zeros(1, body.num_betas),
        expression=torch.zeros(1, body.num_expression),
        R=torch.eye(3)[None],
        Th=torch.zeros(1, 3),
    )


def test_big_vertices(case, parity):
    kind, z, body = case
    found = body.vertices(big_body_pose(z, body))[0]
    parity("skinning", f"{kind} big vertices", (found - z["big_vertices"]).abs().max(), TOLERANCE)


def test_big_pose(case, parity):
    kind, z, body = case
    joints = slice(0, 25 if kind == "smplx" else 24)  # the oracle's hands are random, not the mean pose
    parity("skinning", f"{kind} big pose", (body.big_pose() - z["big_pose"])[joints].abs().max(), 1e-7)


@pytest.mark.parametrize("variant", ["plain", "offsets", "offsets_corr"])
def test_skinning_of_points_bound_to_vertices(case, parity, variant):
    """The oracle's affine map of each point, from this body's transforms and offsets at the point's nearest vertex."""
    kind, z, body = case
    betas, expression = z["betas"][None, :10], z["betas"][None, 10:]
    rotations = body.rotations(z["pose"][None])
    if variant == "offsets_corr":
        rotations = torch.cat([rotations[:, :1], rotations[:, 1:] @ z["correction_rotations"]], 1)
    big = big_body_pose(z, body)
    big_rotations = body.rotations(big.theta)
    to_big = body.skinning_transforms(big_rotations, body.joints(big.betas, big.expression))[0]
    to_posed = body.skinning_transforms(rotations, body.joints(betas, expression))[0]
    w, nearest = z[f"{variant}_blend_weights"], z["nearest_vertex"].long()
    big_A, posed_A = (torch.einsum("nj,jab->nab", w, A) for A in (to_big, to_posed))
    offset = body.shape_offsets(betas, expression) + body.pose_offsets(rotations) - body.pose_offsets(big_rotations)
    linear = posed_A[:, :3, :3] @ torch.linalg.inv(big_A[:, :3, :3])
    shift = (posed_A[:, :3, :3] @ offset[0, nearest, :, None])[..., 0] + posed_A[:, :3, 3]
    shift = shift - (linear @ big_A[:, :3, 3, None])[..., 0]
    points = (linear @ z["points"][..., None])[..., 0] + shift
    linear, translation = z["R"] @ linear, shift @ z["R"].T + z["Th"]
    for name, found in (("points_body", points), ("linear", linear), ("translation", translation)):
        error = (found - z[f"{variant}_{name}"]).abs().max()
        parity("skinning", f"{kind} {variant} {name} (body)", error, TOLERANCE)
