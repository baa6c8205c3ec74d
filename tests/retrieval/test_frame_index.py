"""An index of several captures: exact and approximate, appended to, opened again, and mapped back to frames."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from r3avatar.retrieval import neighbour_indices
from r3avatar.retrieval.frame_index import FrameIndex
from r3avatar.retrieval.retrieved import RetrievalError

faiss_only = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
UP = [0, 1, 0]


def walk(T, seed):
    g = torch.Generator().manual_seed(seed)
    phase = torch.arange(T)[:, None, None] * 0.21 + torch.rand(1, 24, 3, generator=g) * 6
    theta = 0.4 * torch.sin(phase * (1 + torch.arange(3) / 7))
    theta[:, 0] *= 0.2
    return theta


@pytest.fixture
def index(tmp_path):
    index = FrameIndex.create(tmp_path / "index", "smpl")
    index.append("first", walk(300, 0), range(300), UP)
    index.append("second", walk(200, 1), [*range(10, 110), *range(150, 250)], UP)
    return index


def test_exact_finds_every_frame_where_it_was_recorded(index):
    assert index.build()["method"] == "exact" and index.built["recall"] == 1
    again = FrameIndex(index.folder)
    assert len(again) == 500 and again.captures == ["first", "second"] and isinstance(again.embedding, np.memmap)
    found = again.search(walk(200, 1)[:100], k=5, up=UP)
    assert (found.captures[..., 0] == 1).all() and found.distances[..., 0].max() < 1e-3
    np.testing.assert_array_equal(found.frames[:, 0, 0], np.arange(10, 110))
    assert found.rows.shape == (100, 5, 5) and (np.diff(found.distances) >= 0).all()
    assert again.where(np.array([0, 299, 300, 400, 499, -1]))[1].tolist() == [0, 299, 10, 150, 249, -1]


@faiss_only
@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_approximate_states_its_recall_and_takes_more(index, method):
    report = index.build(method, probes=8, queries=20)
    assert report["recall"] > 0.9, report
    index.append("third", walk(150, 2), range(150), UP)
    assert FrameIndex(index.folder).built["recall"] is None, "measured before these frames were there"
    again = FrameIndex(index.folder)
    found = again.search(walk(150, 2), k=20, up=UP)
    assert (found.captures[..., 0] == 2).mean() > 0.95
    exact = FrameIndex(index.folder)
    exact.build("exact")
    expected = exact.search(walk(150, 2), k=20, up=UP)
    hits = [len(set(a) & set(b)) / 20 for a, b in zip(found.rows.reshape(-1, 20), expected.rows.reshape(-1, 20))]
    assert np.mean(hits) > 0.85


def test_where_people_face_does_not_count(index):
    from r3avatar.retrieval.embedding import axis_angle_to_quaternion, quaternion_product, quaternion_to_axis_angle

    index.build()
    query = walk(200, 1)[:50]
    turned = query.clone()
    turn = axis_angle_to_quaternion(torch.tensor([[0.0, 2.0, 0.0]]))
    turned[:, 0] = quaternion_to_axis_angle(quaternion_product(turn, axis_angle_to_quaternion(query[:, 0])))
    np.testing.assert_allclose(index.search(turned, up=UP).distances, index.search(query, up=UP).distances, atol=1e-3)


def test_an_append_that_was_cut_off_leaves_nothing(index):
    with open(index.folder / "embedding.f32", "ab") as file:
        file.write(b"half a row")
    again = FrameIndex(index.folder)
    again.append("third", walk(30, 2), range(30), UP)
    assert len(again) == 530 and again.embedding.nbytes == (again.folder / "embedding.f32").stat().st_size
    again.build()
    assert (again.search(walk(30, 2), k=1, up=UP).captures == 2).all()


@faiss_only
def test_auto_goes_approximate_where_exact_does_not_fit(index):
    assert index.build(exact_gib=1e-4, queries=5)["method"] == "ivf"


def test_refusals(index, tmp_path, monkeypatch):
    with pytest.raises(RetrievalError, match="not built"):
        index.search(walk(3, 0), up=UP)
    with pytest.raises(RetrievalError, match="'first' already"):
        index.append("first", walk(3, 0), range(3), UP)
    with pytest.raises(ValueError, match=r"\[T, 24, 3\]"):
        index.append("x", torch.zeros(3, 55, 3), range(3), UP)
    with pytest.raises(ValueError, match="ascend"):
        index.append("x", walk(3, 0), [0, 2, 1], UP)
    broken = walk(3, 0)
    broken[1, 4] = torch.nan
    with pytest.raises(ValueError, match="frame 8 is not finite"):
        index.append("x", broken, [7, 8, 9], UP)
    with pytest.raises(FileExistsError, match="already"):
        FrameIndex.create(index.folder, "smpl")
    with pytest.raises(RetrievalError, match="no frame index"):
        FrameIndex(tmp_path)
    with pytest.raises(RetrievalError, match="no frames yet"):
        FrameIndex.create(tmp_path / "empty", "smpl").build()
    with pytest.raises(ValueError, match="'annoy'"):
        index.build("annoy")
    index.build("exact")
    with pytest.raises(RetrievalError, match="ivf"):
        FrameIndex(index.folder, gpu=True).search(walk(3, 0), up=UP)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "index.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(RetrievalError, match="version 0"):
        FrameIndex(tmp_path / "old")


@faiss_only
def test_a_gpu_index_without_faiss_gpu_says_what_is_missing(index):
    import faiss

    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("faiss-gpu is installed")
    index.build("ivf", queries=2)
    with pytest.raises(ModuleNotFoundError, match="faiss-gpu"):
        neighbour_indices.load(index.folder / "centre.faiss", gpu=True)


def test_the_tool_on_pose_files(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        np.savez(tmp_path / f"{name}.npz", theta=walk(40, seed).numpy(), frames=np.arange(100, 140))
    tool = Path(__file__).parents[2] / "tools" / "frame_index.py"

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, tool, *arguments, "--up", "0", "1", "0"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "80 frames of 2 captures (smpl), built: None" in run("append", "index", "a.npz", "b.npz")
    assert "'exact'" in run("build", "index")
    assert "| 117 | left arm | b 117 (0.000) | " in run("query", "index", "b.npz", "--frames", "117", "-k", "2")
