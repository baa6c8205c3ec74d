"""Parts of training steps: together the whole, each of the same size, refused where they cannot be."""

import itertools

import pytest

from r3avatar.captures.schedule import Schedule
from r3avatar.captures.shard import Shard, ShardedSteps


@pytest.mark.parametrize(
    ("frames", "views", "ranks", "parts"),
    [(2, 4, 1, (1, 1)), (2, 4, 4, (2, 2)), (1, 8, 4, (1, 4)), (4, 1, 4, (4, 1)), (6, 4, 4, (2, 2)), (3, 2, 6, (3, 2))],
)
def test_the_ranks_parts_are_the_step(frames, views, ranks, parts):
    step = list(range(frames)), [[10 * frame + view for view in range(views)] for frame in range(frames)]
    shards = [Shard.of(frames, views, rank, ranks) for rank in range(ranks)]
    assert (shards[0].frame_parts, shards[0].view_parts) == parts
    seen = []
    for shard in shards:
        mine, theirs = shard.part(step)
        assert len(mine) == frames // parts[0] and all(len(row) == views // parts[1] for row in theirs)
        assert all(view // 10 == frame for frame, row in zip(mine, theirs) for view in row)
        seen += [view for row in theirs for view in row]
    assert sorted(seen) == sorted(view for row in step[1] for view in row)
    assert shards[-1].part(step)[0][-1] == frames - 1  # the last frame's statistics are the last rank's
    counted = [frame for shard in shards if shard.first_view for frame in shard.part(step)[0]]
    assert sorted(counted) == step[0]  # once each


def test_each_pass_follows_the_schedule():
    schedule = Schedule(6, 4, 2, 2, seed=3)
    steps = ShardedSteps(schedule, Shard.of(2, 2, 1, 2))
    for position in (0, 5):
        schedule.position = position
        whole, part = (list(itertools.islice(iter(x), 3)) for x in (schedule, steps))
        assert part == [(frames[1:], views[1:]) for frames, views in whole]


def test_what_cannot_be_divided_is_refused_with_what_can():
    with pytest.raises(ValueError, match=r"batch\.frames=1 batch\.views=4 can"):
        Shard.of(1, 1, 0, 4)
    with pytest.raises(ValueError, match="over 2 devices"):
        Shard.of(3, 3, 0, 2)
    with pytest.raises(ValueError, match=r"batch\.frames=2 batch\.views=4 can"):
        Shard.of(2, 3, 0, 8)
