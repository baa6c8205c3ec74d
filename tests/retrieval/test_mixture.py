import math

import pytest
import torch

from r3avatar.retrieval import Mixture, MixtureRetriever, RetrievalError, live
from r3avatar.retrieval.embedding import axis_angle_to_quaternion, quaternion_product, quaternion_to_axis_angle
from r3avatar.retrieval.parts import JOINTS
from r3avatar.retrieval.rotation_embedding import geodesic_distance, rotation_embedding

UP = [0.0, 0.0, 1.0]  # not SMPL's own: the world's


def walk(T, kind="smpl", seed=0):
    """Limbs that swing, of an upright person in a z-up world."""
    g = torch.Generator().manual_seed(seed)
    phase = torch.arange(T)[:, None, None] * 0.21 + torch.rand(1, JOINTS[kind], 3, generator=g) * 6
    theta = 0.5 * torch.sin(phase * (1 + torch.arange(3) / 7))
    theta[:, 0] = torch.tensor([math.pi / 2, 0, 0]) + 0.1 * theta[:, 0]
    return theta


def turned(theta, angle):
    """The same frames in a world that is turned about its up."""
    turn = axis_angle_to_quaternion(torch.tensor(UP) * angle).expand(len(theta), 4)
    theta = theta.clone()
    theta[:, 0] = quaternion_to_axis_angle(quaternion_product(turn, axis_angle_to_quaternion(theta[:, 0])))
    return theta


def fitted(T=30, kind="smpl", **options):
    return MixtureRetriever(kind, up=UP, **options).fit(walk(T, kind), torch.arange(T) + 100)


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_shares_by_the_formula(kind):
    theta, query = walk(30, kind), walk(7, kind, seed=1)
    retriever = fitted(kind=kind)
    found = retriever.retrieve(query)
    bank, asked = (rotation_embedding(x, up=torch.tensor(UP)) for x in (theta, query))
    for p, joints in enumerate(retriever._parts()):
        between = geodesic_distance(bank[:, None, list(joints)], bank[None, :, list(joints)])
        h = 0.25 * between[~torch.eye(30, dtype=torch.bool)].median()
        d = geodesic_distance(asked[:, None, list(joints)], bank[None, :, list(joints)])
        expected = torch.exp(-((d / h) ** 2) / 2)
        expected /= expected.sum(-1, keepdim=True)
        torch.testing.assert_close(found.weights[:, p], expected, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.distances[:, p], (d * expected).sum(-1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(7, 5))
    assert found.frames.tolist() == list(range(100, 130)) and found.align and not found.jump.any()


def test_a_recorded_pose_finds_its_frame():
    found = fitted().retrieve(walk(30))
    assert torch.equal(found.times, (torch.arange(30) + 100)[:, None].expand(-1, 5))
    sharp = fitted(bandwidth=0.02).retrieve(walk(30))
    assert sharp.weights.max(-1).values.min() > 0.99 and sharp.spread.max() < 1
    torch.testing.assert_close(sharp.mean, sharp.times.float(), atol=0.1, rtol=0)


@pytest.mark.parametrize("T", [1, 2])
def test_few_recorded_frames(T):
    found = fitted(T).retrieve(walk(4, seed=1))
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(4, 5))
    assert found.weights.shape == (4, 5, T) and found.spread.isfinite().all()
    assert fitted(T).retrieve(walk(0)).weights.shape == (0, 5, T)


def test_a_recording_that_stands_still():
    still = walk(1).expand(6, -1, -1)
    found = MixtureRetriever("smpl", up=UP).fit(still, torch.arange(6)).retrieve(still[:2])
    torch.testing.assert_close(found.weights, torch.full((2, 5, 6), 1 / 6))
    far = MixtureRetriever("smpl", up=UP).fit(still, torch.arange(6)).retrieve(walk(3, seed=2))
    torch.testing.assert_close(far.weights.sum(-1), torch.ones(3, 5))


def test_some_frames_or_all_are_the_same():
    retriever, query = fitted(), walk(9, seed=1)
    every = retriever.retrieve(query)
    late = retriever.retrieve(query[4:], history=query[2:4])
    torch.testing.assert_close(every[4:].weights, late.weights)
    torch.testing.assert_close(every[[2]].weights, every.weights[2:3])
    assert every[3].weights.shape == every[-1].weights.shape == (1, 5, 30) and every[3].frames is every.frames
    both = Mixture.joined([every[:4], late])
    torch.testing.assert_close(both.weights, every.weights)
    torch.testing.assert_close(both.distances, every.distances)


def test_heading_does_not_count_and_shares_are_continuous():
    retriever, query = fitted(), walk(6, seed=1)
    once = retriever.retrieve(query)
    torch.testing.assert_close(once.weights, retriever.retrieve(turned(query, 1.3)).weights, atol=1e-4, rtol=1e-3)
    moved = retriever.retrieve(query + 1e-4 * torch.randn(query.shape, generator=torch.Generator().manual_seed(0)))
    assert (moved.weights - once.weights).abs().max() < 0.02


