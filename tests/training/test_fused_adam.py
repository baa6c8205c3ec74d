"""The Adam of one launch against torch's, in the interpreter and on CUDA, captured too."""

import copy

import pytest
import torch

from r3avatar.cuda_graphs import RecordedFunction
from r3avatar.training.finite import FiniteWatch
from r3avatar.training.fused_adam import FusedAdam
from r3avatar.training.optimizer import place_rates

gpu = pytest.mark.gpu
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cuda" if torch.cuda.is_available() else "cpu"]
SHAPES = ((1,), (3, 5), (2049,), (4096,), (0, 3), (7, 11, 13))


def parameters(device, shapes=SHAPES):
    g = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=g).to(device)) for shape in shapes]


def groups(values):
    return [
        {"params": values[:2], "lr": 1e-2, "name": "a"},
        {"params": values[2:], "lr": 3e-3, "name": "b", "betas": (0.8, 0.99), "eps": 1e-6},
    ]


def both(device, shapes=SHAPES):
    ours, theirs = parameters(device, shapes), parameters(device, shapes)
    backend = "auto" if device == "cuda" else "triton"
    pair = FusedAdam(groups(ours), eps=1e-15, backend=backend), torch.optim.Adam(groups(theirs), eps=1e-15)
    return ours, theirs, *pair


def give_gradients(ours, theirs, seed, skip=()):
    """The same gradients to both, views that are aligned to four bytes among them."""
    g = torch.Generator().manual_seed(seed)
    for k, (p, q) in enumerate(zip(ours, theirs)):
        p.grad = q.grad = None
        if k in skip:
            continue
        flat = torch.randn(p.numel() + k, generator=g).to(p.device) * 10.0 ** (k - 3)
        p.grad = q.grad = flat[k:].view(p.shape)


def check(ours, theirs, a, b):
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-6)
        assert set(a.state[p]) == set(b.state[q])
        for name, value in b.state[q].items():
            rounding = 1e-6 * float(value.abs().max()) if value.numel() else 0.0  # averages cancel
            torch.testing.assert_close(a.state[p][name].cpu(), value.cpu(), rtol=2e-6, atol=rounding)


@pytest.mark.parametrize("device", DEVICES)
def test_as_torch_over_many_steps(device):
    ours, theirs, a, b = both(device)
    for step in range(12):
        give_gradients(ours, theirs, step, skip=(1,) if step % 3 == 1 else ())
        rate = 1e-2 / (step + 1)
        a.param_groups[0]["lr"] = torch.tensor(rate, device=device) if step % 2 else rate
        b.param_groups[0]["lr"] = rate
        a.step()
        b.step()
    check(ours, theirs, a, b)
    assert a.state[ours[1]]["step"] == 8 and a.state[ours[0]]["step"] == 12


@pytest.mark.parametrize("device", DEVICES)
def test_checkpoints_go_both_ways(device):
    ours, theirs, a, b = both(device)
    for step in range(2):
        give_gradients(ours, theirs, step)
        a.step()
        b.step()
    saved_a, saved_b = copy.deepcopy(a.state_dict()), copy.deepcopy(b.state_dict())
    a.load_state_dict(saved_b)
    b.load_state_dict(saved_a)
    for step in range(2, 4):
        give_gradients(ours, theirs, step)
        a.step()
        b.step()
    check(ours, theirs, a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_a_replaced_parameter_keeps_its_count(device):
    ours, theirs, a, b = both(device)
    for step in range(4):
        if step == 2:
            for values, optimizer in ((ours, a), (theirs, b)):
                old = values[3]
                grown = values[3] = torch.nn.Parameter(torch.cat([old.detach(), old.detach()[:77]]))
                state = optimizer.state.pop(old)
                optimizer.state[grown] = {
                    key: torch.cat([value, value.new_zeros(77)]) if value.shape else value
                    for key, value in state.items()
                }
                group = optimizer.param_groups[1]
                group["params"] = [grown if p is old else p for p in group["params"]]
        give_gradients(ours, theirs, step)
        a.step()
        b.step()
    check(ours, theirs, a, b)
    assert a.state[ours[3]]["step"] == 4


def test_a_closure_that_leaves_no_gradients_changes_nothing():
    ours, _, a, _ = both(DEVICES[0])
    before = [p.detach().clone() for p in ours]
    assert a.step(lambda: 5.0) == 5.0
    assert all(torch.equal(p, q) for p, q in zip(ours, before)) and not a.state


def test_what_the_kernel_does_not_cover_goes_torchs_way():
    ours, theirs, a, b = both(DEVICES[0])
    for optimizer in (a, b):
        optimizer.param_groups[0]["weight_decay"] = 0.1
    give_gradients(ours, theirs, 0)
    a.step()
    b.step()
    check(ours, theirs, a, b)
    double = torch.nn.Parameter(torch.ones(3, dtype=torch.float64, device=DEVICES[0]))
    double.grad = torch.ones_like(double)
    FusedAdam([double], lr=0.1, backend="triton").step()
    torch.testing.assert_close(double.detach().cpu(), torch.full((3,), 0.9, dtype=torch.float64))


def test_pinned_memory_is_never_used_twice(monkeypatch):
    adam = FusedAdam([torch.nn.Parameter(torch.ones(1))])
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **kw: empty(*size, **kw))
    rows = [adam._pin(10, torch.device("cpu")) for _ in range(130)]
    rows += [adam._pin(20, torch.device("cpu")) for _ in range(3)]
    assert len({row.data_ptr() for row in rows}) == 133 and len(rows[-1]) == 20


