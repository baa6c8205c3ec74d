"""Batches: what is in them, that they repeat, resume, and are the same with and without the cache."""

import itertools

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from r3avatar.captures import BOUND, PERSON, CaptureDataModule, projected_box_mask
from r3avatar.captures.boxes import body_bounds


def _module(capture, body, cache, **keywords):
    return CaptureDataModule(capture, body, **{"cache": cache, "frames_per_step": 2, "views_per_step": 2, **keywords})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def _take(data, count):
    return list(itertools.islice(iter(data.train_dataloader()), count))


def _assert_equal(a, b):
    for name in ("frame", "time", "rgb", "mask", "rect"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.cameras.K, b.cameras.K) and torch.equal(a.cameras.w2c, b.cameras.w2c)
    assert torch.equal(a.pose.theta, b.pose.theta) and torch.equal(a.pose.Th, b.pose.Th)


def test_training_batches(capture, body, cache):
    data = _module(capture, body, cache)
    bounds = body_bounds(body, capture.poses, 0.05)
    for batch in _take(data, 6):
        F, V, H, W = batch.mask.shape
        assert (F, V) == (2, 2) and H % 16 == W % 16 == 0
        assert batch.rgb.shape == (F, V, H, W, 3) and batch.rgb.dtype == batch.mask.dtype == torch.uint8
        assert (batch.cameras.width, batch.cameras.height) == (W, H) and batch.cameras.K.shape == (F, V, 3, 3)
        assert set(batch.frame.tolist()) <= {0, 1, 2} and torch.equal(batch.time, batch.frame.float())
        assert torch.equal(batch.pose.theta, capture.poses.theta[batch.frame])
        assert batch.rect[..., 2].max() > W - 16 and batch.rect[..., 3].max() > H - 16
        for f, v in itertools.product(range(F), range(V)):
            w2c, frame = batch.cameras.w2c[f, v], int(batch.frame[f])
            camera = next(i for i in (0, 1) if torch.equal(capture.cameras[i].w2c, w2c))
            # The crop is the full frame, moved by what the principal point moved.
            left, top = (capture.cameras[camera].K - batch.cameras.K[f, v])[:2, 2].round().int().tolist()
            rgb, person = capture.read(camera, frame)
            inside = projected_box_mask(bounds[frame], capture.cameras[camera])
            expected = np.zeros((H, W, 3), np.uint8), np.zeros((H, W), np.uint8)
            for target, source in zip(expected, (rgb, person * PERSON | inside * BOUND)):
                part = source[top : top + H, left : left + W]
                target[: part.shape[0], : part.shape[1]] = part
            np.testing.assert_array_equal(batch.rgb[f, v].numpy(), expected[0])
            np.testing.assert_array_equal(batch.mask[f, v].numpy(), expected[1])
            rows, columns = np.nonzero(expected[1] & BOUND)
            x, y, w, h = batch.rect[f, v].tolist()
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)


def test_time_counts_from_the_first_recorded_frame(shared_pair, small, body, cache):
    splits = {"train": small.SPLITS["novel_pose"], "novel_view": small.SPLITS["novel_view"]}
    data = _module(small.open(shared_pair, recorded=(3, 2), splits=splits), body, cache, views_per_step=1)
    batch = _take(data, 1)[0]
    assert torch.equal(batch.time, batch.frame.float() - 3)
    assert [b.time.item() for b in data.eval_dataloader("novel_view")][::2] == [-3.0, -1.0]


def test_the_seed_decides(capture, body, cache):
    first, again = (_take(_module(capture, body, cache, seed=5), 8) for _ in range(2))
    for a, b in zip(first, again):
        _assert_equal(a, b)
    other = _take(_module(capture, body, cache, seed=6), 8)
    assert [b.frame.tolist() for b in other] != [b.frame.tolist() for b in first]


