import pytest
import torch

from r3avatar.retrieval.blending import blend, part_weights


def outputs(F=3, N=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {q: torch.randn(F, 5, N, c, generator=g, dtype=torch.float64) for q, c in (("offset", 3), ("logit", 1))}


def weights(F=3, N=7, J=55):
    g = torch.Generator().manual_seed(2)
    return torch.rand(F, N, J, generator=g, dtype=torch.float64).softmax(-1)


def test_frames_are_independent_and_parts_mix():
    now, then, w = outputs(), outputs(seed=1), part_weights(weights(), "smplx")
    jump = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    found = blend(now, then, jump, w)
    for f in range(3):
        for q, value in found.items():
            expected = 0
            for p in range(5):
                part = (2 * now[q][f, p] + then[q][f, p]) / 3 if jump[f, p] else now[q][f, p]
                expected = expected + w[f, :, p, None] * part
            torch.testing.assert_close(value[f], expected)
    assert list(found) == ["offset", "logit"]
    as_tuple = blend(tuple(now.values()), tuple(then.values()), jump, w)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[1], found["logit"])


def test_previous_is_read_only_where_a_part_jumped():
    now, w = outputs(), part_weights(weights(), "smplx")
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    broken = {q: torch.full_like(v, torch.nan) for q, v in now.items()}
    for q, value in blend(now, broken, nothing, w).items():
        assert torch.equal(value, blend(now, None, nothing, w)[q]) and value.isfinite().all()


def test_part_weights_sum_to_one():
    assert torch.allclose(part_weights(weights(), "smplx").sum(-1), torch.ones(3, 7, dtype=torch.float64))
    assert part_weights(weights(J=24), "smpl").shape == (3, 7, 5)


def test_refusals():
    with pytest.raises(ValueError, match="55"):
        part_weights(weights(J=24), "smplx")
    with pytest.raises(ValueError, match=r"\[F, 5, N, c\]"):
        blend((torch.zeros(1, 4, 2, 3),), None, torch.zeros(1, 4).bool(), torch.zeros(1, 2, 4))
