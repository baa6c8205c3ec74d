"""Pose embedding, search and selected times against the authors' implementation."""

import numpy as np
import pytest
import torch

from r3avatar.retrieval.embedding import pose_embedding
from r3avatar.retrieval.index import PartIndex, pose_distance
from r3avatar.retrieval.parts import EMBEDDED_JOINTS, JOINTS, RETRIEVAL_JOINTS
from r3avatar.retrieval.retriever import Retriever


def error(found, expected) -> float:
    return float(np.abs(np.asarray(found) - expected).max())


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_embedding(oracle, parity, kind):
    z = oracle("retrieval")
    joints = EMBEDDED_JOINTS[kind]
    train = pose_embedding(torch.from_numpy(z["train_pose"][:, :joints]))
    query = torch.from_numpy(z["query_pose"][:, :joints])
    query = pose_embedding(query[2:], history=query[:2])
    for name, found in (("train", train), ("query", query)):
        rows = z[f"{kind}_{name}_embedding_frames"]
        parity("retrieval", f"{kind} {name} embedding", error(found[rows], z[f"{kind}_{name}_embedding"]), 2e-6)


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_search(oracle, parity, kind, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    z = oracle("retrieval")
    joints = EMBEDDED_JOINTS[kind]
    train = pose_embedding(torch.from_numpy(z["train_pose"][:, :joints]))
    query = torch.from_numpy(z["query_pose"][:, :joints])
    query = pose_embedding(query[2:], history=query[:2])
    parts = RETRIEVAL_JOINTS[kind]
    assert [list(part) for part in parts] == [[j for j in row if j >= 0] for row in z[f"{kind}_part_joints"]]
    every = torch.stack([pose_distance(query[:1, list(part)], train[:, list(part)]) for part in parts])
    parity("retrieval", f"{kind} distance to all frames", error(every, z[f"{kind}_distance_all_frame0"]), 2e-6)
    found = [PartIndex(train, part, backend).search(query, 20) for part in parts]
    distances, ids = (torch.stack(x, dim=1) for x in zip(*found))  # [Q, 5, 20]
    parity("retrieval", f"{kind} {backend} top-20 ids", error(ids, z[f"{kind}_top20_id"]), 0)
    parity("retrieval", f"{kind} {backend} top-20 distances", error(distances, z[f"{kind}_top20_distance"]), 2e-6)


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
def test_selected_times(oracle, parity, kind):
    z = oracle("retrieval")
    train = torch.from_numpy(z["train_pose"][:, : JOINTS[kind]])
    query = torch.from_numpy(z["query_pose"][:, : JOINTS[kind]])
    found = Retriever(kind).fit(train, torch.arange(100)).retrieve(query[2:], history=query[:2])
    previous = z[f"{kind}_jump_previous_time"]
    assert (found.jump.numpy() == (previous >= 0)).all()
    parity("retrieval", f"{kind} selected time", error(found.times, z[f"{kind}_selected_time"]), 1e-4)
    parity("retrieval", f"{kind} jump time", error(found.previous.nan_to_num(-1), previous), 1e-4)
    parity("retrieval", f"{kind} neighbours", error(found.neighbours, z[f"{kind}_neighbour_count"]), 0)
