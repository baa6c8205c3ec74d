"""A capture's poses to animate towards, and motions of a small rig written by a plain second implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.types import BodyPose

CLIPS = Path(__file__).parent / "clips"


@pytest.fixture(scope="session")
def body():
    return load_body("demo")


@pytest.fixture(scope="session")
def smpl_body():
    """The demo body's first 24 joints as an SMPL body: the hands take the place of the face."""
    from r3avatar.body import BodyModel

    demo = load_body("demo")
    weights = torch.zeros(demo.num_vertices, 24)
    weights[:, :22] = demo.weights[:, :22]
    weights[:, 15] += demo.weights[:, 22:25].sum(1)
    weights[:, 22] = demo.weights[:, 25:40].sum(1)
    weights[:, 23] = demo.weights[:, 40:].sum(1)
    regressor = demo.J_regressor[[*range(22), 28, 43]]
    return BodyModel(
        kind="smpl", v_template=demo.v_template, shapedirs=demo.shapedirs, J_regressor=regressor, weights=weights,
        parents=[*demo.parents[:22], 20, 21], faces=demo.faces,
    )  # fmt: skip


def poses_like(body, frames=2, R=None):
    """Poses of a capture: a shape, a root at (0.3, 1.2, 0.1) metres, and a turn either in R or nowhere."""
    F = frames
    R = torch.eye(3) if R is None else torch.as_tensor(R, dtype=torch.float32)
    return BodyPose(
        torch.zeros(F, body.num_joints, 3), torch.full((F, body.num_betas), 0.5), torch.zeros(F, body.num_expression),
        R.expand(F, 3, 3), torch.tensor([0.3, 1.2, 0.1]).expand(F, 3),
    )  # fmt: skip


@pytest.fixture
def like(body):
    return poses_like(body)


@pytest.fixture
def like_of():
    return poses_like


@pytest.fixture
def clips():
    return CLIPS


@pytest.fixture
def write_bvh():
    return bvh_file


def bvh_file(path, joints, values, frame_time=1 / 120, frames=None):
    """Write a BVH: joints is [(name, parent, offset, channels, tip or None)], values [F, channels in that order]."""
    children = {j: [k for k, other in enumerate(joints) if other[1] == j] for j in range(-1, len(joints))}
    lines = ["HIERARCHY"]

    def vector(v):
        return " ".join(repr(float(x)) for x in v)

    def write(j, depth):
        name, parent, offset, channels, tip = joints[j]
        pad = "\t" * depth
        lines.extend([f"{pad}{'ROOT' if parent < 0 else 'JOINT'} {name}", pad + "{", f"{pad}\tOFFSET {vector(offset)}"])
        if channels:
            lines.append(f"{pad}\tCHANNELS {len(channels)} {' '.join(channels)}")
        for child in children[j]:
            write(child, depth + 1)
        if not children[j]:
            tip = np.zeros(3) if tip is None else tip
            lines.extend([f"{pad}\tEnd Site", pad + "\t{", f"{pad}\t\tOFFSET {vector(tip)}", pad + "\t}"])
        lines.append(pad + "}")

    write(0, 0)
    lines.extend(["MOTION", f"Frames: {len(values) if frames is None else frames}", f"Frame Time: {frame_time:.7f}"])
    lines.extend(vector(row) for row in values)
    path.write_text("\n".join(lines) + "\n")
    return path
