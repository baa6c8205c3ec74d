"""The kernels that mix the parts' outputs, against their torch twin; on a GPU also as a recorded graph."""

import pytest
import torch

from r3avatar.retrieval.blending import blend, fade, part_of_joint, part_weights
from r3avatar.retrieval.parts import JOINTS

kernels = pytest.importorskip("r3avatar.retrieval.triton_blending", reason="Triton is not installed")
CUDA = torch.cuda.is_available()
GPU = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA device")]
SIZES = [pytest.param("cuda", 11003, marks=GPU), *([] if CUDA else [("cpu", 37)])]


def _case(device, N, kind="smplx", F=2, D=7, vertices=50, packed=True):
    """Random decoder outputs at D times and rows of them; packed: in columns of one tensor."""
    g = torch.Generator().manual_seed(N)
    normal = lambda *shape: torch.randn(*shape, generator=g).to(device)  # noqa: E731
    out = normal(D, N, 11)
    fields = out.split([3, 1, 3, 4], -1)
    if not packed:
        fields = tuple(x.contiguous() for x in fields)
    fields = (fields[0], fields[1], fields[2].square(), fields[3])
    current = torch.randint(D, (F, 5), generator=g)
    jump = torch.rand(F, 5, generator=g) < 0.5
    previous = torch.where(jump, torch.randint(D, (F, 5), generator=g), current)
    share = torch.rand(F, 5, generator=g).to(device)
    vertex = torch.randint(vertices, (F, N), generator=g)
    weights = torch.softmax(3 * normal(vertices, JOINTS[kind]), -1)
    logits = normal(N, JOINTS[kind])
    return normal(N, 3), fields, current.to(device), previous.to(device), share, vertex.to(device), weights, logits


def _twin(positions, fields, current, previous, share, vertex, weights, logits, kind, last_part, align=False):
    now, before, jump = [x[current] for x in fields], [x[previous] for x in fields], current != previous
    offset = fade(now[0], before[0], jump, share)
    points = positions + (offset[:, -1] if last_part else offset.mean(1))
    rows = weights[vertex] if logits is None else torch.softmax(weights.log()[vertex] + logits, -1)
    return points, blend(now, before, jump, part_weights(rows, kind), share, 3 if align else None)


def _ours(positions, fields, current, previous, share, vertex, weights, logits, kind, last_part, align=False):
    points = kernels.weight_query_points(positions, fields[0], current, previous, share, last_part)
    given = weights if logits is None else weights.log()
    parts = part_of_joint(kind, positions.device)
    return points, kernels.blend_parts(fields, current, previous, share, vertex, given, logits, parts, align)


@pytest.mark.parametrize(("device", "N"), SIZES)
@pytest.mark.parametrize(
    ("kind", "with_logits", "packed", "last_part", "align"),
    [
        ("smplx", True, True, False, False), ("smplx", False, False, True, False), ("smpl", True, False, False, False),
        ("smplx", True, True, False, True), ("smpl", False, False, False, True),
    ],
)  # fmt: skip
def test_mixed_parts_are_the_twins(device, N, kind, with_logits, packed, last_part, align):
    *case, logits = _case(device, N, kind, packed=packed)
    case.append(logits if with_logits else None)
    (points, mixed), (expected_points, expected) = (f(*case, kind, last_part, align) for f in (_ours, _twin))
    torch.testing.assert_close(points, expected_points, rtol=1e-5, atol=1e-6)
    assert len(mixed) == 4
    for a, b in zip(mixed, expected):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(("device", "N"), SIZES)
def test_a_time_is_read_only_where_a_part_uses_it(device, N):
    positions, fields, current, _, *rest = _case(device, N)
    current = current % 4
    for x in fields:
        x[4:] = torch.nan
    points, mixed = _ours(positions, fields, current, current, *rest, "smplx", False)
    assert points.isfinite().all() and all(x.isfinite().all() for x in mixed)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_recorded_without_synchronising():
    case = _case("cuda", 11003)
    _ours(*case, "smplx", False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, expected = _ours(*case, "smplx", False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, mixed = _ours(*case, "smplx", False)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(mixed, expected))
