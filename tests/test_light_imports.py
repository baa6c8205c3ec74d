"""Imports of Lightning's that commands do without; most in processes of their own, for their sys.modules."""

import builtins
import functools
import subprocess
import sys

import pytest
import torch

from r3avatar import light_imports as light
from r3avatar.light_imports import light_imports, without_dynamo
from r3avatar.training.fused_adam import FusedAdam

HEAVY = """heavy = {
    'torch._dynamo', 'sympy', 'torch.distributed.fsdp', 'torch.utils.flop_counter', 'scipy.signal', 'scipy.stats',
    'matplotlib',
}
"""


def _run(code, **options):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_lightning_and_torchmetrics_work_as_ever():
    _run(f"""
import builtins, sys
{HEAVY}
before = builtins.__import__
from r3avatar.light_imports import light_imports
with light_imports():
    import pytorch_lightning as pl
assert builtins.__import__ is before
assert not heavy & set(sys.modules), heavy & set(sys.modules)

import torch
import torchmetrics
from lightning_fabric import wrappers
from pytorch_lightning.utilities import compile
from torchmetrics.utilities import plot

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def forward(self, x):
        return self.layer(x)
    def training_step(self, batch, index):
        return self(batch).square().mean()
    def on_train_batch_end(self, outputs, batch, index):
        self.log("loss", outputs["loss"])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

model = Model()
assert wrappers.OptimizedModule is compile.OptimizedModule
assert not isinstance(model, wrappers.OptimizedModule) and not issubclass(Model, wrappers.OptimizedModule)
assert wrappers._unwrap_objects([model]) == [model] and wrappers._unwrap_compiled(model) == (model, None)

def train(model):
    options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", **options)
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2))
    return float(trainer.callback_metrics["loss"])

assert isinstance(train(model), float)
compiled = torch.compile(model, backend="eager")
real = sys.modules["torch._dynamo"].OptimizedModule
assert type(compiled) is real and torch._dynamo.OptimizedModule is real
assert isinstance(compiled, wrappers.OptimizedModule) and issubclass(real, wrappers.OptimizedModule)
assert not isinstance(model, wrappers.OptimizedModule) and not issubclass(Model, wrappers.OptimizedModule)
assert wrappers._unwrap_compiled(compiled) == (model, {{"backend": "eager"}})
assert compile.from_compiled(compiled) is model and isinstance(train(compiled), float)
assert compile.to_uncompiled(model) is model and isinstance(train(model), float)

matrix = torchmetrics.ConfusionMatrix("multiclass", num_classes=2)
matrix.update(torch.tensor([0, 1]), torch.tensor([1, 1]))
figure, axes = matrix.plot()
from matplotlib import pyplot
assert isinstance(axes, pyplot.Axes) and isinstance(axes, plot._AX_TYPE) and plot.trim_axs(axes, 1) is axes
assert isinstance(figure, pyplot.Figure) and not isinstance(figure, plot._AX_TYPE)
import scipy.signal
assert torchmetrics.scipy.signal.butter is scipy.signal.butter
assert torchmetrics.scipy.signal.hamming(8).shape == (8,)
""")


def test_the_optimizer_works_before_and_after_torch_compile():
    _run("""
import copy, functools, sys, torch
from r3avatar.light_imports import light_imports
from r3avatar.training.fused_adam import FusedAdam

def step(model, optimizer):
    loss = model(torch.ones(4, 3)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss

def train(make, step=step):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = make([model.weight], lr=0.1)
    optimizer.add_param_group({"params": [model.bias]})
    for _ in range(3):
        step(model, optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    assert model.weight.grad is None and model.weight.is_leaf and torch.is_grad_enabled()
    return torch.cat([model.weight.flatten(), model.bias]).detach()

first = train(FusedAdam)
assert "torch._dynamo" not in sys.modules
torchs = train(functools.partial(torch.optim.Adam, fused=True))
assert "torch._dynamo" in sys.modules
assert torch.equal(first, torchs) and torch.equal(train(FusedAdam), torchs)
assert torch.allclose(train(FusedAdam, torch.compile(step, backend="eager")), torchs)

import torch._dynamo
with light_imports():  # of what is loaded already, everybody gets the real one
    for names in ("OptimizedModule", "OptimizedModule, disable"):
        found = {"__name__": "lightning_fabric.wrappers"}
        exec(f"from torch._dynamo import {names}", found)
        assert found["OptimizedModule"] is torch._dynamo.OptimizedModule
""")


def test_other_import_statements_get_the_real_modules():
    _run("""
import sys, torch
from r3avatar import light_imports as light
with light.light_imports():
    found = {"__name__": "torchmetrics"}
    exec("import scipy.signal.windows", found)  # of another torchmetrics, say
    assert found["scipy"] is sys.modules["scipy"] and "scipy.signal" in sys.modules
    found = {"__name__": "lightning_fabric.wrappers"}
    exec("from torch._dynamo import OptimizedModule, disable", found)
    assert found["OptimizedModule"] is sys.modules["torch._dynamo"].OptimizedModule
assert light._torch.ones is torch.ones and light._torch._dynamo.reset is torch._dynamo.reset
""")


def test_imports_are_as_before_after_an_error():
    before = builtins.__import__
    with pytest.raises(ModuleNotFoundError), light_imports():
        assert builtins.__import__ is not before
        import r3avatar.no_such_module  # noqa: F401
    assert builtins.__import__ is before


def test_what_is_not_wrapped_as_expected_stays_as_it_is():
    @functools.wraps(max)
    def wrapped(*arguments):
        return max(*arguments)

    for function in (len, wrapped, wrapped.__wrapped__, torch.no_grad()(wrapped)):
        assert without_dynamo(function) is function


def test_a_decorator_with_a_reason_is_torchs_own(monkeypatch):
    class Dynamo:
        def disable(self, fn, recursive, **others):
            return fn, recursive, others

    monkeypatch.setitem(sys.modules, "torch._dynamo", Dynamo())
    assert light._disable(len, reason="because") == (len, True, {"reason": "because"})
    assert light._disable(recursive=False) == (None, False, {})
    monkeypatch.delattr(sys.modules["torch._compile"], "_disable_dynamo")
    assert light._disable(len) == (len, True, {})


def test_a_step_that_is_not_wrapped_as_expected_is_taken_as_it_is(monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(self))
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = FusedAdam([parameter])
    optimizer.step()
    assert steps == [optimizer]


@pytest.mark.slow
def test_a_training_needs_none_of_it(workplace, tiny_capture):
    command = ["train", "experiment=demo", "name=light", *tiny_capture, "batch.views=2", "budget.images=4"]
    command += ["validation.every_images=4", "validation.frames=1", "evaluate=false", "media=false", "logger=none"]
    code = f"""
import sys
{HEAVY}
from r3avatar.cli import main
main({command})
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    _run(code, cwd=workplace.folder, env=workplace.environment)