def test_without_the_cache_it_is_the_same(capture, body, cache):
    with_cache, without = _module(capture, body, cache), _module(capture, body, "off")
    for a, b in zip(_take(with_cache, 4), _take(without, 4)):
        _assert_equal(a, b)
    for a, b in zip(with_cache.eval_dataloader("novel_view"), without.eval_dataloader("novel_view")):
        _assert_equal(a, b)
    assert without.store_folder is None and with_cache.store_folder.parent == cache
    assert not CaptureDataModule(capture, body, cache=False).cached  # how YAML reads a bare `off`


def test_worker_processes_give_the_same_batches_in_order(capture, body):
    here, there = _module(capture, body, "off"), _module(capture, body, "off", workers=2)
    for a, b in zip(_take(here, 5), _take(there, 5)):
        _assert_equal(a, b)
    assert there.schedule.position == 5


def test_resuming_continues(capture, body, cache):
    data = _module(capture, body, cache)
    expected = _take(data, 9)
    assert data.state_dict()["position"] == 9
    interrupted = _module(capture, body, cache)
    _take(interrupted, 4)
    resumed = _module(capture, body, cache)
    resumed.load_state_dict(interrupted.state_dict())
    for a, b in zip(_take(resumed, 5), expected[4:]):
        _assert_equal(a, b)
    with pytest.raises(ValueError, match="drawn with seed 0, now it is 1; resume with the same"):
        _module(capture, body, cache, seed=1).load_state_dict(interrupted.state_dict())


def test_evaluation_batches_are_whole_frames_by_size(capture, body, cache):
    data = _module(capture, body, cache)
    batches = list(data.eval_dataloader("novel_view"))
    assert len(batches) == len(data.eval_dataloader("novel_view")) == 4
    assert [b.frame.tolist() for b in batches] == [[0], [0], [2], [2]]
    assert [tuple(b.rgb.shape) for b in batches[:2]] == [(1, 1, 40, 48, 3), (1, 1, 56, 64, 3)]
    for batch, camera in zip(batches, (0, 2, 0, 2)):
        rgb, person = capture.read(camera, int(batch.frame))
        np.testing.assert_array_equal(batch.rgb[0, 0].numpy(), rgb)
        np.testing.assert_array_equal(batch.mask[0, 0].numpy() & PERSON, person)
        assert torch.equal(batch.cameras.K[0, 0], capture.cameras[camera].K)
    train = next(iter(data.eval_dataloader("train")))
    assert train.rgb.shape[:2] == (1, 2)  # two cameras of one size together
    assert [b.frame.item() for b in data.eval_dataloader("novel_pose")] == [3, 4]
    assert [b.frame.item() for b in data.eval_dataloader("novel_pose", max_frames=1)] == [3]
    with pytest.raises(ValueError, match="no split 'test'"):
        data.eval_dataloader("test")


def test_validation_is_some_novel_views(capture, body, cache):
    frames = [batch.frame.item() for batch in _module(capture, body, cache, validation_frames=1).val_dataloader()]
    assert frames == [0, 0]
    assert len(_module(capture, body, cache).val_dataloader()) == 4


class Recorder(pl.LightningModule):
    """Trains one number and notes the frames it sees."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        assert batch.pose.theta.device == self.device
        self.seen.append((batch.frame.tolist(), batch.cameras.K[:, :, 0, 2].tolist()))
        return self.weight * batch.rgb.float().mean()

    def validation_step(self, batch, _):
        assert batch.rgb.shape[0] == 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _train(capture, body, cache, folder, steps, **keywords):
    module, data = Recorder(), _module(capture, body, cache, validation_frames=1)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, val_check_interval=2, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, **keywords)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module.seen


def test_lightning_resumes_where_it_was(capture, body, cache, tmp_path):
    whole = _train(capture, body, cache, tmp_path, 7)
    assert len(whole) == 7
    first = _train(capture, body, cache, tmp_path, 3)
    rest = _train(capture, body, cache, tmp_path, 7, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert first + rest == whole
