import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from r3avatar.training.density import DensityControl, DensityEdit, NoDensityControl, apply_edit
from r3avatar.training.density_rules import clone, kl_to_neighbour, merge, nearest_neighbour, rotation_matrices, split
from r3avatar.training.density_statistics import DensityStatistics
from r3avatar.types import RenderOutput

W, H, EXTENT = 200, 100, 1.0


class Canonical(nn.Module):
    def __init__(self, N, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.positions = nn.Parameter(torch.rand(N, 3, generator=g))
        self.sh_dc = nn.Parameter(torch.rand(N, 1, 3, generator=g))
        self.sh_rest = nn.Parameter(torch.rand(N, 15, 3, generator=g))


def render(gradient, radii):
    """A step's render: gradient [F, V, N, 2] in pixels, radii [F, V, N]."""
    means2d = torch.zeros_like(gradient, requires_grad=True)
    means2d.grad = gradient
    F, V = radii.shape[:2]
    return RenderOutput(torch.zeros(F, V, 2, 2, 3), torch.zeros(F, V, 2, 2), radii, means2d)


def attributes(F, N, opacity=0.5, scale=0.002):
    """What the decoder gave; `opacity` and `scale` are numbers or tensors that broadcast to [F, N, 1] and [F, N, 3]."""
    opacity = torch.as_tensor(opacity).expand(F, N, 1)
    return SimpleNamespace(
        opacity_logit=torch.logit(opacity),
        scale=torch.as_tensor(scale).expand(F, N, 3),
        rotation=torch.tensor([1.0, 0, 0, 0]).expand(F, N, 4),
    )


def still(N, F=1, V=1, **kw):
    return render(torch.zeros(F, V, N, 2), torch.ones(F, V, N)), attributes(F, N, **kw)


def test_gradients_are_ndc_means_over_the_images_where_visible():
    gradient = torch.tensor([[[[0.3, 0.4], [1.0, 0.0], [5.0, 5.0]], [[0.0, 0.2], [0.0, 0.0], [7.0, 7.0]]]])
    radii = torch.tensor([[[4.0, 3.0, 0.0], [9.0, 0.0, 0.0]]])
    statistics = DensityStatistics(10)
    statistics.observe(render(gradient, radii), attributes(1, 3), W, H)
    found = statistics.state()
    # 1 frame x 2 views; pixels * (100, 50) * 2 images
    first = (2 * math.hypot(0.3 * 100, 0.4 * 50) + 2 * 0.2 * 50) / 2
    torch.testing.assert_close(found["gradients"], torch.tensor([first, 2 * 100.0, 0.0]))
    assert found["radii"].tolist() == [9, 3, 0]


def test_batched_views_give_the_gradients_of_single_images():
    """A batch's loss is a mean over its images: the statistics must not depend on how images are batched."""
    g = torch.Generator().manual_seed(0)
    gradient, radii = torch.rand(3, 4, 6, 2, generator=g), torch.rand(3, 4, 6, generator=g).round()
    single, batched = DensityStatistics(99), DensityStatistics(99)
    a = attributes(3, 6, torch.rand(3, 6, 1, generator=g), torch.rand(3, 6, 3, generator=g))
    batched.observe(render(gradient / 12, radii), a, W, H)
    for f in range(3):
        frame = SimpleNamespace(**{name: value[f : f + 1] for name, value in vars(a).items()})
        single.observe(render(gradient[f : f + 1] / 4, radii[f : f + 1]), frame, W, H)
    for name, value in single.state().items():
        torch.testing.assert_close(value, batched.state()[name])


def test_a_part_seen_only_at_some_times_is_kept():
    """The highest opacity of the window counts; the published code takes the last frame's."""
    for published, left in ((False, 3), (True, 2)):
        module, control = Canonical(3), DensityControl(last_frame_statistics_published=published)
        control.observe(*still(3, opacity=torch.tensor([0.9, 0.9, 0.9])[:, None]), W, H)
        control.observe(*still(3, opacity=torch.tensor([0.9, 1e-4, 0.9])[:, None]), W, H)
        edit = control.step(module, 500, EXTENT)
        assert (3 if edit is None else edit.count) == left


def test_the_window_forgets():
    module, control = Canonical(3), DensityControl(window_frames=4)
    faint = torch.tensor([0.9, 1e-4, 0.9])[:, None]
    control.observe(*still(3, opacity=0.9), W, H)
    for image in (500, 600, 700):
        for _ in range(2):
            control.observe(*still(3, opacity=faint), W, H)
        edit = control.step(module, image, EXTENT)
        assert edit is None or image == 700  # then 2 + 2 later frames fill the window
    assert edit.pruned == 1 and edit.keep.tolist() == [0, 2]


def test_sizes_are_geometric_means_over_the_window():
    statistics = DensityStatistics(10)
    for scale in (0.01, 0.04):
        statistics.observe(*still(2, scale=scale), W, H)
    torch.testing.assert_close(statistics.state()["scales"], torch.full((2, 3), 0.02))
    torch.testing.assert_close(statistics.state(last_frame=True)["scales"], torch.full((2, 3), 0.04))


def moving(N, hot, scale, gradient=1.0, radius=1.0):
    """A step in which the Gaussians `hot` move on the screen."""
    g = torch.zeros(1, 1, N, 2)
    g[0, 0, hot, 0] = gradient
    return render(g, torch.full((1, 1, N), radius)), attributes(1, N, 0.5, scale)


def test_clone_split_and_their_order():
    module, control = Canonical(6), DensityControl()
    scale = torch.full((1, 6, 3), 0.002)
    scale[0, 4] = 0.05  # not small: above 0.01 of the extent
    control.observe(*moving(6, [1, 4], scale), W, H)
    edit = control.step(module, 500, EXTENT)
    assert (edit.cloned, edit.split, edit.merged, edit.pruned) == (1, 1, 0, 0)
    assert edit.keep.tolist() == [0, 1, 2, 3, 5] and edit.parents.tolist() == [1, 4, 4] and edit.count == 8
    torch.testing.assert_close(edit.new["sh_rest"], module.sh_rest.detach()[[1, 4, 4]])
    assert (edit.new["positions"][0] - module.positions[1]).norm() < 0.01
    assert edit.new["positions"][1].ne(edit.new["positions"][2]).any()


def test_same_draws_on_every_rank_and_after_a_checkpoint():
    edits, saved = [], None
    for resumed in (False, True):
        control = DensityControl(seed=3)
        if resumed:
            control.load_state_dict(torch_round_trip(saved))
        else:
            control.observe(*moving(6, [1], 0.002), W, H)
            control.step(Canonical(6), 500, EXTENT)
            control.observe(*moving(7, [2], 0.002), W, H)
            saved = control.state_dict()
        assert control.due(600) and not control.due(599)
        edits.append(control.step(Canonical(7), 600, EXTENT))
    assert torch.equal(edits[0].new["positions"], edits[1].new["positions"])
    own = DensityControl()
    own.observe(*moving(6, [1], 0.002), W, H)
    given = torch.Generator().manual_seed(9)
    drawn = own.step(Canonical(6), 500, EXTENT, generator=given).new["positions"]
    expected = Canonical(6).positions[1] + 0.002 * torch.randn(1, 3, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(drawn, expected.detach())


def torch_round_trip(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_dict_is_a_copy():
    control = DensityControl()
    control.observe(*still(3), W, H)
    saved = control.state_dict()
    control.observe(*moving(3, [0], 0.002), W, H)
    assert saved["statistics"]["interval"]["gradient_sum"].max() == 0


def test_merged_pairs_leave_one_point():
    for published, left in ((False, 5), (True, 6)):
        module, control = Canonical(6), DensityControl(mutual_merges_published=published)
        with torch.no_grad():
            module.positions[1] = module.positions[0] + 1e-4
        control.observe(*moving(6, [0, 1], 0.002), W, H)
        edit = control.step(module, 500, EXTENT)
        assert edit.count == left and edit.keep.tolist() == [2, 3, 4, 5]
        middle = (module.positions[0] + module.positions[1]).detach() / 2
        torch.testing.assert_close(edit.new["positions"], middle.expand(left - 4, 3))


def test_large_ones_are_pruned_late():
    def pruned(images, published=False, **kw):
        module, control = Canonical(4), DensityControl(clone_resets_radii_published=published)
        scale = torch.full((1, 4, 3), 0.002)
        step = moving(4, [], scale, **kw)
        step[1].scale[0, 1] = 0.2
        step[0].radii[0, 0, 2] = 30
        control.observe(*step, W, H)
        edit = control.step(module, images, EXTENT)
        return [] if edit is None else sorted(set(range(4)) - set(edit.keep.tolist()))

    assert pruned(3000) == []
    assert pruned(3100) == [1, 2]
    assert pruned(3100, published=True) == [1]


def test_schedule():
    control = DensityControl(start=400, stop=1000, every=100)
    done = []
    for image in range(0, 1200, 16):  # 16 images a step
        if control.due(image):
            done.append(image)
            control._edited_at = image
    assert [image // 100 for image in done] == [5, 6, 7, 8, 9]
    assert control.collecting(0) and not control.collecting(1000)
    rare = DensityControl(start=0, stop=2000, every=100, every_steps=12)
    done = []
    for image in range(64, 2000, 64):  # one GPU's 64, or two GPUs' 32 each
        if rare.due(image, 64):
            done.append(image)
            rare._edited_at = image
    assert done == [768, 1536]
    with pytest.raises(ValueError, match="every_steps = -1"):
        DensityControl(every_steps=-1)
    assert not DensityControl().due(400) and not DensityControl().due(499) and DensityControl().due(500)


def test_crowded_threshold():
    control = DensityControl()
    assert control._threshold(35000) == 1e-3
    assert control._threshold(40000) == pytest.approx(3e-3)


def test_budget_takes_the_hottest():
    module, control = Canonical(6), DensityControl(max_gaussians=8)
    gradient = torch.tensor([1.0, 5, 2, 4, 3, 6])[None, None, :, None].expand(1, 1, 6, 2).contiguous()
    control.observe(render(gradient, torch.ones(1, 1, 6)), attributes(1, 6), W, H)
    edit = control.step(module, 500, EXTENT)
    assert edit.count == 8 and edit.parents.tolist() == [1, 5]
    control = DensityControl(max_gaussians=3)  # already more: no growth, and no error
    control.observe(render(gradient, torch.ones(1, 1, 6)), attributes(1, 6), W, H)
    assert control.step(module, 500, EXTENT) is None


def test_apply_edit_keeps_adam():
    module = Canonical(5)
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.1, "name": n} for n, p in module.named_parameters()])
    sum(p.square().sum() for p in module.parameters()).backward()
    optimizer.step()
    optimizer.zero_grad()
    before = {n: (p.detach().clone(), optimizer.state[p]["exp_avg"].clone()) for n, p in module.named_parameters()}
    new = {n: torch.full((2, *p.shape[1:]), 7.0) for n, p in module.named_parameters()}
    edit = DensityEdit(torch.tensor([0, 3, 4]), new, torch.tensor([1, 1]), 0, 1, 0, 1)
    apply_edit(optimizer, module, edit)
    for (name, p), group in zip(module.named_parameters(), optimizer.param_groups):
        assert group["params"][0] is p and group["name"] == name and p.shape[0] == 5 and p.requires_grad
        torch.testing.assert_close(p.detach(), torch.cat([before[name][0][[0, 3, 4]], new[name]]))
        state = optimizer.state[p]
        torch.testing.assert_close(state["exp_avg"][:3], before[name][1][[0, 3, 4]])
        assert (state["exp_avg"][3:] == 0).all() and state["step"] == 1
    assert len(optimizer.state) == 3
    module.positions.sum().backward()
    optimizer.step()
    apply_edit(None, Canonical(5), edit)


def test_no_learned_parameter_is_forgotten():
    module, control = Canonical(4), DensityControl()
    control.observe(*moving(4, [2], 0.002), W, H)
    assert set(control.step(module, 500, EXTENT).new) == {"positions", "sh_dc", "sh_rest"}


def test_nearest_neighbour():
    g = torch.Generator().manual_seed(0)
    points = torch.rand(300, 3, generator=g)
    points[7] = points[200]  # one place
    found = nearest_neighbour(points)
    distances = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    torch.testing.assert_close(distances[torch.arange(300), found], distances.min(dim=1).values)
    assert found[7] == 200 and found[200] == 7
    assert nearest_neighbour(torch.zeros(2, 3)).tolist() == [1, 0]
    assert (nearest_neighbour(torch.zeros(9, 3)) != torch.arange(9)).all()
    with pytest.raises(ValueError, match="two"):
        nearest_neighbour(torch.zeros(1, 3))


def test_kl_against_torch_distributions():
    g = torch.Generator().manual_seed(0)
    means, q = torch.rand(20, 3, generator=g).double(), torch.randn(20, 4, generator=g).double()
    scales = torch.rand(20, 3, generator=g).double() + 0.1
    neighbour = nearest_neighbour(means)
    rotation = rotation_matrices(q)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(20, 3, 3))
    covariance = rotation @ torch.diag_embed(scales**2) @ rotation.mT
    normal = torch.distributions.MultivariateNormal
    expected = torch.distributions.kl_divergence(
        normal(means, covariance), normal(means[neighbour], covariance[neighbour])
    )
    torch.testing.assert_close(kl_to_neighbour(means, q, scales, neighbour), expected)
    flat = scales.clone()
    flat[:, 2] = 0  # a decoder may give a scale of zero
    assert not kl_to_neighbour(means, q, flat, neighbour).isnan().any()


