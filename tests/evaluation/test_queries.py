"""What a frame of an evaluation retrieves depends on the capture alone, not on which frames are evaluated, or when."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r3avatar.evaluation.evaluate import fit_retriever, retrieve_for
from r3avatar.retrieval import FrozenTime, NearestFrame, Retriever, ViterbiRetriever

IDS = [*range(100, 150), *range(152, 170)]  # two frames are missing


def capture(train=range(110, 140)):
    g = torch.Generator().manual_seed(3)
    phase = torch.arange(len(IDS))[:, None, None] * 0.21 + torch.rand(1, 24, 3, generator=g) * 6
    theta = 0.4 * torch.sin(phase * (1 + torch.arange(3) / 7)) + 0.01 * torch.randn(len(IDS), 24, 3, generator=g)
    theta[:, 0] = 0.1 * theta[:, 0]
    split = SimpleNamespace(frames=list(train))
    return SimpleNamespace(
        frame_ids=IDS, recorded=(110, 30), poses=SimpleNamespace(theta=theta), splits={"train": split}
    )


RETRIEVERS = [
    lambda: Retriever("smpl"),
    lambda: ViterbiRetriever("smpl", up=[0, 1, 0]),
    lambda: ViterbiRetriever("smpl", up=[0, 1, 0], latency=2),
    lambda: NearestFrame("smpl"),
    lambda: FrozenTime("smpl"),
]


def times_of(retriever, frames, **kw):
    found, rows = retrieve_for(capture(**kw), fit_retriever(retriever, capture(**kw)), frames)
    return {frame: found[[rows[frame]]] for frame in frames}


@cache
def whole_by(make):
    return times_of(make(), IDS)


@pytest.mark.parametrize("make", RETRIEVERS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_which_frames_are_evaluated_and_in_which_order_changes_nothing(make, data):
    some = data.draw(st.lists(st.sampled_from(IDS), min_size=1, unique=True), label="frames, in any order")
    whole, found = whole_by(make), times_of(make(), some)
    for frame in some:
        for name in ("times", "previous", "distances", "neighbours", "fade"):
            a, b = getattr(whole[frame], name), getattr(found[frame], name)
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)), (frame, name)


def test_stretches_do_not_touch_and_know_the_frames_before_them():
    queries = []

    class Spy:
        def retrieve(self, theta, history):
            queries.append((len(theta), len(history)))
            return Retriever("smpl").fit(theta, torch.arange(len(theta))).retrieve(theta)

    _, rows = retrieve_for(capture(), Spy(), IDS)
    assert queries == [(10, 0), (30, 2), (10, 2), (18, 0)] and list(rows) == IDS and list(rows.values()) == [*range(68)]


@pytest.mark.parametrize("make", RETRIEVERS)
def test_one_training_frame(make):
    found = times_of(make(), [140, 145, 160], train=[120])
    assert all((row.times == 10).all() and not row.jump.any() for row in found.values())
