"""The skinning kernels against their torch twin: values, gradients; on a GPU also synchronisation and graph capture."""

import pytest
import torch

from r3avatar.avatar.skinning import PosedFrame, Skinning
from r3avatar.avatar.worn_garment import OwnMaps
from r3avatar.body import load_body

skinning_kernels = pytest.importorskip("r3avatar.avatar.triton_skinning", reason="Triton is not installed")
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted")
INPUTS = ("points", "logits", "transforms", "vertex_offsets", "scale", "rotation")


def _case(device, frames, gaussians, seed=0, dtype=torch.float64, joints=55, vertices=40):
    """Random inputs of `skin` with leaves that require gradients; the weights as logarithms."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def affine(*shape):
        matrix = torch.eye(4, dtype=torch.float64).expand(*shape, 4, 4).clone()
        matrix[..., :3, :] += 0.2 * normal(*shape, 3, 4)
        return matrix

    case = {
        "points": normal(frames, gaussians, 3),
        "vertex": torch.randint(vertices, (frames, gaussians), generator=generator),
        "logits": normal(gaussians, joints),
        "weights": torch.log_softmax(2 * normal(vertices, joints), -1),
        "big_transforms": affine(joints),
        "transforms": affine(frames, joints),
        "vertex_offsets": 0.1 * normal(frames, vertices, 3),
        "R": torch.linalg.qr(normal(frames, 3, 3))[0],
        "Th": normal(frames, 3),
        "scale": 0.05 * normal(frames, gaussians, 3).exp(),
        "rotation": normal(frames, gaussians, 4),
    }
    case = {k: v.to(device) if k == "vertex" else v.to(device, dtype) for k, v in case.items()}
    return {k: v.requires_grad_() if k in INPUTS else v for k, v in case.items()}


class _Stub(Skinning):
    """The twin with given transforms, weights and nearest vertices instead of a body's."""

    def __init__(self, case):
        torch.nn.Module.__init__(self)
        self.backend, self.log_weights, self.big_transforms = "torch", case["weights"], case["big_transforms"]
        self.body = torch.nn.Module()
        self.body.weights = case["weights"]
        self.nearest = lambda points: case["vertex"]


def _twin(case):
    frame = PosedFrame(case["transforms"], case["vertex_offsets"], case["R"], case["Th"])
    own = OwnMaps(case["worn"], case["own"]) if "own" in case else None
    return _Stub(case).deform(case["points"], frame, case["logits"], case["scale"], case["rotation"], own=own)


def _kernels(case):
    return skinning_kernels.skin(**case)


def _gradients(outputs, case, seed=1):
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]
    leaves = {k: case[k] for k in INPUTS if case[k] is not None and case[k].requires_grad}
    return dict(zip(leaves, torch.autograd.grad(outputs, list(leaves.values()), directions)))


def _compare(case, tolerance, twin_case=None):
    """Values and gradients of the kernels on `case`, and of the twin on `twin_case` (the same case by default)."""
    twin_case = twin_case or case
    found, expected = _kernels(case), _twin(twin_case)
    pairs = dict(zip(("means", "covariances"), zip(found, expected)))
    gradients = _gradients(expected, twin_case)
    pairs |= {f"d {k}": (g, gradients[k]) for k, g in _gradients(found, case).items()}
    assert len(pairs) == 2 + len(gradients)
    for name, (a, b) in pairs.items():
        error = (a.double() - b.double()).abs().max() / b.double().abs().max()
        assert error < tolerance, f"{name}: relative error {error:.3g}"


def _with_a_garment(case):
    """A third of the Gaussians with maps of their own."""
    generator = torch.Generator().manual_seed(3)
    F, N, _ = case["points"].shape
    own = torch.randn(F, N, 3, 4, generator=generator, dtype=torch.float64).to(case["points"])
    worn = (torch.arange(N) % 3 == 1).to(case["points"])
    return case | {"worn": worn, "own": own}


def _without_logits(case):
    return case | {"logits": None, "weights": case["weights"].exp()}


@CPU
@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize(("joints", "frames"), [(55, 2), (24, 3)])
def test_interpreted_kernels_equal_the_twin(logits, joints, frames):
    case = _case("cpu", frames=frames, gaussians=37, joints=joints)
    _compare(case if logits else _without_logits(case), 1e-10)


@CPU
@pytest.mark.parametrize("logits", [True, False])
def test_interpreted_kernels_equal_the_twin_with_a_garment(logits):
    case = _with_a_garment(_case("cpu", frames=2, gaussians=37, joints=24))
    _compare(case if logits else _without_logits(case), 1e-10)


