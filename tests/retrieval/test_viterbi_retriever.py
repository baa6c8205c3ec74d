import math

import pytest
import torch

from r3avatar.rasterizer.projection import covariance_from_scale_rotation
from r3avatar.retrieval.blending import blend
from r3avatar.retrieval.crossfade import CrossFade
from r3avatar.retrieval.embedding import axis_angle_to_quaternion, quaternion_product, quaternion_to_axis_angle
from r3avatar.retrieval.index import PartIndex
from r3avatar.retrieval.parts import JOINTS
from r3avatar.retrieval.rotation_embedding import geodesic_distance, rotation_embedding, world_up
from r3avatar.retrieval.viterbi_retriever import ViterbiRetriever

UP = [0.0, 0.0, 1.0]  # not SMPL's own: the world's


def walk(T, kind="smpl", seed=0):
    """Limbs that swing, of an upright person in a z-up world who turns slowly."""
    g = torch.Generator().manual_seed(seed)
    phase = torch.arange(T)[:, None, None] * 0.21 + torch.rand(1, JOINTS[kind], 3, generator=g) * 6
    theta = 0.5 * torch.sin(phase * (1 + torch.arange(3) / 7))
    tilt = axis_angle_to_quaternion(0.3 * theta[:, 0])
    upright = axis_angle_to_quaternion(torch.tensor([math.pi / 2, 0, 0]).expand(T, 3))
    theta[:, 0] = quaternion_to_axis_angle(quaternion_product(upright, tilt))
    return turned(theta, 0.03 * torch.arange(T))


def turned(theta, angles):
    """The same frames in a world that is turned about its up by angles [T]."""
    turn = axis_angle_to_quaternion(torch.tensor(UP) * angles[:, None])
    theta = theta.clone()
    theta[:, 0] = quaternion_to_axis_angle(quaternion_product(turn, axis_angle_to_quaternion(theta[:, 0])))
    return theta


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_a_recorded_sequence_retrieves_itself(kind):
    theta = walk(30, kind)
    found = ViterbiRetriever(kind).fit(theta, torch.arange(30) + 100).retrieve(theta)
    torch.testing.assert_close(found.times, (torch.arange(30.0) + 100)[:, None].expand(-1, 5), atol=1e-3, rtol=0)
    assert found.distances.abs().max() < 1e-3 and not found.jump.any() and found.align


@pytest.mark.parametrize("T", [1, 2, 19])
def test_few_recorded_frames(T):
    found = ViterbiRetriever("smpl", up=UP).fit(walk(T), torch.arange(T)).retrieve(walk(40, seed=1))
    for x in (found.times, found.previous.nan_to_num(0)):
        assert x.isfinite().all() and x.min() >= 0 and x.max() <= T - 1
    assert ViterbiRetriever("smpl", up=UP).fit(walk(T), torch.arange(T)).retrieve(walk(0)).times.shape == (0, 5)


def test_a_hundred_thousand_recorded_frames():
    g = torch.Generator().manual_seed(0)
    theta = 0.5 * torch.randn(100_000, 24, 3, generator=g)
    retriever = ViterbiRetriever("smpl", "torch", up=UP).fit(theta, torch.arange(100_000))
    found = []
    search = retriever._candidates
    retriever._candidates = lambda *a: found.append(search(*a)) or found[0]
    result = retriever.retrieve(theta[70_000:70_001], history=theta[69_998:70_000])
    assert found[0][1].shape == found[0][3].shape == (1, 5, 64), "the dynamic program sees no more of a long recording"
    assert result.times.tolist() == [[70_000] * 5]


def test_the_least_cost_counts_and_not_the_nearest_frame():
    theta, query = walk(80), walk(60, seed=1)
    calm, restless = (
        ViterbiRetriever("smpl", jump_cost=c, fractional=False).fit(theta, torch.arange(80)).retrieve(query)
        for c in (5, 0)
    )
    _, distances, _, times = ViterbiRetriever("smpl").fit(theta, torch.arange(80))._candidates(query, None)
    torch.testing.assert_close(restless.times, torch.from_numpy(times[..., 0]).float())
    assert calm.jump.float().mean() < restless.jump.float().mean()
    assert (calm.distances.double().sum(0) >= torch.from_numpy(distances[..., 0]).sum(0) - 1e-5).all()


def test_stride_of_the_evaluation_changes_nothing():
    r = ViterbiRetriever("smpl").fit(walk(50), torch.arange(50))
    found = r.retrieve(walk(40, seed=1))
    some = found[::5]
    assert torch.equal(some.times, found.times[::5]) and torch.equal(some.fade, found.fade[::5]) and some.align


