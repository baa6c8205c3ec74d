"""The pruned search against measuring every frame."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r3avatar.retrieval.index import PartIndex, pose_distance
from r3avatar.retrieval.live_embedding import LiveEmbedding
from r3avatar.retrieval.pruned_search import PrunedSearch
from r3avatar.retrieval.rotation_embedding import geodesic_distance, rotation_embedding

PARTS = ((0, 2), (1, 3, 4), (5,))
SLOTS = [joint for part in PARTS for joint in part]


def by_hand(bank, query, part, k, distance):
    every = distance(query[None, list(part)].double(), bank[:, list(part)].double())
    order = every.sort(stable=True)
    return order.values[:k].numpy(), order.indices[:k].numpy()


@settings(max_examples=60, deadline=None)
@given(T=st.integers(1, 1500), k=st.integers(1, 40), seed=st.integers(0, 999), angles=st.booleans(),
       kind=st.sampled_from(["noise", "walk", "duplicates", "far"]), advance=st.integers(0, 1))  # fmt: skip
def test_every_query_of_a_sequence_finds_what_measuring_all_finds(T, k, seed, angles, kind, advance):
    g = torch.Generator().manual_seed(seed)
    theta = torch.randn(T + 8, 6, 3, generator=g) * 0.8
    if kind == "walk":
        theta = 0.1 * theta.cumsum(0)
    if angles:
        both, distance = rotation_embedding(theta), geodesic_distance
    else:
        both, distance = torch.cat([theta, theta.roll(1, 0), theta.roll(2, 0)], -1), pose_distance
    if kind == "far" and not angles:
        both = 1e-3 * both + 50
    bank, queries = both[:T], both[T:]
    if kind == "duplicates":  # ties everywhere, and exact hits
        bank = bank[torch.randint(0, max(1, T // 5), (T,), generator=g)]
        queries = torch.cat([bank[:3], queries])
    search = PrunedSearch(bank[:, SLOTS].contiguous().numpy(), [len(part) for part in PARTS], angles, advance)
    for query in queries:
        distances, rows = search.search(query[SLOTS].numpy(), k)
        assert distances.shape == rows.shape == (3, min(k, T))
        for p, part in enumerate(PARTS):
            expected, ids = by_hand(bank, query, part, k, distance)
            np.testing.assert_allclose(distances[p], expected, rtol=1e-12, atol=1e-12)
            differ = rows[p] != ids  # only where float64 itself cannot tell
            np.testing.assert_allclose(distances[p][differ], expected[differ], rtol=1e-13)
            assert len(set(rows[p])) == len(rows[p])
            exact_ties = np.diff(distances[p]) == 0
            assert (np.diff(rows[p])[exact_ties] > 0).all()


def test_little_is_measured_and_the_index_agrees():
    g = torch.Generator().manual_seed(0)
    phase = 0.1 * torch.arange(20_000)[:, None, None] + 6 * torch.rand(1, 6, 3, generator=g)
    theta = 0.4 * torch.sin(phase * (1 + torch.arange(3) / 7)) + 0.002 * torch.randn(20_000, 6, 3, generator=g).cumsum(
        0
    )
    embedding = rotation_embedding(theta, geodesic=False)
    bank = embedding[:19_000]
    search = PrunedSearch(bank[:, SLOTS].contiguous().numpy(), [2, 3, 1])
    for query in embedding[19_000:19_020]:
        distances, rows = search.search(query[SLOTS].numpy(), 20)
        for p, part in enumerate(PARTS):
            d, i = PartIndex(bank, part, "torch").search(query[None], 20)
            np.testing.assert_allclose(distances[p], d[0].numpy(), atol=1e-6)
            assert (rows[p] == i[0].numpy()).mean() > 0.9  # float32 swaps near ties
    assert search.measured < 0.05


@pytest.mark.parametrize("geodesic", [True, False])
@pytest.mark.parametrize("up", [None, torch.tensor([0.0, 0.0, 1.0])])
def test_live_embedding_is_that_of_the_sequence(geodesic, up):
    theta = torch.randn(9, 7, 3, generator=torch.Generator().manual_seed(1)) * 1.5
    theta[4] = 0
    live = LiveEmbedding(5, geodesic, None if up is None else up.numpy())
    expected = rotation_embedding(theta[:, :5], geodesic=geodesic, up=up)
    for _ in range(2):
        found = np.stack([live(pose.numpy()) for pose in theta])
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=2e-5, rtol=0)
        live.forget()


def test_refusals():
    with pytest.raises(ValueError, match="at least one"):
        PrunedSearch(np.zeros((0, 3, 9), np.float32), [3])
    with pytest.raises(ValueError, match="its parts have"):
        PrunedSearch(np.zeros((2, 3, 9), np.float32), [2])
