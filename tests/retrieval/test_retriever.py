import pytest
import torch

from r3avatar.retrieval.embedding import pose_embedding
from r3avatar.retrieval.parts import BLENDING_JOINTS, JOINTS, RETRIEVAL_JOINTS
from r3avatar.retrieval.retriever import FrozenTime, NearestFrame, Retriever


def walk(T, kind="smpl", seed=0):
    g = torch.Generator().manual_seed(seed)
    phase = torch.arange(T)[:, None, None] * 0.21 + torch.rand(1, JOINTS[kind], 3, generator=g) * 6
    return 0.5 * torch.sin(phase * (1 + torch.arange(3) / 7))


@pytest.mark.parametrize("retriever", [Retriever, NearestFrame])
@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_a_recorded_sequence_retrieves_itself(retriever, kind):
    theta = walk(30, kind)
    times = torch.arange(30) + 100
    found = retriever(kind).fit(theta, times).retrieve(theta)
    torch.testing.assert_close(found.times, times[:, None].float().expand(-1, 5))
    assert found.distances.abs().max() < 1e-6 and not found.jump.any()


@pytest.mark.parametrize("T", [1, 2, 19])
@pytest.mark.parametrize("retriever", [Retriever, NearestFrame, FrozenTime])
def test_fewer_than_twenty_recorded_frames(retriever, T):
    found = retriever("smpl").fit(walk(T), torch.arange(T)).retrieve(walk(40, seed=1))
    assert found.times.isfinite().all() and found.times.min() >= 0 and found.times.max() <= T - 1


def test_stride_of_the_evaluation_changes_nothing():
    r = Retriever("smpl").fit(walk(50), torch.arange(50))
    found = r.retrieve(walk(40, seed=1))
    assert torch.equal(found[::5].times, found.times[::5])


def test_bank_restricts_what_is_retrieved_and_not_the_steps():
    theta, keep = walk(60), torch.arange(60) % 5 == 0
    found = Retriever("smpl").fit(theta, torch.arange(60), bank=keep).retrieve(theta)
    exact = found[::5]
    # At a recorded frame the pose and its one-frame steps are in the bank: distance 0, so that its weight is 1.
    torch.testing.assert_close(exact.times, torch.arange(0, 60, 5)[:, None].float().expand(-1, 5), atol=1e-3, rtol=0)
    assert not found.jump.any()  # the window counts steps of the bank: 15 frames here


def test_hands_do_not_count():
    theta = walk(40, "smplx")
    waving = theta.clone()
    waving[:, 25:] = torch.randn(40, 30, 3, generator=torch.Generator().manual_seed(0))
    r = Retriever("smplx").fit(theta, torch.arange(40))
    assert torch.equal(r.retrieve(theta).times, r.retrieve(waving).times)


def test_nearest_frame_has_one_time_for_all_parts():
    found = NearestFrame("smpl").fit(walk(50), torch.arange(50)).retrieve(walk(20, seed=1))
    assert (found.times == found.times[:, :1]).all() and (found.times == found.times.round()).all()


def test_frozen_time_is_the_frame_nearest_on_average():
    theta, query = walk(50), walk(20, seed=1)
    frozen = FrozenTime("smpl").fit(theta, torch.arange(50) + 7)
    found = frozen.retrieve(query)
    every, _ = frozen._indices[0].search(pose_embedding(query), 50)
    _, ids = frozen._indices[0].search(pose_embedding(query), 50)
    total = torch.zeros(50).scatter_add_(0, ids.flatten(), every.flatten())
    assert (found.times == total.argmin() + 7).all() and not found.jump.any()
    torch.testing.assert_close(found.distances.mean(), total.min() / 20)
    assert frozen.retrieve(query[:0]).times.shape == (0, 5)


@pytest.mark.parametrize("retriever", [Retriever, NearestFrame, FrozenTime])
def test_a_hundred_thousand_recorded_frames(retriever):
    theta = 0.5 * torch.randn(100_000, 24, 3, generator=torch.Generator().manual_seed(0))
    fitted = retriever("smpl", "torch").fit(theta, torch.arange(100_000))
    found = fitted.retrieve(theta[70_000:70_001], history=theta[69_998:70_000])
    assert found.times.tolist() == [[70_000] * 5]


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
@pytest.mark.parametrize("T", [1, 2, 50, 700])
def test_live_is_retrieve(kind, T):
    query = torch.cat([walk(40, kind, seed=1), walk(T, kind)[-3:]])
    fitted = Retriever(kind).fit(walk(T, kind), torch.arange(T) + 3)
    found, live = fitted.retrieve(query), fitted.live()
    for _ in range(2):
        rows = [live.push(pose) for pose in query]
        for name in ("times", "previous", "distances", "neighbours", "fade"):
            stacked = torch.cat([getattr(row, name) for row in rows])
            torch.testing.assert_close(stacked, getattr(found, name), equal_nan=True, atol=1e-3, rtol=1e-5, msg=name)
        assert live.finish() == [], "then a new query begins"
    with pytest.raises(ValueError, match="live pose must be"):
        live.push(query)
    with pytest.raises(ValueError, match="not finite"):
        live.push(torch.full_like(query[0], torch.nan))


def test_parts_cover_every_joint_once():
    for kind, parts in BLENDING_JOINTS.items():
        assert sorted(j for part in parts for j in part) == list(range(JOINTS[kind]))
    assert sorted(j for part in RETRIEVAL_JOINTS["smplx"] for j in part) == list(range(25))


def test_refusals():
    with pytest.raises(ValueError, match="no parts"):
        Retriever("mano")
    r = Retriever("smpl")
    with pytest.raises(RuntimeError, match="fit"):
        r.retrieve(walk(3))
    with pytest.raises(ValueError, match=r"times\[1\] = 1.0 is followed by 5.0"):
        r.fit(walk(3), torch.tensor([0, 1, 5]))
    with pytest.raises(ValueError, match="one for each pose"):
        r.fit(walk(3), torch.arange(4))
    with pytest.raises(ValueError, match=r"\[T, 24, 3\] for smpl"):
        r.fit(walk(3, "smplx"), torch.arange(3))
    with pytest.raises(ValueError, match="all false"):
        r.fit(walk(3), torch.arange(3), bank=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="window"):
        Retriever("smpl", window=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_on_cuda(backend):
    theta, query = walk(60), walk(30, seed=1)
    expected = Retriever("smpl", "torch").fit(theta, torch.arange(60)).retrieve(query)
    found = Retriever("smpl", backend).fit(theta.cuda(), torch.arange(60)).retrieve(query.cuda())
    torch.testing.assert_close(found.times.cpu(), expected.times, atol=1e-3, rtol=0)
    assert found.times.is_cuda and torch.equal(found.jump.cpu(), expected.jump)