def full_state(N=6):
    module = Canonical(N)
    return {
        "positions": module.positions.detach(),
        "scales": torch.full((N, 3), 0.1),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).expand(N, 4),
        "opacity_logits": torch.arange(N)[:, None].float(),
        "gradients": torch.ones(N),
        "radii": torch.full((N,), 8.0),
    }


def test_rules_on_nothing_change_nothing():
    state, nothing = full_state(), torch.zeros(6, dtype=torch.bool)
    neighbour = nearest_neighbour(state["positions"])
    for after in (
        clone(state, nothing, lambda n: torch.zeros(n, 3)),
        split(state, nothing, lambda n: torch.zeros(n, 3)),
        merge(state, nothing, neighbour),
    ):
        assert all(torch.equal(after[name], value) for name, value in state.items())


def test_new_gaussians_are_not_acted_on_again():
    state, mask = full_state(), torch.tensor([1, 0, 0, 0, 0, 0]).bool()
    neighbour = nearest_neighbour(state["positions"])
    draw = torch.zeros
    for after, new in (
        (clone(state, mask, lambda n: draw(n, 3)), 1),
        (split(state, mask, lambda n: draw(n, 3)), 2),
        (merge(state, mask, neighbour), 1),
    ):
        assert (after["gradients"][-new:] == 0).all() and (after["gradients"][:-new] == 1).all()


