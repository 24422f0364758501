"""A running `edge-stt listen` for tests: its events as they come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DATA = Path(__file__).parent / "data"
MODERN = DATA / "LJ001-0002.opus"
MODERN_TEXT = "in being comparatively modern"
WAIT = 90.0  # seconds: what takes longer is not slow but never comes


class Daemon:
    """Starts the command with arguments; ``events`` grows while it runs."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None, stdin: Any = subprocess.DEVNULL) -> None:
        command = [sys.executable, "-m", "edge_stt.cli", "listen", *map(str, arguments)]
        self.events: list[dict[str, Any]] = []
        self.arrived: list[float] = []  # when, by time.monotonic
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.errors = ""
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.events.append(json.loads(line))
                self.arrived.append(time.monotonic())
                self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def wait_for(self, kind: str, timeout: float = WAIT, after: int = 0) -> int:
        """Index after the first event of a kind from index ``after`` on; fails when it does not come."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                for index in range(after, len(self.events)):
                    if self.events[index]["event"] == kind:
                        return index + 1
                assert self.process.poll() is None, f"the daemon ended: {self.errors}"
                left = end - time.monotonic()
                assert left > 0, f"no {kind!r} within {timeout} s: {self.events[after:]} {self.errors}"
                self._changed.wait(min(left, 0.5))

    def stop(self, number: int = signal.SIGTERM, timeout: float = WAIT) -> int:
        """Send a signal; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.end(timeout)

    def end(self, timeout: float = WAIT) -> int:
        """Wait for the end; returns the exit code."""
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(10.0)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
