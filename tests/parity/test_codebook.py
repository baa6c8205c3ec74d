"""codebook.npz: plane features, decoder, normalisation."""

import numpy as np
import pytest
import torch

from r3avatar.avatar.codebook import PAIRS, TemporalCodebook, box_around
from r3avatar.avatar.decoder import AttributeDecoder

NAMES = "xyzt"


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_features(oracle, parity, backend):
    z = oracle("codebook")
    codebook = TemporalCodebook(torch.tensor([[-1.0] * 3, [1.0] * 3]), 100, (8, 16, 32), 5, 4, backend=backend)
    # The oracle's planes have another resolution along each axis; the kernels take any layout.
    rows, layout, offset = [], [], 0
    for m in (1, 2, 4):
        for a, b in PAIRS:
            plane = z[f"plane_s{m}_{NAMES[a]}{NAMES[b]}"]
            layout.append((offset, *plane.shape[1:]))
            rows.append(plane.transpose(1, 2, 0).reshape(-1, 4))
            offset += rows[-1].shape[0]
    codebook.layout = torch.tensor(layout).reshape(3, 6, 3)
    codebook._shapes = [(h, w) for _, h, w in layout]
    codebook.planes = torch.nn.Parameter(torch.from_numpy(np.concatenate(rows)))
    query = torch.from_numpy(z["query"])
    features = codebook.sample(query[:, :3].contiguous(), query[:, 3].contiguous())  # every point at every time
    features = features[torch.arange(64), torch.arange(64)].detach().numpy()
    error = (np.abs(features - z["features"]) / np.maximum(1, np.abs(z["features"]))).max()
    parity("codebook", f"features (relative, {backend})", error, 1e-5)


def test_decoder(oracle, parity):
    z = oracle("codebook")
    decoder = AttributeDecoder(12, 16)
    for name in ("hidden1", "hidden2"):
        getattr(decoder, name).weight.data = torch.from_numpy(z[f"{name}_weight"])
        getattr(decoder, name).bias.data = torch.from_numpy(z[f"{name}_bias"])
    for name in ("offset", "opacity", "scale", "rotation"):
        getattr(decoder, name).weight.data = torch.from_numpy(z[f"head_{name}_weight"])
        getattr(decoder, name).bias.data = torch.from_numpy(z[f"head_{name}_bias"])
    out = decoder(torch.from_numpy(z["features"])[None])
    for name, stored in dict(
        offset="offset", opacity_logit="opacity_logit", scale="scale", rotation="rotation"
    ).items():
        expected = z[f"out_{stored}"]
        found = getattr(out, name)[0].detach().numpy()
        error = (np.abs(found - expected) / np.maximum(1, np.abs(expected))).max()
        parity("codebook", f"decoder {name} (relative)", error, 2e-5)


def test_normalisation(oracle, parity):
    z = oracle("codebook")
    codebook = TemporalCodebook(torch.from_numpy(z["norm_aabb"]), 100, (4,), 2, 1)
    found = codebook.normalise_points(torch.from_numpy(z["norm_points"])).numpy()
    parity("codebook", "points to the box", np.abs(found - z["norm_result"]).max(), 1e-6)
    box = box_around(torch.from_numpy(z["aabb_cloud"])).numpy()
    parity("codebook", "box around points", np.abs(box - z["aabb_from_cloud"]).max(), 1e-6)
    for half in (50, 75, 150):
        codebook = TemporalCodebook(torch.from_numpy(z["norm_aabb"]), 2.0 * half, (4,), 2, 1)
        found = codebook.normalise_times(torch.from_numpy(z["time_frames"]).float()).numpy()
        parity("codebook", f"time, T={2 * half}", np.abs(found - z[f"time_norm_half{half}"]).max(), 1e-6)
