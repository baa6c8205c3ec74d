"""Starts runs as a user would, without importing everything each time: reads requests as JSON lines, forks, answers.

A request: overrides of `r3avatar train`, the folder to run in, a file for the output, and accidents to have:
  {"accident": "kill", "images": n, "where": "step" | "gradients" | "edit" | "write" | "rename" | "validation"}
  {"accident": "signal", "images": n, "number": signal, "where": ..., "times": 1}
  {"accident": "loss" | "gradient", "images": n}           a step that is not finite
  {"accident": "allocate", "images": n, "what": "numpy" | "torch" | "cuda" | "said"}
  {"accident": "operation", "images": n}                    an operation whose gradient is no number
  {"accident": "size", "bytes": n}                          no file may grow beyond (RLIMIT_FSIZE)
  {"accident": "threads", "number": n}                      so many threads
Answers: {"pid": ...} at the start, {"code": ...} at the end, -n for signal n.
"""

import gc
import json
import os
import resource
import signal
import sys

import numba
import numpy as np
import pytorch_lightning  # noqa: F401  what takes long to import
import torch
from hydra import compose, initialize_config_module

import r3avatar.verbs.train  # noqa: F401
from r3avatar import cli
from r3avatar.training import callbacks, checkpoints
from r3avatar.training.module import AvatarModule


class Accidents:
    """What happens to a run, at the places where it can happen."""

    def __init__(self, wanted):
        self.wanted, self.images = wanted, 0
        for item in wanted:
            if item["accident"] == "size":
                resource.setrlimit(resource.RLIMIT_FSIZE, (item["bytes"], item["bytes"]))
            elif item["accident"] == "threads":
                torch.set_num_threads(item["number"])
                numba.set_num_threads(item["number"])
        self._wrap(AvatarModule, "training_step", self._step)
        self._wrap(AvatarModule, "forward_backward", self._gradients)
        self._wrap(AvatarModule, "validation_step", lambda call, *a: (self.at("validation"), call(*a))[1])
        self._wrap(callbacks, "apply_edit", lambda call, *a: (call(*a), self.at("edit"))[0])
        self._wrap(checkpoints._Witness, "write", self._write)
        self._wrap(checkpoints.os, "replace", self._rename)

    @staticmethod
    def _wrap(owner, name, function):
        call = getattr(owner, name)
        setattr(owner, name, lambda *a: function(call, *a))

    def _step(self, call, module, *a):
        self.images = module.images
        self.at("step")
        return call(module, *a)

    def _gradients(self, call, module, batch):
        before = self.images
        for item in self._due("allocate"):
            if item["what"] == "numpy":
                np.empty(2**60, np.uint8)
            elif item["what"] == "torch":
                torch.empty(2**60, dtype=torch.uint8)
            elif item["what"] == "cuda":
                torch.empty(2**50, dtype=torch.uint8, device="cuda")
            else:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of torch's advice")
        if any(item["accident"] == "operation" and item["images"] == before for item in self.wanted):
            module.loss = _spoilt(module.loss, module.avatar.gaussians.positions)
        terms, render, attributes = call(module, batch)
        for item in self.wanted:
            if item.get("images") == before and "rgb" not in item:
                item["rgb"] = batch.rgb.clone()  # the fault lies in the batch: it is there again when that is run again
            if not torch.equal(item.get("rgb", torch.empty(0)), batch.rgb):
                continue
            if item["accident"] == "loss":
                terms["l1"] = terms["l1"] * float("nan")
                terms["total"] = terms["total"] * float("nan")
            elif item["accident"] == "gradient":
                module.avatar.gaussians.positions.grad[7, 1] = float("inf")
        self.at("gradients")
        return terms, render, attributes

    def _write(self, call, file, data):
        if file.size > 100_000:  # in the middle of it
            self.at("write")
        return call(file, data)

    def _rename(self, call, source, target):
        if str(target).endswith("last.ckpt"):
            self.at("rename")
        return call(source, target)

    def _due(self, accident, where=None):
        return [
            item
            for item in self.wanted
            if item["accident"] == accident and self.images >= item["images"] and where in (None, item.get("where"))
        ]

    def at(self, where):
        for _ in self._due("kill", where):
            os.kill(os.getpid(), signal.SIGKILL)
        for item in self._due("signal", where):
            self.wanted.remove(item)
            for _ in range(item.get("times", 1)):
                os.kill(os.getpid(), item["number"])


def _spoilt(loss, parameter):
    class Spoilt(torch.nn.Module):
        def forward(self, *arguments):
            terms = loss(*arguments)
            return {**terms, "total": terms["total"] + (0 * parameter.sum()).sqrt()}

    return Spoilt()


def child(request, config):
    os.chdir(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        Accidents(request.get("accidents", []))
        cli._task("train")(config)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    # A shell that runs the tests in the background lets its processes ignore Ctrl-C, and they their own.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # a collection would touch, and so copy, every object that the forked process finds
    configs = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = tuple(request["arguments"])
        if key not in configs:
            with initialize_config_module("r3avatar.configs", version_base="1.3"):
                configs[key] = compose("train", overrides=request["arguments"])
        pid = os.fork()
        if pid == 0:
            child(request, configs[key])
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
