"""Room for Gaussians to come: training with it is training without it, and its tensors stay where they are."""

import pytest
import pytorch_lightning as pl
import torch

from r3avatar.avatar import CanonicalGaussians
from r3avatar.training.checkpoints import CheckpointFiles
from r3avatar.training.density import DensityControl, DensityEdit, apply_edit
from r3avatar.training.fused_adam import FusedAdam
from r3avatar.training.losses import offset_change
from r3avatar.training.room import Room, rows_for

from .test_step import DEVICES, _train


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 256, 257, 12868, 43000, 10**6])
def test_rows(count):
    rows = rows_for(count)
    assert rows % 16 == 0 and count <= rows <= max(16, 1.125 * count + 16)
    assert rows_for(rows) == rows == rows_for(max(1, rows - 15))


def _gaussians(count=20):
    g = torch.Generator().manual_seed(0)
    gaussians = CanonicalGaussians(
        torch.randn(count, 3, generator=g), static_residual=True, cloth=torch.rand(count, generator=g),
        normals=torch.randn(count, 3, generator=g),
    )  # fmt: skip
    other = torch.nn.Parameter(torch.ones(2))
    groups = [
        {"params": [p for p in gaussians.parameters() if p.requires_grad], "name": "gaussians"},
        {"params": [other], "name": "other"},
    ]
    return gaussians, other, FusedAdam(groups, lr=0.01)


def _step(gaussians, other, optimizer):
    """Pull everything towards places of its own."""
    alive = 1.0 if gaussians.alive is None else gaussians.alive
    total = other.square().sum()
    for k, p in enumerate(gaussians.parameters()):
        if p.requires_grad and p.numel():
            slope = torch.arange(1.0, p[0].numel() + 1) * (k + 1)
            total = total + (((p.flatten(1) - slope).square() * slope).sum(1) * alive).sum()
    total.backward()
    optimizer.step()


def test_steps_and_edits_with_room_are_those_without():
    plain, roomy = _gaussians(), _gaussians()
    room, places = Room(roomy[0], roomy[2]), []
    for k in range(9):
        _step(*plain)
        room.settle()
        with room.open():
            assert len(roomy[0]) == room.rows == rows_for(room.count)
            assert roomy[0].alive.sum() == room.count == len(plain[0])
            _step(*roomy)
            places.append((room.rows, [p.data_ptr() for p in roomy[0].parameters()]))
        for _, _, optimizer in (plain, roomy):
            optimizer.zero_grad()
        assert roomy[0].alive is None and len(roomy[0]) == len(plain[0])
        for (name, a), b in zip(plain[0].named_parameters(), roomy[0].parameters()):
            torch.testing.assert_close(a, b)  # torch's Adam rounds a tensor's last numbers in another way
            assert b.is_contiguous() and b.grad is None, name
        a, b = plain[2].state_dict(), roomy[2].state_dict()
        assert a["param_groups"] == b["param_groups"] and a["state"].keys() == b["state"].keys()
        for key, state in a["state"].items():
            for name, value in state.items():
                torch.testing.assert_close(value, b["state"][key][name])
        if k in (2, 4, 6):  # 20 -> 24 -> 31 -> 36: the last asks for more than 32 rows
            grown = {2: 5, 4: 8, 6: 6}[k]
            edit = DensityEdit(
                torch.arange(1, len(plain[0])),
                {n: p.detach()[:grown] + 1 for n, p in plain[0].named_parameters()},
                torch.arange(grown), 0, 0, 0, 0,
            )  # fmt: skip
            for gaussians, _, optimizer in (plain, roomy):
                apply_edit(optimizer, gaussians, edit)
    assert [rows for rows, _ in places] == [32] * 7 + [48] * 2
    assert all(place == places[0] for place in places[:7]) and places[7] == places[8] != places[0]


def test_a_checkpoint_holds_no_room(tmp_path):
    gaussians, other, optimizer = _gaussians()
    room = Room(gaussians, optimizer)
    room.settle()
    with room.open():
        _step(gaussians, other, optimizer)
    assert gaussians.positions.untyped_storage().nbytes() == 32 * 12
    CheckpointFiles().save_checkpoint({"a": [gaussians.state_dict()], "b": optimizer.state_dict()}, tmp_path / "c.ckpt")
    found = torch.load(tmp_path / "c.ckpt", weights_only=True)
    tensors = [*found["a"][0].values(), *(v for state in found["b"]["state"].values() for v in state.values())]
    assert len(tensors) > 20 and all(x.untyped_storage().nbytes() == x.nbytes for x in tensors)
    assert torch.equal(found["a"][0]["positions"], gaussians.positions)


def test_offsets_of_rows_that_are_no_gaussians_count_for_nothing():
    offset = torch.randn(3, 7, 3)
    alive = torch.tensor([1.0, 1, 1, 1, 1, 0, 0])
    torch.testing.assert_close(offset_change(offset, alive), offset_change(offset[:, :5]))


class _WithRoom(pl.Callback):
    """Gives a training room that is recorded nowhere."""

    def on_train_start(self, trainer, module):
        self.rows = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if module._room is None:
            module._room = Room(module.avatar.gaussians, module.optimizers().optimizer)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.rows.append((module._room.count, module._room.rows))  # of the step, before an edit that follows


@pytest.mark.parametrize("device", DEVICES)
def test_training_through_edits(device):
    """On the CPU the same Gaussians to the last bits of sums; the GPU's sums come in any order."""

    def control():
        return DensityControl(start=4, stop=24, every=4, grad_threshold=2e-3, kl_clone=0.0, kl_split=0.0)

    watch = _WithRoom()
    plain, _ = _train(device, 6, control(), cuda_graph=False if device == "cuda" else None)
    roomy, _ = _train(device, 6, control(), cuda_graph=False if device == "cuda" else None, extra=[watch])
    counts = [count for count, _ in watch.rows]
    assert len(set(counts)) > 3 and all(count <= rows == rows_for(count) for count, rows in watch.rows)
    sizes = [len(m.avatar.gaussians) for m in (plain, roomy)]
    assert abs(sizes[0] - sizes[1]) <= (0 if device == "cpu" else 0.01 * sizes[0]), sizes
    for name, a in plain.avatar.named_parameters():
        b = roomy.avatar.get_parameter(name)
        if device == "cpu" or not name.startswith("gaussians"):
            assert (a - b).norm() <= (1e-3 if device == "cpu" else 0.05) * a.norm().clamp_min(1e-6), name
