"""The dynamic program against every path there is, and its online form against the whole."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3avatar.retrieval.viterbi import JumpCost, OnlinePath, best_path


@st.composite
def problems(draw):
    Q, P, k = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    times = random.integers(0, 12, (Q, P, k)).astype(float)
    cost, reach = draw(st.floats(0, 2)), draw(st.floats(0.5, 6))
    return random.random((Q, P, k)), times, JumpCost(cost, reach, draw(st.sampled_from([0.0, 1.0])))


def _cost(distances, times, jump, path, before=None):
    """Of one part's path, added up by hand."""
    total, last = 0.0, before
    for q, i in enumerate(path):
        total += distances[q, i] + (
            0 if last is None else jump.cost * min(1, abs(times[q, i] - last - jump.step) / jump.reach)
        )
        last = times[q, i]
    return total


@settings(max_examples=80, deadline=None)
@given(problems(), st.booleans())
def test_no_path_costs_less(problem, begun):
    distances, times, jump = problem
    Q, P, k = distances.shape
    before = np.full(P, 4.0) if begun else None
    choice = best_path(distances, times, jump, before)
    for p in range(P):
        last = 4.0 if begun else None
        least = min(
            _cost(distances[:, p], times[:, p], jump, path, last) for path in itertools.product(range(k), repeat=Q)
        )
        assert _cost(distances[:, p], times[:, p], jump, choice[:, p], last) == pytest.approx(least, abs=1e-12)


def _online(distances, times, jump, latency):
    online = OnlinePath(jump, latency)
    pushed = [online.push(*frame) for frame in zip(distances, times)]
    assert [len(x) for x in pushed] == [int(q >= latency) for q in range(len(distances))]
    return np.concatenate([*pushed, online.finish().reshape(-1, distances.shape[1])])


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 3))
def test_online_with_the_whole_query_ahead_is_offline(problem, more):
    distances, times, jump = problem
    expected = best_path(distances, times, jump)
    assert np.array_equal(_online(distances, times, jump, len(distances) + more), expected)
    assert np.array_equal(_online(distances, times, jump, len(distances) - 1), expected)


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 4))
def test_online_never_reads_beyond_its_latency(problem, latency):
    distances, times, jump = problem
    found = _online(distances, times, jump, latency)
    for q in range(len(distances)):
        seen = slice(0, q + latency + 1)
        assert np.array_equal(_online(distances[seen], times[seen], jump, latency)[: q + 1], found[: q + 1])


def test_a_short_better_moment_is_not_worth_two_jumps():
    distances = np.tile([0.2, 0.3], (9, 1, 1))
    distances[4, 0, 1] = 0.05  # far away on the timeline and for one frame only
    times = np.stack([np.arange(9.0), np.arange(9.0) + 40], -1)[:, None]
    assert not best_path(distances, times, JumpCost(0.1)).any()
    assert best_path(distances, times, JumpCost(0.07))[:, 0].tolist() == [0] * 4 + [1] + [0] * 4
    distances[4:, 0, 1] = 0.05
    assert best_path(distances, times, JumpCost(0.1))[:, 0].tolist() == [0] * 4 + [1] * 5
    # Live it has to be seen that the gain lasts: one frame of it does not pay.
    assert _online(distances, times, JumpCost(0.25), 0)[:, 0].tolist() == [0] * 9
    assert _online(distances, times, JumpCost(0.25), 1)[:, 0].tolist() == [0] * 4 + [1] * 5


def test_equal_costs_take_the_lower_candidate():
    distances, times = np.ones((3, 2, 4)), np.zeros((3, 2, 4))
    assert not best_path(distances, times, JumpCost(1.0)).any()


def test_refusals():
    ones = np.ones((3, 2, 4))
    with pytest.raises(ValueError, match=r"\[Q, P, k\]"):
        best_path(ones, ones[..., :2], JumpCost(1.0))
    broken = ones.copy()
    broken[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="not finite at query frame 1"):
        best_path(broken, ones, JumpCost(1.0))
    with pytest.raises(ValueError, match="reach = 0 positive"):
        JumpCost(1.0, reach=0)
    with pytest.raises(ValueError, match="latency"):
        OnlinePath(JumpCost(1.0), -1)
    online = OnlinePath(JumpCost(1.0), 2)
    online.push(ones[0], ones[0])
    with pytest.raises(ValueError, match="as before"):
        online.push(ones[0, :, :3], ones[0, :, :3])
    assert best_path(ones[:0], ones[:0], JumpCost(1.0)).shape == (0, 2)
