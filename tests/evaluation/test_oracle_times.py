"""The best recorded times, found in images that are a known function of the times."""

from types import SimpleNamespace

import pytest
import torch

from r3avatar.evaluation import oracle_times
from r3avatar.evaluation.oracle_times import OracleTimes
from r3avatar.types import Cameras

TIMES = torch.arange(10, 16)


class FakePlayback:
    """Five grey stripes, one a part, as bright as the part's time says; the views differ in size."""

    avatar = SimpleNamespace(dressed=lambda pose, frames: pose)

    def __init__(self):
        self.rendered = []  # frames of every call

    def retrieved(self, pose, retrieved, cameras):
        assert not retrieved.jump.any()
        return self._draw(pose, retrieved.times, cameras)

    def recorded(self, pose, times, cameras):
        return self._draw(pose, times[:, None].expand(-1, 5), cameras)

    def _draw(self, pose, times, cameras):
        assert pose.shape == (len(times), 1) and cameras.K.shape[:2] == (len(times), 2)
        self.rendered.append(len(times))
        return SimpleNamespace(rgb=((times - 10) / 10)[:, None, None, :, None].expand(-1, 2, cameras.height, 5, 3))


class FakeBatch(SimpleNamespace):
    def to(self, device):
        return self


def batches(wanted):
    """Two batches a frame (image heights 3 and 4) whose truth has the parts at `wanted` [Q, 5]."""
    for q, times in enumerate(wanted):
        for height in (3, 4):
            rgb = ((torch.tensor(times) - 10.0) * 25.5).round().to(torch.uint8)[None, None, None, :, None]
            rgb = rgb.expand(1, 2, height, 5, 3)
            cameras = Cameras(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 4, 4), 5, height)
            yield FakeBatch(frame=torch.tensor([60 + 2 * q]), pose=torch.zeros(1, 1), cameras=cameras, rgb=rgb)


def search(wanted, bank=None, **options):
    oracle = OracleTimes("smpl", **options).fit(torch.zeros(6, 24, 3), TIMES, bank)
    playback = FakePlayback()
    found, rows = oracle.search(playback, batches(wanted), torch.device("cpu"))
    return found, rows, playback.rendered


def test_one_time_for_the_whole_body():
    found, rows, rendered = search([[12] * 5, [15] * 5], per_part=0)
    assert found.times.tolist() == [[12] * 5, [15] * 5] and rows == {60: 0, 62: 1}
    assert rendered == [6] * 4 and found.distances.max() < 0.01  # frames x sizes, all candidates at once


def test_parts_are_refined():
    wanted = [[12, 12, 13, 11, 12], [10, 15, 12, 13, 14]]
    found, _, _ = search(wanted, per_part=6)
    assert found.times.tolist() == wanted and not found.jump.any()
    coarse, _, _ = search(wanted, per_part=2)
    whole, _, _ = search(wanted, per_part=0)
    assert (found.distances <= coarse.distances).all() and (coarse.distances <= whole.distances).all()


def test_however_many_are_rendered_at_once(monkeypatch):
    wanted = [[12, 12, 13, 11, 12], [10, 15, 12, 13, 14]]
    expected, _, _ = search(wanted, per_part=4)
    monkeypatch.setattr(oracle_times, "_IMAGES", 8)
    found, _, rendered = search(wanted, per_part=4)
    assert torch.equal(found.times, expected.times) and set(rendered) == {4}, "the last call is filled up"
    torch.testing.assert_close(found.distances, expected.distances)


def test_only_frames_with_images_are_tried():
    bank = torch.tensor([1, 0, 1, 0, 1, 1]).bool()
    found, _, _ = search([[15] * 5], bank, per_part=0)
    assert found.times.tolist() == [[15] * 5]
    found, _, _ = search([[15] * 5], bank, per_part=0, every=2)
    assert found.times.tolist() == [[14] * 5]


def test_refusals():
    with pytest.raises(ValueError, match="every = 0"):
        OracleTimes("smpl", every=0)
    with pytest.raises(RuntimeError, match="fit"):
        OracleTimes("smpl").search(FakePlayback(), [], torch.device("cpu"))
    with pytest.raises(ValueError, match="r3avatar evaluate run=DIR retrieval=oracle"):
        OracleTimes("smpl").fit(torch.zeros(6, 24, 3), TIMES).retrieve(torch.zeros(3, 24, 3))
    with pytest.raises(ValueError, match="all false"):
        OracleTimes("smpl").fit(torch.zeros(6, 24, 3), TIMES, torch.zeros(6, dtype=torch.bool))
