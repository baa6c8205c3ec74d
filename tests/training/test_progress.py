"""Log lines: what a GPU has not finished is read one line later; no validation, checkpoint or end loses a line."""

from types import SimpleNamespace

import pytest
import torch

from r3avatar.training.callbacks import ProgressCallback
from r3avatar.training.stopping import NotFinite


class Event:
    """A device's event: what was waited for, in `waits`."""

    def __init__(self, waits: list, step: int):
        self.waits, self.step = waits, step

    def synchronize(self) -> None:
        self.waits.append(self.step)


class Training:
    """A trainer and a module, of steps whose loss is their number."""

    def __init__(self, every: int, device: bool):
        self.lines, self.waits, self.grown, self.device = [], [], [], device
        self.callback = ProgressCallback(every)
        logger = SimpleNamespace(log_metrics=lambda values, step: self.lines.append((step, values)))
        self.trainer = SimpleNamespace(global_step=0, is_global_zero=False, logger=logger, callback_metrics={})
        self.module = SimpleNamespace(
            seconds=0.0, images=0, progress=0.0, replicas=None, lost_steps=torch.zeros(()),
            avatar=SimpleNamespace(gaussians=[None] * 7), learning_rates=SimpleNamespace(current={"planes": 0.1}),
            render=SimpleNamespace(rgb=torch.zeros(1, 1, 4, 4, 3)), check_finite=self.check_finite,
            rasterizer=SimpleNamespace(
                fullness=torch.zeros(1, dtype=torch.int32), generation=0, check_capacity=self.grown.append
            ),
        )  # fmt: skip
        self.callback.on_train_start(self.trainer, self.module)

    def check_finite(self, lost: int, steps: int) -> None:
        if lost:
            raise NotFinite(f"step {steps - lost}", steps - lost)

    def step(self) -> None:
        self.trainer.global_step += 1
        self.module.images, self.module.seconds = self.module.images + 8, self.module.seconds + 0.5
        batch = SimpleNamespace(rgb=torch.full((1, 1, 4, 4, 3), 255, dtype=torch.uint8))
        loss = torch.tensor(float(self.trainer.global_step))
        sent = self.callback._sent

        def as_of_a_device(*arguments):
            line = sent(*arguments)
            line.arrived = Event(self.waits, line.steps)
            return line

        if self.device:
            self.callback._sent = as_of_a_device
        self.callback.on_train_batch_end(self.trainer, self.module, {"total": loss, "loss": loss}, batch, 0)
        self.callback._sent = sent

    def logged(self) -> list[int]:
        return [step for step, _ in self.lines]


def test_a_line_has_the_values_of_its_step():
    training = Training(2, device=False)
    for _ in range(4):
        training.step()
    assert training.logged() == [16, 32]
    values = training.lines[1][1]
    assert values["loss/total"] == 4 and values["train/psnr"] == 0 and values["gaussians/number"] == 7
    assert values["perf/images_per_second"] == 16 and values["perf/step_ms"] == 500
    assert values["train/lr_planes"] == 0.1 and "loss/loss" not in values


def test_of_a_device_it_is_read_one_line_later():
    training = Training(2, device=True)
    for _ in range(5):
        training.step()
    assert training.logged() == [16] and training.waits == [2]  # of step 2, at step 4
    training.step()
    assert training.logged() == [16, 32] and training.lines[1][1]["loss/total"] == 4


@pytest.mark.parametrize("event", ["validation", "checkpoint", "end"])
def test_no_line_is_lost(event):
    training = Training(2, device=True)
    for _ in range(4):
        training.step()
    if event == "validation":
        training.callback.on_validation_start(training.trainer, training.module)
    elif event == "checkpoint":
        training.callback.on_save_checkpoint(training.trainer, training.module, {})
    else:
        training.module.progress = 1.0
        training.step()
    assert training.logged() == [16, 32, 40][: 3 if event == "end" else 2]
    training.callback.on_validation_start(training.trainer, training.module)
    assert len(training.lines) == len(set(training.logged()))


def test_a_step_that_is_no_number_is_named_late_but_rightly():
    training = Training(2, device=True)
    for number in range(1, 4):
        training.module.lost_steps = torch.tensor(float(max(0, number - 1)))  # from the second step on
        training.step()
    with pytest.raises(NotFinite) as error:
        training.step()
    assert error.value.step == 1  # the second, counted from 0


def test_lists_grow_only_by_what_they_were_since_they_grew():
    training = Training(1, device=True)
    training.module.rasterizer.fullness.fill_(950)
    training.step()
    training.step()
    assert training.grown == [950]
    training.module.rasterizer.generation = 1
    training.step()
    assert training.grown == [950]
