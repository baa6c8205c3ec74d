from types import SimpleNamespace

import pytest
import torch

from r3avatar.evaluation.metrics import ssim
from r3avatar.training import losses
from r3avatar.training.losses import BOUND, PERSON, AvatarLoss, rectangle_mask
from r3avatar.types import Batch, BodyPose, Cameras, RenderOutput


def scene(F=2, V=2, H=30, W=24, seed=0):
    """A render and a batch whose images have rectangles of their own inside the padded crop."""
    g = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (F, V, H, W, 3), generator=g).byte()
    rect = torch.tensor([[[0, 0, W, H], [3, 5, 14, 20]], [[10, 0, 8, 30], [0, 12, 24, 9]]])[:F, :V]
    mask = torch.zeros(F, V, H, W, dtype=torch.uint8)
    for f in range(F):
        for v in range(V):
            x, y, w, h = rect[f, v].tolist()
            bound = (torch.rand(h, w, generator=g) < 0.7).byte()
            bound[0, 0] = bound[-1, -1] = 1
            person = bound * (torch.rand(h, w, generator=g) < 0.5).byte()
            mask[f, v, y : y + h, x : x + w] = bound * BOUND + person * PERSON
    rgb *= (mask & PERSON).ne(0)[..., None]
    image = torch.rand(F, V, H, W, 3, generator=g).double().requires_grad_()
    alpha = torch.rand(F, V, H, W, generator=g).double().requires_grad_()
    pose = BodyPose(torch.zeros(F, 24, 3), torch.zeros(F, 10), torch.zeros(F, 0), torch.eye(3).expand(F, 3, 3),
                    torch.zeros(F, 3))  # fmt: skip
    cameras = Cameras(torch.eye(3).expand(F, V, 3, 3), torch.eye(4).expand(F, V, 4, 4), W, H)
    batch = Batch(torch.arange(F), torch.arange(F).float(), pose, cameras, rgb, mask, rect)
    return RenderOutput(image, alpha, torch.zeros(F, V, 5), torch.zeros(F, V, 5, 2)), batch


def published(image, alpha, rgb, mask, rect):
    """One image's loss the plain way: boolean masks, and a rectangle that is really cut out."""
    truth, person, bound = rgb.double() / 255, (mask & PERSON) > 0, (mask & BOUND) > 0
    x, y, w, h = rect.tolist()
    crop = (slice(y, y + h), slice(x, x + w))
    return {
        "l1": (image - truth).abs()[bound].mean(),
        "mask": (alpha - person.double())[bound].square().mean(),
        "ssim": 1 - ssim(image[crop][None], truth[crop][None])[0],
    }


def test_batch_is_the_mean_of_the_published_losses_of_cut_out_images():
    render, batch = scene()
    terms = AvatarLoss(perceptual=0)(render, batch)
    singles = [
        published(render.rgb[f, v], render.alpha[f, v], batch.rgb[f, v], batch.mask[f, v], batch.rect[f, v])
        for f in range(2)
        for v in range(2)
    ]
    for name in ("l1", "mask", "ssim"):
        torch.testing.assert_close(terms[name], torch.stack([s[name] for s in singles]).mean(), rtol=1e-12, atol=1e-14)
    total = terms["l1"] + 0.1 * terms["mask"] + 0.01 * terms["ssim"]
    torch.testing.assert_close(terms["total"], total)
    # Gradients too: what lies outside a rectangle must not leak into SSIM.
    leaves = (render.rgb, render.alpha)
    found = torch.autograd.grad(terms["total"], leaves)
    plain = sum(s["l1"] + 0.1 * s["mask"] + 0.01 * s["ssim"] for s in singles) / 4
    for a, b in zip(found, torch.autograd.grad(plain, leaves)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


def test_images_at_the_general_moment_are_compared_by_squares():
    render, batch = scene()
    loss = AvatarLoss(general_squared=5, mask=0, ssim=0, perceptual=0)
    found = loss(render, batch, codebook=SimpleNamespace(general_time=1.0))["l1"]  # the second frame's time
    plain = torch.stack([
        published(render.rgb[0, v], render.alpha[0, v], batch.rgb[0, v], batch.mask[0, v], batch.rect[0, v])["l1"]
        for v in range(2)
    ])  # fmt: skip
    error, bound = (render.rgb[1] - batch.rgb[1].double() / 255).square(), (batch.mask[1] & BOUND) > 0
    squared = torch.stack([5 * error[v][bound[v]].mean() for v in range(2)])
    torch.testing.assert_close(found, torch.cat([plain, squared]).mean())
    for general_time in (None, 7.5):  # an avatar without such a moment, and a step without such a frame
        terms = loss(render, batch, codebook=SimpleNamespace(general_time=general_time))
        assert torch.equal(terms["l1"], AvatarLoss(mask=0, ssim=0, perceptual=0)(render, batch)["l1"])
    with pytest.raises(ValueError, match="negative: general_squared"):
        AvatarLoss(general_squared=-1, perceptual=0)


def test_terms_of_weight_zero_are_not_computed():
    render, batch = scene()
    assert set(AvatarLoss(mask=0, ssim=0, perceptual=0)(render, batch)) == {"l1", "total"}
    with pytest.raises(ValueError, match="negative: ssim"):
        AvatarLoss(ssim=-1, perceptual=0)
    with pytest.raises(ValueError, match="every loss weight"):
        AvatarLoss(l1=0, mask=0, ssim=0, perceptual=0)(render, batch)


class MeanDifference(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, image, truth, rescale, inside):
        difference = ((image - truth).abs().mean(-1) * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2))
        return difference * (2 if rescale else 1) * self.scale


