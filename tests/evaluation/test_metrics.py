import math
import sys
import types

import pytest
import torch
from scipy.ndimage import correlate1d

from r3avatar.evaluation.metrics import mask_iou, psnr, psnr_per_channel, psnr_pooled, ssim, ssim_map
from r3avatar.evaluation.perceptual import Perceptual
from r3avatar.evaluation.protocols import evaluate_image, person_box


def images(B=2, H=40, W=33, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(B, H, W, 3, generator=g, dtype=dtype), torch.rand(B, H, W, 3, generator=g, dtype=dtype)


def test_psnr_by_hand():
    truth = torch.zeros(1, 4, 4, 3, dtype=torch.float64)
    image = truth + torch.tensor([0.1, 0.01, 0.001], dtype=torch.float64)
    torch.testing.assert_close(psnr_per_channel(image, truth)[0], torch.tensor([20.0, 40.0, 60.0], dtype=torch.float64))
    assert psnr(image, truth).item() == pytest.approx(40)
    assert psnr_pooled(image, truth).item() == pytest.approx(-10 * math.log10((1e-2 + 1e-4 + 1e-6) / 3))
    assert psnr(truth, truth).item() == math.inf


def scipy_ssim(a, b):
    window = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / 4.5)
    window = (window / window.sum()).numpy()

    def blur(x):
        return correlate1d(correlate1d(x, window, axis=0, mode="constant"), window, axis=1, mode="constant")

    a, b = a.numpy(), b.numpy()
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    return (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))


def test_ssim_against_scipy():
    a, b = images()
    found = ssim_map(a, b)
    for i in range(2):
        torch.testing.assert_close(found[i], torch.from_numpy(scipy_ssim(a[i], b[i])), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ssim(a, b), found.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))


def test_ssim_gradient():
    a, b = images(B=1, H=9, W=7)
    assert torch.autograd.gradcheck(lambda x: ssim_map(x, b), (a.requires_grad_(),), fast_mode=True)


def test_ssim_is_differentiable_after_an_evaluation_in_inference_mode():
    a, b = images(B=1, H=12, W=12, dtype=torch.float32)
    with torch.inference_mode():
        ssim(a, b)
    ssim(a.requires_grad_(), b).sum().backward()
    assert a.grad.isfinite().all()


def test_mask_iou():
    a, b = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True
    a[1, 0] = True
    torch.testing.assert_close(mask_iou(a, b), torch.tensor([1 / 3, 0.0, 1.0]))


def test_refusals():
    a, b = images()
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        psnr(a[0], b[0])
    with pytest.raises(ValueError, match="alike"):
        ssim(a, b[:, :5])
    with pytest.raises(TypeError, match="uint8"):
        psnr((a * 255).byte(), (b * 255).byte())
    with pytest.raises(ValueError, match="bool"):
        mask_iou(a[..., 0], b[..., 0])


def test_person_box():
    mask = torch.zeros(100, 80, dtype=torch.uint8)
    mask[20:60, 30:50] = 1
    assert person_box(mask, margin=0.05) == (28, 18, 24, 44)
    assert person_box(mask, margin=0) == (30, 20, 20, 40)
    assert person_box(mask, margin=9.0) == (0, 0, 80, 100)
    with pytest.raises(ValueError, match="empty"):
        person_box(torch.zeros(4, 4))


class FakePerceptual:
    def __call__(self, image, truth, rescale):
        return (image - truth).abs().mean(dim=(1, 2, 3)) * (2 if rescale else 1)


def test_protocols():
    (a, b), mask = images(B=1, dtype=torch.float32), torch.zeros(40, 33, dtype=torch.bool)
    mask[10:30, 8:20] = True
    truth = b[0] * mask[..., None]
    image, alpha = a[0] * mask[..., None], mask.float() * 0.8
    box = person_box(mask)
    found = evaluate_image(image, alpha, truth, mask, box, FakePerceptual())
    crop = (slice(None), slice(box[1], box[1] + box[3]), slice(box[0], box[0] + box[2]))
    assert found["paper"]["psnr"] == pytest.approx(psnr(image[None], truth[None]).item())
    assert found["paper"]["ssim"] == pytest.approx(ssim(image[None], truth[None]).item())
    assert found["standard"]["psnr"] == pytest.approx(psnr_pooled(image[None][crop], truth[None][crop]).item())
    assert found["standard"]["ssim"] == pytest.approx(ssim(image[None][crop], truth[None][crop]).item())
    assert found["standard"]["mask_iou"] == 1 and set(found["paper"]) == {"psnr", "ssim", "lpips"}
    assert found["paper"]["lpips"] == pytest.approx((image - truth).abs().mean().item())
    assert found["standard"]["lpips"] == pytest.approx(2 * (image - truth)[crop[1:]].abs().mean().item())
    assert evaluate_image(image, alpha, truth, mask)["standard"]["psnr"] == found["standard"]["psnr"]
    assert evaluate_image(image, alpha, truth, mask)["paper"]["lpips"] is None


