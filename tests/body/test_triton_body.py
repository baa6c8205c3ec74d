"""The body's kernels against their torch twins: the kinematic chain, and axis-angle vectors to matrices."""

import pytest
import torch

from r3avatar.avatar import pose_refinement
from r3avatar.body import BodyModel, model

pytest.importorskip("triton", reason="Triton is not installed")
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted")
RODRIGUES = [model.rodrigues, pose_refinement.rodrigues]


def _chain(body_arrays, body_pose, kind, frames, device="cpu"):
    body = BodyModel(**body_arrays(kind)).double()
    pose = body_pose(body, frames=frames)
    pose_rotations = body.rotations(pose.theta) + 0.05 * torch.randn_like(body.rotations(pose.theta))  # not exact ones
    joints = body.joints(pose.betas, pose.expression)
    return body.to(device), pose_rotations.to(device), joints.to(device)


def _both(function, *inputs):
    """Values and gradients by the torch twin and by the kernels."""
    results = []
    for backend in ("torch", "triton"):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        found = function(*leaves, backend=backend)
        direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        results.append((found, *torch.autograd.grad(found, leaves, direction.to(found))))
    return zip(*results)


@CPU
@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_interpreted_chain_equals_the_twin(body_arrays, body_pose, kind):
    body, rotations, joints = _chain(body_arrays, body_pose, kind, frames=2)
    for expected, found in _both(body.skinning_transforms, rotations, joints):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@CPU
def test_interpreted_chain_with_constant_joints(body_arrays, body_pose):
    body, rotations, joints = _chain(body_arrays, body_pose, "smpl", frames=1)
    for expected, found in _both(lambda R, backend: body.skinning_transforms(R, joints, backend=backend), rotations):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@CPU
@pytest.mark.parametrize("rodrigues", RODRIGUES)
def test_interpreted_rodrigues_equals_the_twin(rodrigues):
    rotvecs = torch.randn(3, 25, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotvecs[0, 0], rotvecs[1] = 0.0, rotvecs[1] * 1e-3
    for expected, found in _both(rodrigues, rotvecs):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-7)


class TestOnTheGpu:
    pytestmark = GPU

    @pytest.mark.parametrize("kind", ["smpl", "smplx"])
    @pytest.mark.parametrize("frames", [1, 2, 8])
    def test_chain(self, body_arrays, body_pose, kind, frames):
        body, rotations, joints = _chain(body_arrays, body_pose, kind, frames, "cuda")
        for expected, found in _both(body.skinning_transforms, rotations, joints):
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
        double = [expected for expected, _ in _both(body.skinning_transforms, rotations, joints)]
        single = [found for _, found in _both(body.float().skinning_transforms, rotations.float(), joints.float())]
        for expected, found in zip(double, single):
            torch.testing.assert_close(found.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)

    @pytest.mark.parametrize("rodrigues", RODRIGUES)
    def test_rodrigues(self, rodrigues):
        rotvecs = torch.randn(8, 55, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cuda()
        rotvecs[0, 0], rotvecs[1] = 0.0, rotvecs[1] * 1e-3
        double = [expected for expected, _ in _both(rodrigues, rotvecs)]
        single = [found for _, found in _both(rodrigues, rotvecs.float())]
        for expected, found in zip(double, single):
            torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)

    def test_pose_without_synchronisation_and_in_a_graph(self, body_arrays, body_pose):
        """Axis-angle vectors to transforms and correctives, forward and backward, replayed for another pose."""
        body = BodyModel(**body_arrays()).cuda()
        pose = body_pose(BodyModel(**body_arrays()), frames=2).to("cuda")
        rotvecs = torch.zeros(2, 55, 3, device="cuda", requires_grad=True)
        direction = torch.randn(2, 55, 4, 4, device="cuda")

        def step():
            rotations = body.rotations(pose.theta) @ pose_refinement.rodrigues(rotvecs)
            transforms = body.skinning_transforms(rotations, body.joints(pose.betas, pose.expression))
            offsets = body.shape_offsets(pose.betas, pose.expression) + body.pose_offsets(rotations)
            value = (transforms * direction).sum() + offsets.square().sum()
            return transforms, offsets, *torch.autograd.grad(value, rotvecs)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = step()
        with torch.no_grad():
            pose.theta.mul_(-0.7)
            rotvecs.add_(0.1)
        graph.replay()
        for found, expected in zip(replayed, step()):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