def test_refusals():
    control = DensityControl()
    with pytest.raises(RuntimeError, match="no step was observed"):
        control.step(Canonical(3), 500, EXTENT)
    silent = render(torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3))
    silent.means2d.grad = None
    with pytest.raises(RuntimeError, match="retain_grad"):
        control.observe(silent, attributes(1, 3), W, H)
    control.observe(*still(3, opacity=1e-4), W, H)
    with pytest.raises(ValueError, match="4"):
        control.observe(*still(4), W, H)
    with pytest.raises(ValueError, match="the avatar has 5"):
        control.step(Canonical(5), 500, EXTENT)
    with pytest.raises(RuntimeError, match="prune all 3"):
        control.step(Canonical(3), 500, EXTENT)
    with pytest.raises(ValueError, match="every"):
        DensityControl(every=0)


def test_one_gaussian_is_left_alone():
    module, control = Canonical(1), DensityControl()
    control.observe(*moving(1, [0], 0.002), W, H)
    assert control.step(module, 500, EXTENT) is None


def test_none_member_does_nothing():
    none = NoDensityControl()
    assert not none.collecting(0) and not none.due(500)
    none.load_state_dict(none.state_dict())


def two_ranks(rank, port, results):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    g = torch.Generator().manual_seed(rank)
    control = DensityControl()
    gradient, radii = torch.rand(1, 2, 6, 2, generator=g) / 2, torch.rand(1, 2, 6, generator=g).round() * 5
    control.observe(render(gradient, radii), attributes(1, 6, torch.rand(1, 6, 1, generator=g), 0.002), W, H)
    control.statistics.all_reduce()
    results[rank] = (control.statistics.state(), control.step(Canonical(6), 500, EXTENT).new["positions"])
    dist.destroy_process_group()


