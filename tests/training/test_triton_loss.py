"""The fused loss against its torch twin: small in Triton's interpreter, at a step's size on a GPU."""

import pytest
import torch

from r3avatar.training.losses import BOUND, PERSON, AvatarLoss
from r3avatar.types import Batch, BodyPose, Cameras, RenderOutput

from .test_numba_loss import rectangles

pytest.importorskip("triton")
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
device = "cuda" if torch.cuda.is_available() else "cpu"


def scene(H, W, rects, smooth=False, device=device, seed=0):
    """A render float32 with gradients and a batch of one frame, whose person and bound mask lie in the rectangles."""
    g, V = torch.Generator().manual_seed(seed), len(rects)
    rgb = torch.randint(0, 256, (1, V, H, W, 3), generator=g)
    image = torch.rand(1, V, H, W, 3, generator=g)
    if smooth:  # a render close to a truth of soft shading, as late in training
        rows, columns = torch.linspace(0, 5, H)[:, None, None], torch.linspace(0, 7, W)[None, :, None]
        shade = 0.55 + 0.4 * torch.sin(rows + torch.arange(3)) * torch.cos(columns)
        rgb = (255 * shade + 2 * torch.randn(1, V, H, W, 3, generator=g)).clamp(0, 255).round()
        image = shade + 0.02 * torch.randn(1, V, H, W, 3, generator=g)
    mask = torch.zeros(1, V, H, W, dtype=torch.uint8)
    for v, (x, y, w, h) in enumerate(rects):
        bound = (torch.rand(h, w, generator=g) < 0.7).byte()
        person = bound * (torch.rand(h, w, generator=g) < 0.6).byte()
        mask[0, v, y : y + h, x : x + w] = bound * BOUND + person * PERSON
    rgb = rgb.byte() * (mask & PERSON).ne(0)[..., None]
    tied = (image - rgb / 255).abs() < 1e-5  # where rounding would choose the slope of the absolute error
    image[tied] += 1e-4
    pose = BodyPose(torch.zeros(1, 24, 3), torch.zeros(1, 10), torch.zeros(1, 0), torch.eye(3)[None], torch.zeros(1, 3))
    cameras = Cameras(torch.eye(3).expand(1, V, 3, 3), torch.eye(4).expand(1, V, 4, 4), W, H)
    batch = Batch(torch.zeros(1).long(), torch.zeros(1), pose, cameras, rgb, mask, torch.tensor([rects]))
    alpha = torch.rand(1, V, H, W, generator=g)
    render = RenderOutput(image, alpha, torch.zeros(1, V, 5), torch.zeros(1, V, 5, 2)).to(device)
    render.rgb.requires_grad_(), render.alpha.requires_grad_()
    return render, batch.to(device)


def twin(render, batch, **options):
    """The torch twin's terms in float64, and its leaves."""
    double = render.to(torch.float64)
    double.rgb, double.alpha = (x.detach().requires_grad_() for x in (double.rgb, double.alpha))
    return AvatarLoss(perceptual=0, backend="torch", **options)(double, batch), (double.rgb, double.alpha)


def check(render, batch, weight=lambda terms: terms["total"], values=1e-5, gradients=1e-4, **options):
    """Values and gradients of some function of the terms against the twin; zeros where the twin has zeros."""
    expected, leaves = twin(render, batch, **options)
    found = AvatarLoss(perceptual=0, backend="triton", **options)(render, batch)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert value.shape == ()
        torch.testing.assert_close(value.double(), expected[name], rtol=values, atol=1e-7)
    got = torch.autograd.grad(weight(found), (render.rgb, render.alpha), allow_unused=True)
    want = torch.autograd.grad(weight(expected), leaves, allow_unused=True)
    for a, b in zip(got, want):
        b = torch.zeros_like(a).double() if b is None else b
        assert (a.double() - b).norm() <= gradients * b.norm()
        inside = batch.rect[0, :, 2:].prod(dim=1) > 0
        assert a[0, ~inside].abs().sum() == 0
    return found


@pytest.mark.parametrize("smooth", [False, True])
def test_terms_and_gradients_are_the_twins(smooth):
    rects = rectangles(14, 20)
    render, batch = scene(14, 20, rects[1:2] if smooth else rects, smooth)
    # Noise of a hundredth makes the variances of SSIM small differences of squares in float32, in the twin too.
    check(render, batch, gradients=1e-4 if not smooth else 3e-4)


@pytest.mark.parametrize(
    "options",
    [{"ssim": 0}, {"l1": 0}, {"mask": 0, "white_background": True}, {"l1": 0, "mask": 0, "ssim": 1}],
    ids=str,
)
def test_options(options):
    check(*scene(7, 18, [[3, 2, 12, 4]]), **options)


def test_some_images_are_compared_by_squares():
    from r3avatar.training.triton_loss import photometric_terms

    render, batch = scene(9, 15, rectangles(9, 15))
    squared = torch.tensor([0.0, 5.0, 2.0, 1.0], device=device)
    truth, mask, rect = batch.rgb[0], batch.mask[0], batch.rect[0]
    found = photometric_terms(render.rgb[0], render.alpha[0], truth, mask, rect, 1.0, 0.1, 0.01, False, squared)
    image, alpha = (x[0].detach().double().requires_grad_() for x in (render.rgb, render.alpha))
    loss = AvatarLoss(perceptual=0, backend="torch")
    expected = loss._torch_terms(image, alpha, truth, mask, rect, squared)
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(list(expected.values())), rtol=1e-5, atol=1e-7)
    got = torch.autograd.grad(found[3], (render.rgb, render.alpha))
    for a, b in zip(got, torch.autograd.grad(expected["total"], (image, alpha))):
        assert (a[0].double() - b).norm() <= 1e-4 * b.norm()
    with pytest.raises(ValueError, match=r"squared must be float32 \[4\]"):
        photometric_terms(render.rgb[0], render.alpha[0], truth, mask, rect, 1.0, 0.1, 0.01, False, squared[:2])


