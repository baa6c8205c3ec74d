"""Steps are balanced, without repetition, repeatable and resumable."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3avatar.captures.schedule import Schedule


def _steps(schedule, start, count):
    schedule.position = start
    return list(itertools.islice(schedule, count))


def _pairs(steps):
    return Counter((f, v) for frames, views in steps for f, row in zip(frames, views) for v in row)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_balanced(data):
    frames, views = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    F, V = data.draw(st.integers(1, frames)), data.draw(st.integers(1, views))
    schedule = Schedule(frames, views, F, V, seed=data.draw(st.integers(0, 9)))
    steps = _steps(schedule, 0, data.draw(st.integers(1, 60)))
    for drawn, rows in steps:
        assert len(set(drawn)) == F and len(rows) == F
        assert all(len(set(row)) == V for row in rows)
    seen = Counter(f for drawn, _ in steps for f in drawn)
    assert max(seen.values()) - min(seen.get(f, 0) for f in range(frames)) <= 1
    for frame in seen:
        counts = [_pairs(steps).get((frame, view), 0) for view in range(views)]
        assert max(counts) - min(counts) <= 1


def test_every_pair_once_an_epoch():
    schedule = Schedule(6, 4, 3, 2, seed=1)
    for epoch in range(3):
        pairs = _pairs(_steps(schedule, 4 * epoch, 4))
        assert len(pairs) == 24 and set(pairs.values()) == {1}


def test_the_seed_decides_and_any_start_continues():
    schedule = Schedule(7, 5, 2, 3, seed=3)
    steps = _steps(schedule, 0, 40)
    assert _steps(Schedule(7, 5, 2, 3, seed=3), 0, 40) == steps
    assert _steps(Schedule(7, 5, 2, 3, seed=4), 0, 40) != steps
    assert _steps(schedule, 17, 23) == steps[17:]


def test_a_moving_view_shows_every_frame_from_one_side():
    schedule = Schedule(10, 4, 5, 1, seed=2, moving_view=True)
    for epoch in range(3):
        pairs = _pairs(_steps(schedule, 2 * epoch, 2))
        assert pairs == {(frame, frame % 4): 1 for frame in range(10)}
    assert schedule.at(1) == _steps(schedule, 1, 1)[0]
    older = {k: v for k, v in Schedule(10, 4, 5, 1, seed=2).state_dict().items() if k != "moving_view"}
    Schedule(10, 4, 5, 1, seed=2).load_state_dict(older)
    with pytest.raises(ValueError, match="moving_view False, now it is True"):
        schedule.load_state_dict(older)
    with pytest.raises(ValueError, match="a frame has 1 view"):
        Schedule(10, 4, 5, 2, seed=2, moving_view=True)


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="frames_per_step is 8; the split 'train' has 7 frames"):
        Schedule(7, 5, 8, 1, 0)
    with pytest.raises(ValueError, match="views_per_step is 0; the split 'train' has 5 cameras"):
        Schedule(7, 5, 1, 0, 0)