def test_all_reduce_gives_every_rank_the_same_edit():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(two_ranks, args=(port, results), nprocs=2)
        (a, new_a), (b, new_b) = results[0], results[1]
    both = DensityStatistics(400)
    for rank in range(2):
        g = torch.Generator().manual_seed(rank)
        gradient, radii = torch.rand(1, 2, 6, 2, generator=g) / 2, torch.rand(1, 2, 6, generator=g).round() * 5
        both.observe(render(gradient, radii), attributes(1, 6, torch.rand(1, 6, 1, generator=g), 0.002), W, H)
    for name in a:
        assert torch.equal(a[name], b[name])
        if name not in ("opacity_logits", "quaternions"):
            torch.testing.assert_close(a[name], both.state()[name])
    torch.testing.assert_close(a["opacity_logits"], both.state()["opacity_logits"])
    assert torch.equal(new_a, new_b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_observing_on_cuda_never_waits_and_the_edit_is_that_of_the_cpu():
    edits = []
    for device in ("cpu", "cuda"):
        module, control = Canonical(6).to(device), DensityControl()
        step, said = moving(6, [1, 4], 0.002)
        gradient = step.means2d.grad.to(device)
        step = step.to(device)
        step.means2d = step.means2d.detach().requires_grad_()
        step.means2d.grad = gradient
        said = SimpleNamespace(**{name: value.to(device) for name, value in vars(said).items()})
        control.observe(step, said, W, H)
        if device == "cuda":
            control.load_state_dict(torch_round_trip(control.state_dict()))
            torch.cuda.set_sync_debug_mode("error")
        try:
            control.observe(step, said, W, H)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        edits.append(control.step(module, 500, EXTENT))
        optimizer = torch.optim.Adam(module.parameters(), fused=True)
        sum(p.sum() for p in module.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()
        apply_edit(optimizer, module, edits[-1])
        sum(p.sum() for p in module.parameters()).backward()
        optimizer.step()
    assert edits[0].parents.tolist() == edits[1].parents.tolist()
    torch.testing.assert_close(edits[0].new["positions"], edits[1].new["positions"].cpu())


def test_without_density_control_an_experiments_settings_of_it_are_names_only():
    assert not NoDensityControl(grad_threshold=2e-4, max_gaussians=20000).due(500)
    with pytest.raises(TypeError, match="no setting grad_treshold"):
        NoDensityControl(grad_treshold=2e-4)