def test_no_colour_error_has_no_slope():
    render, batch = scene(9, 14, [[0, 1, 13, 7]])
    batch.rgb = (batch.rgb > 99) * torch.full_like(batch.rgb, 255)
    render.rgb = batch.rgb.ne(0).float().requires_grad_()
    terms = AvatarLoss(mask=0, ssim=0, perceptual=0, backend="triton")(render, batch)
    assert terms["l1"] == 0 and torch.autograd.grad(terms["total"], render.rgb)[0].abs().max() == 0


def test_gradients_flow_through_each_term():
    render, batch = scene(5, 10, [[0, 1, 9, 4]])
    check(render, batch, lambda t: 2 * t["l1"] + 3 * t["mask"] - t["ssim"])
    check(render, batch, lambda t: t["total"] * t["ssim"] + t["mask"].square(), l1=0.5)
    with torch.no_grad():
        assert not AvatarLoss(perceptual=0, backend="triton")(render, batch)["total"].requires_grad


def test_windows_cross_the_borders_of_tiles(monkeypatch):
    from r3avatar.training import triton_loss

    monkeypatch.setattr(triton_loss, "ROWS", 8)
    W = triton_loss.COLUMNS // 3 + 9
    check(*scene(15, W, [[W - 18, 5, 15, 6]]), ssim=0.5)


def test_published_defect_is_the_twins():
    render, batch = scene(12, 15, [[0, 1, 13, 11]])
    options = {"white_background": True, "alpha_over_background_published": True, "perceptual": 0}
    a, b = (AvatarLoss(backend=backend, **options)(render, batch) for backend in ("triton", "torch"))
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_sums_of_many_images_and_tiles():
    """More than the finishing kernel's block of images, and of tiles."""
    from r3avatar.training import triton_loss

    images, tiles, count = triton_loss.IMAGES + 3, triton_loss.TILES + 5, 7.0
    sums = torch.rand(4, images, tiles, generator=torch.Generator().manual_seed(0)).to(device)
    sums[2] = count / tiles
    rect = torch.tensor([0, 0, 3, 4], device=device).expand(images, 4).contiguous()
    pixels, terms = sums.new_empty(images), [sums.new_empty(()) for _ in range(4)]
    triton_loss._finish[(1,)](
        sums, rect, pixels, *terms, 1.0, 0.5, 0.25, images, tiles, IMAGES=triton_loss.IMAGES, TILES=triton_loss.TILES
    )
    errors, squares, _, similarity = sums.double().sum(dim=2)
    want = [(errors / (3 * count)).mean(), (squares / count).mean(), (1 - similarity / 36).mean()]
    want.append(want[0] + 0.5 * want[1] + 0.25 * want[2])
    torch.testing.assert_close(torch.stack(terms).double(), torch.stack(want), rtol=4e-6, atol=0)  # float32's sums
    torch.testing.assert_close(pixels, torch.full_like(pixels, count))


def test_inputs_are_checked():
    render, batch = scene(12, 15, [[0, 1, 13, 11]])
    loss = AvatarLoss(perceptual=0, backend="triton")
    with pytest.raises(TypeError, match="backend=torch"):
        loss(render.to(torch.float64), batch)
    batch.rect = batch.rect.int()
    with pytest.raises(TypeError, match="rect int64"):
        loss(render, batch)
    with pytest.raises(ValueError, match="none of auto"):
        AvatarLoss(perceptual=0, backend="cuda")


def step_scene(images=8, H=592, W=400, **options):
    return scene(H, W, (2 * rectangles(H, W))[:images], **options)


class TestOnTheGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("smooth", [False, True])
    @pytest.mark.parametrize("white", [False, True])
    def test_a_step_agrees_with_the_twin(self, smooth, white):
        check(*step_scene(smooth=smooth), gradients=1e-4 if not smooth else 3e-4, white_background=white)

    def test_auto_is_triton_and_never_waits(self):
        render, batch = step_scene()
        loss = AvatarLoss(perceptual=0)
        loss(render, batch)["total"].backward()
        render.rgb.grad = render.alpha.grad = None
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = loss(render, batch)["total"]
            found.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert "Photometric" in type(found.grad_fn).__name__
        expected, leaves = twin(render, batch)
        for a, b in zip((render.rgb.grad, render.alpha.grad), torch.autograd.grad(expected["total"], leaves)):
            assert (a.double() - b).norm() <= 1e-4 * b.norm()

    def test_a_recorded_step_follows_its_inputs(self):
        render, batch = step_scene()
        other, other_batch = step_scene(seed=1)
        loss = AvatarLoss(perceptual=0, backend="triton")

        def step():
            terms = loss(render, batch)
            return terms, torch.autograd.grad(terms["total"], (render.rgb, render.alpha))

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            terms, gradients = step()
        with torch.no_grad():
            render.rgb.copy_(other.rgb), render.alpha.copy_(other.alpha)
            batch.rgb.copy_(other_batch.rgb)
            batch.rect.copy_(other_batch.rect.roll(1, dims=1))
            batch.mask.copy_(other_batch.mask.roll(1, dims=1))
        graph.replay()
        again, direct = step()
        for name, value in again.items():
            torch.testing.assert_close(terms[name], value, rtol=0, atol=0)
        for a, b in zip(gradients, direct):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