@gpu
@cuda
def test_recorded_steps_follow_rates_and_replaced_parameters():
    shapes = ((11000, 3), (10000001,), (64, 33), (33,))
    ours, theirs, a, b = both("cuda", shapes)
    place_rates(a, torch.device("cuda"))
    recorded, x = RecordedFunction(), torch.ones(1, device="cuda")

    def step(x):
        for p in ours:
            p.grad = None
        sum((p * (2 + p.detach().cos()) * x).sum() for p in ours).backward()
        a.step()

    for turn in range(12):
        if turn == 6:
            for values, optimizer in ((ours, a), (theirs, b)):
                old = values[0]
                grown = values[0] = torch.nn.Parameter(old.detach()[:9001].clone())
                state = optimizer.state.pop(old)
                optimizer.state[grown] = {k: v[:9001].clone() if v.dim() else v for k, v in state.items()}
                optimizer.param_groups[0]["params"] = [
                    grown if p is old else p for p in optimizer.param_groups[0]["params"]
                ]
        rate = 1e-3 * (turn + 1)
        a.param_groups[0]["lr"].fill_(rate)
        b.param_groups[0]["lr"] = rate
        x.fill_(1 + turn)

        def whole():
            recorded(step, (x,), "kind", tuple(p.data_ptr() for p in ours))
            a.zero_grad(set_to_none=True)

        a.step(whole)
        for q in theirs:
            q.grad = None
        sum((q * (2 + q.detach().cos()) * x).sum() for q in theirs).backward()
        b.step()
    check(ours, theirs, a, b)


@gpu
@cuda
def test_steps_never_wait_for_the_device():
    ours, theirs, a, _ = both("cuda")
    place_rates(a, torch.device("cuda"))
    give_gradients(ours, theirs, 0)
    a.step()
    kept = [p.grad for p in ours]
    torch.cuda.set_sync_debug_mode("error")
    try:
        a.step()
        for p, gradient in zip(ours, kept):
            p.grad = gradient.clone()  # elsewhere: a new table
        a.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert a.state[ours[0]]["step"] == 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", [False, True])
def test_nothing_changes_where_a_step_was_not_finite(device, kernel):
    values = parameters(device, ((3, 5), (2049,)))
    backend = ("auto" if device == "cuda" else "triton") if kernel else "torch"
    adam = FusedAdam([{"params": values, "lr": 1e-2}], backend=backend)
    watch = FiniteWatch(torch.device(device))
    adam.found_inf = watch.found
    for step, spoilt in enumerate((None, None, float("inf"), None)):
        before = copy.deepcopy((values, adam.state_dict()))
        for k, p in enumerate(values):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step + k)).to(device)
        if spoilt is not None:
            values[1].grad[7] = spoilt
        watch.look(torch.tensor(1.0, device=device), [p.grad for p in values])
        adam.step()
        same = all(torch.equal(a, b) for a, b in zip(values, before[0]))
        assert same == (step >= 2) and watch.lost() == max(0, step - 1)
    for number, state in adam.state_dict()["state"].items():
        assert all(torch.equal(value, before[1]["state"][number][name]) for name, value in state.items())
        assert float(state["step"]) == 2
