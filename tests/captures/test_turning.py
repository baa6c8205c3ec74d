"""Every reader's poses know how the root has been turning, and so do batches and recordings."""

import copy
from dataclasses import replace

import pytest
import torch

from r3avatar.captures import Mend, Recording, body_bounds, crop_batch, full_batch, write_recording
from r3avatar.captures.device_frames import training_batches
from r3avatar.captures.prepared_frame import DirectFrames
from r3avatar.turning import root_turning

from .small_captures import LAYOUTS


@pytest.fixture(scope="module", params=LAYOUTS)
def opened(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    LAYOUTS[request.param].write(root)
    return LAYOUTS[request.param].open(root)


def _turning(capture):
    return root_turning(capture.poses.R, capture.poses.theta[:, 0], capture.frame_ids)


def test_every_reader_finds_it(opened):
    turning = opened.poses.turning
    assert turning.dtype == torch.float32 and torch.equal(turning, _turning(opened))
    assert turning.abs().amax(0).min() > 0.01


class _Stick:
    """A body of two points, at the place of any pose."""

    def vertices(self, pose):
        return pose.Th[:, None] + torch.tensor([[-0.3, -0.6, -0.3], [0.3, 0.6, 0.3]])


def test_batches_of_host_and_device_carry_it(opened):
    split = opened.split("train")
    frames = [opened.frame_index(frame) for frame in split.frames]
    cameras = [opened.camera_index(camera) for camera in split.cameras]
    source = DirectFrames(opened, body_bounds(_Stick(), opened.poses, 0.1))
    steps = [([1, 0], [[0], [1]]), ([0, 1], [[1], [0]])]
    expected = [opened.poses.turning[[frames[f] for f in chosen]] for chosen, _ in steps]
    for (chosen, views), turning in zip(steps, expected, strict=True):
        rows, seen = [frames[f] for f in chosen], [[cameras[v] for v in row] for row in views]
        assert torch.equal(crop_batch(opened, source, rows, seen).pose.turning, turning)
        assert torch.equal(full_batch(opened, source, rows[0], seen[0]).pose.turning, turning[:1])
    for gib in (None, 0):  # resident, streamed
        batches = training_batches(opened, source, frames, cameras, steps, torch.device("cpu"), gib)
        for batch, turning in zip(batches, expected, strict=True):
            assert torch.equal(batch.pose.turning, turning)
    plain = copy.copy(opened)
    plain.poses = replace(opened.poses, turning=None)
    batches = training_batches(plain, source, frames, cameras, steps, torch.device("cpu"))
    assert [batch.pose.turning for batch in batches] == [None, None]


def test_a_recording_finds_the_same(opened, tmp_path):
    path = write_recording(tmp_path / "recording.npz", opened)
    assert torch.equal(Recording(path).poses.turning, opened.poses.turning)


def test_mended_poses_with_a_gap(tmp_path):
    """Moved by a frame, about another point: turning belongs to the poses. Where one is missing it begins anew."""
    LAYOUTS["FolderCapture"].write(tmp_path)
    capture = LAYOUTS["FolderCapture"].open(tmp_path)
    read, frames = capture.poses.turning, list(capture.frame_ids)
    capture.splits, capture.mend = {}, Mend(root="origin", frame_offset=-1)
    capture.mend_fits()
    assert capture.frame_ids == [frame + 1 for frame in frames] and not capture.poses.theta[:, 0].any()
    torch.testing.assert_close(capture.poses.turning, read, atol=1e-6, rtol=1e-5)
    capture.frame_ids[2:] = [frame + 3 for frame in capture.frame_ids[2:]]
    capture.mend = Mend()
    capture.mend_fits()
    assert torch.equal(capture.poses.turning, _turning(capture))
    assert torch.equal(capture.poses.turning[2:], root_turning(capture.poses.R[2:], capture.poses.theta[2:, 0]))
