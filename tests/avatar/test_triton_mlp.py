"""The fused networks' Triton kernels against their torch twins: tiny in the interpreter, at real sizes on the GPU."""

import pytest
import torch

from r3avatar.avatar import AttributeDecoder, WeightOffsets
from r3avatar.avatar.skinning import positional_encoding
from r3avatar.triton_support import installed, interpreting

pytestmark = pytest.mark.skipif(not installed(), reason="triton is not installed")
interpreted = pytest.mark.skipif(not interpreting(), reason="Triton compiles for the GPU here")
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def make_decoder(channels, width, matmul="tf32", device="cpu"):
    torch.manual_seed(0)
    return AttributeDecoder(channels, width, 0.01, 0.1, backend="triton", matmul=matmul).to(device)


def make_offsets(joints, width, matmul="tf32", device="cpu", frequencies=10):
    torch.manual_seed(0)
    return WeightOffsets(joints, width, frequencies, backend="triton", matmul=matmul).to(device)


def exact(network):
    """The same network in double precision, which the kernels leave to torch."""
    twin = type(network).__new__(type(network))
    torch.nn.Module.__init__(twin)
    twin.__dict__.update({k: v for k, v in network.__dict__.items() if k not in ("_modules", "_parameters")})
    for name, layer in network.named_children():
        copy = torch.nn.Linear(layer.in_features, layer.out_features, device=layer.weight.device)
        copy.load_state_dict(layer.state_dict())
        twin.add_module(name, copy.double())
    return twin


def outputs_of(network, x):
    out = network(x)
    return [out] if torch.is_tensor(out) else [out.offset, out.opacity_logit, out.scale, out.rotation]


def run(network, x):
    """Outputs, and gradients of a fixed function of them: of the parameters and, if wanted, of x."""
    outputs = outputs_of(network, x)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
    wanted = [*network.parameters(), *([x] if x.requires_grad else [])]
    return outputs, torch.autograd.grad(sum((o * w).sum() for o, w in zip(outputs, weights)), wanted)


def features_of(F, N, C):
    return torch.randn(F, N, C, generator=torch.Generator().manual_seed(1))


def points_of(N):
    return torch.rand(N, 3, generator=torch.Generator().manual_seed(1)) * 3 - 1.5  # metres; up to 770 radians


