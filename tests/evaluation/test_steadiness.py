import pytest
import torch

from r3avatar.evaluation.steadiness import Steadiness


def clip(T=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(T, 6, 7, 3, generator=g), torch.rand(T, 6, 7, generator=g) > 0.5


def steadiness(renders, truths, masks, frames, stride=1):
    found = Steadiness(stride)
    for row in zip(frames, renders, truths, masks):
        found.add("view", *row)
    return found.result()


def test_by_hand():
    truth, mask = clip()
    render, _ = clip(seed=1)
    wrong = right = 0.0
    for t in range(1, 5):
        person = mask[t] | mask[t - 1]
        wrong += ((render[t] - render[t - 1]) - (truth[t] - truth[t - 1]))[person].abs().sum().item()
        right += (truth[t] - truth[t - 1])[person].abs().sum().item()
    found = steadiness(render, truth, mask, range(5))
    assert found["error"] == pytest.approx(wrong / right) and found["pairs"] == 4 and found["stride"] == 1


def test_what_stays_wrong_is_steady_and_a_still_picture_is_one():
    truth, mask = clip()
    assert steadiness(truth + 0.25, truth, mask, range(5))["error"] == pytest.approx(0, abs=1e-5)
    assert steadiness(truth[:1].expand(5, -1, -1, -1), truth, mask, range(5))["error"] == pytest.approx(1)
    outside = torch.where(mask[..., None].any(0), truth, torch.rand_like(truth))
    assert steadiness(outside, truth, mask.any(0).expand(5, -1, -1), range(5))["error"] == 0


def test_only_neighbours_in_the_stride_are_pairs():
    truth, mask = clip()
    assert steadiness(truth, truth, mask, [0, 2, 4, 10, 12], stride=2)["pairs"] == 3
    assert steadiness(truth[:1], truth[:1], mask[:1], [0]) == {"error": None, "pairs": 0, "stride": 1}
    still = truth[:1].expand(5, -1, -1, -1)
    assert steadiness(truth, still, mask, range(5))["error"] is None
    two = Steadiness(1)
    for frame in (0, 1):
        for view in range(2):
            two.add(view, frame, truth[frame + view], truth[frame + view], mask[0])
    assert two.result()["pairs"] == 2


def test_refusals():
    truth, mask = clip()
    with pytest.raises(ValueError, match="at least 1"):
        Steadiness(0)
    found = Steadiness(1)
    found.add(0, 0, truth[0], truth[0], mask[0])
    with pytest.raises(ValueError, match="view 0 is"):
        found.add(0, 1, truth[1, :3], truth[1, :3], mask[1, :3])
