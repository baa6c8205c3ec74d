import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r3avatar.retrieval import index
from r3avatar.retrieval.index import PartIndex, pose_distance, resolve_backend

faiss_only = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
JOINTS = (0, 2, 3)


def bank(T, seed, smooth=False, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(T, 4, 9, generator=g, dtype=torch.float64)
    return (x.cumsum(0) if smooth else x).to(dtype)


def by_hand(bank, query, k):
    distances = (bank[None, :, list(JOINTS)] - query[:, None, list(JOINTS)]).norm(dim=-1).mean(-1)
    return distances.sort(dim=-1).values[:, :k]


@faiss_only
@settings(max_examples=40, deadline=None)
@given(T=st.integers(1, 400), Q=st.integers(0, 12), k=st.integers(1, 20), seed=st.integers(0, 99), smooth=st.booleans(),
       duplicates=st.booleans(), double=st.booleans())  # fmt: skip
def test_faiss_equals_torch(T, Q, k, seed, smooth, duplicates, double):
    dtype = torch.float64 if double else torch.float32
    b, q = bank(T, seed, smooth, dtype), bank(Q, seed + 1, smooth, dtype)
    if duplicates:  # ties everywhere, and exact hits
        b = b[torch.randint(0, max(1, T // 3), (T,), generator=torch.Generator().manual_seed(seed))]
        q = b[: min(Q, T)]
    d_faiss, i_faiss = PartIndex(b, JOINTS, "faiss").search(q, k)
    d_torch, i_torch = PartIndex(b, JOINTS, "torch").search(q, k)
    assert torch.equal(i_faiss, i_torch)
    assert torch.equal(d_faiss, d_torch)
    assert d_torch.shape == (len(q), min(k, T)) and d_torch.dtype == dtype
    torch.testing.assert_close(d_torch, by_hand(b, q, k))
    ties = d_torch.diff(dim=-1) == 0
    assert (i_torch.diff(dim=-1)[ties] > 0).all()


@faiss_only
def test_one_far_joint_defeats_plain_l2_but_not_the_index():
    """Frames whose L2 rank is poor and whose mean of norms is best: only widening the candidates finds them."""
    query = torch.zeros(1, 4, 9)
    near = torch.zeros(200, 4, 9)
    near[:, :, 0] = torch.linspace(1.00, 1.05, 200)[:, None]  # every joint 1 away: L2 sqrt(3), mean 1
    spike = torch.zeros(5, 4, 9)
    spike[:, 0, 0] = torch.linspace(2.5, 2.6, 5)  # one joint 2.5 away: L2 2.5, mean 0.83
    b = torch.cat([near, spike])
    _, ids = PartIndex(b, JOINTS, "faiss").search(query, 5)
    assert ids.tolist() == [[200, 201, 202, 203, 204]]


@faiss_only
def test_far_from_the_origin():
    """faiss's float32 cancellation must not cost exactness."""
    b = bank(300, 3) * 1e-3 + 50
    q = bank(30, 4) * 1e-3 + 50
    assert torch.equal(PartIndex(b, JOINTS, "faiss").search(q, 20)[1], PartIndex(b, JOINTS, "torch").search(q, 20)[1])


@settings(max_examples=15, deadline=None)
@given(T=st.integers(1, 60), seed=st.integers(0, 99))
def test_order_of_recorded_frames_does_not_matter(T, seed):
    b, q = bank(T, seed), bank(5, seed + 1)
    permutation = torch.randperm(T, generator=torch.Generator().manual_seed(seed))
    d, i = PartIndex(b, JOINTS, "torch").search(q, 7)
    d_permuted, i_permuted = PartIndex(b[permutation], JOINTS, "torch").search(q, 7)
    assert torch.equal(d, d_permuted) and torch.equal(permutation[i_permuted], i)


def test_chunks_do_not_change_the_answer(monkeypatch):
    b, q = bank(50, 0), bank(23, 1)
    d, i = PartIndex(b, JOINTS, "torch").search(q, 9)
    monkeypatch.setattr(index, "_CHUNK_ELEMENTS", 5 * 50 * 3 * 9)
    for backend in ("torch", *(["faiss"] if importlib.util.find_spec("faiss") else [])):
        found = PartIndex(b, JOINTS, backend).search(q, 9)
        assert torch.equal(found[0], d) and torch.equal(found[1], i)


def test_distance_bounds():
    a, b = bank(20, 0), bank(20, 1)
    together, mean = (a - b).flatten(1).norm(dim=1), pose_distance(a, b)
    assert (together / 4 <= mean + 1e-6).all() and (mean <= together / 2 + 1e-6).all()


def test_backends(monkeypatch, caplog):
    with pytest.raises(ValueError, match="annoy"):
        resolve_backend("annoy")
    monkeypatch.setattr(index.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("INFO"):
        assert resolve_backend("auto") == "torch"
    assert "torch" in caplog.text
    with pytest.raises(ModuleNotFoundError, match=r"r3avatar\[faiss\]"):
        resolve_backend("faiss")


def test_refusals():
    with pytest.raises(ValueError, match="at least one"):
        PartIndex(bank(0, 0), JOINTS, "torch")
    broken = bank(5, 0)
    broken[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="row 3"):
        PartIndex(broken, JOINTS, "torch")
    with pytest.raises(ValueError, match="J' > 3"):
        PartIndex(bank(5, 0)[:, :3], JOINTS, "torch")
    with pytest.raises(ValueError, match="k must be"):
        PartIndex(bank(5, 0), JOINTS, "torch").search(bank(1, 0), 0)
