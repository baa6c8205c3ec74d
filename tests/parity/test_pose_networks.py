"""pose_networks.npz: pose refinement and skinning-weight offsets."""

import numpy as np
import pytest
import torch

from r3avatar.avatar.pose_refinement import PoseRefinement, rodrigues
from r3avatar.avatar.skinning import WeightOffsets, positional_encoding


def _set(layer, weight, bias):
    assert layer.weight.shape == weight.shape
    layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)


@pytest.mark.parametrize(("kind", "joints"), [("smpl", 24), ("smplx", 55)])
def test_refinement(oracle, parity, kind, joints):
    z = oracle("pose_networks")
    network = PoseRefinement(joints)
    for i, layer in enumerate((network.hidden1, network.hidden2, network.out), 1):
        _set(layer, z[f"{kind}_refiner_w{i}"], z[f"{kind}_refiner_b{i}"])
    pose = torch.from_numpy(z[f"{kind}_refiner_pose"])
    theta = torch.cat([torch.full((len(pose), 1, 3), 9.0), pose.unflatten(1, (-1, 3))], 1)  # the root must not matter
    rotvecs, rotations = network.rotvecs(theta).detach().numpy(), network(theta).detach().numpy()
    parity("pose_networks", f"{kind} rotvec", np.abs(rotvecs - z[f"{kind}_refiner_rotvec"]).max(), 2e-6)
    parity("pose_networks", f"{kind} corrections", np.abs(rotations - z[f"{kind}_refiner_rotations"]).max(), 2e-6)


def test_rodrigues(oracle, parity):
    z = oracle("pose_networks")
    found = rodrigues(torch.from_numpy(z["rodrigues_in"])).numpy()
    parity("pose_networks", "rodrigues", np.abs(found - z["rodrigues_out"]).max(), 2e-6)


def test_weight_offsets(oracle, parity):
    z = oracle("pose_networks")
    network = WeightOffsets(55)
    layers = (network.hidden1, network.hidden2, network.hidden3, network.hidden4, network.out)
    for i, layer in enumerate(layers, 1):
        _set(layer, z[f"lbs_w{i}"], z[f"lbs_b{i}"])
    points = torch.from_numpy(z["lbs_points"])
    parity("pose_networks", "encoding", np.abs(positional_encoding(points).numpy() - z["lbs_encoding"]).max(), 1e-6)
    found = network(points).detach().numpy()
    parity("pose_networks", "logit offsets", np.abs(found - z["lbs_logit_offsets"]).max(), 1e-5)
