"""Why a run stops before its end, the exit code of each reason, and the signals that ask for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(Exception):
    """A run that stopped before its end; its message says where it stands and how to go on."""

    exit_code = 1


class Preempted(Stopped):
    """SIGTERM or SIGUSR1: saved where there was something to save; run the same command again (EX_TEMPFAIL)."""

    exit_code = 75


class Interrupted(Stopped):
    """Ctrl-C: saved where there was something to save (what shells give for SIGINT)."""

    exit_code = 130


class NotFinite(Stopped):
    """A loss or a gradient that is no finite number (EX_SOFTWARE)."""

    exit_code = 70

    def __init__(self, message: str, step: int):
        """step: the training step, 0 the run's first."""
        super().__init__(message)
        self.step = step


class OutOfMemory(Stopped):
    """The device's memory or the host's was not enough (EX_OSERR)."""

    exit_code = 71


class NotWritten(Stopped):
    """A file could not be written: the disk is full, or a quota is reached (EX_IOERR)."""

    exit_code = 74


class StopSignals:
    """SIGTERM, SIGUSR1 and SIGINT while it is entered: outside of training an error at once, in training a request.

    A step must not be torn apart: what it changes would be neither the state before it nor the one after it. Whoever
    trains looks at `requested` between steps. A second SIGINT does not wait. Only the main thread receives signals; in
    another one (a launcher's) nothing changes.
    """

    def __init__(self):
        self.requested: int | None = None  # the signal's number
        self._training = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            # A shell's background job ignores SIGINT, and shall go on doing so.
            heard = [n for n in SIGNALS if n != signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
            self._previous = {number: signal.getsignal(number) for number in heard}
            self._install()
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    def hold(self) -> None:
        """From now on signals are requests; also takes them back from a trainer that has its own handlers."""
        self._training = True
        self._install()

    def release(self) -> None:
        """From now on signals are errors again."""
        self._training = False

    def error(self, done: str) -> Stopped:
        """The error for the signal that came; `done`: what was saved, for its message."""
        number = self.requested or signal.SIGTERM
        if number == signal.SIGINT:
            return Interrupted(f"interrupted; {done}")
        name = signal.Signals(number).name
        return Preempted(f"stopped by {name}; {done}; the same command with resume=auto goes on")

    def _install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested is not None
        self.requested = number
        if not self._training:
            raise self.error("outside of training there was nothing to save")
        if again and number == signal.SIGINT:
            raise self.error("twice: the running step is lost, the last checkpoint is intact (resume=true)")
