"""The skinning's CPU kernels against their torch twin: values, gradients, finite differences, threads."""

import numba
import pytest
import torch

from r3avatar.avatar.numba_skinning import place
from r3avatar.avatar.skinning import Skinning
from r3avatar.body import load_body
from r3avatar.types import BodyPose

LEAVES = ("points", "offsets", "to_big", "to_posed", "scale", "rotation", "normals")


def case(F, N, dtype=torch.float64):
    """Random arguments of `place`; what gets gradients requires them."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    eye = torch.eye(3, 4, dtype=torch.float64)
    found = {
        "points": normal(F, N, 3), "offsets": 0.1 * normal(F, N, 3), "to_big": eye + 0.2 * normal(F, N, 3, 4),
        "to_posed": eye + 0.3 * normal(F, N, 3, 4), "R": torch.linalg.qr(normal(F, 3, 3))[0], "Th": normal(F, 3),
        "scale": 0.2 * normal(F, N, 3).exp(), "rotation": normal(F, N, 4), "normals": normal(N, 3),
    }  # fmt: skip
    return {k: v.to(dtype).requires_grad_(k in LEAVES) for k, v in found.items()}


@pytest.mark.parametrize("with_normals", [True, False])
def test_gradcheck(with_normals):
    arguments = case(2, 3)
    if not with_normals:
        arguments["normals"] = None
    assert torch.autograd.gradcheck(lambda *x: place(*x)[:2], tuple(arguments.values()))
    if with_normals:  # they move nothing but themselves
        *others, normals = arguments.values()
        assert torch.autograd.gradcheck(lambda normals: place(*others, normals)[2], normals)
        assert all(g is None or not g.any() for g in torch.autograd.grad(
            place(*others, normals)[2].sum(), [x for x in others if x.requires_grad]))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("frames", "refined"), [(1, False), (3, True)])
def test_deformation_is_the_twins(frames, refined, dtype):
    """Of a body, in value and in every gradient, with weight offsets, shape offsets and normals."""
    body, g = load_body("demo").to(dtype), torch.Generator().manual_seed(1)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype)

    pose = BodyPose(
        normal(frames, 55, 3, scale=0.3), normal(frames, 10, scale=0.5), normal(frames, body.num_expression),
        torch.linalg.qr(normal(frames, 3, 3).double())[0].to(dtype), normal(frames, 3),
    )  # fmt: skip
    corrections = torch.eye(3, dtype=dtype) + normal(frames, 54, 3, 3, scale=0.02) if refined else None
    near = Skinning(body).big_vertices[::40]
    N = len(near)
    leaves = {
        "points": near + normal(frames, N, 3, scale=0.01), "logits": normal(N, 55), "normals": normal(N, 3),
        "scale": normal(frames, N, 3, scale=0.3).exp() * 0.01, "rotation": normal(frames, N, 4),
    }  # fmt: skip
    leaves = {k: v.requires_grad_() for k, v in leaves.items()}
    results = []
    for backend in ("auto", "torch"):
        skinning = Skinning(body, backend=backend).to(dtype)
        own = None if corrections is None else corrections.clone().requires_grad_()
        frame = skinning.pose(pose, own)
        found = skinning.deform(
            leaves["points"], frame, leaves["logits"], leaves["scale"], leaves["rotation"], normals=leaves["normals"]
        )
        directions = torch.Generator().manual_seed(2)
        total = sum((x * torch.randn(x.shape, generator=directions).to(x)).sum() for x in found)
        wanted = [*leaves.values(), *([] if own is None else [own])]
        results.append((*found, *torch.autograd.grad(total, wanted)))
    for a, b in zip(*results):
        error = (a - b).norm() / b.norm()
        assert error < (1e-12 if dtype == torch.float64 else 1e-5)


def test_frames_without_gradients_and_other_layouts():
    arguments = {k: v.detach() for k, v in case(2, 5).items()}
    expected = place(*arguments.values())
    turned_about = {k: v.transpose(0, 1).contiguous().transpose(0, 1) for k, v in arguments.items()}
    for a, b in zip(place(*turned_about.values()), expected):
        assert torch.equal(a, b) and not a.requires_grad


def test_a_gradient_that_is_not_given_is_refused():
    arguments = case(1, 2)
    arguments["Th"].requires_grad_()
    with pytest.raises(ValueError, match="backend=torch to optimise"):
        place(*arguments.values())


def test_threads_change_no_bit(monkeypatch):
    arguments, results = case(2, 3000, torch.float32), []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found = place(*arguments.values())
        results.append((*found, *torch.autograd.grad(sum(x.sum() for x in found), [arguments[k] for k in LEAVES])))
    assert all(torch.equal(a, b) for a, b in zip(*results))