def test_only_the_bank_takes_part_and_long_recordings_are_thinned():
    bank = torch.arange(30) % 3 == 0
    retriever = MixtureRetriever("smpl", up=UP).fit(walk(30), torch.arange(30), bank)
    assert retriever.retrieve(walk(2)).frames.tolist() == list(range(0, 30, 3))
    thin = MixtureRetriever("smpl", up=UP, most=4).fit(walk(30), torch.arange(30), bank)
    assert thin.retrieve(walk(2)).frames.tolist() == [0, 9, 18, 27]
    assert bank.sum() == 10, "the caller's own"


@pytest.mark.parametrize("T", [1, 2, 30, 100])
def test_live_is_the_same(T):
    retriever, query = fitted(T), walk(8, seed=1)
    one_by_one = retriever.live()
    for _ in range(2):
        found = Mixture.joined([one_by_one.push(pose) for pose in query])
        torch.testing.assert_close(found.weights, retriever.retrieve(query).weights, atol=1e-5, rtol=1e-4)
        assert one_by_one.finish() == []


def test_what_is_refused(monkeypatch):
    for options in ({"bandwidth": 0.0}, {"most": 0}, {"up": [0, 0, 0]}, {"pictures": 0}):
        with pytest.raises(ValueError):
            MixtureRetriever("smpl", **options)
    with pytest.raises(RuntimeError, match="fit"):
        MixtureRetriever("smpl").live()
    monkeypatch.setattr(live, "MOST", 20)
    with pytest.raises(ValueError, match="up to 20 recorded frames, not 30"):
        fitted().live()
    lying = walk(9)
    lying[:, 0] = torch.tensor([0.9, 0.0, 0.9])
    with pytest.raises(RetrievalError, match="up"):
        MixtureRetriever("smpl").fit(lying, torch.arange(9))


def test_the_general_moment_has_its_share():
    query = walk(7, seed=1)
    plain, given = fitted().retrieve(query), fitted(general=0.3).retrieve(query)
    assert plain.general is None and torch.equal(plain.shares, plain.weights)
    torch.testing.assert_close(given.shares[..., -1], torch.full((7, 5), 0.3))
    torch.testing.assert_close(given.shares[..., :-1], 0.7 * plain.weights)
    live = fitted(general=0.3).live()
    torch.testing.assert_close(torch.cat([live.push(p).shares for p in query]), given.shares, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="share"):
        MixtureRetriever("smpl", general=1.5)


@pytest.mark.parametrize("general", [0.0, 0.3])
@pytest.mark.parametrize(("T", "K"), [(30, 1), (30, 4), (30, 9), (3, 8), (1, 4)])
def test_the_mean_of_the_pieces_is_the_mixture(T, K, general):
    query = walk(7, seed=1)
    found = fitted(T, general=general, pictures=K).retrieve(query)
    shares, counts = found.pieces()
    assert shares.shape == (7, K + (general > 0), 5, T + (general > 0)) and shares.dtype == found.weights.dtype
    assert (shares >= 0).all() and shares.isfinite().all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]))
    torch.testing.assert_close(counts.sum(-1), torch.ones(7))
    mean = torch.einsum("qk,qkpd->qpd", counts, shares)
    torch.testing.assert_close(mean, found.shares, atol=1e-5, rtol=1e-4)
    mean_time = (shares[:, :K, :, :T] * torch.arange(T)).sum(-1)
    assert (mean_time.diff(dim=1) >= -1e-4).all(), "stretches of recorded time, one after the other"
    if general:
        assert (shares[:, -1, :, -1] == 1).all() and torch.equal(shares[:, :-1, :, -1], torch.zeros(7, K, 5))
    assert found[[2, 3]].pictures == Mixture.joined([found[:2], found[2:]]).pictures == K


def test_pieces_are_narrow_continuous_and_of_frames_in_any_order():
    query, retriever = walk(7, seed=1), fitted(pictures=6)
    found = retriever.retrieve(query)
    shares, _ = found.pieces()
    assert (shares > 0).sum(-1).float().mean() < 30 / 4
    moved = retriever.retrieve(query + 1e-4 * torch.randn(query.shape, generator=torch.Generator().manual_seed(0)))
    assert (moved.pieces()[0] - shares).abs().max() < 0.1
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    other = Mixture(found.frames[order], found.weights[..., order], found.distances, pictures=6).pieces()[0]
    torch.testing.assert_close(other, shares[..., order], atol=1e-5, rtol=1e-4)
    live = retriever.live()
    torch.testing.assert_close(torch.cat([live.push(p).pieces()[0] for p in query]), shares, atol=1e-3, rtol=1e-2)
