"""A tiny synthetic capture and runs on it, made once a session through the command line."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels run on the CPU, in its interpreter

TINY_CAPTURE = [
    "capture.subject=tiny",
    "capture.splits.train.cameras=0-3",
    "capture.splits.train.frames=0-7",
    "capture.splits.novel_view.cameras=4",
    "capture.splits.novel_view.frames=0-7/4",
    "capture.splits.novel_pose.cameras=4",
    "capture.splits.novel_pose.frames=8-11/2",
    "capture.recorded=[0,8]",
]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What is kept between commands stays out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R3AVATAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


LONGEST = ("test_readme.py", "test_ablations.py", "test_multi_process.py", "test_failures.py", "test_resume.py")


def pytest_collection_modifyitems(items):
    """What is quick comes first: files in which no test is slow; then the longest, so that none is left for the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path in slow, item.path.name not in LONGEST))


class Starter:
    """Starts commands, one at a time, by command_starter.py."""

    def __init__(self, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("command_starter.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment,
        )  # fmt: skip
        self._pid: int | None = None

    def start(self, arguments: list[str], folder: Path, output: Path, errors: Path) -> int:
        """Begin `r3avatar ...`; returns the process id."""
        if self._pid is not None:  # of a test that has failed before its command ended
            self.kill()
            self.code()
        request = {"arguments": arguments, "folder": str(folder), "output": str(output), "errors": str(errors)}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._pid = json.loads(self._process.stdout.readline())["pid"]
        return self._pid

    def kill(self) -> None:
        """Kill the command; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def ended(self, timeout: float) -> bool:
        """Whether the command has ended, or does so within `timeout` seconds."""
        return bool(select.select([self._process.stdout], [], [], timeout)[0])

    def code(self) -> int:
        """Wait for the end; the exit code, -n for signal n."""
        self._pid = None
        return json.loads(self._process.stdout.readline())["code"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


class Workplace:
    """A folder in which the command is run as a user would."""

    def __init__(self, folder: Path, environment: dict[str, str], starter: Starter):
        self.folder, self.environment, self._starter = folder, environment, starter

    def at(self, folder: Path) -> "Workplace":
        """The same command in another folder."""
        return Workplace(folder, self.environment, self._starter)

    def start(self, *arguments: str) -> int:
        """Begin `r3avatar ...`; returns the process id. No other command before `end`."""
        self._streams = [self.folder / name for name in (".output", ".errors")]
        for path in self._streams:
            path.unlink(missing_ok=True)
        return self._starter.start(list(arguments), self.folder, *self._streams)

    def said(self) -> str:
        """What the command that runs has printed."""
        return "".join(path.read_text(errors="replace") for path in self._streams if path.exists())

    def running(self, timeout: float = 0.0) -> bool:
        """Whether the command runs, still after `timeout` seconds if it does."""
        return not self._starter.ended(timeout)

    def end(self, code: int = 0, timeout: float = 300) -> str:
        """Wait for the command's end, check its exit code, return what it printed."""
        late = self.running(timeout)
        if late:
            self._starter.kill()
        found = self._starter.code()
        text = self.said()
        assert not late, f"not ended after {timeout} s:\n{text[-4000:]}"
        assert found == code, f"ended with {found}, not {code}:\n{text[-4000:]}"
        return text

    def __call__(self, *arguments: str, code: int = 0, timeout: float = 300) -> str:
        """Run `r3avatar ...`, check its exit code, return what it printed."""
        self.start(*arguments)
        return self.end(code, timeout)

    def afresh(self, *arguments: str, code: int = 0, timeout: float = 300) -> str:
        """The same by a Python that has nothing imported, for tests of what that finds."""
        done = subprocess.run(
            [sys.executable, "-m", "r3avatar.cli", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        text = done.stdout + done.stderr
        assert done.returncode == code, f"r3avatar {' '.join(arguments)} ended with {done.returncode}:\n{text[-4000:]}"
        return text


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    """A workplace with a tiny capture in outputs/captures/tiny."""
    folder = tmp_path_factory.mktemp("work place")  # a space: paths must survive it
    environment = {**os.environ, "R3AVATAR_CACHE": str(folder / "cache"), "MPLBACKEND": "Agg"}
    starter = Starter(environment)
    place = Workplace(folder, environment, starter)
    place("synthesize", "synthesis=tiny", "subject=tiny")
    yield place
    starter.close()


@pytest.fixture(scope="session")
def tiny_capture() -> list[str]:
    """Overrides that turn the demo into the tiny capture with the paper's avatar, which trains sooner."""
    return [*TINY_CAPTURE, "avatar=r3"]


@pytest.fixture(scope="session")
def only_tiny_capture() -> list[str]:
    """Overrides that turn the demo's capture into the tiny one, and nothing else."""
    return TINY_CAPTURE


@pytest.fixture(scope="session")
def tiny_run(workplace) -> Path:
    """A run of a few steps, with its evaluation, in outputs/tiny."""
    steps = ["batch.views=2", "budget.images=16", "density.start=4", "density.every=4", "validation.every_images=8"]
    workplace("train", "experiment=demo", "name=tiny", *TINY_CAPTURE, "avatar=r3", *steps, "validation.frames=1")
    return workplace.folder / "outputs" / "tiny"