def test_protocols_take_bytes_and_clamp():
    truth, mask = torch.full((20, 20, 3), 255, dtype=torch.uint8), torch.ones(20, 20, dtype=torch.uint8)
    found = evaluate_image(torch.full((20, 20, 3), 1.5), torch.zeros(20, 20), truth, mask)
    assert found["paper"]["psnr"] == math.inf and found["standard"]["mask_iou"] == 0
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        evaluate_image(torch.zeros(20, 20, 3), torch.zeros(20, 20, 1), truth, mask)


def test_perceptual_names_the_extra_and_the_switch(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ModuleNotFoundError, match=r"'lpips'.*r3avatar\[lpips\].*evaluate.lpips=null"):
        Perceptual(off="evaluate.lpips=null")


class FakeLPIPS(torch.nn.Module):
    """What `Perceptual` uses of lpips.LPIPS, over one convolution whose layer keeps its VGG number."""

    def __init__(self, net, pnet_rand, verbose):
        super().__init__()
        assert net == "vgg" and not verbose
        self.downloads = not pnet_rand
        self.scaling_layer = torch.nn.Identity()
        self.net = FakeTrunk()
        self.lin0 = torch.nn.Module()
        self.lin0.model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Conv2d(2, 1, 1, bias=False))
        torch.nn.init.ones_(self.lin0.model[1].weight)
        self.lins = [self.lin0]


class FakeTrunk(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slice1 = torch.nn.Sequential()
        self.slice1.add_module("2", torch.nn.Conv2d(3, 2, 3, stride=2, padding=1))

    def forward(self, x):
        return (self.slice1(x).relu(),)


def test_perceptual(monkeypatch, tmp_path):
    module = types.ModuleType("lpips")
    module.LPIPS = FakeLPIPS
    monkeypatch.setitem(sys.modules, "lpips", module)
    a, b = images(dtype=torch.float32)
    perceptual = Perceptual()
    assert perceptual.network.downloads
    perceptual.train()
    image = a.clone().requires_grad_()
    value = perceptual(image, b, rescale=False)
    assert value.shape == (2,) and not torch.equal(perceptual(a, b, rescale=True), value)
    fa, fb = (torch.nn.functional.normalize(perceptual.network.net(x.movedim(-1, 1))[0], dim=1) for x in (a, b))
    expected = (fa - fb).square().sum(1)  # [B, h, w]; no dropout, though set to train
    torch.testing.assert_close(value, expected.mean(dim=(1, 2)))
    inside = torch.zeros(2, 40, 33)
    inside[:, 4:20, :] = 1
    torch.testing.assert_close(perceptual(a, b, False, inside), expected[:, 2:10].mean(dim=(1, 2)))
    value.sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in perceptual.parameters())

    path = tmp_path / "vgg16.pth"
    state = {
        "features.2.weight": torch.ones(2, 3, 3, 3),
        "features.2.bias": torch.zeros(2),
        "classifier.0.bias": torch.ones(1),
    }
    torch.save(state, path)
    loaded = Perceptual(weights=path)
    assert not loaded.network.downloads and (loaded.network.net.slice1[0].weight == 1).all()
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"features\.2\.weight is missing"):
        Perceptual(weights=path)
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth"):
        Perceptual(weights=tmp_path / "absent.pth")


def test_perceptual_with_the_real_package(tmp_path):
    pytest.importorskip("torchvision")
    pytest.importorskip("lpips")
    from torchvision.models import vgg16

    torch.manual_seed(0)
    trunk = vgg16()
    path = tmp_path / "vgg16.pth"
    torch.save(trunk.state_dict(), path)
    perceptual = Perceptual(weights=path)
    a, b = images(B=2, H=70, W=45, dtype=torch.float32)
    value = perceptual(a, b, rescale=True)
    assert (value > 0).all() and perceptual(a, a, rescale=True).abs().max() == 0
    for rescale in (False, True):
        expected = perceptual.network(a.movedim(-1, 1), b.movedim(-1, 1), normalize=rescale).flatten()
        torch.testing.assert_close(perceptual(a, b, rescale), expected)
        torch.testing.assert_close(perceptual(a, b, rescale, torch.ones(2, 70, 45)), expected)
    # Of a rectangle in a padded crop: its own distance, but for the layers' padding.
    inside = torch.zeros(2, 70, 45)
    inside[:, 5:61, 3:40] = 1
    padded = perceptual(a * inside[..., None], b * inside[..., None], False, inside)
    torch.testing.assert_close(padded, perceptual(a[:, 5:61, 3:40], b[:, 5:61, 3:40], False), rtol=0.1, atol=0)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    scaled = perceptual.network.scaling_layer(a.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(scaled, ((a * 2 - 1 - shift) / scale).movedim(-1, 1))
    with torch.no_grad():
        torch.testing.assert_close(perceptual.network.net(scaled)[0], trunk.features[:4](scaled))