@CPU
@pytest.mark.parametrize("constant", ["vertex_offsets", "transforms", "logits"])
def test_interpreted_kernels_with_constants(constant):
    case = _case("cpu", frames=1, gaussians=33, joints=24)
    case[constant] = case[constant].detach()
    _compare(case, 1e-10)


@CPU
def test_interpreted_kernels_take_views_and_a_zero_quaternion():
    case = _case("cpu", frames=2, gaussians=20, joints=24)
    with torch.no_grad():
        case["rotation"][0, 3] = 0.0
    case["R"] = case["R"][:1].expand(2, 3, 3)
    case["scale"] = torch.randn(2, 3, 20, dtype=torch.float64).mT.requires_grad_()
    _compare(case, 1e-10)
    wide = torch.randn(2, 20, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    _compare(case | {"rotation": wide[..., 7:].requires_grad_()}, 1e-10)


def test_a_gradient_that_is_not_there_is_refused():
    case = _case("cpu", frames=1, gaussians=8, joints=24)
    with pytest.raises(ValueError, match=r"no gradient of R: detach it, or use backend='torch'"):
        skinning_kernels.skin(*(case | {"R": case["R"].clone().requires_grad_()}).values())


@CPU
def test_skinning_takes_the_kernels():
    """`Skinning.deform` gives the same whichever backend it is told."""
    body = load_body("demo")
    skinning = Skinning(body, backend="triton")
    points = skinning.big_vertices[None, ::500] + 0.01
    pose_generator = torch.Generator().manual_seed(0)
    transforms = skinning.big_transforms[None] + 0.1 * torch.randn(1, body.num_joints, 4, 4, generator=pose_generator)
    frame = PosedFrame(transforms, torch.zeros_like(skinning.big_vertices)[None], torch.eye(3)[None], torch.ones(1, 3))
    scale, rotation = torch.full_like(points, 0.01), torch.randn(1, points.shape[1], 4, generator=pose_generator)
    found = skinning.deform(points, frame, None, scale, rotation)
    skinning.backend = "torch"
    expected = skinning.deform(points, frame, None, scale, rotation)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-9, rtol=1e-4)


class TestOnTheGpu:
    pytestmark = GPU

    @pytest.mark.parametrize(("frames", "gaussians", "joints"), [(2, 11_003, 55), (8, 20_001, 24), (1, 7, 55)])
    @pytest.mark.parametrize("logits", [True, False])
    @pytest.mark.parametrize("garment", [True, False])
    def test_kernels_equal_the_twin_in_double(self, frames, gaussians, joints, logits, garment):
        case = _case("cuda", frames, gaussians, dtype=torch.float32, joints=joints, vertices=10_000)
        case = _with_a_garment(case) if garment else case
        case = case if logits else _without_logits(case)
        double = {k: v.detach().double() if v is not None and k != "vertex" else v for k, v in case.items()}
        for k in INPUTS:
            if double[k] is not None:
                double[k].requires_grad_()
        _compare(case, 1e-4, double)

    def test_at_200000(self):
        case = _case("cuda", 2, 200_000, dtype=torch.float32, vertices=10_000)
        means, covariances = _kernels(case)
        with torch.no_grad():
            expected = _twin(case)
        torch.testing.assert_close(means, expected[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(covariances, expected[1], atol=1e-3, rtol=1e-3)

    def test_no_synchronisation(self):
        case = _case("cuda", 2, 11_003, dtype=torch.float32)
        outputs = _kernels(case)
        directions = [torch.ones_like(x) for x in outputs]
        leaves = [case[k] for k in INPUTS]
        torch.autograd.grad(outputs, leaves, directions)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.autograd.grad(_kernels(case), leaves, directions)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_graph_capture(self):
        case = _case("cuda", 2, 5_001, dtype=torch.float32)
        leaves = [case[k] for k in INPUTS]
        directions = [torch.ones_like(x) for x in _kernels(case)]

        def step():
            outputs = _kernels(case)
            return [*outputs, *torch.autograd.grad(outputs, leaves, directions)]

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = step()
        with torch.no_grad():
            case["points"].add_(0.1)
            case["transforms"].mul_(1.05)
        graph.replay()
        for name, a, b in zip(("means", "covariances", *INPUTS), replayed, step()):
            torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", atol=1e-4, rtol=1e-4)
