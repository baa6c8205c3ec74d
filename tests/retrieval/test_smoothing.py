import math

import pytest
import torch

from r3avatar.retrieval.smoothing import greedy


def run(distances, times, **kw):
    """One part's candidates a frame, repeated for five parts."""
    d, t = torch.tensor(distances, dtype=torch.float64), torch.tensor(times, dtype=torch.float64)
    return greedy(d[:, None].expand(-1, 5, -1), t[:, None].expand(-1, 5, -1), **kw)


def test_first_frame_takes_the_nearest():
    found = run([[0.1, 0.2]], [[7, 8]])
    assert found.times.tolist() == [[7] * 5] and found.neighbours.tolist() == [[-1] * 5]
    assert not found.jump.any()


def test_two_inside_blend_by_inverse_distance():
    found = run([[0.1, 0.2, 0.3], [0.1, 0.3, 0.4]], [[7, 8, 9], [30, 8, 6]])
    w = 0.4 / 0.7
    assert found.times[1, 0] == pytest.approx(w * 8 + (1 - w) * 6)
    assert found.distances[1, 0] == pytest.approx(w * 0.3 + (1 - w) * 0.4)
    assert found.neighbours[1, 0] == 2 and not found.jump.any()


def test_one_inside_and_exactly_three_is_outside():
    found = run([[0.1, 0.2, 0.3], [0.1, 0.3, 0.4]], [[7, 8, 9], [30, 9.999, 10]])
    assert found.times[1, 0] == pytest.approx(9.999) and found.neighbours[1, 0] == 1


def test_none_inside_jumps_from_the_time_before():
    found = run([[0.1, 0.2], [0.1, 0.3], [0.1, 0.2]], [[7, 8], [30, 10], [31, 2]])
    assert found.times[1, 0] == 30 and found.previous[1, 0] == 7 and found.neighbours[1, 0] == 0
    assert found.jump[:, 0].tolist() == [False, True, False]
    assert found.times[2, 0] == 31


def test_two_exact_hits_take_the_first():
    found = run([[0.1, 0.2], [0.0, 0.0]], [[7, 8], [8, 6]])
    assert found.times[1].tolist() == [8] * 5 and found.distances[1, 0] == 0


def test_window():
    assert run([[0.1], [0.1]], [[0], [9]], window=10).jump.sum() == 0
    assert run([[0.1], [0.1]], [[0], [9]], window=9).jump.sum() == 5


def test_parts_are_independent():
    g = torch.Generator().manual_seed(0)
    d = torch.rand(40, 5, 6, generator=g).sort(-1).values
    t = torch.randint(0, 30, (40, 5, 6), generator=g).float()
    whole = greedy(d, t)
    for p in range(5):
        one = greedy(d[:, p : p + 1], t[:, p : p + 1])
        torch.testing.assert_close(whole.times[:, p], one.times[:, 0])
    assert whole.times.dtype == d.dtype and whole.times.isfinite().all()
    assert whole[3:40:4].times.shape == (10, 5) and whole[2].times.shape == (1, 5)


def test_against_a_plain_loop():
    g = torch.Generator().manual_seed(1)
    d = torch.rand(60, 5, 6, generator=g).double().sort(-1).values
    t = torch.randint(0, 20, (60, 5, 6), generator=g).double()
    found = greedy(d, t)
    for p in range(5):
        last = None
        for q in range(60):
            inside = [] if last is None else [i for i in range(6) if abs(t[q, p, i] - last) < 3]
            if len(inside) >= 2:
                a, b = inside[:2]
                w = d[q, p, b] / (d[q, p, a] + d[q, p, b])
                new = float(w * t[q, p, a] + (1 - w) * t[q, p, b])
            else:
                new = float(t[q, p, inside[0] if inside else 0])
            jumped = last is not None and not inside
            assert found.times[q, p] == pytest.approx(new)
            assert bool(found.jump[q, p]) == jumped
            assert math.isnan(found.previous[q, p]) or found.previous[q, p] == pytest.approx(last)
            last = new


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="k > 0"):
        greedy(torch.zeros(3, 5, 0), torch.zeros(3, 5, 0))