def assert_near(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= tolerance * b.norm() + 1e-12


@interpreted
@pytest.mark.parametrize(("channels", "width", "F", "N"), [(96, 128, 2, 41), (32, 64, 1, 64), (48, 16, 3, 7)])
def test_decoder_equals_its_twin(channels, width, F, N):
    decoder, features = make_decoder(channels, width), features_of(F, N, channels).requires_grad_()
    outputs, gradients = run(decoder, features)
    expected, exact_gradients = run(exact(decoder), features.detach().double().requires_grad_())
    assert_near(outputs, expected, 1e-6)
    assert_near(gradients, exact_gradients, 2e-6)
    with torch.no_grad():  # nothing is kept
        assert_near(outputs_of(decoder, features), expected, 1e-6)


@interpreted
@pytest.mark.parametrize(("joints", "width", "N", "frequencies"), [(55, 128, 70, 10), (24, 32, 5, 10), (24, 16, 64, 4)])
def test_weight_offsets_equal_their_twin(joints, width, N, frequencies):
    network, points = make_offsets(joints, width, frequencies=frequencies), points_of(N)
    outputs, gradients = run(network, points)
    expected, exact_gradients = run(exact(network), points.double())
    assert_near(outputs, expected, 1e-6)
    assert_near(gradients, exact_gradients, 2e-6)
    with torch.no_grad():
        assert_near(outputs_of(network, points), expected, 1e-6)


@interpreted
def test_encoding_is_exact_at_its_highest_frequencies():
    network, points = make_offsets(24, 64), points_of(60)
    points[0] = torch.tensor([3.0, -2.9, 0.0])  # 1536 radians
    with torch.no_grad():  # hidden units that hand single columns of the encoding through, lifted above the ReLUs
        for layer in network.children():
            layer.weight.zero_()
            layer.bias.zero_()
        columns = torch.arange(63 - 24, 63)
        network.hidden4.weight[torch.arange(24), columns] = 1.0
        network.hidden4.bias.fill_(2.0)
        network.out.weight[torch.arange(24), torch.arange(24)] = 1.0
        encoded = network(points).double() - 2
    error = (encoded - positional_encoding(points.double())[:, columns]).abs().max()
    assert error < 6e-7  # of which 2.4e-7 are the sum with 2


@interpreted
def test_frozen_inputs_and_parameters_and_no_rows():
    decoder, features = make_decoder(32, 32), features_of(1, 9, 32)
    decoder.hidden1.requires_grad_(False)
    decoder(features).scale.sum().backward()  # the other outputs have no gradient
    assert decoder.hidden1.weight.grad is None and decoder.scale.weight.grad.abs().sum() > 0
    assert not decoder.rotation.weight.grad.any()
    empty = features_of(2, 0, 32).requires_grad_()
    assert decoder(empty).offset.shape == (2, 0, 3)
    decoder(empty).offset.sum().backward()
    network = make_offsets(24, 16)
    network(torch.zeros(0, 3)).sum().backward()
    assert not network.out.weight.grad.any()


@interpreted
def test_what_is_not_a_number_stays_visible():
    decoder = make_decoder(32, 16)
    with torch.no_grad():
        decoder.hidden1.weight[3, 5] = torch.nan
    features = features_of(1, 5, 32).requires_grad_()
    _, gradients = run(decoder, features)
    assert decoder(features).offset.isnan().all() and all(g.isnan().any() for g in gradients[:3])


@interpreted
def test_other_precisions_and_widths_are_torchs():
    decoder, features = make_decoder(12, 16), features_of(1, 5, 12)  # twelve features are no multiple of sixteen
    assert decoder(features).offset.grad_fn.name().startswith("Split")
    assert make_decoder(32, 16, "ieee")(features_of(1, 5, 32)).offset.grad_fn.name().startswith("Split")
    with pytest.raises(ValueError, match="tf32x3, ieee"):
        AttributeDecoder(12, matmul="bf16")


def steady(network):
    """The network with its hidden units away from their kinks: rounding there would turn whole gradients on and off."""
    with torch.no_grad():
        for name, layer in network.named_children():
            if name.startswith("hidden"):
                layer.weight.mul_(0.3)
                layer.bias.fill_(3.0)
                layer.bias[::3] = -3.0
    return network


def on_cuda(name, matmul, size="large"):
    if name == "decoder":
        C, W, N = (96, 128, 11_003) if size == "large" else (32, 64, 5_000)
        return steady(make_decoder(C, W, matmul, "cuda")), features_of(2, N, C).cuda().requires_grad_()
    joints, W, N = (55, 128, 12_868) if size == "large" else (24, 32, 5_000)
    return steady(make_offsets(joints, W, matmul, "cuda")), points_of(N).cuda()


class TestOnTheGPU:
    pytestmark = on_gpu

    @pytest.mark.parametrize("size", ["large", "small"])
    @pytest.mark.parametrize(("matmul", "tolerance"), [("tf32", 5e-3), ("tf32x3", 5e-5)])
    @pytest.mark.parametrize("name", ["decoder", "offsets"])
    def test_equals_its_twin_in_double_precision(self, name, matmul, tolerance, size):
        network, x = on_cuda(name, matmul, size)
        outputs, gradients = run(network, x)
        expected, exact_gradients = run(exact(network), x.detach().double().requires_grad_(x.requires_grad))
        assert_near(outputs, expected, tolerance)
        assert_near(gradients, exact_gradients, tolerance)
        with torch.no_grad():
            assert_near(outputs_of(network, x), expected, tolerance)

    @pytest.mark.parametrize("name", ["decoder", "offsets"])
    def test_neither_synchronises_nor_depends_on_the_number_of_rows(self, name):
        network, x = on_cuda(name, "tf32")
        run(network, x)
        weights = [torch.ones_like(o) for o in outputs_of(network, x)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            for N in (1, 63, 64, 1_000, 5_001):
                part = x[..., :N, :].detach().requires_grad_(x.requires_grad)
                outputs = outputs_of(network, part)
                sum((o * w[..., :N, :]).sum() for o, w in zip(outputs, weights)).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("name", ["decoder", "offsets"])
    def test_a_graph_replays_to_the_same_values(self, name):
        network, x = on_cuda(name, "tf32")
        weights = [torch.randn_like(o) for o in outputs_of(network, x)]
        wanted = [*network.parameters(), *([x] if x.requires_grad else [])]

        def step():
            outputs = outputs_of(network, x)
            return outputs, torch.autograd.grad(sum((o * w).sum() for o, w in zip(outputs, weights)), wanted)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs, gradients = step()
        with torch.no_grad():  # the same graph, other contents
            x.mul_(0.7)
            for p in network.parameters():
                p.mul_(1.1)
        graph.replay()
        expected, expected_gradients = step()
        for a, b in zip(outputs, expected):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        for a, b in zip(gradients, expected_gradients):
            assert (a - b).norm() < 1e-4 * b.norm()  # atomic additions come in any order
