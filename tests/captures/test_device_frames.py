"""Batches made on the device, resident or streamed: those of `crop_batch` with one constant size."""

import functools
import itertools
import logging
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from r3avatar.captures import CaptureDataModule, crop_batch
from r3avatar.captures.device_frames import DeviceFrames, ResidentBatches
from r3avatar.captures.frame_stream import FrameStream
from r3avatar.captures.gather import gather, gather_torch, pack
from r3avatar.captures.prepared_frame import PreparedFrame
from r3avatar.cuda_graphs import tensors_of
from r3avatar.triton_support import installed

MODES = {"resident": None, "streamed": 0}
gpu = functools.partial(pytest.param, marks=[
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
])  # fmt: skip
DEVICES = ["cpu", gpu("cuda:0")]
BACKENDS = ["torch", pytest.param("triton", marks=pytest.mark.skipif(not installed(), reason="needs triton"))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def _module(capture, body, cache, **keywords):
    return CaptureDataModule(capture, body, **{"cache": cache, "frames_per_step": 2, "views_per_step": 2, **keywords})


def _take(data, count):
    return list(itertools.islice(iter(data.train_dataloader()), count))


def _assert_equal(ours, expected):
    assert (ours.cameras.width, ours.cameras.height) == (expected.cameras.width, expected.cameras.height)
    for a, b in zip(tensors_of(ours), tensors_of(expected), strict=True):
        assert a.dtype == b.dtype and a.is_contiguous()
        assert torch.equal(a.cpu(), b)


def _expected(data, count):
    """The steps' batches by `crop_batch`, with the largest bound rectangle's size."""
    capture, split = data.capture, data.capture.split("train")
    cameras = [capture.camera_index(camera) for camera in split.cameras]
    bounds = np.array([data.source.get(c, f).bound for c in cameras for f in split.frames])
    size = tuple((-(-bounds[:, 2:].max(0) // 16) * 16).tolist())
    for frames, views in itertools.islice(data.schedule, count):
        yield crop_batch(capture, data.source, frames, [[cameras[v] for v in row] for row in views], size)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cached", [True, False])
def test_batches_are_those_of_the_host_at_one_size(capture, body, cache, mode, device, cached, caplog):
    data = _module(capture, body, cache if cached else "off", device=device, gpu_gib=MODES[mode])
    expected = list(_expected(data, 7))
    with caplog.at_level(logging.INFO):
        batches = _take(data, 7)
    for ours, theirs in zip(batches, expected, strict=True):
        assert ours.rgb.device == torch.device(device)
        _assert_equal(ours, theirs)
    assert data.schedule.position == 7
    message = (
        r"streaming to the .*: 6 frames, .* GiB, over cache.gpu_gib=0" if mode == "streamed" else ": 6 frames, .* on"
    )
    assert re.search(message, caplog.text), caplog.text


def test_the_frames_are_loaded_once(capture, body, cache):
    data = _module(capture, body, cache, device="cpu")
    first, second = (data.train_dataloader().batches for _ in range(2))
    assert isinstance(first, ResidentBatches) and second is first
    assert first.frames.pixels.numel() == sum(data.source.get(c, f).mask.size for c in (0, 1) for f in (0, 1, 2))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
@pytest.mark.parametrize("mode", MODES)
def test_files_are_mapped_no_longer_than_they_are_needed(capture, body, cache, mode):
    data = _module(capture, body, cache, device="cpu", gpu_gib=MODES[mode])
    assert len(_take(data, 2)) == 2
    assert (str(cache) in Path("/proc/self/maps").read_text()) == (mode == "streamed")
    assert data.source.get(0, 0).mask.any()  # mapped again


def test_loading_in_many_chunks(capture, body, cache, monkeypatch):
    monkeypatch.setattr("r3avatar.captures.device_frames._CHUNK", 100)
    data = _module(capture, body, cache, device="cpu")
    for ours, theirs in zip(_take(data, 4), _expected(_module(capture, body, cache), 4), strict=True):
        _assert_equal(ours, theirs)


def test_memory_that_stays(capture, body, cache):
    data = _module(capture, body, cache, device="cpu")
    frames = data.train_dataloader().batches.frames
    memory = frames.allocate(2, 2)
    for step, expected in zip(data.schedule, _expected(data, 3), strict=False):
        assert frames.batch(*step, memory=memory) is memory.batch
        _assert_equal(memory.batch, expected)


def _picture(random, h, w):
    rgb, mask = random.integers(0, 256, (h, w, 3), np.uint8), random.integers(0, 256, (h, w), np.uint8)
    return PreparedFrame(rgb, mask, 0, 0, (0, 0, w, h))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
def test_gather_is_copy_window(backend, device):
    """Windows inside, across every edge and outside of their frames."""
    random = np.random.default_rng(0)
    shapes, corners = [(20, 31), (48, 64), (1, 7)], [(3, 2), (-5, -4), (25, 14), (-40, 0), (0, 60), (70, 0), (1, 1)]
    pictures = [_picture(random, *shape) for shape in shapes]
    starts = np.cumsum([0] + [p.mask.size for p in pictures])
    pixels = np.empty(starts[-1], np.int32)
    for p, start in zip(pictures, starts):
        pack(p, pixels[start : start + p.mask.size])
    H, W = 37, 48
    source, expected = np.zeros((3, 7, 5), np.int64), []
    for (i, p), (j, (x, y)) in itertools.product(enumerate(pictures), enumerate(corners)):
        source[i, j] = starts[i], *p.mask.shape[::-1], x, y
        expected.append((np.zeros((H, W, 3), np.uint8), np.zeros((H, W), np.uint8)))
        p.copy_window(x, y, *expected[-1])
    rgb = torch.full((3, 7, H, W, 3), 9, dtype=torch.uint8, device=device)
    mask = torch.full((3, 7, H, W), 9, dtype=torch.uint8, device=device)
    gather(torch.from_numpy(pixels).to(device), torch.from_numpy(source).to(device), rgb, mask, backend)
    np.testing.assert_array_equal(rgb.flatten(0, 1).cpu(), [e[0] for e in expected])
    np.testing.assert_array_equal(mask.flatten(0, 1).cpu(), [e[1] for e in expected])


def test_resuming_a_stream_is_exact(capture, body, cache):
    """The position counts batches that were used, not those that the thread made ahead."""
    whole = _take(_module(capture, body, cache, device="cpu", gpu_gib=0), 9)
    interrupted = _module(capture, body, cache, device="cpu", gpu_gib=0)
    steps = iter(interrupted.train_dataloader())
    for _ in range(4):
        next(steps)
    resumed = _module(capture, body, cache, device="cpu", gpu_gib=0)
    resumed.load_state_dict(interrupted.state_dict())
    assert interrupted.state_dict()["position"] == 4
    for ours, theirs in zip(_take(resumed, 5), whole[4:], strict=True):
        _assert_equal(ours, theirs)


def _streaming():
    return [thread for thread in threading.enumerate() if thread.name == "frame stream"]


@pytest.mark.parametrize("device", DEVICES)
def test_what_fails_in_the_thread_reaches_the_user(capture, body, cache, device, monkeypatch):
    data = _module(capture, body, cache, device=device, gpu_gib=0)
    steps = iter(data.train_dataloader())
    next(steps)
    reads = itertools.count()
    get = data.source.get

    def fails(camera, frame):
        if next(reads) > 20:
            raise OSError("the disk is gone")
        return get(camera, frame)

    monkeypatch.setattr(data.source, "get", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in range(30):
            next(steps)
    assert 1 <= data.schedule.position < 10 and not _streaming()


def test_the_thread_ends_with_its_iterator(capture, body, cache):
    loader = _module(capture, body, cache, device="cpu", gpu_gib=0).train_dataloader()
    assert isinstance(loader.batches, FrameStream)
    steps = iter(loader)
    next(steps)
    assert len(_streaming()) == 1
    steps.close()
    assert not _streaming()
    steps = iter(loader)
    next(steps)
    del steps
    assert not _streaming()


def test_a_stream_of_some_steps_ends(capture, body, cache):
    loader = _module(capture, body, cache, device="cpu", gpu_gib=0).train_dataloader()
    stream = loader.batches
    stream._steps = [([0], [[1]]), ([2], [[0]])]
    assert [batch.frame.tolist() for batch in stream] == [[0], [2]] and not _streaming()


def test_a_negative_budget_is_refused(capture, body, cache):
    with pytest.raises(ValueError, match=r"cache.gpu_gib is -1; expected GiB, 0 to stream, or null"):
        _module(capture, body, cache, device="cpu", gpu_gib=-1).train_dataloader()


class Recorder(pl.LightningModule):
    """Trains one number and notes the frames it sees."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.seen.append(batch)
        return self.weight * batch.rgb.float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("device", DEVICES)
def test_lightning_takes_the_batches_as_they_are(capture, body, cache, tmp_path, mode, device):
    on_gpu = device != "cpu"
    data = _module(capture, body, cache, device=None if on_gpu else device, gpu_gib=MODES[mode])
    expected = list(_expected(data, 5))
    module = Recorder()
    trainer = pl.Trainer(
        max_steps=5, accelerator="gpu" if on_gpu else "cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    assert len(module.seen) == 5 and data.schedule.position == 5
    for ours, theirs in zip(module.seen, expected, strict=True):
        assert ours.rgb.device == trainer.strategy.root_device
        _assert_equal(ours, theirs)
    batch = module.seen[0]
    assert data.transfer_batch_to_device(batch, batch.rgb.device, 0) is batch


def _large_frames(device, views):
    """Frames of a size as in a real capture, on the device."""
    from r3avatar.captures.step_memory import StepTables

    random = np.random.default_rng(1)
    frame = _picture(random, 600, 420)
    pixels = np.empty(frame.mask.size, np.int32)
    pack(frame, pixels)
    F = 4
    source = np.zeros((F, views, 5), np.int64)
    source[..., 1:] = 420, 600, 10, 5
    frames = {"frame": np.arange(F), "time": np.arange(F, dtype=np.float32)}
    shapes = {"theta": (55, 3), "betas": (10,), "expression": (0,), "R": (3, 3), "Th": (3,)}
    frames |= {name: random.random((F, *shape)).astype(np.float32) for name, shape in shapes.items()}
    images = {"K": random.random((F, views, 3, 3), np.float32), "w2c": random.random((F, views, 4, 4), np.float32)}
    images |= {"rect": np.full((F, views, 4), 7), "source": source}
    return DeviceFrames(StepTables(frames, images, 400, 592), torch.from_numpy(pixels).to(device)), frame


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_waits_for_nothing():
    frames, _ = _large_frames("cuda", 4)
    frames.batch([0, 1], [[0, 1, 2, 3]] * 2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [frames.batch([i % 4, 3], [[0, 1, 2, 3], [3, 2, 1, i % 3]]) for i in range(40)]  # past the ring
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for i, batch in enumerate(batches):
        assert batch.frame.tolist() == [i % 4, 3]
        np.testing.assert_array_equal(batch.pose.theta.cpu(), frames.tables.frames["theta"][[i % 4, 3]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_pixels_past_two_to_the_31(backend):
    start = 2**31 + 12345  # words: 8 GiB
    if torch.cuda.mem_get_info()[0] < 5 * start:
        pytest.skip("needs 11 GB of free GPU memory")
    frames, picture = _large_frames("cuda", 1)
    pixels = torch.zeros(start + frames.pixels.numel(), dtype=torch.int32, device="cuda")
    pixels[start:] = frames.pixels
    frames.tables.images["source"][..., 0] = start
    batch = DeviceFrames(frames.tables, pixels, backend).batch([1], [[0]])
    np.testing.assert_array_equal(batch.rgb[0, 0].cpu(), picture.rgb[5:597, 10:410])
    np.testing.assert_array_equal(batch.mask[0, 0].cpu(), picture.mask[5:597, 10:410])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_streamed_batches_keep_their_values_while_others_are_made(capture, body, cache):
    """Batches are used on another stream than they are copied on, and their memory is given back early."""
    data = _module(capture, body, cache, device="cuda:0", gpu_gib=0)
    expected = [batch.rgb.float().sum() for batch in _expected(data, 60)]
    sums = []
    for batch in itertools.islice(data.train_dataloader(), 60):
        torch.cuda._sleep(2_000_000)  # the step is slow: copies for later steps must not overwrite this one's
        sums.append(batch.rgb.float().sum())
        del batch
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(expected))


def test_the_twins_agree_on_random_words():
    random = np.random.default_rng(2)
    pixels = torch.from_numpy(random.integers(-(2**31), 2**31, 500).astype(np.int32))
    source = torch.tensor([[[100, 20, 20, 4, 3]]])
    rgb, mask = torch.empty(1, 1, 8, 16, 3, dtype=torch.uint8), torch.empty(1, 1, 8, 16, dtype=torch.uint8)
    gather_torch(pixels, source, rgb, mask)
    words = pixels[100:500].view(20, 20)[3:11, 4:20]
    expected = words.contiguous().view(torch.uint8).view(8, 16, 4)
    assert torch.equal(rgb[0, 0], expected[..., :3]) and torch.equal(mask[0, 0], expected[..., 3])