@pytest.mark.parametrize("latency", [0, 2, 40])
def test_live_is_retrieve_with_that_latency(latency):
    query = walk(25, seed=1)
    r = ViterbiRetriever("smpl", latency=latency).fit(walk(50), torch.arange(50))
    live = r.live()
    rows = [live.push(pose) for pose in query]
    assert [row is not None for row in rows] == [q >= latency for q in range(25)]
    rows = [row for row in rows if row is not None] + live.finish()
    found = r.retrieve(query)
    for name in ("times", "previous", "distances", "neighbours", "fade"):
        stacked = torch.cat([getattr(row, name) for row in rows])
        torch.testing.assert_close(stacked, getattr(found, name), equal_nan=True, msg=name)
    if latency == 40:
        whole = ViterbiRetriever("smpl").fit(walk(50), torch.arange(50)).retrieve(query)
        assert torch.equal(whole.times, found.times)


@pytest.mark.parametrize("geodesic", [True, False])
def test_heading_does_not_count(geodesic):
    theta, query = walk(50), walk(30, seed=1)
    elsewhere = turned(query, torch.full((30,), 2.0))
    free = ViterbiRetriever("smpl", geodesic=geodesic).fit(theta, torch.arange(50))
    assert free.up.tolist() == UP
    torch.testing.assert_close(free._embedding(elsewhere), free._embedding(query), atol=2e-5, rtol=0)
    assert (free.retrieve(elsewhere).times - free.retrieve(query).times).abs().max() < 1e-2
    bound = ViterbiRetriever("smpl", geodesic=geodesic, heading_free=False).fit(theta, torch.arange(50))
    assert not torch.allclose(
        bound.retrieve(elsewhere).distances[:, 2], bound.retrieve(query).distances[:, 2], atol=0.1
    )


@pytest.mark.parametrize("up", [None, torch.tensor(UP)])
def test_embedding_with_history_is_that_of_the_whole(up):
    theta = walk(9)
    whole = rotation_embedding(theta, up=up)
    for history in (1, 2, 3):
        part = rotation_embedding(theta[4:], theta[4 - history : 4], up=up)
        torch.testing.assert_close(part[2:], whole[6:])
        if history > 1:
            torch.testing.assert_close(part, whole[4:])


def test_geodesic_distance_is_the_angle():
    a = torch.tensor([[[0.3, 0, 0]], [[math.pi - 0.1, 0, 0]]])
    b = torch.tensor([[[-0.2, 0, 0]], [[-math.pi + 0.1, 0, 0]]])  # 0.5 apart; 0.2 apart, the short way round
    still = [rotation_embedding(x[i : i + 1]) for i in (0, 1) for x in (a, b)]
    assert geodesic_distance(still[0], still[1]).item() == pytest.approx(0.5, abs=1e-5)
    assert geodesic_distance(still[2], still[3]).item() == pytest.approx(0.2, abs=1e-5)


def test_backends_agree_on_the_geodesic_distance():
    pytest.importorskip("faiss")
    bank, query = (rotation_embedding(walk(T, seed=s), up=torch.tensor(UP)) for T, s in ((600, 0), (20, 1)))
    exact, searched = (PartIndex(bank, range(5), b, geodesic_distance).search(query, 5) for b in ("torch", "faiss"))
    assert torch.equal(exact[1], searched[1])
    torch.testing.assert_close(exact[0], searched[0])


def test_up_is_told_from_upright_poses_or_asked_for():
    assert world_up(walk(40)).tolist() == UP
    lying = torch.zeros(4, 24, 3)
    lying[:, 0, 0] = math.pi / 4
    with pytest.raises(ValueError, match=r"retrieval.up=\[x,y,z\]"):
        ViterbiRetriever("smpl").fit(lying, torch.arange(4))


def test_hands_count_where_asked_for():
    theta = walk(40, "smplx")
    waving = theta.clone()
    waving[:, 25:40] = theta[:, 25:40].flip(0)
    plain, hands = (ViterbiRetriever("smplx", hands=h).fit(theta, torch.arange(40)) for h in (False, True))
    assert torch.equal(plain.retrieve(theta).times, plain.retrieve(waving).times)
    changed = (hands.retrieve(theta).distances != hands.retrieve(waving).distances).any(0)
    assert changed.tolist() == [False, False, False, True, False]