def test_perceptual_is_of_the_rectangle(monkeypatch):
    monkeypatch.setattr(losses, "Perceptual", MeanDifference)
    render, batch = scene()
    loss = AvatarLoss(l1=0, mask=0, ssim=0, perceptual=0.5)
    terms = loss(render, batch)
    expected = []
    for f in range(2):
        for v in range(2):
            x, y, w, h = batch.rect[f, v].tolist()
            difference = (render.rgb[f, v] - batch.rgb[f, v].double() / 255).abs()
            expected.append(difference[y : y + h, x : x + w].mean())
    torch.testing.assert_close(terms["perceptual"], torch.stack(expected).mean())
    torch.testing.assert_close(terms["total"], 0.5 * terms["perceptual"])
    doubled = AvatarLoss(perceptual=0.5, perceptual_rescale=True)(render, batch)["perceptual"]
    torch.testing.assert_close(doubled, 2 * terms["perceptual"])
    assert not list(loss.parameters()) and not loss.state_dict()  # no part of a checkpoint, and yet it moves along
    assert loss.double()._networks[0].scale.dtype == torch.float64


def test_white_background():
    render, batch = scene()
    person = (batch.mask & PERSON).ne(0)
    white = RenderOutput(
        render.rgb * person[..., None] + ~person[..., None], render.alpha, render.radii, render.means2d
    )
    on_black = RenderOutput(render.rgb * person[..., None], render.alpha, render.radii, render.means2d)
    found = AvatarLoss(ssim=0, perceptual=0, white_background=True)(white, batch)
    expected = AvatarLoss(ssim=0, perceptual=0)(on_black, batch)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])
    void = AvatarLoss(l1=0, ssim=0, perceptual=0, white_background=True, alpha_over_background_published=True)
    gradient = torch.autograd.grad(void(white, batch)["total"], render.alpha)[0]
    assert gradient.abs().max() == 0
    same = AvatarLoss(ssim=0, perceptual=0, alpha_over_background_published=True)(on_black, batch)
    torch.testing.assert_close(same["total"], expected["total"])


def test_an_image_whose_box_is_out_of_sight_costs_nothing():
    render, batch = scene()
    batch.mask[0, 1], batch.rect[0, 1] = 0, torch.tensor([0, 0, 0, 0])
    terms = AvatarLoss(perceptual=0)(render, batch)
    assert all(value.isfinite() for value in terms.values())
    assert torch.autograd.grad(terms["total"], render.rgb)[0][0, 1].abs().max() == 0


def test_rectangle_mask():
    found = rectangle_mask(torch.tensor([[1, 2, 3, 1], [0, 0, 0, 4]]), 5, 6)
    assert found.sum(dim=(1, 2)).tolist() == [3, 0] and found[0, 2, 1:4].all()


def test_shapes_are_checked():
    render, batch = scene()
    with pytest.raises(ValueError, match="one shape"):
        AvatarLoss(perceptual=0)(render[:1], batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loss_on_cuda_agrees_and_never_waits():
    render, batch = scene()
    expected = AvatarLoss(perceptual=0)(render, batch)
    loss, batch = AvatarLoss(perceptual=0).cuda(), batch.to("cuda")
    render = render.to("cuda", torch.float32)
    render.rgb, render.alpha = render.rgb.detach().requires_grad_(), render.alpha.detach().requires_grad_()
    loss(render, batch)["total"].backward()  # the first call makes the window
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = loss(render, batch)
        found["total"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, value in found.items():
        torch.testing.assert_close(value.double().cpu(), expected[name], rtol=1e-5, atol=1e-6)
