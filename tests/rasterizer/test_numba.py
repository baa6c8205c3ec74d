"""The CPU rasterizer: agrees with the reference, repeats itself bit for bit, refuses what it cannot draw."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch

from r3avatar import numba_threads
from r3avatar.numba_cache import follow, forget_stale
from r3avatar.numba_threads import run_tasks
from r3avatar.rasterizer import NumbaRasterizer
from r3avatar.rasterizer.numba_binning import depth_order
from r3avatar.rasterizer.numba_simd import lanes, load, ramp, store, total
from r3avatar.rasterizer.numba_tiles import exponential
from r3avatar.rasterizer.projection import covariance_from_scale_rotation
from r3avatar.rasterizer.spherical_harmonics import view_colours
from r3avatar.types import Gaussians

from .conformance import SCENES, check, cloud, ring, run

FLOAT = torch.zeros(())


@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_reference(name):
    check(NumbaRasterizer, SCENES[name](), "cpu")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_repeats_itself_with_any_number_of_threads(threads, monkeypatch):
    scene = SCENES["batch of 2 frames x 3 views, off-centre, 75x50"]()
    expected, slopes = run(NumbaRasterizer(), scene, FLOAT)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
    output, gradients = run(NumbaRasterizer(), scene, FLOAT)
    assert torch.equal(output.rgb, expected.rgb) and torch.equal(output.alpha, expected.alpha)
    for name, slope in slopes.items():
        assert torch.equal(gradients[name], slope), name


def test_calls_from_several_python_threads(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 3)
    scene = SCENES["4 harmonics"]()
    expected = NumbaRasterizer()(scene.gaussians, scene.cameras).rgb
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = NumbaRasterizer()(scene.gaussians, scene.cameras).rgb

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(result, expected) for result in results)


def test_helpers_hand_their_errors_over(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    caller, joined = threading.get_ident(), threading.Event()

    def kernel(counter, tasks):
        if threading.get_ident() == caller:
            assert joined.wait(10)
        else:
            joined.set()
            raise ZeroDivisionError("in a helper")

    with pytest.raises(ZeroDivisionError, match="in a helper"):
        run_tasks(kernel, 100)


def test_helpers_leave_when_dismissed(monkeypatch):
    """As at exit, where a helper that is left aborts the process; a later call hires new ones."""
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 3)
    scene = SCENES["4 harmonics"]()
    expected = NumbaRasterizer()(scene.gaussians, scene.cameras).rgb
    helpers = list(numba_threads._pool.helpers)
    assert len(helpers) >= 2 and all(helper.is_alive() for helper in helpers)
    numba_threads._pool.dismiss()
    assert not any(helper.is_alive() for helper in helpers)
    assert torch.equal(NumbaRasterizer()(scene.gaussians, scene.cameras).rgb, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_renders_after_a_fork(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    scene = SCENES["4 harmonics"]()
    expected = NumbaRasterizer()(scene.gaussians, scene.cameras).rgb
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # torch's own threads did not survive the fork either
        same = torch.equal(NumbaRasterizer()(scene.gaussians, scene.cameras).rgb, expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_extreme_sizes_stay_finite():
    """Needles, giants and points, low-pass filter off: a diverging training must not crash the process."""
    random = torch.Generator().manual_seed(0)
    exponents = torch.linspace(-12, 18, 400)[:, None] + torch.tensor([[0.0, -5.0, 3.0]]) * (torch.rand(400, 1) > 0.3)
    covariances = covariance_from_scale_rotation(10.0**exponents, torch.randn(400, 4, generator=random))[None]
    gaussians, cameras = cloud(1, 400, 0), ring(1, 1)
    leaves = [x.requires_grad_() for x in (gaussians.means, covariances, gaussians.opacities, gaussians.sh)]
    for options in ({"eps2d": 0.0}, {}, {"antialiased": True}):
        output = NumbaRasterizer(**options)(Gaussians(*leaves), cameras)
        assert torch.isfinite(output.rgb).all() and torch.isfinite(output.alpha).all()
        output.rgb.sum().backward()


def test_broken_gaussians_are_not_drawn():
    """NaN and infinity in some Gaussians leave the others' image as it is."""
    gaussians, cameras = cloud(1, 60, 0), ring(1, 1)
    for index, (field, value) in enumerate(
        [("means", np.nan), ("covariances", np.nan), ("opacities", np.nan), ("means", np.inf), ("covariances", np.inf)]
    ):
        getattr(gaussians, field)[0, index] = value
    sound = gaussians[:, 5:]
    output = NumbaRasterizer()(gaussians, cameras)
    expected = NumbaRasterizer()(sound, cameras)
    assert torch.equal(output.rgb, expected.rgb)
    assert (output.radii[0, 0, :5] == 0).all()


def test_writing_into_an_image_is_noticed():
    """The backward pass needs the images: autograd refuses if they were changed in place."""
    gaussians, cameras = cloud(1, 5, 0), ring(1, 1)
    gaussians.means.requires_grad_()
    output = NumbaRasterizer()(gaussians, cameras)
    with torch.no_grad():
        output.rgb.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.rgb.sum().backward()


