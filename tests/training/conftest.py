"""Runs that meet with accidents."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


class Runs:
    """Starts `r3avatar train` in the workplace on a tiny capture, with accidents (see run_starter.py)."""

    def __init__(self, workplace, capture):
        self.place, self.capture = workplace, capture
        self.log = workplace.folder / "runs.log"
        self._starter = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("run_starter.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=workplace.environment,
        )  # fmt: skip

    def __call__(self, name, *arguments, accidents=(), code=0):
        """Train; check the exit code (None: any), return what the run printed."""
        self.start(name, *arguments, accidents=accidents)
        return self.end(code)

    def start(self, name, *arguments, accidents=()):
        """Begin to train; returns the process id."""
        self.log.unlink(missing_ok=True)
        command = ["experiment=demo", *self.capture, f"name={name}", *arguments]
        request = {
            "arguments": command, "folder": str(self.place.folder), "log": str(self.log), "accidents": list(accidents)
        }  # fmt: skip
        self._starter.stdin.write(json.dumps(request) + "\n")
        self._starter.stdin.flush()
        return json.loads(self._starter.stdout.readline())["pid"]

    def end(self, code=0):
        """Wait for the run to end."""
        self.code = json.loads(self._starter.stdout.readline())["code"]
        text = self.log.read_text()
        assert code is None or self.code == code, f"ended with {self.code}, not {code}:\n{text[-4000:]}"
        return text

    def folder(self, name):
        return self.place.folder / "outputs" / name

    def close(self):
        self._starter.stdin.close()
        self._starter.wait(60)


@pytest.fixture(scope="session")
def runs(workplace, tiny_capture):
    starter = Runs(workplace, tiny_capture)
    yield starter
    starter.close()
