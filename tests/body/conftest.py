"""Small random bodies and poses for the tests of bodies."""

import numpy as np
import pytest
import torch

from r3avatar.body import BodyModel
from r3avatar.body.model import KINDS
from r3avatar.types import BodyPose


def random_body_arrays(kind="smplx", vertices=30, betas=4, expression=3, seed=0) -> dict:
    """Keyword arguments of BodyModel: random arrays over a random tree."""
    rng = np.random.default_rng(seed)
    J = KINDS[kind]
    weights = rng.random((vertices, J)) ** 8
    regressor = rng.random((J, vertices)) ** 4
    return {
        "kind": kind,
        "v_template": rng.normal(size=(vertices, 3)) * 0.4,
        "shapedirs": rng.normal(size=(vertices, 3, betas)) * 0.02,
        "expressiondirs": rng.normal(size=(vertices, 3, expression)) * 0.01,
        "posedirs": rng.normal(size=(vertices, 3, 9 * (J - 1))) * 0.005,
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights / weights.sum(1, keepdims=True),
        "parents": [-1, *(int(rng.integers(0, j)) for j in range(1, J))],
        "faces": rng.integers(0, vertices, (10, 3)),
    }


def random_body_pose(body: BodyModel, frames=3, seed=1) -> BodyPose:
    """Poses of about 30 degrees a joint, each with a global rotation and translation."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(body.v_template.dtype)

    theta = 0.5 * normal(frames, body.num_joints, 3)
    theta[:, 2] = 0.0
    R = body.rotations(normal(frames, 3))
    expression = normal(frames, body.num_expression)
    return BodyPose(theta, normal(frames, body.num_betas), expression, R, normal(frames, 3))


@pytest.fixture
def body_arrays():
    return random_body_arrays


@pytest.fixture
def body_pose():
    return random_body_pose