def test_refusals():
    gaussians, cameras = cloud(1, 5, 0), ring(1, 1)
    with pytest.raises(TypeError, match="float32 tensors on the CPU"):
        NumbaRasterizer()(gaussians.to(torch.float64), cameras.to(torch.float64))
    cameras.w2c.requires_grad_()
    with pytest.raises(ValueError, match="cameras no gradient"):
        NumbaRasterizer()(gaussians, cameras)


@pytest.mark.parametrize("K", [4, 9, 16])
def test_colours_agree_with_the_plain_version(K):
    gaussians, cameras = cloud(2, 700, 0, K=K), ring(2, 3)
    outputs = []
    for colours in (view_colours, NumbaRasterizer()._view_colours):
        sh, means = gaussians.sh.clone().requires_grad_(), gaussians.means.clone().requires_grad_()
        value = colours(sh, means, cameras.centres)
        (value * torch.arange(value.numel()).reshape(value.shape).sin()).sum().backward()
        outputs.append((value.detach(), sh.grad, means.grad))
    for a, b in zip(*outputs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_expanded_harmonics():
    """Frames that share their coefficients get the summed gradient."""
    gaussians, cameras = cloud(2, 50, 0), ring(2, 1)
    shared = gaussians.sh[:1].clone().requires_grad_()
    output = NumbaRasterizer()(
        Gaussians(gaussians.means, gaussians.covariances, gaussians.opacities, shared.expand(2, 50, 4, 3)), cameras
    )
    output.rgb.sum().backward()
    apart = gaussians.sh[:1].repeat(2, 1, 1, 1).requires_grad_()
    output = NumbaRasterizer()(Gaussians(gaussians.means, gaussians.covariances, gaussians.opacities, apart), cameras)
    output.rgb.sum().backward()
    torch.testing.assert_close(shared.grad, apart.grad.sum(0, keepdim=True))


def test_depth_order():
    random = np.random.default_rng(0)
    depths = random.uniform(0.01, 300, 5000).astype(np.float32)
    depths[::7] = 2.5  # ties keep their order
    radii = (random.uniform(size=5000) < 0.8).astype(np.float32)
    order = np.full(5000, -1, np.int32)
    count = depth_order(depths, radii, order, np.empty(5000, np.int32), np.empty(2048, np.int32))
    visible = np.flatnonzero(radii)
    np.testing.assert_array_equal(order[:count], visible[np.argsort(depths[visible], kind="stable")])


@numba.njit
def _exponentials(powers, out):
    for i in range(0, powers.size, 8):
        store(out, i, exponential(load(powers, i)))
    return total(ramp() + lanes(np.float32(1)))


def test_lanes():
    powers = np.linspace(-5.6, 0, 8000).astype(np.float32)
    out = np.empty_like(powers)
    assert _exponentials(powers, out) == 36
    np.testing.assert_allclose(out, np.exp(powers.astype(np.float64)), rtol=3e-6)


def test_kernels_older_than_their_sources_are_forgotten(tmp_path):
    source, other = tmp_path / "numba_tiles.py", tmp_path / "numba_composite.py"
    for path in (source, other):
        path.write_text("")
        os.utime(path, (1000, 1000))
    kept, stale, foreign = (tmp_path / f"{stem}.f-1.py311.nbi" for stem in ("numba_composite", "numba_tiles", "user"))
    for path, moment in ((kept, 3000), (stale, 1500), (foreign, 1500)):
        path.write_text("")
        os.utime(path, (moment, moment))
    os.utime(source, (2000, 2000))
    assert forget_stale(tmp_path, [source, other]) == 1
    assert kept.exists() and not stale.exists() and foreign.exists()


def test_kernels_follow_the_modules_they_are_compiled_with(tmp_path):
    """Every module with kept kernels that takes anything from others, but for annotations alone."""
    package, free = Path(numba_threads.__file__).parent, {"silhouette", "fractional", "skin", "light"}
    for path in package.rglob("*.py"):
        text = path.read_text()
        if "cache=True" in text and "r3avatar" in text and path.parent.name != "rasterizer" and path.stem not in free:
            assert "\nfollow(" in text, path
    other = SimpleNamespace(__file__=str(tmp_path / "other.py"))
    Path(other.__file__).write_text("")
    kept = tmp_path / "test_numba.kernel-1.py311.nbi"
    kept.write_text("")
    own = SimpleNamespace(__code__=SimpleNamespace(co_filename=str(tmp_path / "test_numba.py")))
    Path(own.__code__.co_filename).write_text("")
    for path, moment in ((own.__code__.co_filename, 1000), (kept, 2000), (other.__file__, 1500)):
        os.utime(path, (moment, moment))
    kernel = SimpleNamespace(py_func=own, stats=SimpleNamespace(cache_path=str(tmp_path)))
    follow(kernel, other)
    assert kept.exists()
    os.utime(other.__file__, (3000, 3000))
    follow(kernel, other)
    assert not kept.exists()