def test_times_between_frames():
    theta, quarter = torch.zeros(41, 24, 3), torch.zeros(9, 24, 3)
    theta[:, 1:, 0] = 0.02 * torch.arange(41)[:, None]
    quarter[:, 1:, 0] = 0.02 * (10.25 + torch.arange(9))[:, None]
    for geodesic in (True, False):
        r = ViterbiRetriever("smpl", geodesic=geodesic).fit(theta, torch.arange(41))
        found = r.retrieve(quarter)
        torch.testing.assert_close(
            found.times[3:], (10.25 + torch.arange(3.0, 9))[:, None].expand(-1, 5), atol=0.02, rtol=0
        )
        assert (found.distances[3:] < 1e-3).all()
        gaps = torch.tensor([t < 12 or t > 30 for t in range(41)])
        found = ViterbiRetriever("smpl", geodesic=geodesic).fit(theta, torch.arange(41), bank=gaps).retrieve(quarter)
        assert ((found.times <= 11.5) | (found.times >= 30.5)).all(), "nothing is known within the gap"


def test_a_fade_takes_several_frames_and_the_old_time_plays_on():
    import numpy as np

    fade = CrossFade(2, 2, 1.0, 0.0, 99.0)
    times = [(10, False), (40, True), (41, False), (42, False), (97, True), (20, True), (21, False), (22, False)]
    rows = [fade(np.array([float(t), 50.0 + q]), np.array([j, False])) for q, (t, j) in enumerate(times)]
    previous, share = (np.stack(x) for x in zip(*rows))
    np.testing.assert_allclose(previous[:, 0], [np.nan, 11, 12, np.nan, 43, 44, 45, np.nan])
    np.testing.assert_allclose(share[:, 0], [0, 2 / 3, 1 / 3, 0, 2 / 3, 2 / 3, 1 / 3, 0])
    assert np.isnan(previous[:, 1]).all() and not share[:, 1].any()
    none = CrossFade(0, 1, 1.0, 0.0, 9.0)
    assert np.isnan(none(np.array([3.0]), np.array([True]))[0]).all()


def test_covariances_stay_positive_where_signs_oppose():
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 5, 200, 4, generator=g, dtype=torch.float64)
    weights = torch.rand(1, 200, 5, generator=g, dtype=torch.float64)
    weights[:, :50] = 0.2
    weights = weights / weights.sum(-1, keepdim=True)
    jump, share = torch.ones(1, 5, dtype=torch.bool), torch.full((1, 5), 0.5, dtype=torch.float64)
    (published,) = blend((q,), (-q,), jump, weights, share)
    (aligned,) = blend((q,), (-q,), jump, weights, share, align=0)
    assert published.norm(dim=-1).max() < 1e-12, "half of q and half of -q: no rotation is left"
    assert aligned.norm(dim=-1).min() > 0.05
    scale = 0.01 + torch.rand(1, 200, 3, generator=g, dtype=torch.float64)
    six = covariance_from_scale_rotation(scale, aligned, torch.eye(3, dtype=torch.float64).expand(1, 200, 3, 3))
    full = six[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))
    eigenvalues = torch.linalg.eigvalsh(full)
    torch.testing.assert_close(eigenvalues, scale.square().sort(-1).values)
    (same,) = blend(
        (q[:, :1].expand(-1, 5, -1, -1),), (-q[:, :1].expand(-1, 5, -1, -1),), jump, weights, share, align=0
    )
    cosine = torch.nn.functional.cosine_similarity(same, q[:, 0], dim=-1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_refusals():
    with pytest.raises(ValueError, match="SMPL-X"):
        ViterbiRetriever("smpl", hands=True)
    with pytest.raises(ValueError, match="k = 0"):
        ViterbiRetriever("smpl", k=0)
    with pytest.raises(ValueError, match="latency = -1"):
        ViterbiRetriever("smpl", latency=-1)
    with pytest.raises(ValueError, match="direction"):
        ViterbiRetriever("smpl", up=[0, 0, 0])
    r = ViterbiRetriever("smpl")
    with pytest.raises(RuntimeError, match="fit"):
        r.retrieve(walk(3))
    with pytest.raises(ValueError, match=r"\[T, 24, 3\] for smpl"):
        r.fit(walk(3, "smplx"), torch.arange(3))
    r.fit(walk(9), torch.arange(9))
    broken = walk(9)
    broken[4, 7] = torch.nan
    with pytest.raises(ValueError, match="query poses are not finite at row 4"):
        r.retrieve(broken)
    with pytest.raises(ValueError, match="no recorded frames"):
        ViterbiRetriever("smpl").fit(walk(0), torch.arange(0))
